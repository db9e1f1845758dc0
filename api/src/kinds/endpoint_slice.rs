//! `discovery.k8s.io/v1` EndpointSlice.

use super::BASE;
use crate::tree;
use crate::{BuiltIn, Column, Object, Shard};

use super::columns::{AGE, some_of, text};

pub static ENDPOINT_SLICE: BuiltIn = BuiltIn {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    schema_type: "discovery/v1.EndpointSlice",
    columns: COLUMNS,
    has_generation: true,
    default,
    shard: |_| Shard::All,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("AddressType", "The family of the addresses.", |slice, _| {
        slice.str_at(&["addressType"]).into()
    }),
    text("Ports", "The ports that take traffic.", |slice, _| {
        let ports: Vec<String> = tree::maps(slice, "ports")
            .map(|(_, port)| match tree::int(port, "port") {
                Some(number) => number.to_string(),
                None => match tree::text(port, "name") {
                    "" => "*".to_owned(),
                    name => name.to_owned(),
                },
            })
            .collect();
        some_of(&ports, "<unset>").into()
    }),
    text("Endpoints", "The addresses that take traffic.", |slice, _| {
        let addresses: Vec<String> = tree::maps(slice, "endpoints")
            .flat_map(|(_, endpoint)| tree::texts(endpoint, "addresses"))
            .map(str::to_owned)
            .collect();
        some_of(&addresses, "<unset>").into()
    }),
    AGE,
];

fn default(slice: &mut Object) {
    for port in tree::maps_mut(slice, "ports") {
        tree::default_absent(port, "name", "");
        tree::default_zero(port, "protocol", "TCP");
    }
}
