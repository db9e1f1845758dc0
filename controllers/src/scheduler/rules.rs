//! A pod's rules about other pods, read once.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::{Selector, SelectorExt};

use super::groups::GroupKey;

type Labels = BTreeMap<String, String>;

/// The labels of namespaces, by name.
pub(crate) type Namespaces = BTreeMap<String, Labels>;

/// One term of a pod's (anti-)affinity to other pods.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub topology: String,
    /// Zero where it is required.
    pub weight: i64,
    /// Nothing matches where there is none.
    selector: Option<Selector>,
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
}

impl Term {
    fn new(term: &PodAffinityTerm, weight: i32, pod: &Pod) -> Self {
        let mut selector = term.label_selector.clone();
        with_labels(&mut selector, term.match_label_keys.as_deref(), "In", pod);
        with_labels(&mut selector, term.mismatch_label_keys.as_deref(), "NotIn", pod);
        let mut namespaces: BTreeSet<_> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(pod.metadata.namespace.clone());
        }
        Self {
            topology: term.topology_key.clone(),
            weight: weight.into(),
            selector: selector.and_then(|selector| selector.try_into().ok()),
            namespaces,
            namespace_selector: term.namespace_selector.clone().and_then(|s| s.try_into().ok()),
        }
    }

    pub fn matches(&self, key: &GroupKey, namespaces: &Namespaces) -> bool {
        let of_namespace = || {
            let Some(selector) = &self.namespace_selector else { return false };
            match namespaces.get(&key.namespace) {
                Some(labels) => selector.matches(labels),
                None => selector.selects_all(),
            }
        };
        let Some(selector) = &self.selector else { return false };
        (self.namespaces.contains(&key.namespace) || of_namespace())
            && selector.matches(&key.labels)
    }
}

/// Required terms first, then preferred ones with their weights.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub required: Vec<Term>,
    pub required_not: Vec<Term>,
    /// Negative weights are those of anti-affinity.
    pub preferred: Vec<Term>,
}

impl Terms {
    pub fn new(pod: &Pod, spec: &PodSpec) -> Self {
        let mut terms = Self::default();
        let Some(affinity) = &spec.affinity else { return terms };
        if let Some(with) = &affinity.pod_affinity {
            let required = with.required_during_scheduling_ignored_during_execution.iter();
            terms.required = required.flatten().map(|term| Term::new(term, 0, pod)).collect();
            let preferred = with.preferred_during_scheduling_ignored_during_execution.iter();
            let preferred = preferred.flatten();
            terms
                .preferred
                .extend(preferred.map(|t| Term::new(&t.pod_affinity_term, t.weight, pod)));
        }
        if let Some(without) = &affinity.pod_anti_affinity {
            let required = without.required_during_scheduling_ignored_during_execution.iter();
            terms.required_not = required.flatten().map(|term| Term::new(term, 0, pod)).collect();
            let preferred = without.preferred_during_scheduling_ignored_during_execution.iter();
            let preferred = preferred.flatten();
            terms
                .preferred
                .extend(preferred.map(|t| Term::new(&t.pod_affinity_term, -t.weight, pod)));
        }
        terms
    }

    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.required_not.is_empty() && self.preferred.is_empty()
    }
}

/// One of a pod's topology spread constraints.
#[derive(Clone, Debug)]
pub(crate) struct Constraint {
    pub topology: String,
    pub max_skew: i64,
    pub min_domains: Option<usize>,
    /// `DoNotSchedule`
    pub hard: bool,
    pub honor_affinity: bool,
    pub honor_taints: bool,
    selector: Option<Selector>,
}

impl Constraint {
    pub fn new(constraint: &TopologySpreadConstraint, pod: &Pod) -> Self {
        let mut selector = constraint.label_selector.clone();
        with_labels(&mut selector, constraint.match_label_keys.as_deref(), "In", pod);
        Self {
            topology: constraint.topology_key.clone(),
            max_skew: constraint.max_skew.max(1).into(),
            min_domains: constraint.min_domains.and_then(|count| usize::try_from(count).ok()),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            selector: selector.and_then(|selector| selector.try_into().ok()),
        }
    }

    /// Pods of the same namespace that do not go.
    pub fn counts(&self, key: &GroupKey, namespace: &str) -> bool {
        key.namespace == namespace && !key.terminating && self.matches(&key.labels)
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

/// `matchLabelKeys`: the pod's own values of these labels become a part of the selector.
fn with_labels(
    selector: &mut Option<LabelSelector>,
    keys: Option<&[String]>,
    operator: &str,
    pod: &Pod,
) {
    let (Some(selector), Some(keys)) = (selector, keys) else { return };
    let Some(labels) = &pod.metadata.labels else { return };
    for key in keys {
        let Some(value) = labels.get(key) else { continue };
        selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        });
    }
}
