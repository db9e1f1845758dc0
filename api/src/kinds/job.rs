//! `batch/v1` Job.

use serde_json::{Value, json};

use super::{BASE, pod_spec};
use crate::tree;
use crate::{BuiltIn, Object, Subresource};

pub static JOB: BuiltIn = BuiltIn {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    subresources: &[Subresource::Status],
    schema_type: "batch/v1.Job",
    selectable_fields: &["status.successful"],
    field: Some(field),
    has_generation: true,
    default,
    ..BASE
};

/// `status.successful` is the selector's old name of `status.succeeded`.
fn field(job: &Object, path: &str) -> Option<String> {
    (path == "status.successful").then(|| {
        job.at(&["status", "succeeded"]).and_then(|v| v.as_i64()).unwrap_or_default().to_string()
    })
}

/// The labels that tie pods to their job; the second two are the old names.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

fn default(job: &mut Object) {
    let (uid, name) = (job.str_at(&["metadata", "uid"]).to_owned(), job.name().to_owned());
    let spec = tree::make_map(job, "spec");
    if !tree::has(spec, "completions") && !tree::has(spec, "parallelism") {
        tree::default_absent(spec, "completions", 1);
    }
    tree::default_absent(spec, "parallelism", 1);
    let retries = if tree::has(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
    tree::default_absent(spec, "backoffLimit", retries);
    tree::default_absent(spec, "suspend", false);
    tree::default_zero(spec, "completionMode", "NonIndexed");
    let has_policy = tree::has(spec, "podFailurePolicy");
    let replace = if has_policy { "Failed" } else { "TerminatingOrFailed" };
    tree::default_zero(spec, "podReplacementPolicy", replace);
    if let Some(policy) = tree::map_mut(spec, "podFailurePolicy") {
        for rule in tree::maps_mut(policy, "rules") {
            for condition in tree::maps_mut(rule, "onPodConditions") {
                tree::default_zero(condition, "status", "True");
            }
        }
    }
    pod_spec::defaults::template(spec);
    if !tree::flag(spec, "manualSelector") && !uid.is_empty() {
        let template = tree::make_map(spec, "template");
        let labels = tree::make_map(tree::make_map(template, "metadata"), "labels");
        for label in UID_LABELS {
            tree::default_absent(labels, label, uid.as_str());
        }
        for label in NAME_LABELS {
            tree::default_absent(labels, label, name.as_str());
        }
        let selector = tree::make_map(tree::make_map(spec, "selector"), "matchLabels");
        tree::default_absent(selector, UID_LABELS[0], uid.as_str());
    }
    let labels = job.at(&["spec", "template", "metadata", "labels"]).cloned();
    let has_labels =
        job.at(&["metadata", "labels"]).and_then(Value::as_object).is_some_and(|l| !l.is_empty());
    if let Some(labels) = labels.filter(|_| !has_labels) {
        job.set_at(&["metadata", "labels"], labels);
    }
    tree::default_absent(job, "status", json!({}));
}
