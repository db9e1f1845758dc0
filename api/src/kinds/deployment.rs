//! `apps/v1` Deployment.

use serde_json::{Value, json};

use super::{BASE, pod_spec};
use crate::ErrorList;
use crate::tree::{self, Path, Tree};
use crate::validation::{immutable, non_negative, one_of};
use crate::{BuiltIn, Column, Object, Subresource};

use super::columns::{AGE, CONTAINERS, IMAGES, SELECTOR, count, text};

pub static DEPLOYMENT: BuiltIn = BuiltIn {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    schema_type: "apps/v1.Deployment",
    columns: COLUMNS,
    has_generation: true,
    default,
    validate,
    validate_update: selector_is_immutable,
    warnings: pod_spec::warnings::of_template,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Ready", "Pods that are ready, and the number wanted.", |deployment, _| {
        let ready = count(deployment, &["status", "readyReplicas"]);
        format!("{ready}/{}", count(deployment, &["spec", "replicas"])).into()
    }),
    text("Up-to-date", "Pods of the present template.", |deployment, _| {
        count(deployment, &["status", "updatedReplicas"]).into()
    }),
    text("Available", "Pods that have been ready for long enough.", |deployment, _| {
        count(deployment, &["status", "availableReplicas"]).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn default(deployment: &mut Object) {
    let spec = tree::make_map(deployment, "spec");
    tree::default_absent(spec, "replicas", 1);
    tree::default_absent(spec, "revisionHistoryLimit", 10);
    tree::default_absent(spec, "progressDeadlineSeconds", 600);
    let strategy = tree::make_map(spec, "strategy");
    tree::default_zero(strategy, "type", "RollingUpdate");
    if tree::text(strategy, "type") == "RollingUpdate" {
        let rolling = tree::make_map(strategy, "rollingUpdate");
        tree::default_absent(rolling, "maxUnavailable", "25%");
        tree::default_absent(rolling, "maxSurge", "25%");
    }
    pod_spec::defaults::template(spec);
    tree::default_absent(deployment, "status", json!({}));
}

fn validate(deployment: &Object, errors: &mut ErrorList) {
    let none = Tree::new();
    let spec = deployment.at(&["spec"]).and_then(Value::as_object).unwrap_or(&none);
    let path = Path::root("spec");
    non_negative(spec, "replicas", &path, errors);
    pod_spec::validate::long_running(spec, &path, errors);
    if let Some(found) = tree::map(spec, "strategy") {
        strategy(found, &path.field("strategy"), errors);
    }
    non_negative(spec, "minReadySeconds", &path, errors);
    non_negative(spec, "revisionHistoryLimit", &path, errors);
    non_negative(spec, "progressDeadlineSeconds", &path, errors);
    if let Some(deadline) = tree::int(spec, "progressDeadlineSeconds")
        && deadline <= tree::int(spec, "minReadySeconds").unwrap_or_default()
    {
        let message = "must be greater than minReadySeconds";
        errors.invalid(path.field("progressDeadlineSeconds"), deadline, message);
    }
}

fn strategy(strategy: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    one_of(strategy, "type", &["Recreate", "RollingUpdate"], path, errors);
    let rolling = tree::map(strategy, "rollingUpdate");
    let path = path.field("rollingUpdate");
    match (tree::text(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => {
            let message = "may not be specified when strategy `type` is 'Recreate'";
            errors.forbidden(path, message);
        }
        ("RollingUpdate", None) => {
            errors.required(path, "this should be defaulted and never be nil");
        }
        ("RollingUpdate", Some(rolling)) => {
            let unavailable =
                share(rolling.get("maxUnavailable"), &path.field("maxUnavailable"), errors);
            let surge = share(rolling.get("maxSurge"), &path.field("maxSurge"), errors);
            if unavailable == Some(0) && surge == Some(0) {
                let message = "may not be 0 when `maxSurge` is 0";
                errors.invalid(
                    path.field("maxUnavailable"),
                    rolling.get("maxUnavailable"),
                    message,
                );
            }
            let is_percent = rolling.get("maxUnavailable").is_some_and(Value::is_string);
            if is_percent && unavailable.is_some_and(|percent| percent > 100) {
                let value = rolling.get("maxUnavailable");
                errors.invalid(
                    path.field("maxUnavailable"),
                    value,
                    "must not be greater than 100%",
                );
            }
        }
        _ => {}
    }
}

/// A number of pods or a percentage; `None` where it is neither.
fn share(value: Option<&Value>, path: &Path<'_>, errors: &mut ErrorList) -> Option<i64> {
    match value {
        Some(Value::String(text)) => {
            let digits = text.strip_suffix('%').filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
            let number = digits.and_then(|digits| digits.parse().ok());
            if number.is_none() {
                let message = "a valid percent string must be a numeric string followed by an \
                               ending '%' (e.g. '1%',  or '93%', regex used for validation is \
                               '[0-9]+%')";
                errors.invalid(path, text, message);
            }
            number
        }
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or_default();
            if number < 0 {
                errors.invalid(path, number, "must be greater than or equal to 0");
            }
            Some(number)
        }
    }
}

/// The pods of another selector would be left behind without an owner.
pub(super) fn selector_is_immutable(new: &Object, old: &Object, errors: &mut ErrorList) {
    let at = ["spec", "selector"];
    immutable(new.at(&at), old.at(&at), &Path::root("spec").field("selector"), errors);
}
