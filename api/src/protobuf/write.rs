//! From trees to messages, byte for byte as Kubernetes writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::any::{self, Form};
use super::wire::Out;
use super::{Fault, MAX_DEPTH, scalar};
use crate::schema::{Field, Schema, Shape, Type};

/// Writes the fields of a type. What the type does not have is not written.
pub(super) fn message(
    schema: &Schema,
    of: &Type,
    tree: &Map<String, Value>,
    out: &mut Out,
    depth: usize,
) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::new("nested too deep"));
    }
    level(schema, of, of.in_wire_order(), 0, tree, out, depth)
}

/// Fields that share the first `level` numbers of their place, in order.
fn level(
    schema: &Schema,
    of: &Type,
    mut places: &[u16],
    level: usize,
    tree: &Map<String, Value>,
    out: &mut Out,
    depth: usize,
) -> Result<(), Fault> {
    while let Some((first, rest)) = places.split_first() {
        let field = of.place(*first);
        let Some(path) = field.proto.map(|proto| proto.path()) else { return Ok(()) };
        let number = path[level];
        if path.get(level + 1).is_none_or(|next| *next == 0) {
            let writer = Writer { schema, form: any::form(of, field), depth };
            writer
                .field(field, number, tree.get(&*field.name), out)
                .map_err(|fault| fault.below(&field.name))?;
            places = rest;
            continue;
        }
        // An embedded message is written also where it is empty.
        let shares = |at: &u16| of.place(*at).proto.is_some_and(|p| p.path()[level] == number);
        let count = places.iter().take_while(|at| shares(at)).count();
        let (embedded, rest) = places.split_at(count);
        out.nested(number, |out| {
            self::level(schema, of, embedded, level + 1, tree, out, depth + 1)
        })?;
        places = rest;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Writer<'s> {
    schema: &'s Schema,
    form: Form,
    depth: usize,
}

fn wrong(expected: &str) -> Fault {
    Fault::new(format!("must be {expected}"))
}

impl Writer<'_> {
    fn field(
        self,
        field: &Field,
        number: u32,
        value: Option<&Value>,
        out: &mut Out,
    ) -> Result<(), Fault> {
        let value = value.filter(|value| !value.is_null());
        match (&field.shape, value) {
            (Shape::List(_) | Shape::Map(_) | Shape::Bytes, None) => Ok(()),
            (Shape::List(item), Some(value)) => {
                let Value::Array(items) = value else { return Err(wrong("a list")) };
                if field.proto.is_some_and(|proto| proto.repeated) {
                    self.items(item, number, items, out)
                } else {
                    out.nested(number, |out| self.items(item, 1, items, out))
                }
            }
            (Shape::Map(item), Some(value)) => {
                let Value::Object(map) = value else { return Err(wrong("a map")) };
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in entries {
                    out.nested(number, |out| {
                        out.bytes(1, key.as_bytes());
                        self.single(item, 2, value, out)
                    })
                    .map_err(|fault| fault.below(key))?;
                }
                Ok(())
            }
            (_, None) if field.pointer => Ok(()),
            (shape, value) => self.single(shape, number, value.unwrap_or(&Value::Null), out),
        }
    }

    fn items(self, item: &Shape, number: u32, items: &[Value], out: &mut Out) -> Result<(), Fault> {
        items.iter().enumerate().try_for_each(|(index, value)| {
            self.single(item, number, value, out)
                .map_err(|fault| fault.below(&format!("[{index}]")))
        })
    }

    /// Null is the zero of the type.
    fn single(self, shape: &Shape, number: u32, value: &Value, out: &mut Out) -> Result<(), Fault> {
        let schema = self.schema;
        match shape {
            Shape::String | Shape::Enum(_) => out.bytes(number, text(value)?.as_bytes()),
            Shape::Int32 | Shape::Int64 => out.varint(number, int(value)?.cast_unsigned()),
            Shape::Bool => {
                let flag = match value {
                    Value::Null => false,
                    value => value.as_bool().ok_or_else(|| wrong("a boolean"))?,
                };
                out.varint(number, u64::from(flag));
            }
            Shape::Float => {
                let float = match value {
                    Value::Null => 0.0,
                    value => value.as_f64().ok_or_else(|| wrong("a number"))?,
                };
                out.fixed64(number, float.to_bits());
            }
            Shape::Bytes => {
                let bytes = STANDARD.decode(text(value)?).map_err(|_| wrong("base64"))?;
                out.bytes(number, &bytes);
            }
            Shape::Quantity => out.nested(number, |out| {
                let quantity = match value {
                    Value::Null => "0".into(),
                    Value::Number(number) => number.to_string().into(),
                    value => std::borrow::Cow::from(text(value)?),
                };
                out.bytes(1, quantity.as_bytes());
                Ok(())
            })?,
            Shape::Time | Shape::MicroTime => out.nested(number, |out| {
                if !value.is_null() {
                    let (seconds, nanos) = scalar::parts_of_instant(text(value)?)?;
                    out.varint(1, seconds.cast_unsigned());
                    out.varint(2, nanos.cast_unsigned());
                }
                Ok(())
            })?,
            Shape::Duration => out.nested(number, |out| {
                out.varint(1, scalar::nanos_of_duration(text(value)?)?.cast_unsigned());
                Ok(())
            })?,
            Shape::IntOrString => out.nested(number, |out| {
                let (kind, int, text) = match value {
                    Value::String(text) => (1, 0, text.as_str()),
                    value => (0, int(value)?, ""),
                };
                out.varint(1, kind);
                out.varint(2, int.cast_unsigned());
                out.bytes(3, text.as_bytes());
                Ok(())
            })?,
            Shape::Fields | Shape::Any => {
                let form = if *shape == Shape::Any { self.form } else { Form::Raw };
                out.nested(number, |out| any::write(schema, form, value, out, self.depth))?;
            }
            Shape::Object(id) => out.nested(number, |out| {
                let of = schema.get(*id);
                match value {
                    Value::Null => message(schema, of, &Map::new(), out, self.depth + 1),
                    Value::Object(tree) => message(schema, of, tree, out, self.depth + 1),
                    _ => Err(wrong("an object")),
                }
            })?,
            Shape::List(item) => out.nested(number, |out| match value {
                Value::Null => Ok(()),
                Value::Array(items) => self.items(item, 1, items, out),
                _ => Err(wrong("a list")),
            })?,
            Shape::Map(_) => return Err(Fault::new("a map of maps has no protobuf form")),
        }
        Ok(())
    }
}

fn text(value: &Value) -> Result<&str, Fault> {
    match value {
        Value::Null => Ok(""),
        value => value.as_str().ok_or_else(|| wrong("a string")),
    }
}

fn int(value: &Value) -> Result<i64, Fault> {
    match value {
        Value::Null => Ok(0),
        value => value.as_i64().ok_or_else(|| wrong("an integer")),
    }
}
