//! `batch/v1` Job.

mod validate;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{BASE, pod_spec};
use crate::tree;
use crate::{BuiltIn, Column, Object, Subresource, duration};

use super::columns::{self, AGE, CONTAINERS, IMAGES, SELECTOR, text};

pub static JOB: BuiltIn = BuiltIn {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    subresources: &[Subresource::Status],
    schema_type: "batch/v1.Job",
    columns: COLUMNS,
    selectable_fields: &["status.successful"],
    field: Some(field),
    has_generation: true,
    default,
    validate: validate::validate,
    validate_update: validate::update,
    warnings: pod_spec::warnings::of_template,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Status", "Where the job is.", |job, _| status(job).into()),
    text("Completions", "Pods that have succeeded, and the number wanted.", |job, _| {
        completions(job).into()
    }),
    text("Duration", "How long the job has run.", |job, now| run_time(job, now).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

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

fn status(job: &Object) -> &'static str {
    let is = |kind| columns::condition(columns::status(job), kind) == "True";
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.is_being_deleted() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Object) -> String {
    let succeeded = columns::count(job, &["status", "succeeded"]);
    let wanted = job.at(&["spec", "completions"]).and_then(Value::as_i64);
    match (wanted, columns::count(job, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn run_time(job: &Object, now: Timestamp) -> String {
    let at = |field| job.str_at(&["status", field]).parse::<Timestamp>().ok();
    at("startTime").map_or_else(String::new, |start| {
        duration::human(duration::between(start, at("completionTime").unwrap_or(now)))
    })
}
