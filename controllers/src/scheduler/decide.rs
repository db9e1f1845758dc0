//! The decision: which node, or why none.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use super::cluster::{Cluster, NodeInfo, PodInfo};
use super::filters::{FILTERS, Reasons};
use super::scores::{SCORES, Scale};

/// Fitting nodes that are enough to choose from, in clusters of any size.
const ENOUGH: usize = 100;

/// Why a pod cannot run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unschedulable(pub String);

/// Pure, but for where the next decision starts to look among equals.
pub(crate) fn decide(pod: &PodInfo, cluster: &Cluster) -> Result<(String, usize), Unschedulable> {
    let Some(spec) = &pod.pod.spec else {
        return Err(Unschedulable("the pod has no spec".to_owned()));
    };
    if let Some(field) = unsupported(spec) {
        return Err(Unschedulable(format!("{field} is not supported by this scheduler")));
    }
    let count = cluster.nodes.len();
    if count == 0 {
        return Err(Unschedulable("no nodes available to schedule pods".to_owned()));
    }
    let enough = enough(count);
    let mut fitting: Vec<&NodeInfo> = Vec::with_capacity(enough.min(count));
    let mut refused: BTreeMap<Cow<'static, str>, usize> = BTreeMap::new();
    let mut looked = 0;
    while looked < count && fitting.len() < enough {
        let node = &cluster.nodes[(cluster.start + looked) % count];
        looked += 1;
        match check(pod, spec, node) {
            None => fitting.push(node),
            Some(reasons) => {
                for reason in reasons {
                    *refused.entry(reason).or_default() += 1;
                }
            }
        }
    }
    let next = (cluster.start + looked) % count;
    match best(pod, spec, &fitting) {
        Some(node) => Ok((node.name.clone(), next)),
        None => {
            let mut reasons: Vec<_> = refused.iter().map(|(why, n)| format!("{n} {why}")).collect();
            reasons.sort_unstable();
            let reasons = reasons.join(", ");
            Err(Unschedulable(format!("0/{count} nodes are available: {reasons}.")))
        }
    }
}

fn check(pod: &PodInfo, spec: &PodSpec, node: &NodeInfo) -> Option<Reasons> {
    FILTERS.iter().find_map(|filter| {
        let why = (filter.check)(pod, spec, node);
        if why.is_empty() {
            return None;
        }
        tracing::trace!(filter = filter.name, node = node.name, ?why, "refused");
        Some(why)
    })
}

/// Kubernetes' share: all of up to 100 nodes, half of a few hundred, at least a twentieth of very many.
fn enough(nodes: usize) -> usize {
    if nodes <= ENOUGH {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ENOUGH)
}

/// The highest sum of weighted scores; the first of equals, which is another one each time.
fn best<'a>(pod: &PodInfo, spec: &PodSpec, nodes: &[&'a NodeInfo]) -> Option<&'a NodeInfo> {
    if nodes.len() < 2 {
        return nodes.first().copied();
    }
    let mut sums = vec![0_i64; nodes.len()];
    for score in SCORES {
        let raw: Vec<i64> = nodes.iter().map(|node| (score.measure)(pod, spec, node)).collect();
        tracing::trace!(score = score.name, ?raw, "measured");
        let most = raw.iter().copied().max().unwrap_or(0);
        for (sum, raw) in sums.iter_mut().zip(raw) {
            let scaled = match score.scale {
                Scale::Direct => raw,
                _ if most == 0 => 0,
                Scale::More => raw * 100 / most,
                Scale::Less => 100 - raw * 100 / most,
            };
            *sum += scaled * score.weight;
        }
    }
    let most = sums.iter().copied().max()?;
    nodes.iter().zip(sums).find(|(_, sum)| *sum == most).map(|(node, _)| *node)
}

/// A field that decides where a pod may run and that nothing here reads. Such a pod waits, and says so.
fn unsupported(spec: &PodSpec) -> Option<&'static str> {
    let affinity = spec.affinity.as_ref();
    let pod_affinity = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let anti_affinity = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let some = |list: Option<bool>| list == Some(true);
    if some(pod_affinity.map(|a| {
        a.required_during_scheduling_ignored_during_execution.iter().flatten().next().is_some()
    })) {
        return Some("spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution");
    }
    if some(anti_affinity.map(|a| {
        a.required_during_scheduling_ignored_during_execution.iter().flatten().next().is_some()
    })) {
        return Some(
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
        );
    }
    let mut spread = spec.topology_spread_constraints.iter().flatten();
    if spread.any(|constraint| constraint.when_unsatisfiable == "DoNotSchedule") {
        return Some("spec.topologySpreadConstraints with whenUnsatisfiable: DoNotSchedule");
    }
    let mut volumes = spec.volumes.iter().flatten();
    if volumes.any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some()) {
        return Some("spec.volumes with persistentVolumeClaim or ephemeral");
    }
    if spec.resource_claims.iter().flatten().next().is_some() {
        return Some("spec.resourceClaims");
    }
    None
}
