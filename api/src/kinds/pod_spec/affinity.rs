//! The form of a pod's affinity.

use crate::ErrorList;
use crate::tree::{self, Path, Tree};
use crate::validation::{self, each, names};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn validate(spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(affinity) = tree::map(spec, "affinity") else { return };
    if let Some(node) = tree::map(affinity, "nodeAffinity") {
        let path = path.field("nodeAffinity");
        if let Some(required) = tree::map(node, REQUIRED) {
            let path = path.field(REQUIRED);
            let path = path.field("nodeSelectorTerms");
            if tree::list(required, "nodeSelectorTerms").is_empty() {
                errors.required(path, "must have at least one node selector term");
            }
            for (i, term) in tree::maps(required, "nodeSelectorTerms") {
                node_term(term, &path.index(i), errors);
            }
        }
        for (i, preferred) in tree::maps(node, PREFERRED) {
            let path = path.field(PREFERRED);
            let path = path.index(i);
            weight(preferred, &path, errors);
            if let Some(term) = tree::map(preferred, "preference") {
                node_term(term, &path.field("preference"), errors);
            }
        }
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let Some(pod) = tree::map(affinity, field) else { continue };
        let path = path.field(field);
        for (i, term) in tree::maps(pod, REQUIRED) {
            pod_term(term, &path.field(REQUIRED).index(i), errors);
        }
        for (i, preferred) in tree::maps(pod, PREFERRED) {
            let path = path.field(PREFERRED);
            let path = path.index(i);
            weight(preferred, &path, errors);
            if let Some(term) = tree::map(preferred, "podAffinityTerm") {
                pod_term(term, &path.field("podAffinityTerm"), errors);
            }
        }
    }
}

fn weight(preferred: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let weight = tree::int(preferred, "weight").unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.invalid(path.field("weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(term: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    for (i, expression) in tree::maps(term, "matchExpressions") {
        let path = path.field("matchExpressions");
        let path = path.index(i);
        let count = tree::list(expression, "values").len();
        match tree::text(expression, "operator") {
            "In" | "NotIn" if count == 0 => {
                let message = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(path.field("values"), message);
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let message = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(path.field("values"), message);
            }
            "Gt" | "Lt" if count != 1 => {
                let message = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.required(path.field("values"), message);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(path.field("operator"), other, "not a valid selector operator"),
        }
        let key = tree::text(expression, "key");
        each(names::label_key(key), errors, path.field("key"), key);
    }
    for (i, expression) in tree::maps(term, "matchFields") {
        let path = path.field("matchFields");
        let path = path.index(i);
        let operator = tree::text(expression, "operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.invalid(path.field("operator"), operator, "not a valid selector operator");
        } else if tree::list(expression, "values").len() != 1 {
            let message = "must be only one value when `operator` is 'In' or 'NotIn' for node \
                           field selector";
            errors.required(path.field("values"), message);
        }
        let key = tree::text(expression, "key");
        if key != "metadata.name" {
            errors.invalid(path.field("key"), key, "not a valid field selector key");
        }
    }
}

fn pod_term(term: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    for field in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = tree::map(term, field) {
            validation::label_selector(selector, &path.field(field), errors);
        }
    }
    for name in tree::texts(term, "namespaces") {
        each(names::dns1123_label(name), errors, path.field("namespace"), name);
    }
    match tree::text(term, "topologyKey") {
        "" => errors.required(path.field("topologyKey"), "can not be empty"),
        key => each(names::label_key(key), errors, path.field("topologyKey"), key),
    }
}
