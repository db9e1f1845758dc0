//! `apps/v1` ReplicaSet.

use super::{BASE, pod_spec};
use crate::tree;
use crate::{BuiltIn, Object, Subresource};

pub static REPLICA_SET: BuiltIn = BuiltIn {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    schema_type: "apps/v1.ReplicaSet",
    has_generation: true,
    default,
    ..BASE
};

fn default(set: &mut Object) {
    let spec = tree::make_map(set, "spec");
    tree::default_absent(spec, "replicas", 1);
    pod_spec::defaults::template(spec);
    // The count has no `omitempty`.
    tree::default_absent(tree::make_map(set, "status"), "replicas", 0);
}
