//! Where a node's port finds pods: shared by all agents of a process.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::RwLock;

use super::spec;
use crate::runtime::{Container, Observed, Runtime};

/// What is known of one pod.
#[derive(Clone)]
pub struct PodEntry {
    pub node: Arc<str>,
    pub pod: Arc<Pod>,
    pub observed: Arc<Observed>,
    /// As the agent last computed it.
    pub status: Arc<PodStatus>,
    pub runtime: Arc<dyn Runtime>,
}

impl PodEntry {
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The container of that name: the present one, or with `previous` the one before it.
    pub fn container(&self, name: &str, previous: bool) -> Option<&Container> {
        let present = self.observed.container(name)?;
        if !previous {
            return Some(present);
        }
        let older = self.observed.containers.iter().filter(|c| *c.name == *name);
        older.filter(|c| c.attempt < present.attempt).max_by_key(|c| c.attempt)
    }

    /// Whether the spec names such a container (it may not have started yet).
    pub fn names_container(&self, name: &str) -> bool {
        spec::find_container(spec::spec(&self.pod), name).is_some()
    }
}

/// Clones share it.
#[derive(Clone, Default)]
pub struct PodIndex(Arc<RwLock<Maps>>);

#[derive(Default)]
struct Maps {
    by_uid: HashMap<Arc<str>, PodEntry>,
    /// Namespace and name → uid. A static pod's mirror is found by the same name.
    by_name: HashMap<(Arc<str>, Arc<str>), Arc<str>>,
}

impl PodIndex {
    pub fn by_uid(&self, uid: &str) -> Option<PodEntry> {
        self.0.read().by_uid.get(uid).cloned()
    }

    pub fn by_name(&self, namespace: &str, name: &str) -> Option<PodEntry> {
        let maps = self.0.read();
        let uid = maps.by_name.get(&(namespace.into(), name.into()))?;
        maps.by_uid.get(uid).cloned()
    }

    /// All pods of a node; of all nodes where it is `None`.
    pub fn pods(&self, node: Option<&str>) -> Vec<PodEntry> {
        let maps = self.0.read();
        maps.by_uid.values().filter(|e| node.is_none_or(|n| *e.node == *n)).cloned().collect()
    }

    pub(crate) fn insert(&self, entry: PodEntry) {
        let pod = spec::pod_ref(&entry.pod);
        let mut maps = self.0.write();
        maps.by_name.insert((pod.namespace, pod.name), pod.uid.clone());
        maps.by_uid.insert(pod.uid, entry);
    }

    pub(crate) fn update(&self, uid: &str, change: impl FnOnce(&mut PodEntry)) {
        if let Some(entry) = self.0.write().by_uid.get_mut(uid) {
            change(entry);
        }
    }

    pub(crate) fn remove(&self, uid: &str) {
        let mut maps = self.0.write();
        let Some(entry) = maps.by_uid.remove(uid) else { return };
        let pod = spec::pod_ref(&entry.pod);
        let key = (pod.namespace, pod.name);
        if maps.by_name.get(&key).is_some_and(|u| **u == *uid) {
            maps.by_name.remove(&key);
        }
    }
}
