//! Reading manifests, from files and from messages.
//!
//! A text has one or more documents, in YAML or JSON, each an object in Kubernetes' form, a list of such, or a pod in
//! the form `version: v0`. Nothing is defaulted or validated here beyond the types of the fields.

mod command;
mod v0;

use std::net::IpAddr;

use serde_json::{Map, Value};

pub use command::{Command, commands};

use crate::schema::{self, Check, FieldValidation, Schema, Shape};
use crate::{Kind, Object, Registry, yaml};

/// The annotation that keeps a name as it was written, where it had to be changed to be one.
pub const ORIGINAL_NAME: &str = "warren.dev/original-name";
/// The answer to a repetition of a message that would make a second object.
pub const MADE_ALREADY: &str =
    "the same message without a message_id came within ten minutes: no second object is made";

/// One object of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub object: Object,
    /// The line, from 1, on which its document begins.
    pub line: usize,
    /// The address that a `version: v0` pod asks for. Whether it is one of the host's, only the host can say; `0.0.0.0`
    /// and `::` are any.
    pub ip: Option<IpAddr>,
    /// Unknown fields, which were dropped.
    pub warnings: Vec<String>,
}

/// Why a text was refused. No object of it is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", if *line > 0 { format!("line {line}: ") } else { String::new() })]
pub struct ManifestError {
    /// From 1: of the error where that is known, else of the document; 0 where neither is.
    pub line: usize,
    /// Names the field where there is one.
    pub reason: String,
}

/// An object of a text in Kubernetes' form, as it was written: not read along its type, so that who hands it on can have
/// all of it checked there, and kinds may be ones that are not built in.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    pub object: Map<String, Value>,
    pub line: usize,
    /// As in [`Manifest`].
    pub ip: Option<IpAddr>,
    /// It was written as `version: v0`.
    pub is_v0: bool,
}

/// The objects of a text, in its order; lists are taken apart.
///
/// # Errors
/// The first of: not YAML, not an object, an unknown kind, a field of a wrong type. A text without any object is no
/// error here.
pub fn read(registry: &Registry, text: &str) -> Result<Vec<Manifest>, ManifestError> {
    each(text, &mut |raw| typed(registry, raw))
}

/// As [`read`], but whether kinds and fields are known is left to others.
///
/// # Errors
/// The first of: not YAML, not an object, a `version: v0` that is no pod.
pub fn read_raw(registry: &Registry, text: &str) -> Result<Vec<Raw>, ManifestError> {
    each(text, &mut |mut raw| {
        let text = |key: &str| raw.object.get(key).and_then(Value::as_str).unwrap_or_default();
        if let Some(kind) = registry.by_kind(text("apiVersion"), text("kind")) {
            let mut value = Value::Object(raw.object);
            octal(kind, &mut value);
            let Value::Object(object) = value else { return Err("not a map".to_owned().into()) };
            raw.object = object;
        }
        Ok(raw)
    })
}

/// Goes through the objects of a text.
fn each<T>(
    text: &str,
    take: &mut dyn FnMut(Raw) -> Result<T, Refused>,
) -> Result<Vec<T>, ManifestError> {
    let documents = yaml::parse(text)
        .map_err(|error| ManifestError { line: error.line, reason: error.message })?;
    let mut found = Vec::with_capacity(documents.len());
    for document in documents {
        let value = document.value.clone();
        from_value(value, document.line, take, &mut found).map_err(|refused| {
            let line = refused.kind.and_then(|kind| {
                let schema = schema::builtin();
                let type_id = schema.find(kind.schema_type())?;
                document.line_of_failure(Check { schema, type_id })
            });
            ManifestError { line: line.unwrap_or(document.line), reason: refused.reason }
        })?;
    }
    Ok(found)
}

struct Refused {
    reason: String,
    /// The document can be read again along this kind to find the line.
    kind: Option<&'static dyn Kind>,
}

impl From<String> for Refused {
    fn from(reason: String) -> Self {
        Self { reason, kind: None }
    }
}

fn from_value<T>(
    value: Value,
    line: usize,
    take: &mut dyn FnMut(Raw) -> Result<T, Refused>,
    found: &mut Vec<T>,
) -> Result<(), Refused> {
    let Value::Object(map) = value else {
        return Err(format!("an object is wanted, not {}", kind_of(&value)).into());
    };
    if map.contains_key("version") && !map.contains_key("apiVersion") {
        let (object, ip) = v0::pod(map)?;
        let raw = Raw { object, line, ip, is_v0: true };
        found.push(take(raw).map_err(|refused| Refused { kind: None, ..refused })?);
        return Ok(());
    }
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let Some(item_kind) = kind.strip_suffix("List").filter(|_| map.contains_key("items")) else {
        found.push(take(Raw { object: map, line, ip: None, is_v0: false })?);
        return Ok(());
    };
    let Some(Value::Array(items)) = map.get("items") else {
        return Err("items: a list is wanted".to_owned().into());
    };
    for (index, item) in items.iter().enumerate() {
        let mut item = item.clone();
        if let (Value::Object(item), false) = (&mut item, item_kind.is_empty()) {
            // The items of a PodList need not say that they are pods.
            item.entry("apiVersion").or_insert_with(|| api_version.as_str().into());
            item.entry("kind").or_insert_with(|| item_kind.into());
        }
        from_value(item, line, take, found)
            .map_err(|refused| format!("items[{index}]: {}", refused.reason))?;
    }
    Ok(())
}

/// Reads a map along the type of the kind that it names.
fn typed(registry: &Registry, raw: Raw) -> Result<Manifest, Refused> {
    let Raw { object: map, line, ip, .. } = raw;
    let text = |key: &str| match map.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
        Some(Value::String(_)) | None => Err(format!("{key}: Required value")),
        Some(other) => Err(format!("{key}: a text is wanted, not {}", kind_of(other))),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let kind = registry
        .by_kind(api_version, kind)
        .ok_or_else(|| format!("no matches for kind {kind:?} in version {api_version:?}"))?;
    let mut value = Value::Object(map);
    octal(kind, &mut value);
    let (object, warnings) =
        schema::decode(schema::builtin(), kind.schema_type(), value, FieldValidation::Warn)
            .map_err(|error| Refused { reason: error.to_string(), kind: Some(kind) })?;
    Ok(Manifest { object, line, ip, warnings })
}

fn octal(kind: &dyn Kind, value: &mut Value) {
    let schema = schema::builtin();
    if let Some(id) = schema.find(kind.schema_type()) {
        read_octal(schema, &Shape::Object(id), value);
    }
}

/// `defaultMode: 0644` is a number in YAML 1.1, in which people write manifests, and a string in YAML 1.2.
fn read_octal(schema: &Schema, shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Int32, value) => {
            let digits = value.as_str().and_then(|text| text.strip_prefix('0'));
            if let Some(number) = digits.and_then(|digits| i32::from_str_radix(digits, 8).ok()) {
                *value = number.into();
            }
        }
        (Shape::Object(id), Value::Object(map)) => {
            let of = schema.get(*id);
            for (key, value) in map {
                if let Some(field) = of.field(key) {
                    read_octal(schema, &field.shape, value);
                }
            }
        }
        (Shape::List(item), Value::Array(items)) => {
            items.iter_mut().for_each(|value| read_octal(schema, item, value));
        }
        (Shape::Map(item), Value::Object(map)) => {
            map.values_mut().for_each(|value| read_octal(schema, item, value));
        }
        _ => {}
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

#[cfg(test)]
mod tests;
