//! Cluster addresses and node ports: each is a record of its own, taken in the commit of the Service that gets it.

use std::net::Ipv4Addr;

use serde_json::Value;
use warren_api::{ErrorList, Object, ObjectKey, Status};
use warren_store::{Expected, Write};

use super::Admission;
use crate::api::Api;
use crate::commit::{internal_key, internal_write};

/// Candidates that are drawn before the range is searched from its start.
const DRAWS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    base: u32,
    /// At most 16 bits are used.
    bits: u32,
}

impl AddressRange {
    /// 10.96.0.0/16
    pub const DEFAULT: Self = Self { base: 0x0a60_0000, bits: 16 };

    /// `10.96.0.0/16`; between /12 and /28.
    pub fn parse(cidr: &str) -> Option<Self> {
        let (address, prefix) = cidr.split_once('/')?;
        let (address, prefix): (Ipv4Addr, u32) = (address.parse().ok()?, prefix.parse().ok()?);
        if !(12..=28).contains(&prefix) {
            return None;
        }
        let bits = 32 - prefix;
        let base = u32::from(address) >> bits << bits;
        Some(Self { base, bits })
    }

    /// The first address: the API server's own.
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.base);
        offset > 0 && offset < (1 << self.bits) - 1
    }

    /// Skips the first sixteen: they are for addresses that people choose.
    fn nth(self, n: u32) -> Ipv4Addr {
        let usable = (1u32 << self.bits) - 1 - 8;
        Ipv4Addr::from(self.base + 8 + n % usable)
    }

    fn len(self) -> u32 {
        (1u32 << self.bits) - 1 - 8
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), 32 - self.bits)
    }
}

/// Both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 30000, last: 32767 }
    }
}

pub(super) fn allocate(
    admission: &mut Admission<'_>,
    service: &mut Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let owner = format!("{}/{}", service.namespace(), service.name());
    if let Some(old) = old {
        keep(service, old);
    }
    let before = old.map(held).unwrap_or_default();
    let api = admission.api;
    let mut errors = ErrorList::default();
    cluster_address(api, service, &before, &mut errors);
    node_ports(api, service, &before, &mut errors);
    if !errors.is_empty() {
        return Err(Status::invalid("", "Service", service.name(), errors));
    }
    let after = held(service);
    for key in after.iter().filter(|key| !before.contains(key)) {
        admission.expects.push((key.clone(), Expected::Absent));
        admission.writes.push(internal_write(key.clone(), &owner, None));
    }
    for key in before.iter().filter(|key| !after.contains(key)) {
        give_back(api, key, &owner, &mut admission.writes);
    }
    Ok(())
}

/// What a Service that goes gives back.
pub(crate) fn release(api: &Api, service: &Object) -> Vec<Write> {
    let owner = format!("{}/{}", service.namespace(), service.name());
    let mut writes = Vec::new();
    for key in held(service) {
        give_back(api, &key, &owner, &mut writes);
    }
    writes
}

fn give_back(api: &Api, key: &ObjectKey, owner: &str, writes: &mut Vec<Write>) {
    if let Some(entry) = api.cache.get(&key.resource, "", &key.name)
        && entry.object().str_at(&["owner"]) == owner
    {
        writes.push(internal_write(key.clone(), owner, Some(entry.revision())));
    }
}

/// The records that a Service needs.
fn held(service: &Object) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    if let Ok(address) = service.str_at(&["spec", "clusterIP"]).parse::<Ipv4Addr>() {
        keys.push(internal_key("addresses", &address.to_string()));
    }
    for port in ports(service) {
        if let Some(node_port) = port["nodePort"].as_u64().filter(|port| *port != 0) {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_ascii_lowercase();
            let key = internal_key("nodeports", &format!("{protocol}-{node_port}"));
            // One port may stand twice only for two protocols; validation says so.
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

fn ports(service: &Object) -> impl Iterator<Item = &Value> {
    service.at(&["spec", "ports"]).and_then(Value::as_array).into_iter().flatten()
}

/// A PUT that leaves them out keeps what was allocated.
fn keep(service: &mut Object, old: &Object) {
    if !wants_address(service) {
        if service.str_at(&["spec", "type"]) == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                service.remove_at(&["spec", field]);
            }
        }
    } else if service.str_at(&["spec", "clusterIP"]).is_empty() {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if let Some(value) = old.at(&["spec", field]) {
                service.set_at(&["spec", field], value.clone());
            }
        }
    }
    let had: Vec<Value> = ports(old).cloned().collect();
    let wants = wants_node_ports(service);
    each_port(service, |port| {
        if wants && port.get("nodePort").is_none() {
            let same = had
                .iter()
                .find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"]);
            if let Some(node_port) = same.and_then(|old| old.get("nodePort")) {
                port["nodePort"] = node_port.clone();
            }
        } else if !wants && let Value::Object(port) = port {
            // What was allocated goes with the type that needed it; what a client asks for, validation refuses.
            if had.iter().any(|old| old.get("nodePort") == port.get("nodePort")) {
                port.remove("nodePort");
            }
        }
    });
}

fn wants_address(service: &Object) -> bool {
    service.str_at(&["spec", "type"]) != "ExternalName"
        && service.str_at(&["spec", "clusterIP"]) != "None"
}

fn wants_node_ports(service: &Object) -> bool {
    match service.str_at(&["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => service
            .at(&["spec", "allocateLoadBalancerNodePorts"])
            .and_then(Value::as_bool)
            .unwrap_or(true),
        _ => false,
    }
}

fn each_port(service: &mut Object, mut f: impl FnMut(&mut Value)) {
    let spec = service.get_mut("spec").and_then(Value::as_object_mut);
    let ports = spec.and_then(|spec| spec.get_mut("ports")).and_then(Value::as_array_mut);
    ports.into_iter().flatten().filter(|port| port.is_object()).for_each(&mut f);
}

fn cluster_address(api: &Api, service: &mut Object, before: &[ObjectKey], errors: &mut ErrorList) {
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        return;
    }
    let wanted = service.str_at(&["spec", "clusterIP"]).to_owned();
    if wanted != "None" {
        let range = api.settings.service_range;
        let chosen = match wanted.as_str() {
            "" => free_address(api),
            text => text.parse::<Ipv4Addr>().ok(),
        };
        let Some(address) = chosen else {
            if wanted.is_empty() {
                errors.invalid(
                    "spec.clusterIPs",
                    Value::Null,
                    "failed to allocate an IP: range is full",
                );
            }
            // What is no address at all, validation refuses.
            return;
        };
        let fail = |errors: &mut ErrorList, why: String| {
            let why = format!("failed to allocate IP {address}: {why}");
            errors.invalid("spec.clusterIPs", [address.to_string()], &why);
        };
        if !range.contains(address) {
            let why = format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            );
            return fail(errors, why);
        }
        let key = internal_key("addresses", &address.to_string());
        let taken = api.cache.get(&key.resource, "", &key.name).is_some();
        if taken && !before.contains(&key) {
            return fail(errors, "provided IP is already allocated".to_owned());
        }
        service.set_at(&["spec", "clusterIP"], address.to_string());
    }
    let first = service.str_at(&["spec", "clusterIP"]).to_owned();
    if service.at(&["spec", "clusterIPs"]).is_none() {
        service.set_at(&["spec", "clusterIPs"], vec![Value::from(first)]);
    }
    if service.at(&["spec", "ipFamilies"]).is_none() {
        service.set_at(&["spec", "ipFamilies"], vec![Value::from("IPv4")]);
    }
    if service.str_at(&["spec", "ipFamilyPolicy"]).is_empty() {
        service.set_at(&["spec", "ipFamilyPolicy"], "SingleStack");
    }
}

fn free_address(api: &Api) -> Option<Ipv4Addr> {
    let range = api.settings.service_range;
    let free = |address: &Ipv4Addr| {
        let key = internal_key("addresses", &address.to_string());
        api.cache.get(&key.resource, "", &key.name).is_none()
    };
    (0..DRAWS)
        .map(|_| range.nth(rand::random::<u32>() % range.len()))
        .find(free)
        .or_else(|| (0..range.len()).map(|n| range.nth(n)).find(free))
}

fn node_ports(api: &Api, service: &mut Object, before: &[ObjectKey], errors: &mut ErrorList) {
    let range = api.settings.node_ports;
    let wants = wants_node_ports(service);
    let mut taken_here: Vec<ObjectKey> = Vec::new();
    let mut index = 0;
    each_port(service, |port| {
        let at = index;
        index += 1;
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_ascii_lowercase();
        let key = |number: u64| internal_key("nodeports", &format!("{protocol}-{number}"));
        let is_free = |key: &ObjectKey| api.cache.get(&key.resource, "", &key.name).is_none();
        match port["nodePort"].as_u64().filter(|number| *number != 0) {
            Some(number) => {
                let field = format!("spec.ports[{at}].nodePort");
                if !(u64::from(range.first)..=u64::from(range.last)).contains(&number) {
                    let why = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        range.first, range.last
                    );
                    errors.invalid(field, number, &why);
                } else if !is_free(&key(number)) && !before.contains(&key(number)) {
                    errors.invalid(field, number, "provided port is already allocated");
                }
                taken_here.push(key(number));
            }
            None if wants => {
                let span = u64::from(range.last - range.first) + 1;
                let usable =
                    |number: &u64| is_free(&key(*number)) && !taken_here.contains(&key(*number));
                let found = (0..DRAWS)
                    .map(|_| u64::from(range.first) + rand::random::<u64>() % span)
                    .find(usable)
                    .or_else(|| (u64::from(range.first)..=u64::from(range.last)).find(usable));
                match found {
                    Some(number) => {
                        taken_here.push(key(number));
                        port["nodePort"] = number.into();
                    }
                    None => errors.invalid(
                        format!("spec.ports[{at}].nodePort"),
                        0,
                        "failed to allocate a nodePort: range is full",
                    ),
                }
            }
            None => {}
        }
    });
}
