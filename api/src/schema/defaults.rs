//! Defaults that the table itself carries. What depends on other fields is the kinds' own.

use serde_json::{Map, Value};

use super::{Field, Schema, Shape, Type};

/// Fills in every default of the table whose parent exists. A type that the table does not have is left alone.
pub fn apply_defaults(schema: &Schema, type_name: &str, object: &mut Map<String, Value>) {
    if let Some(found) = schema.named(type_name) {
        in_object(schema, found, object);
    }
}

/// The default that must be written: not the zero of a field that says nothing when it is zero.
pub(super) fn written_default(field: &Field) -> Option<&Value> {
    field.default.as_ref().filter(|value| field.pointer || !is_zero(value))
}

/// What Go's `omitempty` leaves out, of a field that is no pointer.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn in_object(schema: &Schema, of: &Type, object: &mut Map<String, Value>) {
    if !of.has_defaults {
        return;
    }
    for field in of.fields() {
        if let Some(default) = written_default(field) {
            match object.get_mut(&*field.name) {
                None => _ = object.insert(field.name.to_string(), default.clone()),
                Some(value) if value.is_null() || !field.pointer && is_zero(value) => {
                    *value = default.clone();
                }
                Some(_) => {}
            }
        } else if let Some(value) = object.get_mut(&*field.name) {
            in_value(schema, &field.shape, value);
        }
    }
}

fn in_value(schema: &Schema, shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Object(id), Value::Object(map)) => in_object(schema, schema.get(*id), map),
        (Shape::List(item), Value::Array(items)) if schema.type_below(item).is_some() => {
            items.iter_mut().for_each(|value| in_value(schema, item, value));
        }
        (Shape::Map(item), Value::Object(map)) if schema.type_below(item).is_some() => {
            map.values_mut().for_each(|value| in_value(schema, item, value));
        }
        _ => {}
    }
}
