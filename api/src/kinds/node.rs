//! `v1` Node.

use serde_json::json;

use super::BASE;
use crate::tree;
use crate::{BuiltIn, Column, NodeName, Object, Scope, Shard, Subresource};

use super::columns::{self, AGE, text, wide};

pub static NODE: BuiltIn = BuiltIn {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    subresources: &[Subresource::Status],
    schema_type: "core/v1.Node",
    columns: COLUMNS,
    selectable_fields: &["spec.unschedulable"],
    field: Some(field),
    default,
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
