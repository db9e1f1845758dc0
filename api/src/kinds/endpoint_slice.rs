//! `discovery.k8s.io/v1` EndpointSlice.

use super::BASE;
use crate::tree;
use crate::{BuiltIn, Object, Shard};

pub static ENDPOINT_SLICE: BuiltIn = BuiltIn {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    schema_type: "discovery/v1.EndpointSlice",
    has_generation: true,
    default,
    shard: |_| Shard::All,
    ..BASE
};

fn default(slice: &mut Object) {
    for port in tree::maps_mut(slice, "ports") {
        tree::default_absent(port, "name", "");
        tree::default_zero(port, "protocol", "TCP");
    }
}
