//! What a pod may be, and what an update may change. Rules and words: `ValidatePod` and `ValidatePodUpdate` of
//! k8s.io/kubernetes `pkg/apis/core/validation`.

use std::collections::HashSet;

use serde_json::Value;

use super::super::pod_spec;
use super::super::pod_spec::validate::Of;
use super::MIRROR;
use crate::tree::{self, Path, Tree};
use crate::{ErrorList, Object, Subresource};

const ANNOTATIONS: [&str; 2] = ["metadata", "annotations"];

pub(super) fn validate(pod: &Object, errors: &mut ErrorList) {
    let spec = spec_of(pod);
    if let Some(value) = pod.annotation(MIRROR)
        && tree::text(spec, "nodeName").is_empty()
    {
        let message = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(annotation_path(), value, message);
    }
    pod_spec::validate::spec(spec, Of::Pod, &Path::root("spec"), errors);
    let class = tree::text(spec, "priorityClassName");
    if !matches!(class, "" | "system-node-critical" | "system-cluster-critical") {
        errors.not_found("spec.priorityClassName", class);
    }
}

pub(super) fn create(pod: &Object, errors: &mut ErrorList) {
    if !tree::list(spec_of(pod), "ephemeralContainers").is_empty() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
}

pub(super) fn subresource(
    subresource: Subresource,
    new: &Object,
    old: &Object,
    errors: &mut ErrorList,
) {
    match subresource {
        Subresource::EphemeralContainers => ephemeral(new, old, errors),
        _ => update(new, old, errors),
    }
}

/// They come, and neither change nor go.
fn ephemeral(new: &Object, old: &Object, errors: &mut ErrorList) {
    if old.annotation(MIRROR).is_some() {
        // The only word about it, as in Kubernetes.
        *errors = ErrorList::default();
        return errors.forbidden("", "static pods do not support ephemeral containers");
    }
    let list = "ephemeralContainers";
    let path = Path::root("spec");
    for (_, before) in tree::maps(spec_of(old), list) {
        let name = tree::text(before, "name");
        // Where a name stands twice, Kubernetes goes by the last.
        let now = tree::maps(spec_of(new), list).filter(|(_, c)| tree::text(c, "name") == name);
        let Some((_, now)) = now.last() else {
            let message = format!("existing ephemeral containers {name:?} may not be removed\n");
            errors.forbidden(path.field(list), &message);
            continue;
        };
        let mut changed: Vec<&str> = now
            .keys()
            .chain(before.keys())
            .map(String::as_str)
            .filter(|field| !tree::same(now.get(*field), before.get(*field)))
            .collect();
        changed.sort_unstable();
        changed.dedup();
        if !changed.is_empty() {
            let message = format!(
                "existing ephemeral containers {name:?} may not be changed\nchanged: {}",
                changed.join(", ")
            );
            errors.forbidden(path.field(list), &message);
        }
    }
}

pub(super) fn update(new: &Object, old: &Object, errors: &mut ErrorList) {
    mirror(new, old, errors);
    let path = Path::root("spec");
    let (spec, before) = (spec_of(new), spec_of(old));
    for list in ["containers", "initContainers"] {
        if tree::list(spec, list).len() != tree::list(before, list).len() {
            errors.forbidden(path.field(list), "pod updates may not add or remove containers");
            return;
        }
    }
    deadline(spec, before, &path, errors);
    tolerations(spec, before, &path, errors);
    gates(spec, before, &path, errors);

    // Put back what may change; then nothing else may differ.
    let mut rest = spec.clone();
    for list in ["containers", "initContainers"] {
        let images: Vec<Option<Value>> =
            tree::maps(before, list).map(|(_, c)| c.get("image").cloned()).collect();
        for (container, image) in tree::maps_mut(&mut rest, list).zip(images) {
            match image {
                Some(image) => container.insert("image".to_owned(), image),
                None => container.remove("image"),
            };
        }
    }
    let grace = |spec: &Tree| tree::int(spec, "terminationGracePeriodSeconds");
    let mut allowed = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if grace(before).is_some_and(|g| g < 0) && grace(spec) == Some(1) {
        allowed.push("terminationGracePeriodSeconds");
    }
    let mut changed: Vec<&str> = rest
        .keys()
        .chain(before.keys())
        .map(String::as_str)
        .filter(|f| !allowed.contains(f) && !tree::same(rest.get(*f), before.get(*f)))
        .collect();
    changed.sort_unstable();
    changed.dedup();
    if !changed.is_empty() {
        let message = format!(
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
             additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to \
             be set to 1 if it was previously negative)\nchanged: {}",
            changed.join(", ")
        );
        errors.forbidden(path, &message);
    }
}

/// Whether a pod stands for a file never changes.
fn mirror(new: &Object, old: &Object, errors: &mut ErrorList) {
    let has_changed = new.annotation(MIRROR) != old.annotation(MIRROR);
    match old.annotation(MIRROR) {
        _ if !has_changed => {}
        Some(_) => {
            errors.forbidden(annotation_path(), "may not remove or update mirror pod annotation");
        }
        None => errors.forbidden(annotation_path(), "may not add mirror pod annotation"),
    }
}

/// From none to some, or to less.
fn deadline(new: &Tree, old: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let path = path.field("activeDeadlineSeconds");
    match (tree::int(new, "activeDeadlineSeconds"), tree::int(old, "activeDeadlineSeconds")) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            let message = "must not update from a positive integer to nil value";
            errors.invalid(path, Value::Null, message);
        }
        _ => {}
    }
}

fn tolerations(new: &Tree, old: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    // What is empty is as what is absent. Looked up, not compared one by one: a pod may have thousands.
    let identity = |toleration: &Tree| -> String {
        let said = toleration
            .iter()
            .filter(|(key, value)| *key != "tolerationSeconds" && !tree::same(Some(*value), None));
        Value::Object(said.map(|(key, value)| (key.clone(), value.clone())).collect()).to_string()
    };
    let kept: HashSet<String> =
        tree::maps(new, "tolerations").map(|(_, toleration)| identity(toleration)).collect();
    for (_, toleration) in tree::maps(old, "tolerations") {
        if !kept.contains(&identity(toleration)) {
            let message = "existing toleration can not be modified except its tolerationSeconds";
            errors.forbidden(path.field("tolerations"), message);
            return;
        }
    }
}

fn gates(new: &Tree, old: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let name = |(_, gate)| tree::text(gate, "name");
    for gate in tree::maps(new, "schedulingGates").map(name) {
        if !tree::maps(old, "schedulingGates").map(name).any(|known| known == gate) {
            let message =
                format!("only deletion is allowed, but found new scheduling gate '{gate}'");
            errors.forbidden(path.field("schedulingGates"), &message);
        }
    }
}

fn spec_of(pod: &Object) -> &Tree {
    static EMPTY: std::sync::LazyLock<Tree> = std::sync::LazyLock::new(Tree::new);
    pod.at(&["spec"]).and_then(Value::as_object).unwrap_or(&EMPTY)
}

fn annotation_path() -> String {
    format!("{}[{MIRROR}]", ANNOTATIONS.join("."))
}
