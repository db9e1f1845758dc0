//! `v1` Node.

use serde_json::json;

use super::BASE;
use crate::tree;
use crate::{BuiltIn, NodeName, Object, Scope, Shard, Subresource};

pub static NODE: BuiltIn = BuiltIn {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    subresources: &[Subresource::Status],
    schema_type: "core/v1.Node",
    selectable_fields: &["spec.unschedulable"],
    field: Some(field),
    default,
    shard: |node: &Object| Shard::Node(NodeName(node.name().into())),
    ..BASE
};

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
