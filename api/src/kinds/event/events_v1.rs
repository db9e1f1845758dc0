//! `events.k8s.io/v1` Event: the newer form of what is stored as a `v1` Event, with stricter rules for its writers.

use serde_json::{Value, json};

use crate::tree::Path;
use crate::validation::immutable;
use crate::{BuiltIn, Conversion, ErrorList, Object};

use super::EVENT;

pub static EVENTS_V1_EVENT: BuiltIn = BuiltIn {
    group: "events.k8s.io",
    schema_type: "events/v1.Event",
    selectable_fields: &[
        "reason",
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reportingController",
        "type",
    ],
    field: None,
    validate,
    validate_update,
    conversion: Some(&CONVERSION),
    ..EVENT
};

static CONVERSION: Conversion = Conversion {
    stored: &EVENT,
    renames: &[
        ("note", "message"),
        ("regarding", "involvedObject"),
        ("reportingController", "reportingComponent"),
        ("deprecatedCount", "count"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedSource", "source"),
    ],
};

/// Beyond what holds for the stored form, whose field names the errors have, as Kubernetes' (`ValidateEventCreate` in
/// `pkg/apis/core/validation/events.go`).
fn validate(event: &Object, errors: &mut ErrorList) {
    series(event, errors);
    if event.str_at(&["eventTime"]).is_empty() {
        errors.required("eventTime", "");
    }
    let type_ = event.str_at(&["type"]);
    if !matches!(type_, "Normal" | "Warning") {
        errors.invalid("type", "", &format!("has invalid value: {type_}"));
    }
    for field in ["firstTimestamp", "lastTimestamp"] {
        if !event.str_at(&[field]).is_empty() {
            errors.invalid(field, "", "needs to be unset");
        }
    }
    if event.at(&["count"]).and_then(Value::as_i64).unwrap_or(0) != 0 {
        errors.invalid("count", "", "needs to be unset");
    }
    if ["component", "host"].iter().any(|part| !event.str_at(&["source", part]).is_empty()) {
        errors.invalid("source", "", "needs to be unset");
    }
}

fn series(event: &Object, errors: &mut ErrorList) {
    if event.at(&["series"]).is_none() {
        return;
    }
    let count = event.at(&["series", "count"]).and_then(Value::as_i64).unwrap_or(0);
    if count < 2 {
        errors.invalid("series.count", "", "should be at least 2");
    }
    if event.str_at(&["series", "lastObservedTime"]).is_empty() {
        errors.required("series.lastObservedTime", "");
    }
}

/// Only the series goes on.
fn validate_update(new: &Object, old: &Object, errors: &mut ErrorList) {
    if new.at(&["series"]) != old.at(&["series"]) {
        series(new, errors);
    }
    for (field, named) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        // Typed clients write what is not set as an empty object.
        let [new, old] = [new, old].map(|event| event.at(&[field]).filter(|v| **v != json!({})));
        immutable(new, old, &Path::root(named), errors);
    }
}
