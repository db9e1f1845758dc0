//! `apps/v1` ReplicaSet.

use super::BASE;
use crate::{BuiltIn, Subresource};

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
    ..BASE
};
