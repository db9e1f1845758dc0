#!/usr/bin/env python3
"""Writes types.txt, the compact table of types, from a file of facts about the Kubernetes API.

    python3 api/schema/generate.py FIELDS.JSON > api/schema/types.txt

The result has three kinds of lines; words are separated by blanks:

    @core/v1.Protocol SCTP|TCP|UDP                   the values of a named string
    =core/v1.ContainerPort [atomic] [kind] [cluster] starts a type
    protocol s@core/v1.Protocol 4v ?o d"TCP"         a field of it

A field is its JSON name, its type, its protobuf number (`outer.inner` for a field of an inlined message) with the
wire type (b bytes, v varint, f fixed64, - none), and flags:

    ? optional    o omitempty    p pointer    r repeated in protobuf
    la, ls, lm:key,key   list type atomic, set, map     ma, mg   map or struct atomic, granular
    sm:key, sm   strategic merge, with the merge key    sx replace    sk retain keys
    d<json>   default (last on the line)

Types: s string, i32, i64, f64, b bool, y bytes, q quantity, n int or string, t time, u micro time, D duration,
F managed fields, * anything, []T list, {}T map, and the name of a type.
"""

import json
import sys

# Not reachable from a kind, but sent or received.
ROOTS = [
    "admission/v1.AdmissionReview",
    "authentication/v1.TokenRequest",
    "autoscaling/v1.Scale",
    "core/v1.Binding",
    "core/v1.NodeProxyOptions",
    "core/v1.PodAttachOptions",
    "core/v1.PodExecOptions",
    "core/v1.PodLogOptions",
    "core/v1.PodPortForwardOptions",
    "core/v1.PodProxyOptions",
    "core/v1.PodStatusResult",
    "core/v1.RangeAllocation",
    "core/v1.SerializedReference",
    "core/v1.ServiceProxyOptions",
    "meta/v1.APIGroup",
    "meta/v1.APIGroupList",
    "meta/v1.APIResourceList",
    "meta/v1.APIVersions",
    "meta/v1.CreateOptions",
    "meta/v1.DeleteOptions",
    "meta/v1.GetOptions",
    "meta/v1.ListOptions",
    "meta/v1.PartialObjectMetadata",
    "meta/v1.PartialObjectMetadataList",
    "meta/v1.PatchOptions",
    "meta/v1.Status",
    "meta/v1.UpdateOptions",
    "meta/v1.WatchEvent",
    "policy/v1.Eviction",
]

# Types that one manager owns as a whole (`structType=atomic`); the facts name it for single fields only.
ATOMIC = {
    "admissionregistration/v1.MatchResources",
    "admissionregistration/v1.NamedRuleWithOperations",
    "admissionregistration/v1.ParamKind",
    "admissionregistration/v1.ParamRef",
    "autoscaling/v1.CrossVersionObjectReference",
    "core/v1.ConfigMapKeySelector",
    "core/v1.EndpointAddress",
    "core/v1.EndpointPort",
    "core/v1.FileKeySelector",
    "core/v1.LocalObjectReference",
    "core/v1.NodeSelector",
    "core/v1.NodeSelectorTerm",
    "core/v1.ObjectFieldSelector",
    "core/v1.ObjectReference",
    "core/v1.ResourceFieldSelector",
    "core/v1.ScopeSelector",
    "core/v1.ScopedResourceSelectorRequirement",
    "core/v1.SecretKeySelector",
    "core/v1.SecretReference",
    "core/v1.TopologySelectorTerm",
    "core/v1.TypedLocalObjectReference",
    "discovery/v1.EndpointPort",
    "meta/v1.LabelSelector",
    "meta/v1.OwnerReference",
    "networking/v1.ServiceBackendPort",
    "rbac/v1.RoleRef",
    "rbac/v1.Subject",
}

SPECIAL = {
    "string": "s",
    "int": "i64",
    "int32": "i32",
    "int64": "i64",
    "float64": "f64",
    "bool": "b",
    "[]byte": "y",
    "resource.Quantity": "q",
    "intstr.IntOrString": "n",
    "meta/v1.Time": "t",
    "meta/v1.MicroTime": "u",
    "meta/v1.Duration": "D",
    "meta/v1.FieldsV1": "F",
    "types.UID": "s",
    "interface{}": "*",
    "runtime.RawExtension": "*",
    "apiextensions/v1.JSON": "*",
    "apiextensions/v1.JSONSchemaPropsOrBool": "*",
    "apiextensions/v1.JSONSchemaPropsOrArray": "*",
    "apiextensions/v1.JSONSchemaPropsOrStringArray": "*",
}

# An empty struct in the Go source.
EMPTY = {"apiextensions/v1.CustomResourceSubresourceStatus"}

DEFAULTS = {"ref(AzureDataDiskCachingReadWrite)": "ReadWrite", "ref(AzureSharedBlobDisk)": "Shared"}

WIRES = {"bytes": "b", "varint": "v", "fixed64": "f"}


def main():
    facts = json.load(open(sys.argv[1]))
    types, named, values = facts["types"], facts["named"], facts["values"]
    used = set()

    def shape(go):
        if go in SPECIAL:
            return SPECIAL[go]
        if go.startswith("[]"):
            return "[]" + shape(go[2:])
        if go.startswith("map["):
            return "{}" + shape(go[go.index("]") + 1 :])
        if go in EMPTY or go in types:
            used.add(go)
            return go
        if named[go] == "string":
            if values.get(go):
                used.add("@" + go)
                return "s@" + go
            return "s"
        return shape(named[go])

    def fields(name):
        """All fields by JSON name, those of inlined types with the protobuf number of the message that holds them."""
        own = types.get(name, {"fields": {}})
        found = {}
        for inlined in own.get("inline", []):
            numbers = {f["pb"][0] for f in own["fields"].values() if "pb" in f}
            # A message that is inlined has the number that the own fields leave free. TypeMeta is in the envelope.
            outer = next(n for n in range(1, 99) if n not in numbers)
            for key, field in fields(inlined).items():
                field = dict(field)
                if "pb" in field:
                    field["outer"] = [outer] + field.get("outer", [])
                if inlined == "meta/v1.TypeMeta":
                    field.pop("pb", None)
                found[key] = field
        found.update(own["fields"])
        return found

    def line(key, field):
        words = [key, shape(field["type"])]
        pb = field.get("pb")
        if pb:
            words.append(".".join(map(str, field.get("outer", []) + [pb[0]])) + WIRES[pb[1]])
        else:
            words.append("-")
        simple = ("?" if field.get("optional") else "") + ("o" if field.get("omitempty") else "")
        # The labels in Go's tags are not reliable; a list is repeated unless it is a named type (a message of its own).
        repeated = pb and (pb[2] == "rep" or field["type"].startswith("[]") and field["type"] != "[]byte")
        simple += ("p" if field.get("pointer") else "") + ("r" if repeated else "")
        if simple:
            words.append(simple)
        if field.get("list") == "map":
            words.append("lm:" + ",".join(field["keys"]))
        elif "list" in field:
            words.append("l" + field["list"][0])
        if "map" in field or "struct" in field:
            words.append("m" + (field.get("map") or field["struct"])[0])
        for strategy in field.get("patch", "").split(","):
            if strategy == "merge":
                words.append("sm:" + field["mergeKey"] if "mergeKey" in field else "sm")
            elif strategy:
                words.append({"replace": "sx", "retainKeys": "sk"}[strategy])
        if "default" in field:
            default = field["default"]
            default = DEFAULTS.get(default, default) if isinstance(default, str) else default
            words.append("d" + json.dumps(default))
        return " ".join(words)

    kinds = set(facts["kinds"])
    todo = sorted(kinds) + ROOTS + [k + "List" for k in sorted(kinds) if k + "List" in types]
    done = {}
    while todo:
        name = todo.pop()
        if name in done:
            continue
        used = set()
        done[name] = [line(key, field) for key, field in sorted(fields(name).items())]
        todo += [u for u in used if not u.startswith("@")]
        for u in used:
            if u.startswith("@"):
                done[u] = None
    print("# Written by generate.py; see there for the form. Do not edit.")
    print("# " + facts["source"])
    for name in sorted(n for n in done if n.startswith("@")):
        print(name + " " + "|".join(v for v in values[name[1:]] if v))
    for name in sorted(n for n in done if not n.startswith("@")):
        flags = ["atomic"] if name in ATOMIC else []
        flags += ["kind"] if name in kinds else []
        flags += ["cluster"] if types.get(name, {}).get("clusterScoped") else []
        print(" ".join(["=" + name] + flags))
        for text in done[name]:
            print(text)
    unknown = ATOMIC - set(done)
    if unknown:
        sys.exit(f"no such types: {unknown}")


main()
