//! Whether a configuration is of its type, as server-side apply asks before it merges. The words are those of
//! sigs.k8s.io/structured-merge-diff (`typed/validate.go`) and of k8s.io/apimachinery (`managedfields`).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::fields::{self, Mode};
use super::set;
use crate::schema::{Field, ListType, Schema, Shape, Type};

/// Every way in which the map is not of the type, with its path; empty where it is.
pub(super) fn errors(schema: &Schema, of: &Type, map: &Map<String, Value>) -> Vec<String> {
    let mut found = Found { schema, errors: Vec::new() };
    found.fields(of, map, "");
    found.errors
}

/// What a client is told.
pub(super) fn told(map: &Map<String, Value>, errors: &[String]) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let meta = |field: &str| text(map.get("metadata").and_then(|meta| meta.get(field)));
    let api_version = text(map.get("apiVersion"));
    let group_version = match api_version.contains('/') {
        true => api_version,
        false => format!("/{api_version}"),
    };
    let list = match errors {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    format!(
        "failed to create typed patch object ({}/{}; {group_version}, Kind={}): {list}",
        meta("namespace"),
        meta("name"),
        text(map.get("kind"))
    )
}

struct Found<'s> {
    schema: &'s Schema,
    errors: Vec<String>,
}

impl<'s> Found<'s> {
    fn fields(&mut self, of: &'s Type, map: &Map<String, Value>, at: &str) {
        for (key, value) in map {
            let path = format!("{at}.{key}");
            match of.field(key) {
                None => self.errors.push(format!("{path}: field not declared in schema")),
                Some(field) => self.value(&field.shape, Some(field), value, &path),
            }
        }
    }

    fn value(&mut self, shape: &'s Shape, field: Option<&'s Field>, value: &Value, at: &str) {
        match (shape, value) {
            (Shape::Object(id), Value::Object(map)) => {
                self.fields(self.schema.get(*id), map, at);
            }
            (Shape::Map(item), Value::Object(map)) => {
                for (key, value) in map {
                    self.value(item, None, value, &format!("{at}.{key}"));
                }
            }
            (Shape::List(item), Value::Array(items)) => {
                self.unique(shape, field, items, at);
                for (index, value) in items.iter().enumerate() {
                    let element = match field.map(|field| &field.list_type) {
                        Some(ListType::Map(keys)) => {
                            fields::key_element(self.schema, keys, item, value)
                        }
                        _ => None,
                    };
                    let element = element.unwrap_or_else(|| format!("i:{index}"));
                    self.value(item, None, value, &format!("{at}{}", set::shown(&element)));
                }
            }
            (Shape::String | Shape::Enum(_), Value::Bool(_) | Value::Number(_)) => {
                let shown = format!("&value.valueUnstructured{{Value:{value}}}");
                self.errors.push(format!("{at}: expected string, got {shown}"));
            }
            _ => {}
        }
    }

    /// Every item of a keyed list has its keys, and no two are the same.
    fn unique(&mut self, shape: &'s Shape, field: Option<&'s Field>, items: &[Value], at: &str) {
        let mode = fields::mode(self.schema, shape, field);
        let mut seen = HashSet::new();
        for (index, value) in items.iter().enumerate() {
            let element = match &mode {
                Mode::Set => Some(format!("v:{value}")),
                Mode::Keyed { keys, item } => {
                    let element = fields::key_element(self.schema, keys, item, value);
                    if element.is_none() {
                        let key = keys.first().map_or("", |key| &**key);
                        self.errors.push(format!(
                            "{at}: element {index}: associative list with keys has an element that \
                             omits key field {key:?} (and doesn't have default value)"
                        ));
                    }
                    element
                }
                _ => return,
            };
            if let Some(element) = element
                && !seen.insert(element.clone())
            {
                let shown = set::shown(&element);
                self.errors.push(format!("{at}: duplicate entries for key {shown}"));
            }
        }
    }
}
