//! `v1` Endpoints.

use super::BASE;
use crate::tree::{self, Tree};
use crate::{BuiltIn, Column, Object};

use super::columns::{AGE, NONE, host_port, some_of, text};

pub static ENDPOINTS: BuiltIn = BuiltIn {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    schema_type: "core/v1.Endpoints",
    columns: COLUMNS,
    default,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Endpoints", "Addresses and ports that take traffic.", |endpoints, _| {
        let all: Vec<String> =
            tree::maps(endpoints, "subsets").flat_map(|(_, s)| pairs(s)).collect();
        some_of(&all, NONE).into()
    }),
    AGE,
];

fn default(endpoints: &mut Object) {
    for subset in tree::maps_mut(endpoints, "subsets") {
        for port in tree::maps_mut(subset, "ports") {
            tree::default_zero(port, "protocol", "TCP");
        }
    }
}

/// Each address with each port.
fn pairs(subset: &Tree) -> Vec<String> {
    let ips = || tree::maps(subset, "addresses").map(|(_, address)| tree::text(address, "ip"));
    if tree::list(subset, "ports").is_empty() {
        return ips().map(str::to_owned).collect();
    }
    tree::maps(subset, "ports")
        .filter_map(|(_, port)| tree::int(port, "port"))
        .flat_map(|port| ips().map(move |ip| host_port(ip, port)))
        .collect()
}
