//! Endpoints and EndpointSlices: which pods stand behind a Service.

mod slices;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
    ServicePort,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use warren_client::{Change, Index};
use warren_process::Tasks;

use crate::caches::Key;
use crate::plan::{Plan, Resource, Target, Write, delete, merge_difference};
use crate::pods;
use crate::queue::WorkQueue;
use crate::runner::{Context, Controller, run};

const WORKERS: usize = 4;
/// Addresses in one Endpoints object; more are cut off and that is said in an annotation, as in Kubernetes.
const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const HEADLESS: &str = "service.kubernetes.io/headless";

pub(crate) struct Snapshot<'a> {
    pub service: Option<&'a Service>,
    /// All of its namespace.
    pub pods: &'a [Arc<Pod>],
    pub endpoints: Option<&'a Endpoints>,
    /// Those that are ours.
    pub slices: &'a [Arc<EndpointSlice>],
}

/// A pod behind a Service.
struct Backend<'a> {
    pod: &'a Pod,
    addresses: Vec<String>,
    ready: bool,
    serving: bool,
    terminating: bool,
}

pub(crate) fn decide(key: &Key, snapshot: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    let selector = snapshot.service.and_then(|service| {
        let spec = service.spec.as_ref()?;
        let external = spec.type_.as_deref() == Some("ExternalName");
        spec.selector.as_ref().filter(|selector| !selector.is_empty() && !external)
    });
    let (Some(service), Some(selector)) = (snapshot.service, selector) else {
        // Without a selector somebody else writes the endpoints; without a Service they go.
        if snapshot.service.is_none() {
            snapshot.slices.iter().for_each(|slice| plan.push(delete(&**slice)));
            snapshot.endpoints.into_iter().for_each(|endpoints| plan.push(delete(endpoints)));
        }
        return plan;
    };
    if service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let backends = backends(service, selector, snapshot.pods);
    slices::plan(&mut plan, service, &backends, snapshot.slices);
    let (subsets, over) = subsets(service, &backends);
    write_endpoints(&mut plan, key, service, &subsets, over, snapshot.endpoints);
    plan
}

fn backends<'a>(
    service: &Service,
    selector: &BTreeMap<String, String>,
    all: &'a [Arc<Pod>],
) -> Vec<Backend<'a>> {
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses);
    let publish = publish == Some(true);
    let selected = |pod: &&Arc<Pod>| {
        let labels = pod.metadata.labels.as_ref();
        let has = |(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value);
        selector.iter().all(has) && !pods::is_finished(pod)
    };
    let mut backends: Vec<_> = all
        .iter()
        .filter(selected)
        .filter_map(|pod| {
            let addresses = addresses(pod);
            if addresses.is_empty() {
                return None;
            }
            let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
            let ready = publish || (serving && !terminating);
            Some(Backend { pod, addresses, ready, serving: serving || publish, terminating })
        })
        .collect();
    backends.sort_by(|a, b| pods::name(a.pod).cmp(pods::name(b.pod)));
    backends
}

fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut all: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if all.is_empty() {
        all.extend(status.pod_ip.clone());
    }
    all.retain(|ip| !ip.is_empty());
    all
}

fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// The number behind a Service's port in a pod; named ports are found among its containers'.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let mut all =
                spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            let found = all.find(|p| {
                p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            found.map(|port| port.container_port)
        }
    }
}

/// Name, protocol, number, application protocol.
type Port = (String, String, i32, Option<String>);

/// The ports that a pod offers to a Service. Pods that offer the same go together.
fn offered(service: &Service, pod: &Pod) -> Vec<Port> {
    let offered = ports(service).iter().filter_map(|port| {
        Some((
            port.name.clone().unwrap_or_default(),
            port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            target(port, pod)?,
            port.app_protocol.clone(),
        ))
    });
    offered.collect()
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn subsets(service: &Service, backends: &[Backend<'_>]) -> (Vec<EndpointSubset>, bool) {
    type Addresses = (Vec<EndpointAddress>, Vec<EndpointAddress>);
    let mut groups: BTreeMap<Vec<Port>, Addresses> = BTreeMap::new();
    // Endpoints are about pods that serve now; those that go have left.
    let mut staying: Vec<&Backend<'_>> =
        backends.iter().filter(|b| b.ready || !b.terminating).collect();
    let over = staying.len() > MOST;
    staying.sort_by_key(|backend| !backend.ready);
    for backend in staying.into_iter().take(MOST) {
        let offered = offered(service, backend.pod);
        if offered.is_empty() && !(ports(service).is_empty() && is_headless(service)) {
            continue;
        }
        let Some(ip) = backend.addresses.first() else { continue };
        let spec = backend.pod.spec.as_ref();
        let of_service =
            spec.and_then(|spec| spec.subdomain.as_ref()) == service.metadata.name.as_ref();
        let address = EndpointAddress {
            ip: ip.clone(),
            hostname: spec.and_then(|spec| spec.hostname.clone()).filter(|_| of_service),
            node_name: spec.and_then(|spec| spec.node_name.clone()),
            target_ref: Some(reference(backend.pod)),
        };
        let group = groups.entry(offered).or_default();
        if backend.ready { group.0.push(address) } else { group.1.push(address) }
    }
    let subset = |(ports, (mut ready, mut not_ready)): (Vec<Port>, Addresses)| {
        ready.sort_by(|a, b| a.ip.cmp(&b.ip));
        not_ready.sort_by(|a, b| a.ip.cmp(&b.ip));
        let ports: Vec<_> = ports
            .into_iter()
            .map(|(name, protocol, port, app_protocol)| EndpointPort {
                name: Some(name).filter(|name| !name.is_empty()),
                protocol: Some(protocol),
                port,
                app_protocol,
            })
            .collect();
        let some = |list: Vec<EndpointAddress>| Some(list).filter(|list| !list.is_empty());
        EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
        }
    };
    (groups.into_iter().map(subset).collect(), over)
}

fn write_endpoints(
    plan: &mut Plan,
    key: &Key,
    service: &Service,
    subsets: &[EndpointSubset],
    over: bool,
    known: Option<&Endpoints>,
) {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels
        .insert("endpoints.kubernetes.io/managed-by".to_owned(), "endpoint-controller".to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let annotations = over.then(|| json!({OVER_CAPACITY: "truncated"}));
    let mut new = json!({"metadata": {"labels": labels}});
    if let Some(annotations) = annotations {
        new["metadata"]["annotations"] = annotations;
    }
    if !subsets.is_empty() {
        new["subsets"] = json!(subsets);
    }
    let Some(known) = known else {
        new["apiVersion"] = json!("v1");
        new["kind"] = json!("Endpoints");
        new["metadata"]["name"] = json!(key.name);
        new["metadata"]["namespace"] = json!(key.namespace);
        let resource = Resource::of::<Endpoints>();
        plan.push(Write::Create { resource, namespace: key.namespace.to_string(), object: new });
        return;
    };
    let mut old =
        json!({"metadata": {"labels": known.metadata.labels.clone().unwrap_or_default()}});
    let truncated = known.metadata.annotations.as_ref().and_then(|all| all.get(OVER_CAPACITY));
    if let Some(text) = truncated {
        old["metadata"]["annotations"] = json!({OVER_CAPACITY: text});
    }
    if let Some(subsets) = known.subsets.as_ref().filter(|subsets| !subsets.is_empty()) {
        old["subsets"] = json!(subsets);
    }
    if let Some(patch) = merge_difference(&old, &new) {
        plan.push(Write::Patch {
            target: Target::of(known),
            subresource: None,
            resource_version: known.metadata.resource_version.clone(),
            patch,
        });
    }
}

pub(crate) struct EndpointsAndSlices(Context);

impl Controller for EndpointsAndSlices {
    const NAME: &'static str = "endpoints-controller";
    const RESOURCE: (&'static str, &'static str) = ("", "services");

    fn plan(&self, _: Timestamp, key: &Key) -> Plan {
        let caches = &self.0.caches;
        let service = caches.services.get(&key.namespace, &key.name);
        let ours = |slice: &Arc<EndpointSlice>| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(slices::MANAGED_BY)).map(String::as_str)
                == Some(slices::MANAGER)
        };
        let slices: Vec<_> =
            caches.slices_of.get(&key.to_string()).into_iter().filter(ours).collect();
        let pods = caches.pods_in.get(&key.namespace);
        let endpoints = caches.endpoints.get(&key.namespace, &key.name);
        let snapshot = Snapshot {
            service: service.as_deref(),
            pods: &pods,
            endpoints: endpoints.as_deref(),
            slices: &slices,
        };
        decide(key, &snapshot)
    }
}

/// The Services that a change of a pod concerns: those that select it now or did before.
fn concerned(change: &Change<Pod>, services: &Index<Service>) -> Vec<Key> {
    let Some(pod) = change.any() else { return Vec::new() };
    if let (Some(old), Some(new)) = (&change.old, &change.new) {
        let of = |pod: &Pod| {
            (
                pod.metadata.labels.clone(),
                addresses(pod),
                pods::is_ready(pod),
                pods::is_terminating(pod),
                pods::is_finished(pod),
            )
        };
        if of(old) == of(new) && old.metadata.uid == new.metadata.uid {
            return Vec::new();
        }
    }
    let labels: Vec<_> = change
        .old
        .iter()
        .chain(&change.new)
        .map(|pod| pod.metadata.labels.clone().unwrap_or_default())
        .collect();
    let selects = |service: &Arc<Service>| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.filter(|selector| !selector.is_empty()).is_some_and(|selector| {
            let within = |of: &BTreeMap<String, String>| {
                selector.iter().all(|(key, value)| of.get(key) == Some(value))
            };
            labels.iter().any(within)
        })
    };
    let all = services.get(pod.metadata.namespace.as_deref().unwrap_or_default());
    all.iter().filter(|service| selects(service)).map(|service| Key::of(&**service)).collect()
}

pub(crate) fn start(context: &Context, tasks: &Tasks) {
    let queue = WorkQueue::default();
    let caches = &context.caches;
    let to = queue.clone();
    caches.services.on_change(move |change| {
        change.any().into_iter().for_each(|service| to.add(Key::of(&**service)));
    });
    let (to, services) = (queue.clone(), caches.services_in.clone());
    caches.pods.on_change(move |change| {
        concerned(change, &services).into_iter().for_each(|key| to.add(key));
    });
    let to = queue.clone();
    caches.endpoints.on_change(move |change| {
        change.any().into_iter().for_each(|endpoints| to.add(Key::of(&**endpoints)));
    });
    let to = queue.clone();
    caches.endpoint_slices.on_change(move |change| {
        let Some(slice) = change.any() else { return };
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(slices::SERVICE)) {
            to.add(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service));
        }
    });
    run(context, tasks, queue, WORKERS, EndpointsAndSlices(context.clone()));
}

#[cfg(test)]
mod tests;
