//! `v1` Endpoints.

use super::BASE;
use crate::tree::{self, Path, Tree};
use crate::validation::{each, names, one_of};
use crate::{BuiltIn, Column, ErrorList, Object};

use super::columns::{AGE, NONE, host_port, some_of, text};

pub static ENDPOINTS: BuiltIn = BuiltIn {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    schema_type: "core/v1.Endpoints",
    columns: COLUMNS,
    default,
    validate,
    deprecation: Some(
        "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
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

fn validate(endpoints: &Object, errors: &mut ErrorList) {
    let path = Path::root("subsets");
    for (i, subset) in tree::maps(endpoints, "subsets") {
        let path = path.index(i);
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| tree::list(subset, list).is_empty()) {
            errors.required(path, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in lists {
            for (i, address) in tree::maps(subset, list) {
                let path = path.field(list);
                let path = path.index(i);
                let (ip, host) = (tree::text(address, "ip"), tree::text(address, "hostname"));
                if let Some(message) = names::ip(ip) {
                    errors.invalid(path.field("ip"), ip, &message);
                }
                if !host.is_empty() {
                    each(names::dns1123_label(host), errors, path.field("hostname"), host);
                }
            }
        }
        let needs_names = tree::list(subset, "ports").len() > 1;
        for (i, port) in tree::maps(subset, "ports") {
            let path = path.field("ports");
            let path = path.index(i);
            match tree::text(port, "name") {
                "" if needs_names => errors.required(path.field("name"), ""),
                "" => {}
                name => each(names::dns1123_label(name), errors, path.field("name"), name),
            }
            let number = tree::int(port, "port").unwrap_or_default();
            if let Some(message) = names::port_number(number) {
                errors.invalid(path.field("port"), number, &message);
            }
            one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &path, errors);
        }
    }
}
