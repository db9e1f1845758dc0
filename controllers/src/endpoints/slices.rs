//! EndpointSlices: at most a hundred endpoints each, by family of addresses and by ports.

use super::*;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};

use crate::names;
use crate::plan::controller_reference;

pub(super) const SERVICE: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in a slice, Kubernetes' default.
const PER_SLICE: usize = 100;

/// Endpoints stay in the slice that has them; new ones fill what has room. So a change of one pod is a change of one
/// slice.
pub(super) fn plan(
    plan: &mut Plan,
    service: &Service,
    backends: &[Backend<'_>],
    known: &[Arc<EndpointSlice>],
) {
    let mut wanted: BTreeMap<(&'static str, Vec<Port>), Vec<Endpoint>> = BTreeMap::new();
    for family in families(service) {
        for backend in backends {
            let is_v6 = family == "IPv6";
            let Some(ip) = backend.addresses.iter().find(|ip| ip.contains(':') == is_v6) else {
                continue;
            };
            let offered = offered(service, backend.pod);
            if offered.is_empty() && !ports(service).is_empty() {
                continue;
            }
            wanted.entry((family, offered)).or_default().push(endpoint(service, backend, ip));
        }
    }
    // A Service without endpoints has one empty slice, which tells readers that it is known.
    if wanted.is_empty() {
        let family = families(service).first().copied().unwrap_or("IPv4");
        wanted.insert((family, offered(service, &Pod::default())), Vec::new());
    }
    let mut left: Vec<&Arc<EndpointSlice>> = known.iter().collect();
    left.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for ((family, ports), mut endpoints) in wanted {
        let (of_group, others): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|slice| slice.address_type == family && slice_ports(slice) == ports);
        left = others;
        // What is there keeps its place.
        let mut filled: Vec<(Option<&EndpointSlice>, Vec<Endpoint>)> = Vec::new();
        for slice in of_group {
            let has =
                |endpoint: &Endpoint| slice.endpoints.iter().any(|old| same_pod(old, endpoint));
            let (mut kept, rest): (Vec<_>, Vec<_>) = endpoints.into_iter().partition(|e| has(e));
            endpoints = rest;
            if kept.len() > PER_SLICE {
                endpoints.extend(kept.split_off(PER_SLICE));
            }
            filled.push((Some(slice), kept));
        }
        let mut rest = endpoints.into_iter().peekable();
        for (_, kept) in &mut filled {
            while kept.len() < PER_SLICE && rest.peek().is_some() {
                kept.extend(rest.next());
            }
        }
        while rest.peek().is_some() {
            filled.push((None, rest.by_ref().take(PER_SLICE).collect()));
        }
        if filled.is_empty() {
            filled.push((None, Vec::new()));
        }
        let some = filled.iter().any(|(_, kept)| !kept.is_empty());
        let mut spare = !some;
        for (at, (slice, kept)) in filled.into_iter().enumerate() {
            match slice {
                // One empty slice may stay, where there is none with endpoints.
                Some(slice) if kept.is_empty() && !std::mem::take(&mut spare) => {
                    plan.push(delete(slice));
                }
                Some(slice) => update(plan, service, slice, &kept),
                None => create(plan, service, family, &ports, at, &kept, known),
            }
        }
    }
    left.into_iter().for_each(|slice| plan.push(delete(&**slice)));
}

fn same_pod(a: &Endpoint, b: &Endpoint) -> bool {
    let uid = |e: &Endpoint| e.target_ref.as_ref().and_then(|reference| reference.uid.clone());
    uid(a) == uid(b)
}

fn families(service: &Service) -> Vec<&'static str> {
    let named = service.spec.as_ref().and_then(|spec| spec.ip_families.clone());
    let named = named.unwrap_or_default();
    let mut families: Vec<_> =
        named.iter().map(|name| if name == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    families.dedup();
    if families.is_empty() {
        families.push("IPv4");
    }
    families
}

fn endpoint(service: &Service, backend: &Backend<'_>, ip: &str) -> Endpoint {
    let spec = backend.pod.spec.as_ref();
    let of_service =
        spec.and_then(|spec| spec.subdomain.as_ref()) == service.metadata.name.as_ref();
    Endpoint {
        addresses: vec![ip.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: spec.and_then(|spec| spec.hostname.clone()).filter(|_| of_service),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        target_ref: Some(reference(backend.pod)),
        ..Endpoint::default()
    }
}

fn slice_ports(slice: &EndpointSlice) -> Vec<Port> {
    let port = |port: &k8s_openapi::api::discovery::v1::EndpointPort| {
        (
            port.name.clone().unwrap_or_default(),
            port.protocol.clone().unwrap_or_default(),
            port.port.unwrap_or(0),
            port.app_protocol.clone(),
        )
    };
    slice.ports.iter().flatten().map(port).collect()
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

fn update(plan: &mut Plan, service: &Service, slice: &EndpointSlice, endpoints: &[Endpoint]) {
    let of = |slice: &EndpointSlice| slice.metadata.labels.clone().unwrap_or_default();
    let mut sorted: Vec<Endpoint> = endpoints.to_vec();
    // In the order that they have, so that nothing is written where nothing changed.
    sorted.sort_by_key(|endpoint| {
        let known = slice.endpoints.iter().position(|old| same_pod(old, endpoint));
        known.unwrap_or(usize::MAX)
    });
    let old = json!({"metadata": {"labels": of(slice)}, "endpoints": slice.endpoints});
    let new = json!({"metadata": {"labels": labels(service)}, "endpoints": sorted});
    if let Some(patch) = merge_difference(&old, &new) {
        plan.push(Write::Patch {
            target: Target::of(slice),
            subresource: None,
            resource_version: slice.metadata.resource_version.clone(),
            patch,
        });
    }
}

fn create(
    plan: &mut Plan,
    service: &Service,
    family: &str,
    ports: &[Port],
    at: usize,
    endpoints: &[Endpoint],
    known: &[Arc<EndpointSlice>],
) {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    let seed = format!("{uid}/{family}/{ports:?}/{at}");
    let taken = |name: &str| known.iter().any(|s| s.metadata.name.as_deref() == Some(name));
    let Some(slice) = names::slots(name, &seed, taken).next() else { return };
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port, app)| {
            let mut value = json!({"name": name, "protocol": protocol, "port": port});
            if let Some(app) = app {
                value["appProtocol"] = json!(app);
            }
            value
        })
        .collect();
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice,
            "namespace": namespace,
            "generateName": format!("{}-", names::base(name)),
            "labels": labels(service),
            "ownerReferences": [controller_reference(service)],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    });
    plan.push(Write::Create { resource: Resource::of::<EndpointSlice>(), namespace, object });
}
