//! `apps/v1` ReplicaSet.

use super::{BASE, pod_spec};
use crate::ErrorList;
use crate::tree::{self, Path, Tree};
use crate::validation::non_negative;
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
    validate,
    validate_update: super::deployment::selector_is_immutable,
    warnings: pod_spec::warnings::of_template,
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

fn validate(set: &Object, errors: &mut ErrorList) {
    let none = Tree::new();
    let spec = set.at(&["spec"]).and_then(|spec| spec.as_object()).unwrap_or(&none);
    let path = Path::root("spec");
    non_negative(spec, "replicas", &path, errors);
    non_negative(spec, "minReadySeconds", &path, errors);
    pod_spec::validate::long_running(spec, &path, errors);
}
