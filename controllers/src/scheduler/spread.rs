//! Topology spread: pods that belong together run apart.

use std::collections::HashMap;

use super::cluster::{Cluster, HOSTNAME, NodeInfo, PodInfo, ZONE};
use super::filters::{first_untolerated, fits_affinity};
use super::groups::GroupKey;
use super::rules::Constraint;

/// Kubernetes' own constraints for pods that have none: so much skew is not minded.
const DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// A `DoNotSchedule` constraint with the counts as they are.
struct Hard<'a> {
    constraint: &'a Constraint,
    counts: HashMap<&'a str, i64>,
    least: i64,
    /// One where the pod itself will be counted.
    own: i64,
}

/// What the pods that run mean for where another one may run.
#[derive(Default)]
pub(crate) struct Spread<'a> {
    hard: Vec<Hard<'a>>,
}

/// Nodes that count for a constraint: those where the pod could run by its own rules, and that have the labels.
fn is_counted(
    pod: &PodInfo,
    constraints: &[&Constraint],
    of: &Constraint,
    node: &NodeInfo,
) -> bool {
    let Some(spec) = &pod.pod.spec else { return false };
    constraints.iter().all(|c| node.labels.contains_key(&c.topology))
        && (!of.honor_affinity || fits_affinity(spec, node))
        && (!of.honor_taints || first_untolerated(spec, node).is_none())
}

impl<'a> Spread<'a> {
    pub fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Self {
        let hard: Vec<&Constraint> = pod.spread.iter().filter(|c| c.hard).collect();
        let namespace = pod.group.namespace.as_str();
        let prepare = |constraint: &'a Constraint| {
            let mut counts: HashMap<&str, i64> = HashMap::new();
            let mut counted = vec![false; cluster.nodes.len()];
            for (at, node) in cluster.nodes.iter().enumerate() {
                if is_counted(pod, &hard, constraint, node)
                    && let Some(value) = node.labels.get(&constraint.topology)
                {
                    counts.entry(value).or_default();
                    counted[at] = true;
                }
            }
            for group in cluster.groups.all().filter(|g| constraint.counts(g.key(), namespace)) {
                for (at, count) in group.on.iter().filter(|(at, _)| counted[**at]) {
                    if let Some(value) = cluster.nodes[*at].labels.get(&constraint.topology) {
                        *counts.entry(value).or_default() += count;
                    }
                }
            }
            let few = constraint.min_domains.is_some_and(|wanted| counts.len() < wanted);
            let least = if few { 0 } else { counts.values().copied().min().unwrap_or(0) };
            let own = i64::from(constraint.matches(&pod.group.labels));
            Hard { constraint, counts, least, own }
        };
        let hard = pod.spread.iter().filter(|c| c.hard).map(prepare).collect();
        Self { hard }
    }

    pub fn refuse(&self, node: &NodeInfo) -> Option<&'static str> {
        for hard in &self.hard {
            let Some(value) = node.labels.get(&hard.constraint.topology) else {
                return Some(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let there = hard.counts.get(value.as_str()).copied().unwrap_or(0);
            if there + hard.own - hard.least > hard.constraint.max_skew {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }
}

/// 0 to 100 for each node; `None` where the pod belongs to no others.
///
/// A pod without constraints of its own is spread among those of its owner and of its Services.
pub(crate) fn scores(
    pod: &PodInfo,
    cluster: &Cluster,
    nodes: &[(usize, &NodeInfo)],
) -> Option<Vec<i64>> {
    let namespace = pod.group.namespace.as_str();
    // Raw sums; a node without a label that a constraint of the pod's own names is the worst.
    let mut sums: Vec<Option<f64>> = vec![Some(0.0); nodes.len()];
    if pod.spread.is_empty() {
        let services = cluster.services_of(&pod.group);
        let owner = pod.group.owner.as_ref();
        if owner.is_none() && services.is_empty() {
            return None;
        }
        let counts = |key: &GroupKey| {
            key.namespace == namespace
                && !key.terminating
                && owner.is_none_or(|owner| key.owner.as_ref() == Some(owner))
                && services.iter().all(|wanted| {
                    wanted.iter().all(|(name, value)| key.labels.get(name) == Some(value))
                })
        };
        for (topology, max_skew) in DEFAULTS {
            add(&mut sums, cluster, nodes, topology, max_skew, &counts, &|_| true);
        }
    } else {
        let soft: Vec<&Constraint> = pod.spread.iter().filter(|c| !c.hard).collect();
        if soft.is_empty() {
            return None;
        }
        for constraint in &soft {
            let counts = |key: &GroupKey| constraint.counts(key, namespace);
            let there = |node: &NodeInfo| is_counted(pod, &soft, constraint, node);
            add(
                &mut sums,
                cluster,
                nodes,
                &constraint.topology,
                constraint.max_skew,
                &counts,
                &there,
            );
        }
        for (sum, (_, node)) in sums.iter_mut().zip(nodes) {
            if soft.iter().any(|c| !node.labels.contains_key(&c.topology)) {
                *sum = None;
            }
        }
    }
    let known = || sums.iter().copied().flatten().map(|sum| sum.round() as i64);
    let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
    let scale = |sum: &Option<f64>| match sum {
        None => 0,
        Some(_) if most == 0 => 100,
        Some(sum) => 100 * (most + least - sum.round() as i64) / most,
    };
    Some(sums.iter().map(scale).collect())
}

/// Adds one constraint's sums, as Kubernetes weighs them: the more domains there are, the more a pod counts.
fn add(
    sums: &mut [Option<f64>],
    cluster: &Cluster,
    nodes: &[(usize, &NodeInfo)],
    topology: &str,
    max_skew: i64,
    counts: &dyn Fn(&GroupKey) -> bool,
    there: &dyn Fn(&NodeInfo) -> bool,
) {
    let matching: Vec<_> = cluster.groups.all().filter(|group| counts(group.key())).collect();
    if topology == HOSTNAME {
        let mut on = vec![0_i64; cluster.nodes.len()];
        for group in matching {
            group.on.iter().for_each(|(at, count)| on[*at] += count);
        }
        let weight = (nodes.len() as f64 + 2.0).ln();
        for (sum, (at, _)) in sums.iter_mut().zip(nodes) {
            if let Some(sum) = sum {
                *sum += on[*at] as f64 * weight + (max_skew - 1) as f64;
            }
        }
        return;
    }
    let mut domains: HashMap<&str, i64> = HashMap::new();
    for (_, node) in nodes {
        if let Some(value) = node.topology(topology) {
            domains.entry(value).or_default();
        }
    }
    if domains.is_empty() {
        return;
    }
    for group in matching {
        for (at, count) in &group.on {
            let node = &cluster.nodes[*at];
            if let Some(value) = node.topology(topology)
                && let Some(sum) = domains.get_mut(value)
                && there(node)
            {
                *sum += count;
            }
        }
    }
    let weight = (domains.len() as f64 + 2.0).ln();
    for (sum, (_, node)) in sums.iter_mut().zip(nodes) {
        if let (Some(sum), Some(value)) = (sum, node.topology(topology)) {
            let count = domains.get(value).copied().unwrap_or(0);
            *sum += count as f64 * weight + (max_skew - 1) as f64;
        }
    }
}
