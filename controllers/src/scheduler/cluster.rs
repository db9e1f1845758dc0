//! What the scheduler knows of nodes and of what runs on them; kept up to date change by change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, Pod, Service, Taint};
use k8s_openapi::apimachinery::pkg::api::resource;
use warren_api::Quantity;

use super::groups::{GroupKey, Groups};
use super::rules::{Constraint, Namespaces, Terms};
use crate::plan::controller_of;
use crate::pods;

pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// What a container that asks for nothing is taken to need when nodes are compared, as in Kubernetes: 100 millicores,
/// 200 MiB. It does not count against what fits.
const MODEST: (i64, i64) = (100, 200 << 20);

/// More than any machine has. What asks for more fits nowhere as well, and sums of what thousands of pods ask for stay
/// numbers: one that was cut would be wrong again when its pod goes.
const MOST: i64 = 1 << 50;

/// Amounts: cpu in millicores, all else in units.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Amounts {
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
    /// Extended resources and huge pages, by name.
    pub other: BTreeMap<String, i64>,
}

impl Amounts {
    fn parse(list: Option<&BTreeMap<String, resource::Quantity>>) -> Self {
        let mut amounts = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            let Ok(quantity) = quantity.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => amounts.cpu = quantity.millis(),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.storage = quantity.value(),
                "pods" => {}
                _ => {
                    amounts.other.insert(name.clone(), quantity.value());
                }
            }
        }
        amounts.bound();
        amounts
    }

    fn bound(&mut self) {
        let own = [&mut self.cpu, &mut self.memory, &mut self.storage];
        own.into_iter()
            .chain(self.other.values_mut())
            .for_each(|amount| *amount = bounded(*amount));
    }

    fn each(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.cpu = with(self.cpu, other.cpu);
        self.memory = with(self.memory, other.memory);
        self.storage = with(self.storage, other.storage);
        for (name, amount) in &other.other {
            let mine = self.other.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }

    fn add(&mut self, other: &Self) {
        self.each(other, i64::saturating_add);
    }

    fn subtract(&mut self, other: &Self) {
        self.each(other, i64::saturating_sub);
    }
}

fn bounded(amount: i64) -> i64 {
    amount.clamp(-MOST, MOST)
}

type Port = (String, String, i32);

/// A pod as the scheduler sees it, read once.
#[derive(Clone, Debug)]
pub(crate) struct PodInfo {
    pub pod: Arc<Pod>,
    pub requests: Amounts,
    /// cpu and memory with modest amounts for containers that ask for none.
    pub weight: (i64, i64),
    /// Host ports: address, protocol, number.
    pub ports: Vec<Port>,
    pub group: Arc<GroupKey>,
    pub terms: Terms,
    pub spread: Vec<Constraint>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let (terms, spread) = match &pod.spec {
            Some(spec) => {
                let constraints = spec.topology_spread_constraints.iter().flatten();
                let constraints = constraints.map(|c| Constraint::new(c, &pod)).collect();
                (Terms::new(&pod, spec), constraints)
            }
            None => <(Terms, Vec<Constraint>)>::default(),
        };
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        let rules = affinity.filter(|_| !terms.is_empty());
        let group = Arc::new(GroupKey {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            owner: controller_of(&pod.metadata).map(|owner| owner.uid.clone()),
            terminating: pods::is_terminating(&pod),
            rules: rules.and_then(|rules| serde_json::to_string(rules).ok()).unwrap_or_default(),
        });
        let mut requests = Amounts::default();
        let mut weight = (0_i64, 0_i64);
        let mut ports = Vec::new();
        if let Some(spec) = &pod.spec {
            let of = |container: &Container| {
                let resources = container.resources.as_ref();
                let mut amounts = Amounts::parse(resources.and_then(|r| r.requests.as_ref()));
                // A limit without a request is a request; the API fills it in, mirror pods may lack it.
                let limits = Amounts::parse(resources.and_then(|r| r.limits.as_ref()));
                let requested = resources.and_then(|r| r.requests.as_ref());
                let has = |name| requested.is_some_and(|requests| requests.contains_key(name));
                if !has("cpu") {
                    amounts.cpu = limits.cpu;
                }
                if !has("memory") {
                    amounts.memory = limits.memory;
                }
                amounts
            };
            let modest = |amount: i64, default: i64| if amount == 0 { default } else { amount };
            for container in &spec.containers {
                let amounts = of(container);
                weight.0 = bounded(weight.0 + modest(amounts.cpu, MODEST.0));
                weight.1 = bounded(weight.1 + modest(amounts.memory, MODEST.1));
                requests.add(&amounts);
            }
            // Init containers run one after the other, beside the sidecars started before them.
            let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
            for container in spec.init_containers.iter().flatten() {
                let mut amounts = of(container);
                if container.restart_policy.as_deref() == Some("Always") {
                    sidecars.add(&amounts);
                    amounts = sidecars.clone();
                } else {
                    amounts.add(&sidecars);
                }
                peak.each(&amounts, i64::max);
            }
            requests.add(&sidecars);
            requests.each(&peak, i64::max);
            if let Some(whole) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
                let whole_amounts = Amounts::parse(Some(whole));
                if whole.contains_key("cpu") {
                    requests.cpu = whole_amounts.cpu;
                }
                if whole.contains_key("memory") {
                    requests.memory = whole_amounts.memory;
                }
            }
            requests.add(&Amounts::parse(spec.overhead.as_ref()));
            requests.bound();
            weight = (weight.0.max(requests.cpu), weight.1.max(requests.memory));
            for container in &spec.containers {
                for port in container.ports.iter().flatten() {
                    let host = port.host_port.unwrap_or(0);
                    let host = if spec.host_network == Some(true) && host == 0 {
                        port.container_port
                    } else {
                        host
                    };
                    if host > 0 {
                        let address = port.host_ip.clone().filter(|ip| !ip.is_empty());
                        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                        ports.push((
                            address.unwrap_or_else(|| "0.0.0.0".to_owned()),
                            protocol,
                            host,
                        ));
                    }
                }
            }
        }
        Self { pod, requests, weight, ports, group, terms, spread }
    }

    pub fn uid(&self) -> &str {
        pods::uid(&self.pod)
    }

    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
    }
}

/// A node and the sums over its pods.
#[derive(Debug)]
pub(crate) struct NodeInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Amounts,
    pub pods_allowed: i64,
    pub used: Amounts,
    pub weight: (i64, i64),
    pub ports: HashSet<Port>,
    /// By uid.
    pub pods: HashMap<String, Arc<PodInfo>>,
    /// Sizes of the images that are there, in bytes.
    pub images: HashMap<String, i64>,
    zone: Option<String>,
}

impl NodeInfo {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            unschedulable: false,
            allocatable: Amounts::default(),
            pods_allowed: 0,
            used: Amounts::default(),
            weight: (0, 0),
            ports: HashSet::new(),
            pods: HashMap::new(),
            images: HashMap::new(),
            zone: None,
        }
    }

    /// The value of a topology's label.
    pub fn topology(&self, key: &str) -> Option<&str> {
        if key == ZONE { self.zone.as_deref() } else { self.labels.get(key).map(String::as_str) }
    }

    fn set(&mut self, node: &Node) {
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.zone = self.labels.get(ZONE).cloned();
        let spec = node.spec.as_ref();
        self.taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        self.unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        let status = node.status.as_ref();
        let allocatable =
            status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        self.allocatable = Amounts::parse(allocatable);
        let pods = allocatable.and_then(|all| all.get("pods"));
        let pods = pods.and_then(|pods| pods.0.parse::<Quantity>().ok());
        self.pods_allowed = pods.map_or(0, Quantity::value);
        self.images.clear();
        for image in status.and_then(|status| status.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                self.images.insert(full_name(name), image.size_bytes.unwrap_or(0));
            }
        }
    }

    fn add(&mut self, pod: &Arc<PodInfo>) {
        self.used.add(&pod.requests);
        let sum = i64::saturating_add;
        self.weight = (sum(self.weight.0, pod.weight.0), sum(self.weight.1, pod.weight.1));
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.insert(pod.uid().to_owned(), Arc::clone(pod));
    }

    fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.used.subtract(&pod.requests);
        let difference = i64::saturating_sub;
        let (cpu, memory) = self.weight;
        self.weight = (difference(cpu, pod.weight.0), difference(memory, pod.weight.1));
        if !pod.ports.is_empty() {
            self.ports = self.pods.values().flat_map(|pod| pod.ports.iter().cloned()).collect();
        }
        Some(pod)
    }
}

/// An image's name with its tag, as nodes tell it.
pub(crate) fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// All nodes, with what runs there and what is about to.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// Those that exist, in a fixed order; decisions start at another place each time.
    pub nodes: Vec<NodeInfo>,
    positions: HashMap<String, usize>,
    /// Pods on nodes that are not there (yet): node by pod.
    homeless: HashMap<String, Vec<Arc<PodInfo>>>,
    /// Where each counted pod is.
    places: HashMap<String, String>,
    pub groups: Groups,
    pub namespaces: Namespaces,
    /// What Services select, by namespace and name.
    services: BTreeMap<String, HashMap<String, BTreeMap<String, String>>>,
    /// On how many nodes an image is.
    images: HashMap<String, usize>,
    /// Where the next decision starts to look.
    pub start: usize,
}

impl Cluster {
    pub fn set_node(&mut self, node: &Node) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let at = match self.positions.get(name) {
            Some(at) => *at,
            None => {
                let at = self.nodes.len();
                self.nodes.push(NodeInfo::new(name));
                self.positions.insert(name.to_owned(), at);
                for pod in self.homeless.remove(name).unwrap_or_default() {
                    self.add(at, &pod);
                }
                at
            }
        };
        self.count_images(at, false);
        self.nodes[at].set(node);
        self.count_images(at, true);
    }

    fn count_images(&mut self, at: usize, is_there: bool) {
        for name in self.nodes[at].images.keys() {
            if is_there {
                *self.images.entry(name.clone()).or_default() += 1;
            } else if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    /// On how many nodes the image is.
    pub fn nodes_with(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.positions.remove(name) else { return };
        self.count_images(at, false);
        let node = self.nodes.swap_remove(at);
        node.pods.values().for_each(|pod| self.groups.remove(pod, at));
        if let Some(moved) = self.nodes.get(at) {
            self.positions.insert(moved.name.clone(), at);
            for pod in moved.pods.values() {
                self.groups.remove(pod, self.nodes.len());
                self.groups.add(pod, at);
            }
        }
        if !node.pods.is_empty() {
            self.homeless.insert(node.name, node.pods.into_values().collect());
        }
    }

    pub fn set_service(&mut self, service: &Service, is_there: bool) {
        let meta = &service.metadata;
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = meta.name.clone().unwrap_or_default();
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
        let of = self.services.entry(namespace.clone()).or_default();
        match selector.filter(|selector| is_there && !selector.is_empty()) {
            Some(selector) => of.insert(name, selector),
            None => of.remove(&name),
        };
        if of.is_empty() {
            self.services.remove(&namespace);
        }
    }

    /// The selectors of the Services that a pod is behind.
    pub fn services_of(&self, pod: &GroupKey) -> Vec<&BTreeMap<String, String>> {
        let all = self.services.get(&pod.namespace).into_iter().flat_map(HashMap::values);
        let selects = |wanted: &&BTreeMap<String, String>| {
            wanted.iter().all(|(name, value)| pod.labels.get(name) == Some(value))
        };
        all.filter(selects).collect()
    }

    fn add(&mut self, at: usize, pod: &Arc<PodInfo>) {
        self.nodes[at].add(pod);
        self.groups.add(pod, at);
    }

    #[cfg(test)]
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(*self.positions.get(name)?)
    }

    /// Counts a pod on a node: assumed, or as the API has it.
    pub fn place(&mut self, pod: &Arc<PodInfo>, node: &str) {
        self.remove_pod(pod.uid());
        self.places.insert(pod.uid().to_owned(), node.to_owned());
        match self.positions.get(node) {
            Some(at) => self.add(*at, pod),
            None => self.homeless.entry(node.to_owned()).or_default().push(Arc::clone(pod)),
        }
    }

    pub fn remove_pod(&mut self, uid: &str) {
        let Some(node) = self.places.remove(uid) else { return };
        if let Some(at) = self.positions.get(&node) {
            if let Some(pod) = self.nodes[*at].remove(uid) {
                self.groups.remove(&pod, *at);
            }
        } else if let Some(pods) = self.homeless.get_mut(&node) {
            pods.retain(|pod| pod.uid() != uid);
            if pods.is_empty() {
                self.homeless.remove(&node);
            }
        }
    }

    pub fn has(&self, uid: &str) -> bool {
        self.places.contains_key(uid)
    }

    /// Whether a pod is counted there as it is now; what else changed does not matter here. Then only the newest copy is
    /// kept: it is the cache's own.
    pub fn counts(&mut self, pod: &Arc<Pod>, node: &str) -> bool {
        let Some(at) = self.positions.get(node) else { return false };
        let Some(known) = self.nodes[*at].pods.get_mut(pods::uid(pod)) else { return false };
        let same = known.pod.spec == pod.spec
            && known.pod.metadata.labels == pod.metadata.labels
            && known.group.terminating == pods::is_terminating(pod)
            && known.group.owner.as_ref() == controller_of(&pod.metadata).map(|o| &o.uid);
        if same {
            Arc::make_mut(known).pod = Arc::clone(pod);
        }
        same
    }
}
