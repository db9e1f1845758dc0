//! `v1` Node.

use serde_json::json;

use super::{BASE, pod_spec};
use crate::tree::{self, Path, Tree};
use crate::validation::{each, names};
use crate::{BuiltIn, Column, ErrorList, NodeName, Object, Scope, Shard, Subresource};

use super::columns::{self, AGE, text, wide};

pub static NODE: BuiltIn = BuiltIn {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    subresources: &[Subresource::Status, Subresource::Proxy],
    schema_type: "core/v1.Node",
    columns: COLUMNS,
    selectable_fields: &["spec.unschedulable"],
    field: Some(field),
    keeps_status_on_create: true,
    default,
    validate,
    validate_update,
    shard: |node: &Object| Shard::Node(NodeName(node.name().into())),
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Status", "Whether the node is ready and takes pods.", |node, _| status(node).into()),
    text("Roles", "Roles, by the node's labels.", |node, _| roles(node).into()),
    AGE,
    text("Version", "The version of the agent.", |node, _| info(node, "kubeletVersion").into()),
    wide(text("Internal-IP", "The address inside the cluster.", |node, _| {
        address(node, "InternalIP").into()
    })),
    wide(text("External-IP", "The address from outside.", |node, _| {
        address(node, "ExternalIP").into()
    })),
    wide(text("OS-Image", "The operating system.", |node, _| known(node, "osImage").into())),
    wide(text("Kernel-Version", "The kernel.", |node, _| known(node, "kernelVersion").into())),
    wide(text("Container-Runtime", "What runs the containers.", |node, _| {
        known(node, "containerRuntimeVersion").into()
    })),
];

fn field(node: &Object, path: &str) -> Option<String> {
    (path == "spec.unschedulable")
        .then(|| node.at(&["spec", "unschedulable"]).is_some_and(|v| v == true).to_string())
}

fn default(node: &mut Object) {
    tree::default_absent(node, "spec", json!({}));
    let status = tree::make_map(node, "status");
    if let Some(capacity) = status.get("capacity").cloned() {
        tree::default_absent(status, "allocatable", capacity);
    }
}

fn status(node: &Object) -> String {
    let mut status = match columns::condition(columns::status(node), "Ready") {
        "" => "Unknown",
        "True" => "Ready",
        _ => "NotReady",
    }
    .to_owned();
    if node.at(&["spec", "unschedulable"]).is_some_and(|v| v == true) {
        status += ",SchedulingDisabled";
    }
    status
}

fn roles(node: &Object) -> String {
    let metadata = node.at(&["metadata"]).and_then(|m| m.as_object());
    let mut roles: Vec<&str> = metadata
        .into_iter()
        .flat_map(|m| tree::pairs(m, "labels"))
        .filter_map(|(key, value)| match key {
            "kubernetes.io/role" => Some(value),
            _ => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    columns::or_none(&roles.join(",")).to_owned()
}

fn info<'a>(node: &'a Object, field: &str) -> &'a str {
    node.str_at(&["status", "nodeInfo", field])
}

fn known<'a>(node: &'a Object, field: &str) -> &'a str {
    match info(node, field) {
        "" => "<unknown>",
        text => text,
    }
}

fn address<'a>(node: &'a Object, kind: &str) -> &'a str {
    let status = columns::status(node);
    let mut addresses = status.into_iter().flat_map(|s| tree::maps(s, "addresses"));
    let found = addresses.find(|(_, a)| tree::text(a, "type") == kind);
    found.map_or(columns::NONE, |(_, address)| tree::text(address, "address"))
}

fn spec(node: &Object) -> Tree {
    node.at(&["spec"]).and_then(|spec| spec.as_object()).cloned().unwrap_or_default()
}

fn validate(node: &Object, errors: &mut ErrorList) {
    let spec = spec(node);
    let path = Path::root("spec");
    pod_spec::validate::taints(&spec, &path.field("taints"), errors);
    let ranges: Vec<&str> = tree::texts(&spec, "podCIDRs").collect();
    let range = tree::text(&spec, "podCIDR");
    if !range.is_empty() && ranges.first().is_some_and(|first| *first != range) {
        errors.invalid(path.field("podCIDRs"), &ranges, "first value must match `podCIDR`");
    }
    let all = if ranges.is_empty() && !range.is_empty() { vec![range] } else { ranges };
    for (i, range) in all.iter().enumerate() {
        if let Some(message) = names::cidr(range) {
            errors.invalid(path.field("podCIDRs").index(i), range, &message);
        }
    }
    let Some(status) = columns::status(node) else { return };
    let path = Path::root("status");
    for list in ["capacity", "allocatable"] {
        for (name, value) in tree::map(status, list).into_iter().flatten() {
            let path = path.field(list);
            each(names::label_key(name), errors, path.key(name), name);
            pod_spec::amount(value, &path.key(name), errors);
        }
    }
    let addresses: Vec<&Tree> = tree::maps(status, "addresses").map(|(_, a)| a).collect();
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            errors.duplicate(path.field("addresses").index(i), address);
        }
    }
}

/// What other nodes and routes rely on is set once.
fn validate_update(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (new, old) = (spec(new), spec(old));
    for (field, name) in [("podCIDR", "podCIDRs"), ("providerID", "providerID")] {
        let before = tree::text(&old, field);
        if !before.is_empty() && tree::text(&new, field) != before {
            let message = format!("node updates may not change {field} except from \"\" to valid");
            errors.forbidden(Path::root("spec").field(name), &message);
        }
    }
}
