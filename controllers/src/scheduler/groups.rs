//! Pods that rules about other pods cannot tell apart, counted by node.
//!
//! A selector is asked once for each group and not once for each pod: ten thousand pods of one owner are one group.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::cluster::PodInfo;

/// All that a rule of another pod may ask about.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    /// The uid of the controlling owner.
    pub owner: Option<String>,
    pub terminating: bool,
    /// Its own rules about other pods, as JSON; empty where it has none.
    pub rules: String,
}

#[derive(Debug)]
pub(crate) struct Group {
    /// One of them; in what counts here all are alike.
    pub sample: Arc<PodInfo>,
    /// How many run on the node at that position.
    pub on: HashMap<usize, i64>,
}

impl Group {
    pub fn key(&self) -> &GroupKey {
        &self.sample.group
    }
}

/// Bounded by the number of pods.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    all: HashMap<Arc<GroupKey>, Group>,
    /// Those whose pods have rules about other pods.
    ruling: HashSet<Arc<GroupKey>>,
}

impl Groups {
    pub fn add(&mut self, pod: &Arc<PodInfo>, node: usize) {
        let group = self
            .all
            .entry(Arc::clone(&pod.group))
            .or_insert_with(|| Group { sample: Arc::clone(pod), on: HashMap::new() });
        *group.on.entry(node).or_default() += 1;
        if !pod.group.rules.is_empty() {
            self.ruling.insert(Arc::clone(&pod.group));
        }
    }

    pub fn remove(&mut self, pod: &PodInfo, node: usize) {
        let Some(group) = self.all.get_mut(&pod.group) else { return };
        if let Some(count) = group.on.get_mut(&node) {
            *count -= 1;
            if *count <= 0 {
                group.on.remove(&node);
            }
        }
        if group.on.is_empty() {
            self.all.remove(&pod.group);
            self.ruling.remove(&pod.group);
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Group> {
        self.all.values()
    }

    /// Those whose pods have rules about other pods.
    pub fn ruling(&self) -> impl Iterator<Item = &Group> {
        self.ruling.iter().filter_map(|key| self.all.get(key))
    }
}
