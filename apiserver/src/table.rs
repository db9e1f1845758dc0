//! Objects as `metav1.Table` rows and as metadata alone. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use warren_api::{Column, ColumnType, Kind, Object, duration};

/// What a row carries of its object; the query parameter `includeObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// What is not known is the default, as the parameter is a hint.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        }
    }
}

pub(crate) fn of_objects<'a>(
    kind: &dyn Kind,
    objects: impl Iterator<Item = &'a Object>,
    now: Timestamp,
    meta: &Map<String, Value>,
    include: Include,
) -> Value {
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
        "columnDefinitions": definitions(kind),
        "rows": objects.map(|object| row(kind, object, now, include)).collect::<Vec<_>>(),
    })
}

pub(crate) fn definitions(kind: &dyn Kind) -> Value {
    let mut list = Vec::new();
    if leads_with_name(kind) {
        list.push(json!({
            "name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name must be unique within a namespace. Is required when creating resources.",
        }));
    }
    list.extend(kind.columns().iter().map(|column| {
        let (name, format) = type_of(column);
        json!({
            "name": column.name, "type": name, "format": format, "priority": column.priority,
            "description": column.description,
        })
    }));
    if kind.columns().is_empty() {
        list.push(json!({
            "name": "Created At", "type": "date", "format": "", "priority": 0,
            "description": "When the object was created.",
        }));
    }
    Value::Array(list)
}

/// Events have their name among the wide columns.
fn leads_with_name(kind: &dyn Kind) -> bool {
    !kind.columns().iter().any(|column| column.name == "Name")
}

fn type_of(column: &Column) -> (&'static str, &'static str) {
    match column.kind {
        ColumnType::String => ("string", ""),
        ColumnType::Integer => ("integer", ""),
        // Ages are rendered by the server, as in Kubernetes' own printers.
        ColumnType::Date => ("string", ""),
    }
}

pub(crate) fn row(kind: &dyn Kind, object: &Object, now: Timestamp, include: Include) -> Value {
    let mut cells = Vec::new();
    if leads_with_name(kind) {
        cells.push(Value::from(object.name()));
    }
    cells.extend(kind.columns().iter().map(|column| (column.cell)(object, now)));
    if kind.columns().is_empty() {
        cells.push(object.str_at(&["metadata", "creationTimestamp"]).into());
    }
    let object = match include {
        Include::None => Value::Null,
        Include::Metadata => metadata_of(object),
        Include::Object => {
            let mut object = object.clone();
            kind.to_served(&mut object);
            Value::from(object)
        }
    };
    json!({"cells": cells, "object": object})
}

/// As Kubernetes prints a Scale.
pub(crate) fn of_scale(scale: &Value, now: Timestamp, include: Include) -> Value {
    let column = |name: &str, kind: &str, format: &str, description: &str| json!({"name": name, "type": kind, "format": format, "priority": 0, "description": description});
    let created = &scale["metadata"]["creationTimestamp"];
    let object = match include {
        Include::None => Value::Null,
        Include::Object => scale.clone(),
        Include::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": scale["metadata"],
        }),
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": scale["metadata"]["resourceVersion"]},
        "columnDefinitions": [
            column("Name", "string", "name", "Name of the scaled object."),
            column("Desired", "integer", "", "How many replicas are wanted."),
            column("Available", "integer", "", "How many replicas there are."),
            column("Age", "string", "", "How long the scaled object exists."),
        ],
        "rows": [{
            "cells": [
                scale["metadata"]["name"], scale["spec"]["replicas"], scale["status"]["replicas"],
                duration::since(created.as_str().unwrap_or_default(), now),
            ],
            "object": object,
        }],
    })
}

pub(crate) fn metadata_of(object: &Object) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.at(&["metadata"]).cloned().unwrap_or_default(),
    })
}
