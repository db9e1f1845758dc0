//! Where a pod runs best: the registry of scores.

use k8s_openapi::api::core::v1::PodSpec;

use super::cluster::{NodeInfo, PodInfo};
use super::filters::{is_tolerated, term_matches};

/// A node's worth by one measure, raw.
pub(crate) struct Score {
    pub name: &'static str,
    pub weight: i64,
    pub measure: fn(&PodInfo, &PodSpec, &NodeInfo) -> i64,
    pub scale: Scale,
}

/// How raw worths become 0 to 100.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    /// They are that already.
    Direct,
    /// The largest is 100.
    More,
    /// The largest is 0.
    Less,
}

/// Weights as Kubernetes has them.
pub(crate) static SCORES: &[Score] = &[
    Score { name: "NodeResourcesFit", weight: 1, measure: least_allocated, scale: Scale::Direct },
    Score {
        name: "NodeResourcesBalancedAllocation",
        weight: 1,
        measure: balanced,
        scale: Scale::Direct,
    },
    Score { name: "TaintToleration", weight: 3, measure: taints, scale: Scale::Less },
    Score { name: "NodeAffinity", weight: 2, measure: affinity, scale: Scale::More },
];

fn free(asked: i64, used: i64, there: i64) -> i64 {
    if there <= 0 {
        return 0;
    }
    let left = there.saturating_sub(used).saturating_sub(asked).max(0);
    i64::try_from(i128::from(left) * 100 / i128::from(there)).unwrap_or(0)
}

/// The emptier the better.
fn least_allocated(pod: &PodInfo, _: &PodSpec, node: &NodeInfo) -> i64 {
    let cpu = free(pod.weight.0, node.weight.0, node.allocatable.cpu);
    let memory = free(pod.weight.1, node.weight.1, node.allocatable.memory);
    (cpu + memory) / 2
}

/// Best where cpu and memory are used in equal shares.
fn balanced(pod: &PodInfo, _: &PodSpec, node: &NodeInfo) -> i64 {
    let cpu = free(pod.weight.0, node.weight.0, node.allocatable.cpu);
    let memory = free(pod.weight.1, node.weight.1, node.allocatable.memory);
    100 - (cpu - memory).abs() / 2
}

fn taints(_: &PodInfo, spec: &PodSpec, node: &NodeInfo) -> i64 {
    let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    i64::try_from(soft.filter(|taint| !is_tolerated(taint, spec)).count()).unwrap_or(i64::MAX)
}

fn affinity(_: &PodInfo, spec: &PodSpec, node: &NodeInfo) -> i64 {
    let preferred =
        spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()).and_then(
            |affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref(),
        );
    let matching =
        preferred.into_iter().flatten().filter(|term| term_matches(&term.preference, node));
    matching.map(|term| i64::from(term.weight)).sum()
}
