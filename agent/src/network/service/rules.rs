//! Services and their endpoints → the elements of our nftables table. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Into how many equal parts a service's connections are cut. 60 is even for 1 to 6, 10, 12, 15, 20, 30 and 60
/// endpoints; the connections of a service with more than 60 go to the first 60 of them.
pub(crate) const SLOTS: usize = 60;

/// `kubernetes.io/service-name`: which service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The sets and maps of the table, in the order in which the table declares them. Where an address is part of the key,
/// the map is for cluster IPs and external IPs; node ports are matched on every local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// address . protocol . port . random slot → endpoint
    Addresses,
    /// address . protocol . port . slot by client → endpoint; for `sessionAffinity: ClientIP`
    AddressesSticky,
    /// protocol . port . random slot → endpoint
    NodePorts,
    NodePortsSticky,
    /// address . protocol . port: no endpoint is there, refuse at once
    Empty,
    /// endpoint . endpoint: who reaches itself through a service must not see its own address as the peer's
    Hairpin,
}

impl Table {
    pub(crate) const ALL: [Table; 6] = [
        Table::Addresses,
        Table::AddressesSticky,
        Table::NodePorts,
        Table::NodePortsSticky,
        Table::Empty,
        Table::Hairpin,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Addresses => "addresses",
            Table::AddressesSticky => "addresses-sticky",
            Table::NodePorts => "nodeports",
            Table::NodePortsSticky => "nodeports-sticky",
            Table::Empty => "empty",
            Table::Hairpin => "hairpin",
        }
    }
}

/// Element (as nft writes it) → value; empty for sets.
pub(crate) type Elements = BTreeMap<(Table, String), String>;

/// `namespace/name`
pub(crate) type Key = (String, String);

/// What the API says, as far as this node has heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) services: BTreeMap<Key, Service>,
    pub(crate) slices: BTreeMap<Key, EndpointSlice>,
}

/// The elements that the table must have. `here` are the nodes of this host, for traffic policy `Local`.
pub(crate) fn elements(world: &World, here: &BTreeSet<String>) -> Elements {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for ((namespace, _), slice) in &world.slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
            by_service.entry((namespace, service)).or_default().push(slice);
        }
    }
    let mut elements = Elements::new();
    for ((namespace, name), service) in &world.services {
        let slices =
            by_service.get(&(namespace.as_str(), name.as_str())).map_or(&[][..], Vec::as_slice);
        service_elements(service, slices, here, &mut elements);
    }
    elements
}

fn service_elements(
    service: &Service,
    slices: &[&EndpointSlice],
    here: &BTreeSet<String>,
    elements: &mut Elements,
) {
    let Some(spec) = &service.spec else { return };
    if spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let inside_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let outside_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let inside: Vec<Ipv4Addr> =
        spec.cluster_ip.iter().filter_map(|address| address.parse().ok()).collect();
    let outside: Vec<Ipv4Addr> =
        spec.external_ips.iter().flatten().filter_map(|address| address.parse().ok()).collect();
    for port in spec.ports.iter().flatten() {
        let Some((protocol, number)) = protocol_and_port(port) else { continue };
        let all = endpoints(slices, port, |_| true);
        let local = endpoints(slices, port, |e| {
            e.node_name.as_ref().is_some_and(|node| here.contains(node))
        });
        let inside_of = if inside_local { &local } else { &all };
        let outside_of = if outside_local { &local } else { &all };
        for (addresses, endpoints) in [(&inside, inside_of), (&outside, outside_of)] {
            for address in addresses {
                let key = format!("{address} . {protocol} . {number}");
                let table = if sticky { Table::AddressesSticky } else { Table::Addresses };
                if endpoints.is_empty() {
                    elements.insert((Table::Empty, key), String::new());
                } else {
                    slots(table, &key, endpoints, elements);
                }
            }
        }
        if let Some(node_port) =
            port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)
        {
            let table = if sticky { Table::NodePortsSticky } else { Table::NodePorts };
            slots(table, &format!("{protocol} . {node_port}"), outside_of, elements);
        }
        for (address, _) in &all {
            elements.insert((Table::Hairpin, format!("{address} . {address}")), String::new());
        }
    }
}

fn slots(table: Table, key: &str, endpoints: &[(Ipv4Addr, u16)], elements: &mut Elements) {
    if endpoints.is_empty() {
        return;
    }
    for slot in 0..SLOTS {
        let (address, port) = endpoints[slot % endpoints.len()];
        elements.insert((table, format!("{key} . {slot}")), format!("{address} . {port}"));
    }
}

/// What nftables can match; SCTP services are left to others.
fn protocol_and_port(port: &ServicePort) -> Option<(&'static str, u16)> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => "tcp",
        Some("UDP") => "udp",
        Some(_) => return None,
    };
    Some((protocol, u16::try_from(port.port).ok()?))
}

/// The ready endpoints of a port, sorted, each once. Where none is ready, those that still serve while they terminate,
/// as kube-proxy does.
fn endpoints(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    wanted: impl Fn(&Endpoint) -> bool,
) -> Vec<(Ipv4Addr, u16)> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let name = port.name.as_deref().unwrap_or_default();
        let matching = slice
            .ports
            .iter()
            .flatten()
            .filter(|p| p.name.as_deref().unwrap_or_default() == name)
            .filter_map(|p| u16::try_from(p.port?).ok());
        for number in matching {
            for endpoint in slice.endpoints.iter().filter(|e| wanted(e)) {
                let conditions = endpoint.conditions.as_ref();
                let is_ready = conditions.and_then(|c| c.ready).unwrap_or(true);
                let is_serving = conditions.and_then(|c| c.serving).unwrap_or(is_ready);
                let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
                for address in addresses.map(|address: Ipv4Addr| (address, number)) {
                    if is_ready {
                        ready.insert(address);
                    } else if is_serving {
                        serving.insert(address);
                    }
                }
            }
        }
    }
    let chosen = if ready.is_empty() { serving } else { ready };
    chosen.into_iter().collect()
}

/// The input of `nft -f -` that turns one set of elements into another, in one transaction; `None` where they are equal.
pub(crate) fn difference(table: &str, old: &Elements, new: &Elements) -> Option<String> {
    let gone = old.iter().filter(|(key, value)| new.get(*key) != Some(value));
    let come = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
    let mut script = String::new();
    for ((set, key), _) in gone {
        script.push_str(&format!("delete element ip {table} {} {{ {key} }}\n", set.name()));
    }
    for ((set, key), value) in come {
        let value = if value.is_empty() { String::new() } else { format!(" : {value}") };
        script.push_str(&format!("add element ip {table} {} {{ {key}{value} }}\n", set.name()));
    }
    (!script.is_empty()).then_some(script)
}

/// The input of `nft -f -` that makes the table anew with these elements, in one transaction. Connections that are
/// there go on: they live in conntrack.
///
/// `bridged` says that the kernel shows bridged frames to netfilter: then answers between pods of one bridge find their
/// way back by themselves and pods see each other's addresses; else connections through a service are masqueraded.
pub(crate) fn whole(table: &str, service_cidr: &str, bridged: bool, elements: &Elements) -> String {
    let peers = if bridged { "ip saddr . ip daddr @hairpin masquerade" } else { "masquerade" };
    let random = format!("numgen random mod {SLOTS}");
    // Of the same type as the random one, by which the maps are declared: nft 1.0 dies listing a map of jhash.
    let client = format!("jhash ip saddr mod {SLOTS}");
    let mut script = format!(
        "table ip {table} {{}}
delete table ip {table}
table ip {table} {{
  map addresses {{ typeof ip daddr . meta l4proto . th dport . {random} : ip daddr . th dport; }}
  map addresses-sticky {{ typeof ip daddr . meta l4proto . th dport . {random} : ip daddr . th dport; }}
  map nodeports {{ typeof meta l4proto . th dport . {random} : ip daddr . th dport; }}
  map nodeports-sticky {{ typeof meta l4proto . th dport . {random} : ip daddr . th dport; }}
  set empty {{ typeof ip daddr . meta l4proto . th dport; }}
  set hairpin {{ typeof ip saddr . ip daddr; }}
  chain services {{
    dnat ip to ip daddr . meta l4proto . th dport . {random} map @addresses
    dnat ip to ip daddr . meta l4proto . th dport . {client} map @addresses-sticky
    fib daddr type local dnat ip to meta l4proto . th dport . {random} map @nodeports
    fib daddr type local dnat ip to meta l4proto . th dport . {client} map @nodeports-sticky
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat - 5; jump services; }}
  chain output {{ type nat hook output priority -105; jump services; }}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 5;
    ct status dnat ip saddr 127.0.0.0/8 masquerade
    ct status dnat ct original ip daddr {service_cidr} {peers}
    ct status dnat meta l4proto {{ tcp, udp }} ct original proto-dst 30000-32767 fib saddr type != local masquerade
  }}
  chain refuse {{
    meta l4proto tcp ip daddr . meta l4proto . th dport @empty reject with tcp reset
    ip daddr . meta l4proto . th dport @empty reject with icmp port-unreachable
  }}
  chain refuse-forward {{ type filter hook forward priority filter - 5; jump refuse; }}
  chain refuse-output {{ type filter hook output priority filter - 5; jump refuse; }}
  chain guard {{
    type filter hook prerouting priority raw;
    iif != lo ip daddr 127.0.0.0/8 fib saddr type != local drop
  }}
}}
"
    );
    for set in Table::ALL {
        let list: Vec<String> = elements
            .iter()
            .filter(|((s, _), _)| *s == set)
            .map(
                |((_, key), value)| {
                    if value.is_empty() { key.clone() } else { format!("{key} : {value}") }
                },
            )
            .collect();
        if !list.is_empty() {
            let list = list.join(", ");
            script.push_str(&format!("add element ip {table} {} {{ {list} }}\n", set.name()));
        }
    }
    script
}

#[cfg(test)]
mod tests;
