//! What a pod's spec may say. Rules and words: `ValidatePodSpec` of k8s.io/kubernetes `pkg/apis/core/validation`.

use std::collections::HashSet;

use serde_json::Value;

use super::{affinity, containers, volumes};
use crate::ErrorList;
use crate::tree::{self, Path, Tree};
use crate::validation::{self, each, names, one_of};

/// Which pods a spec is for: a pod's own, or a template's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Pod,
    Template,
}

/// Everything in a spec, in the order in which Kubernetes reports it. Expects defaults to be filled in.
pub(crate) fn spec(spec: &Tree, of: Of, path: &Path<'_>, errors: &mut ErrorList) {
    let volumes = volumes::all(spec, &path.field("volumes"), errors);
    containers::all(spec, &volumes, of, path, errors);
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec, "dnsPolicy", &policies, path, errors);
    node_selector(spec, &path.field("nodeSelector"), errors);
    security_context(spec, path, errors);
    for (i, secret) in tree::maps(spec, "imagePullSecrets") {
        let path = path.field("imagePullSecrets");
        each(
            names::dns1123_subdomain(tree::text(secret, "name")),
            errors,
            path.index(i).field("name"),
            tree::text(secret, "name"),
        );
    }
    affinity::validate(spec, &path.field("affinity"), errors);
    dns_config(spec, path, errors);
    for (i, gate) in tree::maps(spec, "readinessGates") {
        let kind = tree::text(gate, "conditionType");
        each(
            names::label_key(kind),
            errors,
            path.field("readinessGates").index(i).field("conditionType"),
            kind,
        );
    }
    for (i, gate) in tree::maps(spec, "schedulingGates") {
        let name = tree::text(gate, "name");
        each(names::label_key(name), errors, path.field("schedulingGates").index(i), name);
    }
    for (field, check) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
    ] {
        let name = tree::text(spec, field);
        if !name.is_empty() {
            each(check(name), errors, path.field(field), name);
        }
    }
    if let Some(seconds) = tree::int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let message = "must be between 1 and 2147483647, inclusive";
        errors.invalid(path.field("activeDeadlineSeconds"), seconds, message);
    }
    tolerations(spec, &path.field("tolerations"), errors);
    for (i, alias) in tree::maps(spec, "hostAliases") {
        let path = path.field("hostAliases");
        let path = path.index(i);
        if let Some(message) = names::ip(tree::text(alias, "ip")) {
            errors.invalid(path.field("ip"), tree::text(alias, "ip"), &message);
        }
        for name in tree::texts(alias, "hostnames") {
            each(names::dns1123_subdomain(name), errors, path.field("hostnames"), name);
        }
    }
    spread(spec, &path.field("topologySpreadConstraints"), errors);
}

/// `nodeSelector` is a map of labels.
fn node_selector(spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    for (key, value) in tree::pairs(spec, "nodeSelector") {
        each(names::label_key(key), errors, path, key);
        each(names::label_value(value), errors, path, value);
    }
}

fn security_context(spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let shares = tree::flag(spec, "shareProcessNamespace");
    if shares && tree::flag(spec, "hostPID") {
        let message = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(path.field("shareProcessNamespace"), true, message);
    }
    let path = path.field("securityContext");
    let Some(context) = tree::map(spec, "securityContext") else { return };
    containers::ids(context, &["fsGroup", "runAsUser", "runAsGroup"], &path, errors);
    for (i, group) in tree::list(context, "supplementalGroups").iter().enumerate() {
        if let Some(id) = group.as_i64().filter(|id| !containers::is_id(*id)) {
            let path = path.field("supplementalGroups");
            errors.invalid(path.index(i), id, containers::ID_RANGE);
        }
    }
    let mut known = HashSet::new();
    for (i, sysctl) in tree::maps(context, "sysctls") {
        let path = path.field("sysctls");
        let path = path.index(i);
        match tree::text(sysctl, "name") {
            "" => errors.required(path.field("name"), ""),
            name if !known.insert(name) => errors.duplicate(path.field("name"), name),
            _ => {}
        }
    }
}

fn dns_config(spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let path = path.field("dnsConfig");
    let is_none = tree::text(spec, "dnsPolicy") == "None";
    let Some(config) = tree::map(spec, "dnsConfig") else {
        if is_none {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = tree::list(config, "nameservers");
    if is_none && servers.is_empty() {
        let message = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(path.field("nameservers"), message);
    }
    if servers.len() > 3 {
        errors.invalid(path.field("nameservers"), servers, "must not have more than 3 nameservers");
    }
    for (i, server) in tree::texts(config, "nameservers").enumerate() {
        if let Some(message) = names::ip(server) {
            errors.invalid(path.field("nameservers").index(i), server, &message);
        }
    }
    let searches: Vec<&str> = tree::texts(config, "searches").collect();
    if searches.len() > 32 {
        errors.invalid(
            path.field("searches"),
            &searches,
            "must not have more than 32 search paths",
        );
    }
    if searches.join(" ").len() > 2048 {
        let message =
            "must not have more than 2048 characters (including spaces) in the search list";
        errors.invalid(path.field("searches"), &searches, message);
    }
    for (i, search) in searches.iter().enumerate() {
        // A search path may end in a dot, and may be the root alone.
        let bare = search.strip_suffix('.').unwrap_or(search);
        if !bare.is_empty() || search.is_empty() {
            each(names::dns1123_subdomain(bare), errors, path.field("searches").index(i), search);
        }
    }
    for (i, option) in tree::maps(config, "options") {
        if tree::text(option, "name").is_empty() {
            errors.required(path.field("options").index(i), "must not be empty");
        }
    }
}

/// The effects of taints.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn tolerations(spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    for (i, toleration) in tree::maps(spec, "tolerations") {
        let path = path.index(i);
        let (key, value) = (tree::text(toleration, "key"), tree::text(toleration, "value"));
        let (operator, effect) =
            (tree::text(toleration, "operator"), tree::text(toleration, "effect"));
        if !key.is_empty() {
            each(names::label_key(key), errors, path.field("key"), key);
        } else if operator != "Exists" {
            let message = "operator must be Exists when `key` is empty, which means \"match all \
                           values and all keys\"";
            errors.invalid(path.field("operator"), operator, message);
        }
        if tree::has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            let message = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(path.field("effect"), effect, message);
        }
        match operator {
            "" | "Equal" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    errors.invalid(path.field("operator"), value, &messages.join(";"));
                }
            }
            "Exists" if value.is_empty() => {}
            "Exists" => {
                let message = "value must be empty when `operator` is 'Exists'";
                errors.invalid(path.field("operator"), toleration, message);
            }
            other => errors.not_supported(path.field("operator"), other, &["Equal", "Exists"]),
        }
        validation::one_of_or_empty(toleration, "effect", &EFFECTS, &path, errors);
    }
}

/// The taints of a node.
pub(crate) fn taints(node_spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let mut known = HashSet::new();
    for (i, taint) in tree::maps(node_spec, "taints") {
        let path = path.index(i);
        let (key, value) = (tree::text(taint, "key"), tree::text(taint, "value"));
        each(names::label_key(key), errors, path.field("key"), key);
        let messages = names::label_value(value);
        if !messages.is_empty() {
            errors.invalid(path.field("value"), value, &messages.join(";"));
        }
        one_of(taint, "effect", &EFFECTS, &path, errors);
        if !known.insert((key, tree::text(taint, "effect"))) {
            errors.duplicate(path, taint);
        }
    }
}

fn spread(spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let mut known = HashSet::new();
    for (i, constraint) in tree::maps(spec, "topologySpreadConstraints") {
        let path = path.index(i);
        let skew = tree::int(constraint, "maxSkew").unwrap_or_default();
        if skew <= 0 {
            errors.invalid(path.field("maxSkew"), skew, "must be greater than zero");
        }
        let key = tree::text(constraint, "topologyKey");
        if key.is_empty() {
            errors.required(path.field("topologyKey"), "can not be empty");
        } else {
            each(names::label_key(key), errors, path.field("topologyKey"), key);
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        one_of(constraint, "whenUnsatisfiable", &actions, &path, errors);
        let action = tree::text(constraint, "whenUnsatisfiable");
        if !known.insert((key, action)) {
            let pair = format!("{{{key}, {action}}}");
            errors.duplicate(path.field("{topologyKey, whenUnsatisfiable}"), pair);
        }
        if let Some(selector) = tree::map(constraint, "labelSelector") {
            validation::label_selector(selector, &path.field("labelSelector"), errors);
        }
    }
}

/// The template of a workload: its metadata's labels and annotations, its spec, and the restart policies that the
/// workload can work with.
pub(crate) fn template(template: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(metadata) = tree::map(template, "metadata") {
        let path = path.field("metadata");
        validation::labels(metadata, &path.field("labels"), errors);
        validation::annotations(metadata, &path.field("annotations"), errors);
    }
    match tree::map(template, "spec") {
        Some(found) => {
            let path = path.field("spec");
            spec(found, Of::Template, &path, errors);
            if !tree::list(found, "ephemeralContainers").is_empty() {
                let message = "ephemeral containers not allowed in pod template";
                errors.forbidden(path.field("ephemeralContainers"), message);
            }
        }
        None => errors.required(path.field("spec"), ""),
    }
}

/// The selector of a Deployment or ReplicaSet and whether its template's labels match; its pods are restarted always.
pub(crate) fn long_running(workload: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let no_template = Tree::new();
    let selector = tree::map(workload, "selector");
    match selector {
        None => errors.required(path.field("selector"), ""),
        Some(selector) => {
            let path = path.field("selector");
            validation::label_selector(selector, &path, errors);
            let is_empty = tree::map(selector, "matchLabels").is_none_or(Tree::is_empty)
                && tree::list(selector, "matchExpressions").is_empty();
            if is_empty {
                errors.invalid(path, selector, "empty selector is invalid for deployment");
            }
        }
    }
    let path = path.field("template");
    let pod = tree::map(workload, "template").unwrap_or(&no_template);
    matches_template(workload, pod, &path, errors);
    template(pod, &path, errors);
    let Some(spec) = tree::map(pod, "spec") else { return };
    let path = path.field("spec");
    let policy = tree::text(spec, "restartPolicy");
    if policy != "Always" {
        errors.not_supported(path.field("restartPolicy"), policy, &["Always"]);
    }
    if tree::has(spec, "activeDeadlineSeconds") {
        let message = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.forbidden(path.field("activeDeadlineSeconds"), message);
    }
}

/// A selector that does not find the pods of its own template would make pods without end.
pub(crate) fn matches_template(
    workload: &Tree,
    template: &Tree,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let labels = tree::map(template, "metadata").and_then(|m| tree::map(m, "labels"));
    let Ok(selector) = crate::LabelSelector::from_object(workload.get("selector")) else { return };
    let is_empty = selector.is_everything() || selector.requirements().is_empty();
    if !is_empty && !selector.matches_labels(labels) {
        let message = "`selector` does not match template `labels`";
        let labels = labels.cloned().map_or(Value::Null, Value::Object);
        errors.invalid(path.field("metadata").field("labels"), labels, message);
    }
}
