//! The decision: which node, or why none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::PodSpec;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::cluster::{Cluster, NodeInfo, PodInfo};
use super::filters::{Case, FILTERS, Reasons};
use super::scores::{Fitting, SCORES};

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
    let case = Case::new(pod, spec, cluster);
    let mut fitting: Vec<(usize, &NodeInfo)> = Vec::with_capacity(enough.min(count));
    let mut refused: BTreeMap<Cow<'static, str>, usize> = BTreeMap::new();
    let mut looked = 0;
    while looked < count && fitting.len() < enough {
        let at = (cluster.start + looked) % count;
        let node = &cluster.nodes[at];
        looked += 1;
        match check(&case, node) {
            None => fitting.push((at, node)),
            Some(reasons) => {
                for reason in reasons {
                    *refused.entry(reason).or_default() += 1;
                }
            }
        }
    }
    let next = (cluster.start + looked) % count;
    match best(&case, &fitting) {
        Some(node) => Ok((node.name.clone(), next)),
        None => {
            let mut reasons: Vec<_> = refused.iter().map(|(why, n)| format!("{n} {why}")).collect();
            reasons.sort_unstable();
            let reasons = reasons.join(", ");
            Err(Unschedulable(format!("0/{count} nodes are available: {reasons}.")))
        }
    }
}

/// Why the pod cannot run on the node, by the first rule that refuses it.
pub(crate) fn check(case: &Case<'_>, node: &NodeInfo) -> Option<Reasons> {
    FILTERS.iter().find_map(|filter| {
        let why = (filter.check)(case, node);
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

/// The highest sum of weighted scores; one of equals by the pod's uid, so that equals share what comes and the same
/// question has the same answer.
fn best<'a>(case: &Case<'_>, nodes: &Fitting<'a>) -> Option<&'a NodeInfo> {
    if nodes.len() < 2 {
        return nodes.first().map(|(_, node)| *node);
    }
    let mut sums = vec![0_i64; nodes.len()];
    for score in SCORES {
        let Some(worth) = (score.measure)(case, nodes) else { continue };
        tracing::trace!(score = score.name, ?worth, "measured");
        for (sum, worth) in sums.iter_mut().zip(worth) {
            *sum += worth * score.weight;
        }
    }
    let most = sums.iter().copied().max()?;
    let equals: Vec<usize> = (0..nodes.len()).filter(|at| sums[*at] == most).collect();
    let mut seed = DefaultHasher::new();
    case.pod.uid().hash(&mut seed);
    let mut dice = SmallRng::seed_from_u64(seed.finish());
    equals.choose(&mut dice).map(|at| nodes[*at].1)
}

/// A field that decides where a pod may run and that nothing here reads. Such a pod waits, and says so.
fn unsupported(spec: &PodSpec) -> Option<&'static str> {
    let mut volumes = spec.volumes.iter().flatten();
    if volumes.any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some()) {
        return Some("spec.volumes with persistentVolumeClaim or ephemeral");
    }
    if spec.resource_claims.iter().flatten().next().is_some() {
        return Some("spec.resourceClaims");
    }
    None
}
