//! Columns that several kinds have.

use jiff::Timestamp;
use serde_json::Value;

use crate::tree::{self, Tree};
use crate::{Column, ColumnType, LabelSelector, Object, duration};

/// What is shown where there is nothing.
pub(super) const NONE: &str = "<none>";

pub(super) const AGE: Column = text("Age", "Time since the object was created.", |object, now| {
    duration::since(object.str_at(&["metadata", "creationTimestamp"]), now).into()
});

/// A column of text that is always shown.
pub(super) const fn text(
    name: &'static str,
    description: &'static str,
    cell: fn(&Object, Timestamp) -> Value,
) -> Column {
    Column { name, kind: ColumnType::String, priority: 0, description, cell }
}

/// A column of whole numbers that is always shown.
pub(super) const fn number(
    name: &'static str,
    description: &'static str,
    cell: fn(&Object, Timestamp) -> Value,
) -> Column {
    Column { name, kind: ColumnType::Integer, priority: 0, description, cell }
}

/// Shown with `-o wide` only.
pub(super) const fn wide(column: Column) -> Column {
    Column { priority: 1, ..column }
}

/// The wide columns of what makes pods.
pub(super) const CONTAINERS: Column =
    wide(text("Containers", "Names of the containers in the template.", |object, _| {
        containers(object, "name").into()
    }));
pub(super) const IMAGES: Column =
    wide(text("Images", "Images of the containers in the template.", |object, _| {
        containers(object, "image").into()
    }));
pub(super) const SELECTOR: Column =
    wide(text("Selector", "The pods that belong to this object.", |object, _| {
        match LabelSelector::from_object(object.at(&["spec", "selector"])) {
            Ok(selector) if !selector.requirements().is_empty() => selector.to_string().into(),
            _ => NONE.into(),
        }
    }));

fn containers(object: &Object, field: &str) -> String {
    let Some(spec) = object.at(&["spec", "template", "spec"]).and_then(Value::as_object) else {
        return String::new();
    };
    let all: Vec<&str> =
        tree::maps(spec, "containers").map(|(_, c)| tree::text(c, field)).collect();
    all.join(",")
}

/// A number below nested maps; 0 where it is absent.
pub(super) fn count(object: &Object, path: &[&str]) -> i64 {
    object.at(path).and_then(Value::as_i64).unwrap_or_default()
}

/// How many entries a map or a list has.
pub(super) fn length(value: Option<&Value>) -> usize {
    match value {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    }
}

pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

/// The status of a condition; empty where there is none.
pub(super) fn condition<'a>(status: Option<&'a Tree>, kind: &str) -> &'a str {
    status
        .and_then(|s| tree::maps(s, "conditions").find(|(_, c)| tree::text(c, "type") == kind))
        .map_or("", |(_, condition)| tree::text(condition, "status"))
}

/// `.status`
pub(super) fn status(object: &Object) -> Option<&Tree> {
    object.at(&["status"]).and_then(Value::as_object)
}

/// The first three, and how many more.
pub(super) fn some_of(all: &[String], nothing: &str) -> String {
    const SHOWN: usize = 3;
    match all.len() {
        0 => nothing.to_owned(),
        n if n <= SHOWN => all.join(","),
        n => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
    }
}

/// `ip:port`, with brackets around IPv6.
pub(super) fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
