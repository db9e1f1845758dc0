//! Where a pod can run: the registry of filters.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use super::cluster::{Cluster, NodeInfo, PodInfo};
use super::neighbours::Neighbours;
use super::spread::Spread;

pub(crate) type Reasons = Vec<Cow<'static, str>>;

/// A pod to be placed, with all that the rules ask of the cluster as a whole.
pub(crate) struct Case<'a> {
    pub pod: &'a PodInfo,
    pub spec: &'a PodSpec,
    pub cluster: &'a Cluster,
    pub neighbours: Neighbours<'a>,
    pub spread: Spread<'a>,
}

impl<'a> Case<'a> {
    pub fn new(pod: &'a PodInfo, spec: &'a PodSpec, cluster: &'a Cluster) -> Self {
        let neighbours = Neighbours::new(pod, cluster);
        Self { pod, spec, cluster, neighbours, spread: Spread::new(pod, cluster) }
    }
}

/// One rule. It answers why the node is refused, in Kubernetes' words; nothing where it fits.
pub(crate) struct Filter {
    pub name: &'static str,
    pub check: fn(&Case<'_>, &NodeInfo) -> Reasons,
}

/// In this order; the first that refuses a node gives its reasons.
pub(crate) static FILTERS: &[Filter] = &[
    Filter { name: "NodeUnschedulable", check: unschedulable },
    Filter { name: "NodeName", check: node_name },
    Filter { name: "TaintToleration", check: taints },
    Filter { name: "NodeAffinity", check: affinity },
    Filter { name: "NodePorts", check: ports },
    Filter { name: "NodeResourcesFit", check: resources },
    Filter {
        name: "PodTopologySpread",
        check: |case, node| case.spread.refuse(node).into_iter().map(Cow::from).collect(),
    },
    Filter {
        name: "InterPodAffinity",
        check: |case, node| {
            case.neighbours.refuse(case.pod, node).into_iter().map(Cow::from).collect()
        },
    },
];

fn refuse(is_refused: bool, reason: &'static str) -> Reasons {
    if is_refused { vec![reason.into()] } else { Reasons::new() }
}

fn unschedulable(case: &Case<'_>, node: &NodeInfo) -> Reasons {
    let taint = || Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    refuse(node.unschedulable && !is_tolerated(&taint(), case.spec), "node(s) were unschedulable")
}

fn node_name(case: &Case<'_>, node: &NodeInfo) -> Reasons {
    let other =
        case.spec.node_name.as_ref().is_some_and(|name| !name.is_empty() && *name != node.name);
    refuse(other, "node(s) didn't match the requested node name")
}

pub(crate) fn first_untolerated<'a>(spec: &PodSpec, node: &'a NodeInfo) -> Option<&'a Taint> {
    let mut hard = node.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule");
    hard.find(|taint| !is_tolerated(taint, spec))
}

fn taints(case: &Case<'_>, node: &NodeInfo) -> Reasons {
    first_untolerated(case.spec, node).map_or_else(Reasons::new, |taint| {
        let value = taint.value.as_deref().unwrap_or_default();
        vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key).into()]
    })
}

pub(crate) fn is_tolerated(taint: &Taint, spec: &PodSpec) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint))
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            !key.is_empty() && text(&toleration.value) == text(&taint.value)
        }
        Some(_) => false,
    }
}

fn affinity(case: &Case<'_>, node: &NodeInfo) -> Reasons {
    refuse(!fits_affinity(case.spec, node), "node(s) didn't match Pod's node affinity/selector")
}

/// By the pod's node selector and its required node affinity.
pub(crate) fn fits_affinity(spec: &PodSpec, node: &NodeInfo) -> bool {
    let wanted = spec.node_selector.iter().flatten();
    let selected = wanted.into_iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let required =
        spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()).and_then(
            |affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref(),
        );
    selected && required.is_none_or(|selector| selects(selector, node))
}

fn selects(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// An empty term matches nothing.
pub(crate) fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let by_label =
        |r: &NodeSelectorRequirement| meets(r, node.labels.get(&r.key).map(String::as_str));
    let by_field = |r: &NodeSelectorRequirement| {
        r.key == "metadata.name" && meets(r, Some(node.name.as_str()))
    };
    expressions.iter().all(by_label) && fields.iter().all(by_field)
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|v| v == value));
    let compared = |by: fn(&i64, &i64) -> bool| {
        let own = value.and_then(|value| value.parse::<i64>().ok());
        let bound = values.first().and_then(|bound| bound.parse::<i64>().ok());
        own.zip(bound).is_some_and(|(own, bound)| by(&own, &bound))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(i64::gt),
        "Lt" => compared(i64::lt),
        _ => false,
    }
}

fn ports(case: &Case<'_>, node: &NodeInfo) -> Reasons {
    const ANY: &str = "0.0.0.0";
    let taken = |(address, protocol, port): &(String, String, i32)| {
        node.ports.iter().any(|(a, pr, p)| {
            p == port && pr == protocol && (a == address || a == ANY || address == ANY)
        })
    };
    let conflict = !node.ports.is_empty() && case.pod.ports.iter().any(taken);
    refuse(conflict, "node(s) didn't have free ports for the requested pod ports")
}

fn resources(case: &Case<'_>, node: &NodeInfo) -> Reasons {
    let mut reasons = Reasons::new();
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.pods_allowed {
        reasons.push("Too many pods".into());
    }
    let short = |asked: i64, used: i64, there: i64| asked > 0 && asked > there.saturating_sub(used);
    let (asked, used, there) = (&case.pod.requests, &node.used, &node.allocatable);
    if short(asked.cpu, used.cpu, there.cpu) {
        reasons.push("Insufficient cpu".into());
    }
    if short(asked.memory, used.memory, there.memory) {
        reasons.push("Insufficient memory".into());
    }
    if short(asked.storage, used.storage, there.storage) {
        reasons.push("Insufficient ephemeral-storage".into());
    }
    for (name, asked) in &asked.other {
        let of = |amounts: &super::cluster::Amounts| amounts.other.get(name).copied().unwrap_or(0);
        if short(*asked, of(used), of(there)) {
            reasons.push(format!("Insufficient {name}").into());
        }
    }
    reasons
}
