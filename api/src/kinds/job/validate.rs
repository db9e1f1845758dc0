//! What a Job may be, and what an update may change. Rules and words: k8s.io/kubernetes `pkg/apis/batch/validation`.

use serde_json::Value;

use super::super::pod_spec;
use crate::tree::{self, Path, Tree};
use crate::validation::{self, immutable, non_negative, one_of};
use crate::{ErrorList, Object};

/// Of an indexed Job.
const MAX_INDEXED_PARALLELISM: i64 = 100_000;

pub(super) fn validate(job: &Object, errors: &mut ErrorList) {
    let path = Path::root("spec");
    let Some(spec) = job.at(&["spec"]).and_then(Value::as_object) else {
        errors.required(path, "");
        return;
    };
    if !tree::flag(spec, "manualSelector") {
        generated(job, spec, errors);
    }
    match tree::map(spec, "selector") {
        None => errors.required(path.field("selector"), ""),
        Some(selector) => validation::label_selector(selector, &path.field("selector"), errors),
    }
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        non_negative(spec, field, &path, errors);
    }
    let modes = ["Indexed", "NonIndexed"];
    one_of(spec, "completionMode", &modes, &path, errors);
    let is_indexed = tree::text(spec, "completionMode") == "Indexed";
    if is_indexed {
        if !tree::has(spec, "completions") {
            errors.required(path.field("completions"), "when completion mode is Indexed");
        }
        let parallelism = tree::int(spec, "parallelism").unwrap_or_default();
        if parallelism > MAX_INDEXED_PARALLELISM {
            let message = format!(
                "must be less than or equal to {MAX_INDEXED_PARALLELISM} when completion mode is \
                 Indexed"
            );
            errors.invalid(path.field("parallelism"), parallelism, &message);
        }
    }
    if tree::has(spec, "backoffLimitPerIndex") && !is_indexed {
        let limit = tree::int(spec, "backoffLimitPerIndex");
        let message = "requires indexed completion mode";
        errors.invalid(path.field("backoffLimitPerIndex"), limit, message);
    }
    let replace: &[&str] = match tree::has(spec, "podFailurePolicy") {
        true => &["Failed"],
        false => &["Failed", "TerminatingOrFailed"],
    };
    one_of(spec, "podReplacementPolicy", replace, &path, errors);

    let none = Tree::new();
    let template = tree::map(spec, "template").unwrap_or(&none);
    let path = path.field("template");
    pod_spec::validate::template(template, &path, errors);
    pod_spec::validate::matches_template(spec, template, &path, errors);
    let path = path.field("spec");
    let policy = tree::map(template, "spec").map_or("", |s| tree::text(s, "restartPolicy"));
    match policy {
        "Never" | "OnFailure" => {}
        "Always" => {
            let message = "valid values: \"OnFailure\", \"Never\"";
            errors.required(path.field("restartPolicy"), message);
        }
        other => {
            errors.not_supported(path.field("restartPolicy"), other, &["OnFailure", "Never"]);
        }
    }
}

/// The labels and the selector are the generated ones. Without a uid nothing has been generated yet.
fn generated(job: &Object, spec: &Tree, errors: &mut ErrorList) {
    let uid = job.str_at(&["metadata", "uid"]);
    if uid.is_empty() {
        return;
    }
    let labels = tree::map(spec, "template")
        .and_then(|t| tree::map(t, "metadata"))
        .and_then(|m| tree::map(m, "labels"));
    let expected = super::UID_LABELS
        .iter()
        .map(|key| (*key, uid))
        .chain(super::NAME_LABELS.iter().map(|key| (*key, job.name())));
    let root = Path::root("metadata");
    let path = root.field("labels");
    for (key, value) in expected {
        match labels.map_or("", |labels| tree::text(labels, key)) {
            "" => errors.required(path.key(key), &format!("must be '{value}'")),
            actual if actual != value => {
                errors.invalid(path.key(key), labels, &format!("must be '{value}'"));
            }
            _ => {}
        }
    }
    let selector = tree::map(spec, "selector");
    let selected = selector.and_then(|s| tree::map(s, "matchLabels"));
    if selected.is_none_or(|labels| tree::text(labels, super::UID_LABELS[0]) != uid) {
        errors.invalid("spec.selector", selector, "`selector` not auto-generated");
    }
}

pub(super) fn update(new: &Object, old: &Object, errors: &mut ErrorList) {
    let path = Path::root("spec");
    let none = Tree::new();
    let new = new.at(&["spec"]).and_then(Value::as_object).unwrap_or(&none);
    let old_status = old.at(&["status"]).and_then(Value::as_object).unwrap_or(&none);
    let old = old.at(&["spec"]).and_then(Value::as_object).unwrap_or(&none);
    // An indexed Job may grow and shrink, together with its parallelism.
    let is_elastic = tree::text(new, "completionMode") == "Indexed"
        && tree::has(new, "completions")
        && tree::same(new.get("completions"), new.get("parallelism"));
    for field in [
        "completions",
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        if field == "completions" && is_elastic {
            continue;
        }
        immutable(new.get(field), old.get(field), &path.field(field), errors);
    }
    template(new, old, old_status, &path, errors);
}

/// The template never changes, but for where its pods may run as long as a suspended Job has not started.
fn template(new: &Tree, old: &Tree, old_status: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(mut template) = tree::map(new, "template").cloned() else { return };
    if tree::flag(old, "suspend") && !tree::has(old_status, "startTime") {
        let before = tree::map(old, "template");
        let before = before.and_then(|t| tree::map(t, "spec"));
        let spec = tree::make_map(&mut template, "spec");
        for field in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
            match before.and_then(|spec| spec.get(field)) {
                Some(value) => spec.insert(field.to_owned(), value.clone()),
                None => spec.remove(field),
            };
        }
    }
    let template = Value::Object(template);
    immutable(Some(&template), old.get("template"), &path.field("template"), errors);
}
