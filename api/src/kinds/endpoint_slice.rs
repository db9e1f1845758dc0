//! `discovery.k8s.io/v1` EndpointSlice.

use super::BASE;
use crate::{BuiltIn, Shard};

pub static ENDPOINT_SLICE: BuiltIn = BuiltIn {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    schema_type: "discovery/v1.EndpointSlice",
    has_generation: true,
    shard: |_| Shard::All,
    ..BASE
};
