//! `v1` Event.

use jiff::Timestamp;

use super::BASE;
use crate::tree::Path;
use crate::validation::{each, names};
use crate::{BuiltIn, Column, ErrorList, Object, duration};

use super::columns::{self, number, text, wide};

mod events_v1;

pub use events_v1::EVENTS_V1_EVENT;

pub static EVENT: BuiltIn = BuiltIn {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema_type: "core/v1.Event",
    columns: COLUMNS,
    selectable_fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    field: Some(field),
    validate,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Last Seen", "Time since it happened last.", |event, now| last_seen(event, now).into()),
    text("Type", "Normal or Warning.", |event, _| event.str_at(&["type"]).into()),
    text("Reason", "What happened, in a word.", |event, _| event.str_at(&["reason"]).into()),
    text("Object", "What it happened to.", |event, _| {
        let kind = event.str_at(&["involvedObject", "kind"]).to_lowercase();
        match event.str_at(&["involvedObject", "name"]) {
            "" => kind.into(),
            name => format!("{kind}/{name}").into(),
        }
    }),
    wide(text("Subobject", "Which part of the object.", |event, _| {
        event.str_at(&["involvedObject", "fieldPath"]).into()
    })),
    wide(text("Source", "Who reports it.", |event, _| source(event).into())),
    text("Message", "What happened, in a sentence.", |event, _| {
        event.str_at(&["message"]).trim().into()
    }),
    wide(text("First Seen", "Time since it happened first.", |event, now| {
        first_seen(event, now).into()
    })),
    wide(number("Count", "How often it happened.", |event, _| count(event).into())),
    wide(text("Name", "The name of the event.", |event, _| event.name().into())),
];

/// `source` is the component that reported, in whichever of the two fields it stands.
fn field(event: &Object, path: &str) -> Option<String> {
    (path == "source").then(|| match event.str_at(&["source", "component"]) {
        "" => event.str_at(&["reportingComponent"]).to_owned(),
        component => component.to_owned(),
    })
}

fn first_seen(event: &Object, now: Timestamp) -> String {
    match event.str_at(&["firstTimestamp"]) {
        "" => duration::since(event.str_at(&["eventTime"]), now),
        first => duration::since(first, now),
    }
}

fn last_seen(event: &Object, now: Timestamp) -> String {
    match (event.str_at(&["series", "lastObservedTime"]), event.str_at(&["lastTimestamp"])) {
        ("", "") => first_seen(event, now),
        ("", last) => duration::since(last, now),
        (observed, _) => duration::since(observed, now),
    }
}

/// An event without a count has happened once.
fn count(event: &Object) -> i64 {
    match columns::count(event, &["series", "count"]) {
        0 => columns::count(event, &["count"]).max(1),
        count => count,
    }
}

fn source(event: &Object) -> String {
    let either = |a: &[&str], b: &[&str]| match event.str_at(a) {
        "" => event.str_at(b).to_owned(),
        text => text.to_owned(),
    };
    let component = either(&["source", "component"], &["reportingComponent"]);
    match either(&["source", "host"], &["reportingInstance"]).as_str() {
        "" => component,
        host => format!("{component}, {host}"),
    }
}

/// Events with an `eventTime` are of the new form, which asks for more.
fn validate(event: &Object, errors: &mut ErrorList) {
    let path = Path::root("involvedObject");
    let (namespace, involved) = (event.namespace(), event.str_at(&["involvedObject", "namespace"]));
    let is_new = !event.str_at(&["eventTime"]).is_empty();
    let is_fine = match (involved, is_new) {
        ("", true) => matches!(namespace, "default" | "kube-system"),
        ("", false) => matches!(namespace, "" | "default"),
        (involved, false) => involved == namespace,
        (_, true) => true,
    };
    if !is_fine {
        errors.invalid(path.field("namespace"), involved, "does not match event.namespace");
    }
    if !is_new {
        return;
    }
    match event.str_at(&["reportingComponent"]) {
        "" => errors.required("reportingController", ""),
        name => each(names::label_key(name), errors, "reportingController", name),
    }
    for field in ["reportingInstance", "action", "reason"] {
        match event.str_at(&[field]) {
            "" => errors.required(field, ""),
            text if text.len() > 128 => {
                errors.invalid(field, "", "can have at most 128 characters");
            }
            _ => {}
        }
    }
    if event.str_at(&["message"]).len() > 1024 {
        errors.invalid("message", "", "can have at most 1024 characters");
    }
}
