//! Where a pod runs best: the registry of scores.

use super::cluster::{NodeInfo, full_name};
use super::filters::{Case, is_tolerated, term_matches};
use super::spread;

/// Nodes that fit, each with its position in the cluster.
pub(crate) type Fitting<'a> = [(usize, &'a NodeInfo)];

/// The nodes' worth by one measure.
pub(crate) struct Score {
    pub name: &'static str,
    pub weight: i64,
    /// 0 to 100 for each node, in their order; `None` where it says nothing about this pod.
    pub measure: fn(&Case<'_>, &Fitting<'_>) -> Option<Vec<i64>>,
}

/// Weights as Kubernetes has them.
pub(crate) static SCORES: &[Score] = &[
    Score { name: "NodeResourcesFit", weight: 1, measure: least_allocated },
    Score { name: "NodeResourcesBalancedAllocation", weight: 1, measure: balanced },
    Score { name: "TaintToleration", weight: 3, measure: taints },
    Score { name: "NodeAffinity", weight: 2, measure: affinity },
    Score {
        name: "PodTopologySpread",
        weight: 2,
        measure: |case, nodes| spread::scores(case.pod, case.cluster, nodes),
    },
    Score { name: "InterPodAffinity", weight: 2, measure: neighbours },
    Score { name: "ImageLocality", weight: 1, measure: images },
];

/// Of an image that decides nothing, and of one (for each container) that decides all; Kubernetes' bounds, in bytes.
const IMAGE: (i64, i64) = (23 << 20, 1000 << 20);

fn free(asked: i64, used: i64, there: i64) -> i64 {
    if there <= 0 {
        return 0;
    }
    let left = there.saturating_sub(used).saturating_sub(asked).max(0);
    i64::try_from(i128::from(left) * 100 / i128::from(there)).unwrap_or(0)
}

/// What is left of a node's cpu and memory, in percent.
fn left(case: &Case<'_>, node: &NodeInfo) -> (i64, i64) {
    let (asked, used, there) = (case.pod.weight, node.weight, &node.allocatable);
    (free(asked.0, used.0, there.cpu), free(asked.1, used.1, there.memory))
}

/// The emptier the better.
fn least_allocated(case: &Case<'_>, nodes: &Fitting<'_>) -> Option<Vec<i64>> {
    let of = |(cpu, memory): (i64, i64)| (cpu + memory) / 2;
    Some(nodes.iter().map(|(_, node)| of(left(case, node))).collect())
}

/// Best where cpu and memory are used in equal shares.
fn balanced(case: &Case<'_>, nodes: &Fitting<'_>) -> Option<Vec<i64>> {
    let of = |(cpu, memory): (i64, i64)| 100 - (cpu - memory).abs() / 2;
    Some(nodes.iter().map(|(_, node)| of(left(case, node))).collect())
}

/// The fewer taints that are better avoided, the better.
fn taints(case: &Case<'_>, nodes: &Fitting<'_>) -> Option<Vec<i64>> {
    let of = |node: &NodeInfo| {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !is_tolerated(taint, case.spec)).count()
    };
    let raw = nodes.iter().map(|(_, node)| i64::try_from(of(node)).unwrap_or(i64::MAX));
    let raw: Vec<i64> = raw.collect();
    let most = raw.iter().copied().max().filter(|most| *most > 0)?;
    Some(raw.into_iter().map(|raw| 100 - raw.saturating_mul(100) / most).collect())
}

fn affinity(case: &Case<'_>, nodes: &Fitting<'_>) -> Option<Vec<i64>> {
    let affinity = case.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref()?;
    let of = |node: &NodeInfo| {
        let matching = preferred.iter().filter(|term| term_matches(&term.preference, node));
        matching.map(|term| i64::from(term.weight)).sum::<i64>()
    };
    let raw: Vec<i64> = nodes.iter().map(|(_, node)| of(node)).collect();
    let most = raw.iter().copied().max().filter(|most| *most > 0)?;
    Some(raw.into_iter().map(|raw| raw * 100 / most).collect())
}

fn neighbours(case: &Case<'_>, nodes: &Fitting<'_>) -> Option<Vec<i64>> {
    let raw = case.neighbours.worth(nodes)?;
    let (least, most) = (raw.iter().copied().min()?, raw.iter().copied().max()?);
    if least == most {
        return None;
    }
    Some(raw.into_iter().map(|raw| (raw - least) * 100 / (most - least)).collect())
}

/// The more of its images are there, the better; what few nodes have counts for less, so that not all goes to them.
fn images(case: &Case<'_>, nodes: &Fitting<'_>) -> Option<Vec<i64>> {
    let spec = case.spec;
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let wanted = containers.filter_map(|container| container.image.as_deref());
    let all = i64::try_from(case.cluster.nodes.len()).ok()?;
    let wanted: Vec<(String, i64)> = wanted
        .map(full_name)
        .map(|name| {
            let count = case.cluster.nodes_with(&name);
            (name, i64::try_from(count).unwrap_or(0))
        })
        .collect();
    if wanted.iter().all(|(_, count)| *count == 0) {
        return None;
    }
    let most = IMAGE.1 * i64::try_from(wanted.len()).ok()?;
    let of = |node: &NodeInfo| {
        let there = wanted.iter().filter_map(|(name, count)| {
            let share = i128::from(*node.images.get(name)?) * i128::from(*count);
            i64::try_from(share / i128::from(all)).ok()
        });
        let sum = there.fold(0_i64, i64::saturating_add).clamp(IMAGE.0, most);
        100 * (sum - IMAGE.0) / (most - IMAGE.0)
    };
    Some(nodes.iter().map(|(_, node)| of(node)).collect())
}
