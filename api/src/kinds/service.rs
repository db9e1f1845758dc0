//! `v1` Service.

use super::BASE;
use crate::validation::names;
use crate::{BuiltIn, Shard, Subresource};

pub static SERVICE: BuiltIn = BuiltIn {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    schema_type: "core/v1.Service",
    selectable_fields: &["spec.clusterIP", "spec.type"],
    shard: |_| Shard::All,
    validate_name: names::service,
    ..BASE
};
