use std::path::Path;

use serde_json::json;

use super::*;

/// Every `$ref` below a value.
fn references(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                out.insert(reference.clone());
            }
            map.values().for_each(|value| references(value, out));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

#[test]
fn every_reference_is_there() {
    let registry = Registry::builtin();
    let mut documents: Vec<Value> = group_versions(&registry)
        .into_iter()
        .map(|(group, version)| v3(&registry, group, version).unwrap())
        .collect();
    documents.push(v2(&registry));
    for document in documents {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
    assert!(v3(&registry, "none.example", "v1").is_none());
}

#[test]
fn what_kubectl_looks_for() {
    let registry = Registry::builtin();
    let index = v3_index(&registry);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="));
    for kind in registry.iter() {
        let document = v3(&registry, kind.group(), kind.version()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let takes = |operation: &Value, parameter: &str| {
            let mut all = operation["parameters"].as_array().unwrap().iter();
            all.any(|p| p["name"] == parameter && p["in"] == "query")
        };
        let of_kind = |method: &'static str| {
            let operations = paths.values().map(move |item| &item[method]);
            operations.filter(|o| o["x-kubernetes-group-version-kind"] == kind_gvk(kind))
        };
        // It looks at any of them.
        assert!(of_kind("patch").count() > 0, "{}", kind.kind());
        let mut patches = of_kind("patch");
        assert!(patches.all(|patch| takes(patch, "fieldValidation")), "{}", kind.kind());
        assert!(of_kind("get").any(|get| takes(get, "watch")), "{}", kind.kind());
        let schema = &document["components"]["schemas"][schemas::public_name(kind.schema_type())];
        assert_eq!(schema["x-kubernetes-group-version-kind"], json!([kind_gvk(kind)]));
    }
    let core = v3(&registry, "", "v1").unwrap();
    let schemas = &core["components"]["schemas"];
    let property = |of: &str, name: &str| {
        let mut found = schemas[of]["properties"][name].clone();
        let text = found.as_object_mut().unwrap().remove("description");
        assert!(text.is_some_and(|text| text.is_string()), "{of}.{name} has no description");
        found
    };
    assert_eq!(
        property("io.k8s.api.core.v1.Container", "ports"),
        json!({"type": "array",
            "items": {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ContainerPort"}], "default": {}},
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "containerPort"})
    );
    // What a pointer points to has no default; what is always there is an empty object.
    assert_eq!(
        property("io.k8s.api.core.v1.Container", "livenessProbe"),
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Probe"}]})
    );
    assert_eq!(
        property("io.k8s.api.core.v1.Container", "resources"),
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ResourceRequirements"}], "default": {}})
    );
    assert_eq!(schemas["io.k8s.api.core.v1.Container"]["required"], json!(["name"]));
    assert_eq!(
        property("io.k8s.api.core.v1.ContainerPort", "protocol"),
        json!({"type": "string", "default": "TCP", "enum": ["SCTP", "TCP", "UDP"]})
    );
    assert!(
        core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/status"]["patch"].is_object()
    );
    assert!(core["paths"]["/api/v1/nodes/{name}"]["get"].is_object());
}

/// The older dialect takes words beside a reference, the newer one wraps it.
#[test]
fn descriptions_are_beside_references() {
    let registry = Registry::builtin();
    let old = v2(&registry);
    let new = v3(&registry, "", "v1").unwrap();
    let place = "io.k8s.api.core.v1.Pod/properties/spec";
    let old = old.pointer(&format!("/definitions/{place}")).unwrap();
    let new = new.pointer(&format!("/components/schemas/{place}")).unwrap();
    assert_eq!(old["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    assert_eq!(new["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
    assert!(old["description"].is_string());
    assert_eq!(old["description"], new["description"]);
}

/// A number is as good as a string there: a client that checks by the schema must not refuse `targetPort: 80`.
#[test]
fn what_may_be_a_number_says_so() {
    let registry = Registry::builtin();
    let new = v3(&registry, "", "v1").unwrap();
    let old = v2(&registry);
    let (int, quantity) = ("util.intstr.IntOrString", "api.resource.Quantity");
    let new = |name: &str| {
        let mut found =
            new["components"]["schemas"][format!("io.k8s.apimachinery.pkg.{name}")].clone();
        found.as_object_mut().unwrap().remove("description");
        found
    };
    let either = |one: &str, other: &str| json!([{"type": one}, {"type": other}]);
    assert_eq!(new(int), json!({"format": "int-or-string", "oneOf": either("integer", "string")}));
    assert_eq!(new(quantity), json!({"oneOf": either("string", "number")}));
    for (name, format) in [(int, json!("int-or-string")), (quantity, Value::Null)] {
        let found = &old["definitions"][format!("io.k8s.apimachinery.pkg.{name}")];
        assert_eq!((&found["type"], &found["format"]), (&json!("string"), &format));
    }
}

#[test]
fn every_address_changes_with_its_document() {
    let registry = Registry::builtin();
    let index = v3_index(&registry);
    let mut hashes = BTreeSet::new();
    for (group, version) in group_versions(&registry) {
        let path = &prefix(group, version)[1..];
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap();
        let (_, hash) = url.split_once("?hash=").unwrap();
        let document = v3(&registry, group, version).unwrap().to_string();
        let whole = Sha256::digest(document.as_bytes());
        let whole: String = whole.iter().map(|byte| format!("{byte:02X}")).collect();
        assert!(hash.len() == 32 && whole.starts_with(hash), "{url}: {whole}");
        hashes.insert(hash.to_owned());
    }
    assert_eq!(hashes.len(), group_versions(&registry).len());
}

/// Walks a message's fields; `None` where the encoding is broken.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut value = 0;
        for shift in 0..10 {
            let (first, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= u64::from(first & 0x7f) << (7 * shift);
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => {
                varint(&mut bytes)?;
                &[][..]
            }
            2 => {
                let length = varint(&mut bytes)? as usize;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                value
            }
            _ => return None,
        };
        found.push((tag >> 3, value));
    }
    Some(found)
}

#[test]
fn the_protobuf_form_has_every_definition() {
    let document = v2(&Registry::builtin());
    let bytes = v2_protobuf(&document);
    let top = fields(&bytes).unwrap();
    assert_eq!(top[0], (1, &b"2.0"[..]));
    let definitions = top.iter().find(|(number, _)| *number == 9).unwrap().1;
    let names: Vec<&[u8]> = fields(definitions)
        .unwrap()
        .into_iter()
        .map(|(_, pair)| fields(pair).unwrap()[0].1)
        .collect();
    let expected: Vec<&[u8]> =
        document["definitions"].as_object().unwrap().keys().map(|name| name.as_bytes()).collect();
    assert_eq!(names, expected);
}

/// A field of an object in the document: the value of the pair whose name is this.
fn of_name<'a>(pairs: &'a [u8], name: &str) -> &'a [u8] {
    let pair = fields(pairs).unwrap().into_iter().find(|(_, pair)| {
        fields(pair).unwrap().first().is_some_and(|(_, first)| *first == name.as_bytes())
    });
    fields(pair.unwrap().1).unwrap()[1].1
}

#[test]
fn the_protobuf_form_has_the_descriptions() {
    let document = v2(&Registry::builtin());
    let bytes = v2_protobuf(&document);
    let part = |message: &[u8], number: u64| -> Vec<u8> {
        let found = fields(message).unwrap().into_iter().find(|(n, _)| *n == number);
        found.unwrap_or_else(|| panic!("no {number}")).1.to_vec()
    };
    let definitions = part(&bytes, 9);
    let pod = of_name(&definitions, "io.k8s.api.core.v1.Pod");
    let properties = part(pod, 25);
    let spec = of_name(&properties, "spec");
    let text = |path: &str| document.pointer(path).unwrap().as_str().unwrap().as_bytes().to_vec();
    assert_eq!(part(pod, 4), text("/definitions/io.k8s.api.core.v1.Pod/description"));
    let path = "/definitions/io.k8s.api.core.v1.Pod/properties/spec/description";
    assert_eq!(part(spec, 4), text(path));
    assert_eq!(part(spec, 1), b"#/definitions/io.k8s.api.core.v1.PodSpec");
}

/// Writes the documents for other tools to look at: `OPENAPI_OUT=folder cargo test`.
#[test]
fn documents_for_other_tools() {
    let Some(folder) = std::env::var_os("OPENAPI_OUT") else { return };
    let folder = Path::new(&folder);
    let registry = Registry::builtin();
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.join(name), bytes).unwrap();
    write("index.json", v3_index(&registry).to_string().into());
    write("v2.json", v2(&registry).to_string().into());
    write("v2.pb", v2_protobuf(&v2(&registry)));
    for (group, version) in group_versions(&registry) {
        let name = prefix(group, version).replace('/', "_");
        write(&format!("{name}.json"), v3(&registry, group, version).unwrap().to_string().into());
    }
}
