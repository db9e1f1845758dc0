//! What the table calls "anything". Mostly a message that holds the bytes of JSON; in the JSON schemas of custom
//! resource definitions also a choice between a schema and something else.

use serde_json::{Map, Value};

use super::wire::{Out, Parts, Wire, text};
use super::{Fault, MAGIC, MAX_DEPTH, read, write};
use crate::schema::{Field, Schema, Type};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Raw,
    SchemaOrBool,
    SchemaOrList,
    SchemaOrStrings,
}

const JSON_SCHEMA: &str = "apiextensions/v1.JSONSchemaProps";

pub(super) fn form(of: &Type, field: &Field) -> Form {
    match (&*of.name, &*field.name) {
        (JSON_SCHEMA, "additionalItems" | "additionalProperties") => Form::SchemaOrBool,
        (JSON_SCHEMA, "items") => Form::SchemaOrList,
        (JSON_SCHEMA, "dependencies") => Form::SchemaOrStrings,
        _ => Form::Raw,
    }
}

pub(super) fn read(
    schema: &Schema,
    form: Form,
    bytes: &[u8],
    depth: usize,
) -> Result<Value, Fault> {
    if form == Form::Raw {
        return raw(read::bytes_at(bytes, 1)?, depth);
    }
    let (mut allows, mut one, mut many) = (false, None, Vec::new());
    for part in Parts(bytes) {
        match (form, part?) {
            (Form::SchemaOrBool, (1, Wire::Varint(value))) => allows = value != 0,
            (Form::SchemaOrBool, (2, Wire::Bytes(bytes)))
            | (Form::SchemaOrList | Form::SchemaOrStrings, (1, Wire::Bytes(bytes))) => {
                one = Some(json_schema(schema, bytes, depth)?);
            }
            (Form::SchemaOrList, (2, Wire::Bytes(bytes))) => {
                many.push(json_schema(schema, bytes, depth)?);
            }
            (Form::SchemaOrStrings, (2, Wire::Bytes(bytes))) => many.push(text(bytes)?.into()),
            _ => {}
        }
    }
    Ok(match (form, one) {
        (Form::SchemaOrBool, None) => allows.into(),
        (Form::SchemaOrBool, Some(one)) => one,
        _ if !many.is_empty() => many.into(),
        (_, one) => one.unwrap_or_default(),
    })
}

/// JSON, or another body with an envelope, as in events of a watch.
fn raw(bytes: &[u8], depth: usize) -> Result<Value, Fault> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    if bytes.starts_with(MAGIC) {
        return super::decode_below(bytes, "", "", depth + 1)
            .map_err(|error| Fault::new(error.to_string()));
    }
    serde_json::from_slice(bytes).map_err(|error| Fault::new(format!("invalid JSON: {error}")))
}

fn json_schema(schema: &Schema, bytes: &[u8], depth: usize) -> Result<Value, Fault> {
    let mut tree = Map::new();
    read::message(schema, of_schema(schema)?, bytes, &mut tree, depth + 1)?;
    Ok(Value::Object(tree))
}

fn of_schema(schema: &Schema) -> Result<&Type, Fault> {
    schema.named(JSON_SCHEMA).ok_or_else(|| Fault::new("the table has no JSON schemas"))
}

pub(super) fn write(
    schema: &Schema,
    form: Form,
    value: &Value,
    out: &mut Out,
    depth: usize,
) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::new("nested too deep"));
    }
    let nested = |out: &mut Out, number, value: &Value| {
        let Value::Object(tree) = value else { return Err(Fault::new("must be a schema")) };
        let of = of_schema(schema)?;
        out.nested(number, |out| write::message(schema, of, tree, out, depth + 1))
    };
    match (form, value) {
        (Form::Raw, Value::Null) => {}
        (Form::Raw, value) => {
            let json = serde_json::to_vec(value).map_err(|error| Fault::new(error.to_string()))?;
            out.bytes(1, &json);
        }
        (Form::SchemaOrBool, Value::Bool(allows)) => out.varint(1, u64::from(*allows)),
        (Form::SchemaOrBool, value) => {
            out.varint(1, 1);
            nested(out, 2, value)?;
        }
        (Form::SchemaOrList, Value::Array(items)) => {
            for item in items {
                nested(out, 2, item)?;
            }
        }
        (Form::SchemaOrStrings, Value::Array(items)) => {
            for item in items {
                let item = item.as_str().ok_or_else(|| Fault::new("must be a string"))?;
                out.bytes(2, item.as_bytes());
            }
        }
        (_, Value::Null) => {}
        (_, value) => nested(out, 1, value)?,
    }
    Ok(())
}
