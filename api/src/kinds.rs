//! The kinds, one file each. Adding one is a file here and a line in [`ALL`]; routes, discovery, storage, routing
//! keys and the tests over all kinds follow.

use crate::{BuiltIn, Scope, Shard};

mod config_map;
mod pod;

pub use config_map::CONFIG_MAP;
pub use pod::POD;

/// Every built-in kind, sorted by group, then by plural.
pub static ALL: &[&BuiltIn] = &[&CONFIG_MAP, &POD];

/// What a kind has unless it says otherwise: namespaced, no subresources, nothing to default or to validate.
const BASE: BuiltIn = BuiltIn {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    subresources: &[],
    schema_type: "",
    columns: &[],
    selectable_fields: &[],
    field: None,
    has_generation: false,
    on_create: |_| {},
    on_update: |_, _| {},
    default: |_| {},
    validate: |_, _| {},
    validate_update: |_, _, _| {},
    validate_name: |_| None,
    deletion_grace_seconds: |_| None,
    shard: |_| Shard::None,
    publishes_metadata_only: false,
};
