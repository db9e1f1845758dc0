//! `discovery.k8s.io/v1` EndpointSlice.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::BASE;
use crate::tree::{self, Path, Tree};
use crate::validation::{each, immutable, names, one_of};
use crate::{BuiltIn, Column, ErrorList, Object, Shard};

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
    validate,
    validate_update,
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

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;

fn validate(slice: &Object, errors: &mut ErrorList) {
    let path = Path::root("addressType");
    match tree::text(slice, "addressType") {
        "" => errors.required(path, ""),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => errors.not_supported(path, other, &["FQDN", "IPv4", "IPv6"]),
    }
    let path = Path::root("endpoints");
    let count = tree::list(slice, "endpoints").len();
    if count > MAX_ENDPOINTS {
        errors.too_many(path, count, MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in tree::maps(slice, "endpoints") {
        addresses(endpoint, tree::text(slice, "addressType"), &path.index(i), errors);
    }
    ports(slice, errors);
}

fn addresses(endpoint: &Tree, kind: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let count = tree::list(endpoint, "addresses").len();
    let list = path.field("addresses");
    if count == 0 {
        errors.required(list, "must contain at least 1 address");
    } else if count > MAX_ADDRESSES {
        errors.too_many(list, count, MAX_ADDRESSES);
    }
    for (i, address) in tree::texts(endpoint, "addresses").enumerate() {
        let path = list.index(i);
        match kind {
            "IPv4" if address.parse::<Ipv4Addr>().is_err() => {
                errors.invalid(path, address, "must be an IPv4 address");
            }
            "IPv6" if address.parse::<Ipv6Addr>().is_err() => {
                errors.invalid(path, address, "must be an IPv6 address");
            }
            "FQDN" => each(names::dns1123_subdomain(address), errors, path, address),
            _ => {}
        }
    }
    let host = tree::text(endpoint, "hostname");
    if !host.is_empty() {
        each(names::dns1123_label(host), errors, path.field("hostname"), host);
    }
    let node = tree::text(endpoint, "nodeName");
    if !node.is_empty() {
        each(names::dns1123_subdomain(node), errors, path.field("nodeName"), node);
    }
}

fn ports(slice: &Object, errors: &mut ErrorList) {
    let path = Path::root("ports");
    let count = tree::list(slice, "ports").len();
    if count > MAX_PORTS {
        errors.too_many(path, count, MAX_PORTS);
        return;
    }
    let mut known = HashSet::new();
    for (i, port) in tree::maps(slice, "ports") {
        let path = path.index(i);
        let name = tree::text(port, "name");
        if !name.is_empty() {
            each(names::dns1123_label(name), errors, path.field("name"), name);
        }
        if !known.insert(name) {
            errors.duplicate(path.field("name"), name);
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &path, errors);
        if let Some(number) = tree::int(port, "port")
            && let Some(message) = names::port_number(number)
        {
            errors.invalid(path.field("port"), number, &message);
        }
    }
}

fn validate_update(new: &Object, old: &Object, errors: &mut ErrorList) {
    let path = Path::root("addressType");
    immutable(new.get("addressType"), old.get("addressType"), &path, errors);
}
