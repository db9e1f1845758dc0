//! Pod affinity and anti-affinity: which pods run near to which.

use std::collections::{HashMap, HashSet};

use super::cluster::{Cluster, NodeInfo, PodInfo};
use super::rules::Term;

/// What a required affinity of a pod that runs is worth to one that it wants near, as in Kubernetes.
const HARD_WEIGHT: i64 = 1;

/// A topology's label and value.
type Place<'a> = (&'a str, &'a str);

/// What the pods that run mean for one that is to be placed; read once for each decision.
#[derive(Default)]
pub(crate) struct Neighbours<'a> {
    /// Those that run there want this one elsewhere.
    refused: HashSet<Place<'a>>,
    /// Beside each required term: the values of its topology where it is met. `None` where no pod matches it but this
    /// one itself: the first of a group that wants to be together may run anywhere.
    required: Option<Vec<(&'a str, HashSet<&'a str>)>>,
    unmet: Vec<(&'a str, HashSet<&'a str>)>,
    worth: HashMap<Place<'a>, i64>,
}

fn places<'a>(
    cluster: &'a Cluster,
    on: &'a HashMap<usize, i64>,
    topology: &'a str,
) -> impl Iterator<Item = (&'a str, i64)> {
    on.iter().filter_map(move |(at, count)| {
        Some((cluster.nodes.get(*at)?.labels.get(topology)?.as_str(), *count))
    })
}

impl<'a> Neighbours<'a> {
    pub fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Self {
        let mut all = Self::default();
        for group in cluster.groups.ruling() {
            let theirs = &group.sample.terms;
            for term in &theirs.required_not {
                if term.matches(&pod.group, &cluster.namespaces) {
                    let at = places(cluster, &group.on, &term.topology);
                    all.refused.extend(at.map(|(value, _)| (term.topology.as_str(), value)));
                }
            }
            let required = theirs.required.iter().map(|term| (term, HARD_WEIGHT));
            let preferred = theirs.preferred.iter().map(|term| (term, term.weight));
            for (term, weight) in required.chain(preferred) {
                if term.matches(&pod.group, &cluster.namespaces) {
                    all.add_worth(cluster, &group.on, term, weight);
                }
            }
        }
        let mine = &pod.terms;
        if mine.is_empty() {
            return all;
        }
        for term in &mine.preferred {
            for group in cluster.groups.all() {
                if term.matches(group.key(), &cluster.namespaces) {
                    all.add_worth(cluster, &group.on, term, term.weight);
                }
            }
        }
        let met = |term: &'a Term| {
            let matching =
                cluster.groups.all().filter(|group| term.matches(group.key(), &cluster.namespaces));
            let values = matching.flat_map(|group| places(cluster, &group.on, &term.topology));
            (term.topology.as_str(), values.map(|(value, _)| value).collect::<HashSet<_>>())
        };
        all.unmet = mine.required_not.iter().map(met).collect();
        let required: Vec<_> = mine.required.iter().map(met).collect();
        let nowhere = required.iter().all(|(_, values)| values.is_empty());
        let own = || mine.required.iter().all(|t| t.matches(&pod.group, &cluster.namespaces));
        if nowhere && own() {
            // Kubernetes still wants the labels to be there.
            all.required = None;
        } else {
            all.required = Some(required);
        }
        all
    }

    fn add_worth(
        &mut self,
        cluster: &'a Cluster,
        on: &'a HashMap<usize, i64>,
        term: &'a Term,
        weight: i64,
    ) {
        for (value, count) in places(cluster, on, &term.topology) {
            *self.worth.entry((term.topology.as_str(), value)).or_default() += weight * count;
        }
    }

    pub fn refuse(&self, pod: &PodInfo, node: &NodeInfo) -> Option<&'static str> {
        let value = |key: &str| node.labels.get(key).map(String::as_str);
        let fits = match &self.required {
            Some(required) => required
                .iter()
                .all(|(key, values)| value(key).is_some_and(|value| values.contains(value))),
            None => pod.terms.required.iter().all(|term| node.labels.contains_key(&term.topology)),
        };
        if !fits {
            return Some("node(s) didn't match pod affinity rules");
        }
        let near = |(key, values): &(&str, HashSet<&str>)| {
            value(key).is_some_and(|value| values.contains(value))
        };
        if self.unmet.iter().any(near) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let unwelcome =
            |(key, at): &Place<'_>| node.labels.get(*key).is_some_and(|value| value == at);
        if self.refused.iter().any(unwelcome) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        None
    }

    /// `None` where no pod prefers anything.
    pub fn worth(&self, nodes: &[(usize, &NodeInfo)]) -> Option<Vec<i64>> {
        if self.worth.is_empty() {
            return None;
        }
        let mut keys: Vec<&str> = self.worth.keys().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let of = |node: &NodeInfo| -> i64 {
            let here = keys.iter().filter_map(|key| {
                self.worth.get(&(*key, node.labels.get(*key)?.as_str())).copied()
            });
            here.sum()
        };
        Some(nodes.iter().map(|(_, node)| of(node)).collect())
    }
}
