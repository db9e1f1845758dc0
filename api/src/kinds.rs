//! The kinds, one file each. Adding one is a file here and a line in [`ALL`]; routes, discovery, storage, routing
//! keys and the tests over all kinds follow.

use crate::validation::names;
use crate::{BuiltIn, Scope, Shard};

mod columns;
mod config_map;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod job;
mod lease;
mod namespace;
mod node;
mod pod;
mod pod_spec;
mod replica_set;
mod secret;
mod service;
mod service_account;

pub use config_map::CONFIG_MAP;
pub use deployment::DEPLOYMENT;
pub use endpoint_slice::ENDPOINT_SLICE;
pub use endpoints::ENDPOINTS;
pub use event::{EVENT, EVENTS_V1_EVENT};
pub use job::JOB;
pub use lease::LEASE;
pub use namespace::NAMESPACE;
pub use node::NODE;
pub use pod::POD;
pub use replica_set::REPLICA_SET;
pub use secret::SECRET;
pub use service::SERVICE;
pub use service_account::SERVICE_ACCOUNT;

/// Every built-in kind, sorted by group, then by plural.
pub static ALL: &[&BuiltIn] = &[
    &CONFIG_MAP,
    &ENDPOINTS,
    &EVENT,
    &NAMESPACE,
    &NODE,
    &POD,
    &SECRET,
    &SERVICE_ACCOUNT,
    &SERVICE,
    &DEPLOYMENT,
    &REPLICA_SET,
    &JOB,
    &LEASE,
    &ENDPOINT_SLICE,
    &EVENTS_V1_EVENT,
];

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
    keeps_status_on_create: false,
    on_create: |_| {},
    on_update: |_, _| {},
    default: |_| {},
    validate: |_, _| {},
    validate_create: |_, _| {},
    validate_update: |_, _, _| {},
    warnings: |_, _| Vec::new(),
    validate_subresource: None,
    validate_name: names::subdomain,
    deletion_grace_seconds: |_| None,
    shard: |_| Shard::None,
    publishes_metadata_only: false,
    deprecation: None,
    conversion: None,
};

#[cfg(test)]
pub(crate) mod tests;
