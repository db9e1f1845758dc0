//! What the controllers know: one cache per resource, shared by all of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use warren_client::{Change, Index, Informer, InformerSet};

use crate::execute::Expected;
use crate::plan::{Target, controller_of};

/// How long the next decision about a key waits for its writes to come round. Later it decides on what it sees; names
/// and preconditions keep that harmless.
const ROUND_TRIP: Duration = Duration::from_secs(5);

/// A namespace (empty for cluster-scoped kinds) and a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        let text = |s: &Option<String>| s.as_deref().unwrap_or_default().into();
        Self { namespace: text(&meta.namespace), name: text(&meta.name) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Caches {
    pub deployments: Informer<Deployment>,
    pub endpoints: Informer<Endpoints>,
    pub endpoint_slices: Informer<EndpointSlice>,
    pub jobs: Informer<Job>,
    pub namespaces: Informer<Namespace>,
    pub nodes: Informer<Node>,
    pub pods: Informer<Pod>,
    pub replica_sets: Informer<ReplicaSet>,
    pub service_accounts: Informer<ServiceAccount>,
    pub services: Informer<Service>,
    pub deployments_in: Index<Deployment>,
    /// By the uid of the controlling owner.
    pub pods_of: Index<Pod>,
    pub pods_in: Index<Pod>,
    pub pods_on: Index<Pod>,
    /// Those in a namespace that nothing controls: they may be adopted.
    pub orphan_pods_in: Index<Pod>,
    pub replica_sets_in: Index<ReplicaSet>,
    pub replica_sets_of: Index<ReplicaSet>,
    pub services_in: Index<Service>,
    /// By `namespace/service`.
    pub slices_of: Index<EndpointSlice>,
}

fn namespace<K: kube::Resource>(object: &K) -> Vec<String> {
    object.meta().namespace.iter().cloned().collect()
}

fn owner<K: kube::Resource>(object: &K) -> Vec<String> {
    controller_of(object.meta()).map(|owner| owner.uid.clone()).into_iter().collect()
}

impl Caches {
    pub fn new(set: &mut InformerSet) -> Self {
        let deployments = set.informer::<Deployment>();
        let endpoint_slices = set.informer::<EndpointSlice>();
        let jobs = set.informer::<Job>();
        let pods = set.informer::<Pod>();
        let replica_sets = set.informer::<ReplicaSet>();
        let services = set.informer::<Service>();
        Self {
            endpoints: set.informer(),
            namespaces: set.informer(),
            nodes: set.informer(),
            service_accounts: set.informer(),
            deployments_in: deployments.index(namespace),
            pods_of: pods.index(owner),
            pods_in: pods.index(namespace),
            pods_on: pods.index(|pod| {
                pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).into_iter().collect()
            }),
            orphan_pods_in: pods.index(|pod| match controller_of(&pod.metadata) {
                Some(_) => Vec::new(),
                None => namespace(pod),
            }),
            replica_sets_in: replica_sets.index(namespace),
            replica_sets_of: replica_sets.index(owner),
            services_in: services.index(namespace),
            slices_of: endpoint_slices.index(|slice| {
                let labels = slice.metadata.labels.as_ref();
                let service = labels.and_then(|l| l.get("kubernetes.io/service-name"));
                let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
                service.map(|service| format!("{namespace}/{service}")).into_iter().collect()
            }),
            deployments,
            endpoint_slices,
            jobs,
            pods,
            replica_sets,
            services,
        }
    }

    /// Waits until every cache has its first list.
    pub async fn synced(&self) {
        self.deployments.synced().await;
        self.endpoints.synced().await;
        self.endpoint_slices.synced().await;
        self.jobs.synced().await;
        self.namespaces.synced().await;
        self.nodes.synced().await;
        self.pods.synced().await;
        self.replica_sets.synced().await;
        self.service_accounts.synced().await;
        self.services.synced().await;
    }

    /// Waits until the caches show what was written, not longer than a fixed time.
    pub async fn settled(&self, expected: &[Expected]) {
        let all = futures::future::join_all(expected.iter().map(|e| self.shows(e)));
        if tokio::time::timeout(ROUND_TRIP, all).await.is_err() {
            tracing::debug!(writes = expected.len(), "writes have not come round in time");
        }
    }

    async fn shows(&self, expected: &Expected) {
        match expected {
            Expected::Revision { plural, revision } => match plural.as_str() {
                "deployments" => self.deployments.wait_for(*revision).await,
                "endpoints" => self.endpoints.wait_for(*revision).await,
                "endpointslices" => self.endpoint_slices.wait_for(*revision).await,
                "jobs" => self.jobs.wait_for(*revision).await,
                "namespaces" => self.namespaces.wait_for(*revision).await,
                "nodes" => self.nodes.wait_for(*revision).await,
                "pods" => self.pods.wait_for(*revision).await,
                "replicasets" => self.replica_sets.wait_for(*revision).await,
                "serviceaccounts" => self.service_accounts.wait_for(*revision).await,
                "services" => self.services.wait_for(*revision).await,
                _ => {}
            },
            Expected::Gone(target) => match &*target.resource.plural {
                "endpointslices" => gone(&self.endpoint_slices, target).await,
                "jobs" => gone(&self.jobs, target).await,
                "pods" => gone(&self.pods, target).await,
                "replicasets" => gone(&self.replica_sets, target).await,
                _ => {}
            },
        }
    }
}

async fn gone<K>(informer: &Informer<K>, target: &Target)
where
    K: warren_client::Cached,
{
    let is_gone = |informer: &Informer<K>| {
        informer.get(&target.namespace, &target.name).is_none_or(|object| {
            let meta = object.meta();
            meta.uid.as_ref() != Some(&target.uid) || meta.deletion_timestamp.is_some()
        })
    };
    informer.wait_until(is_gone).await;
}

/// The names of the controlling owners, of one kind, of both sides of a change.
pub(crate) fn owners<K: kube::Resource>(change: &Change<K>, kind: &str) -> Vec<Key> {
    let of = |object: &Arc<K>| {
        let meta = object.meta();
        let owner = controller_of(meta).filter(|owner| owner.kind == kind)?;
        Some(Key::new(meta.namespace.as_deref().unwrap_or_default(), &owner.name))
    };
    let mut keys: Vec<_> = change.old.iter().chain(&change.new).filter_map(of).collect();
    keys.dedup();
    keys
}
