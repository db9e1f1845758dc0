//! `apps/v1` ReplicaSet.

use super::{BASE, pod_spec};
use crate::tree;
use crate::{BuiltIn, Column, Object, Subresource};

use super::columns::{AGE, CONTAINERS, IMAGES, SELECTOR, count, number};

pub static REPLICA_SET: BuiltIn = BuiltIn {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    schema_type: "apps/v1.ReplicaSet",
    columns: COLUMNS,
    has_generation: true,
    default,
    ..BASE
};

const COLUMNS: &[Column] = &[
    number("Desired", "The number of pods wanted.", |set, _| {
        count(set, &["spec", "replicas"]).into()
    }),
    number("Current", "Pods that there are.", |set, _| count(set, &["status", "replicas"]).into()),
    number("Ready", "Pods that are ready.", |set, _| {
        count(set, &["status", "readyReplicas"]).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn default(set: &mut Object) {
    let spec = tree::make_map(set, "spec");
    tree::default_absent(spec, "replicas", 1);
    pod_spec::defaults::template(spec);
    // The count has no `omitempty`.
    tree::default_absent(tree::make_map(set, "status"), "replicas", 0);
}
