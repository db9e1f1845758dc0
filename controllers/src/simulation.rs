//! The controllers' decisions over plain lists, for the simulation of a whole cluster, which has no client and no tasks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::plan::{Plan, Resource, Write, controller_of};
use crate::scheduler::simulation as scheduling;
use crate::{Key, deployment, garbage, job, nodelifecycle, podgc, pods, replicaset};

pub use crate::garbage::Owner;
pub use crate::scheduler::simulation::Decision;

/// What the caches show, each list in the order of names.
#[doc(hidden)]
pub struct Seen<'a> {
    pub now: Timestamp,
    pub deployments: &'a [Arc<Deployment>],
    pub replica_sets: &'a [Arc<ReplicaSet>],
    pub jobs: &'a [Arc<Job>],
    pub pods: &'a [Arc<Pod>],
    pub nodes: &'a [Arc<Node>],
}

fn find<'a, K: kube::Resource>(all: &'a [Arc<K>], key: &Key) -> Option<&'a Arc<K>> {
    all.iter().find(|object| Key::of(&***object) == *key)
}

fn owned<K: kube::Resource>(all: &[Arc<K>], uid: Option<&String>, orphans: bool) -> Vec<Arc<K>> {
    let of = |object: &&Arc<K>| match controller_of(object.meta()) {
        Some(owner) => Some(&owner.uid) == uid,
        None => orphans,
    };
    all.iter().filter(of).cloned().collect()
}

impl Seen<'_> {
    pub fn deployment(&self, key: &Key) -> Plan {
        let Some(deployment) = find(self.deployments, key) else { return Plan::default() };
        let sets = owned(self.replica_sets, deployment.metadata.uid.as_ref(), true);
        let of = |rs: &Arc<ReplicaSet>| owned(self.pods, rs.metadata.uid.as_ref(), false);
        let pods: Vec<_> = sets.iter().flat_map(of).collect();
        let snapshot = deployment::Snapshot { deployment, replica_sets: &sets, pods: &pods };
        deployment::decide(self.now, &snapshot)
    }

    pub fn replica_set(&self, key: &Key) -> Plan {
        let Some(replica_set) = find(self.replica_sets, key) else { return Plan::default() };
        let pods = owned(self.pods, replica_set.metadata.uid.as_ref(), true);
        let taken = |name: &str| self.pods.iter().any(|pod| pods::name(pod) == name);
        let siblings_on = &HashMap::new();
        let snapshot =
            replicaset::Snapshot { replica_set, pods: &pods, siblings_on, taken: &taken };
        replicaset::decide(self.now, &snapshot)
    }

    pub fn job(&self, key: &Key) -> Plan {
        let job = find(self.jobs, key);
        let plan = job::outlived(key, job.map(|job| &**job), self.pods);
        let Some(job) = job.filter(|_| plan.steps.is_empty()) else { return plan };
        let pods = owned(self.pods, job.metadata.uid.as_ref(), false);
        let taken = |name: &str| self.pods.iter().any(|pod| pods::name(pod) == name);
        job::decide(self.now, &job::Snapshot { job, pods: &pods, taken: &taken })
    }

    pub fn node(&self, name: &str, heard: Option<Timestamp>, grace: Duration) -> Plan {
        let Some(node) = find(self.nodes, &Key::new("", name)) else { return Plan::default() };
        let on = |pod: &&Arc<Pod>| pods::node(pod) == Some(name);
        let pods: Vec<_> = self.pods.iter().filter(on).cloned().collect();
        let snapshot = nodelifecycle::Snapshot { node, heard, pods: &pods, grace };
        nodelifecycle::decide(self.now, &snapshot)
    }

    /// `missing`: the nodes that pods name and that are not there, and since when.
    pub fn pod_gc(&self, missing: &BTreeMap<String, Timestamp>) -> Plan {
        let out_of_service = &|_: &str| false;
        podgc::decide(self.now, &podgc::Snapshot { pods: self.pods, missing, out_of_service })
    }

    /// One decision for each pod that waits for a node, in order, each counted for the next. `assumed`: nodes by the uid
    /// of pods that were bound already and do not show it yet.
    pub fn schedule(&self, assumed: &BTreeMap<String, String>) -> Vec<Decision> {
        scheduling::decide_all(self.now, self.nodes, self.pods, assumed)
    }
}

/// What becomes of an object with these owners.
#[doc(hidden)]
pub fn collect(
    resource: Resource,
    meta: &ObjectMeta,
    owners: &[Owner],
    dependents: &[(Resource, ObjectMeta)],
) -> Plan {
    let behind = &HashSet::new();
    garbage::decide(&garbage::Snapshot { resource, meta, owners, dependents, behind })
}

/// What a write asks for, without the parts that only the executor needs.
#[doc(hidden)]
pub fn describe(write: &Write) -> String {
    crate::execute::describe(write)
}
