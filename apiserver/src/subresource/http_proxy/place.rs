//! Which pod or node, and which port of it, a path names.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use warren_api::{GroupResource, Object, Reason, Status};

use crate::api::Api;
use crate::request::ResourceRequest;
use crate::subresource::nodes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Pod {
        node: String,
        namespace: String,
        name: String,
        ip: IpAddr,
        /// As it was given; empty for the scheme's own.
        port: String,
        https: bool,
    },
    /// The node's own API.
    Node { name: String, address: SocketAddr },
    /// Another port of a node.
    Port { node: String, address: SocketAddr, https: bool },
}

impl Place {
    pub(super) fn key(&self) -> String {
        match self {
            Place::Pod { namespace, name, .. } => format!("{namespace}/{name}"),
            Place::Node { name: node, .. } | Place::Port { node, .. } => node.clone(),
        }
    }

    /// As it stands in a URL.
    pub(super) fn authority(&self) -> String {
        match self {
            Place::Pod { ip: IpAddr::V6(ip), port, .. } if port.is_empty() => format!("[{ip}]"),
            Place::Pod { ip: IpAddr::V6(ip), port, .. } => format!("[{ip}]:{port}"),
            Place::Pod { ip, port, .. } if port.is_empty() => ip.to_string(),
            Place::Pod { ip, port, .. } => format!("{ip}:{port}"),
            Place::Node { address, .. } | Place::Port { address, .. } => address.to_string(),
        }
    }

    /// The node whose own API it is: several in one process share a port.
    pub(super) fn of_node(&self) -> Option<&str> {
        match self {
            Place::Node { name, .. } => Some(name),
            _ => None,
        }
    }
}

pub(super) fn find(api: &Api, request: &ResourceRequest) -> Result<Place, Status> {
    let (kind, id) = (request.resource.trim_end_matches('s'), &request.name);
    let asked = Asked::read(id)
        .ok_or_else(|| Status::bad_request(format!("invalid {kind} request {id:?}")))?;
    let get = |resource: &str, name: &str| {
        let resource = GroupResource::new("", resource);
        let entry = api.cache.get(&resource, &request.namespace, name);
        entry.map(|entry| entry.object()).ok_or_else(|| Status::not_found(&resource, name))
    };
    match request.resource.as_str() {
        "pods" => in_pod(&get("pods", asked.name)?, asked.port, asked.https),
        "nodes" => at_node(&get("nodes", asked.name)?, &asked),
        _ => {
            let port = match asked.port.parse() {
                Ok(number) => name_of_port(&get("services", asked.name)?, number)?,
                Err(_) => asked.port.to_owned(),
            };
            let endpoints = get("endpoints", asked.name)?;
            let first = rand::random::<u32>();
            behind(&endpoints, &port, asked.https, first, |pod| get("pods", pod).ok())
        }
    }
}

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Asked<'a> {
    fn read(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let known = matches!(scheme, "" | "http" | "https") && !name.is_empty();
        known.then_some(Self { https: scheme == "https", name, port })
    }
}

/// What is reachable from everywhere: no loopback, no link's own addresses, no group.
fn is_global_unicast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_link_local()
                || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unicast_link_local())
        }
    }
}

fn allowed(ip: Option<IpAddr>) -> Result<IpAddr, Status> {
    ip.filter(|ip| is_global_unicast(*ip)).ok_or_else(|| Status::bad_request("address not allowed"))
}

fn items<'a>(object: &'a Object, path: &[&str]) -> impl Iterator<Item = &'a Value> {
    object.at(path).and_then(Value::as_array).into_iter().flatten()
}

/// Without a port, the first one that a container declares.
fn in_pod(pod: &Object, port: &str, https: bool) -> Result<Place, Status> {
    let declared = || {
        let mut ports = items(pod, &["spec", "containers"])
            .filter_map(|container| container["ports"][0]["containerPort"].as_u64());
        ports.next().map_or(String::new(), |port| port.to_string())
    };
    let port = if port.is_empty() { declared() } else { port.to_owned() };
    let ip =
        items(pod, &["status", "podIPs"]).next().and_then(|ip| ip["ip"].as_str()?.parse().ok());
    Ok(Place::Pod {
        node: pod.str_at(&["spec", "nodeName"]).to_owned(),
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        ip: allowed(ip)?,
        port,
        https,
    })
}

fn name_of_port(service: &Object, number: i64) -> Result<String, Status> {
    let mut ports = items(service, &["spec", "ports"]);
    let found = ports.find(|port| port["port"] == number);
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    found.map(name).ok_or_else(|| {
        let message = format!("no service port {number} found for service {:?}", service.name());
        Status::new(Reason::ServiceUnavailable, message)
    })
}

/// One of the ready pods behind a Service's port of that name; `first` is where the search begins.
fn behind(
    endpoints: &Object,
    port: &str,
    https: bool,
    first: u32,
    pod: impl Fn(&str) -> Option<Object>,
) -> Result<Place, Status> {
    let mut ready: Vec<(&Value, u64)> = Vec::new();
    for subset in items(endpoints, &["subsets"]) {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let mut named = ports.filter(|p| p["name"].as_str().unwrap_or_default() == port);
        let Some(number) = named.next().and_then(|port| port["port"].as_u64()) else { continue };
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        ready.extend(addresses.map(|address| (address, number)));
    }
    for n in 0..ready.len() {
        let (address, number) = ready[(first as usize).wrapping_add(n) % ready.len()];
        // Somebody may have written any address there; it counts where it is a pod's of this namespace.
        let target = &address["targetRef"];
        let of_here = target["kind"] == "Pod" && target["namespace"] == endpoints.namespace();
        let Some(pod) = target["name"].as_str().filter(|_| of_here).and_then(&pod) else {
            continue;
        };
        if items(&pod, &["status", "podIPs"]).any(|ip| ip["ip"] == address["ip"]) {
            return in_pod(&pod, &number.to_string(), https);
        }
    }
    let message = format!("no endpoints available for service {:?}", endpoints.name());
    Err(Status::new(Reason::ServiceUnavailable, message))
}

/// The node proves who it is at its own port, wherever that is; other ports must be on an address that is allowed.
fn at_node(node: &Object, asked: &Asked<'_>) -> Result<Place, Status> {
    let address = nodes::address_in(node).ok_or_else(nodes::no_address)?;
    if asked.port.is_empty() || asked.port == address.port().to_string() {
        return Ok(Place::Node { name: node.name().to_owned(), address });
    }
    let ip = allowed(Some(address.ip()))?;
    let port = number(asked.port)?;
    Ok(Place::Port {
        node: node.name().to_owned(),
        address: SocketAddr::new(ip, port),
        https: asked.https,
    })
}

/// Digits and nothing else, as a port in a URL is.
pub(super) fn number(port: &str) -> Result<u16, Status> {
    let digits = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|port| port.parse().ok()).filter(|port| *port > 0);
    let unknown = || format!("dial tcp: lookup tcp/{port}: unknown port");
    number.ok_or_else(|| super::unreachable(&unknown()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_with_schemes_and_ports() {
        for (id, expected) in [
            ("web", Some((false, "web", ""))),
            ("web:8080", Some((false, "web", "8080"))),
            ("web:http", Some((false, "web", "http"))),
            ("web:", Some((false, "web", ""))),
            ("https:web:", Some((true, "web", ""))),
            ("https:web:8443", Some((true, "web", "8443"))),
            ("http:web:80", Some((false, "web", "80"))),
            (":web:80", Some((false, "web", "80"))),
            ("ftp:web:80", None),
            (":80", None),
            ("", None),
            ("a:b:c:d", None),
        ] {
            let read = Asked::read(id).map(|asked| (asked.https, asked.name, asked.port));
            assert_eq!(read, expected, "{id}");
        }
    }

    #[test]
    fn ports_are_digits() {
        assert_eq!((number("8080"), number("65535")), (Ok(8080), Ok(65535)));
        for port in ["+8080", "-1", "0", "", "65536", "http", "80 "] {
            let refused = number(port).unwrap_err();
            assert!(refused.message.ends_with(&format!("tcp/{port}: unknown port")), "{refused}");
        }
    }

    fn object(value: Value) -> Object {
        Object::try_from(value).unwrap()
    }

    fn pod(name: &str, ip: &str) -> Object {
        object(json!({
            "metadata": {"name": name, "namespace": "x"},
            "spec": {"nodeName": "one", "containers": [
                {"name": "a"}, {"name": "b", "ports": [{"containerPort": 81}, {"containerPort": 82}]},
            ]},
            "status": {"podIPs": [{"ip": ip}]},
        }))
    }

    #[test]
    fn addresses_that_are_no_pods() {
        for (ip, expected) in [
            ("10.1.2.3", Ok("10.1.2.3:81")),
            ("fd00::1", Ok("[fd00::1]:81")),
            ("127.0.0.1", Err("address not allowed")),
            ("::ffff:127.0.0.1", Err("address not allowed")),
            ("::1", Err("address not allowed")),
            ("169.254.169.254", Err("address not allowed")),
            ("fe80::1", Err("address not allowed")),
            ("224.0.0.1", Err("address not allowed")),
            ("ff02::1", Err("address not allowed")),
            ("255.255.255.255", Err("address not allowed")),
            ("0.0.0.0", Err("address not allowed")),
            ("", Err("address not allowed")),
        ] {
            let found = in_pod(&pod("web", ip), "", false);
            let found = found.map(|place| place.authority()).map_err(|status| status.message);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{ip}");
        }
    }

    #[test]
    fn pods_behind_services() {
        let service = object(json!({
            "metadata": {"name": "web", "namespace": "x"},
            "spec": {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]},
        }));
        assert_eq!(name_of_port(&service, 81), Ok("admin".to_owned()));
        let none = name_of_port(&service, 82).unwrap_err();
        assert_eq!(none.message, "no service port 82 found for service \"web\"");
        assert_eq!(none.reason, Reason::ServiceUnavailable);

        let of = |name: &str, ip: &str| json!({"ip": ip, "targetRef": {"kind": "Pod", "namespace": "x", "name": name}});
        let endpoints = object(json!({
            "metadata": {"name": "web", "namespace": "x"},
            "subsets": [
                {"addresses": [{"ip": "10.0.0.9"}, of("a", "10.0.0.1"), of("gone", "10.0.0.8"), of("b", "10.0.0.7")],
                 "notReadyAddresses": [of("c", "10.0.0.3")],
                 "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9000}]},
                {"addresses": [of("b", "10.0.0.2")], "ports": [{"name": "http", "port": 8081}]},
            ],
        }));
        let pods = |name: &str| match name {
            "a" => Some(pod("a", "10.0.0.1")),
            "b" => Some(pod("b", "10.0.0.2")),
            "c" => Some(pod("c", "10.0.0.3")),
            _ => None,
        };
        let found = |port: &str| {
            let mut all: Vec<String> = (0..10)
                .map(|first| match behind(&endpoints, port, false, first, pods) {
                    Ok(place) => place.authority(),
                    Err(status) => status.message,
                })
                .collect();
            all.sort();
            all.dedup();
            all
        };
        assert_eq!(found("http"), ["10.0.0.1:8080", "10.0.0.2:8081"]);
        assert_eq!(found("admin"), ["10.0.0.1:9000"]);
        assert_eq!(found(""), ["no endpoints available for service \"web\""]);
    }

    #[test]
    fn ports_of_nodes() {
        let node = |ip: &str| {
            object(json!({
                "metadata": {"name": "one"},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": ip}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
                },
            }))
        };
        let at = |ip: &str, id: &str| match at_node(&node(ip), &Asked::read(id).unwrap()) {
            Ok(place) => format!("{} {:?}", place.authority(), place.of_node()),
            Err(status) => status.message,
        };
        assert_eq!(at("127.0.0.1", "one"), "127.0.0.1:10250 Some(\"one\")");
        assert_eq!(at("127.0.0.1", "https:one:10250"), "127.0.0.1:10250 Some(\"one\")");
        assert_eq!(at("127.0.0.1", "one:22"), "address not allowed");
        assert_eq!(at("10.0.0.1", "one:9100"), "10.0.0.1:9100 None");
        assert!(at("10.0.0.1", "one:no").contains("unknown port"));
    }
}
