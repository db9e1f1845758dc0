//! From messages to trees.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::any::{self, Form};
use super::wire::{Parts, Wire, text};
use super::{Fault, MAX_DEPTH, scalar};
use crate::schema::{Field, Schema, Shape, Type};

/// Reads a message of a type into a tree. Unknown fields are skipped; a message that comes twice is merged.
pub(super) fn message(
    schema: &Schema,
    of: &Type,
    bytes: &[u8],
    tree: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Fault> {
    level(schema, of, &mut Vec::new(), bytes, tree, depth)
}

/// The fields of the type that are in the message that is embedded at `within`.
fn level(
    schema: &Schema,
    of: &Type,
    within: &mut Vec<u32>,
    bytes: &[u8],
    tree: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::new("nested too deep"));
    }
    for part in Parts(bytes) {
        let (number, wire) = part?;
        within.push(number);
        if let Some(field) = of.field_at(within) {
            value(schema, of, field, wire, tree, depth)
                .map_err(|fault| fault.below(&field.name))?;
        } else if let Wire::Bytes(bytes) = wire
            && of.embeds(within)
        {
            level(schema, of, within, bytes, tree, depth + 1)?;
        }
        within.pop();
    }
    Ok(())
}

fn value(
    schema: &Schema,
    of: &Type,
    field: &Field,
    wire: Wire<'_>,
    tree: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Fault> {
    let reader = Reader { schema, form: any::form(of, field), depth };
    match &field.shape {
        Shape::List(item) => {
            let entry = tree.entry(&*field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = entry else { return Err(wrong()) };
            if field.proto.is_some_and(|proto| proto.repeated) {
                reader.items(item, wire, list)
            } else {
                // A named list is a message that holds the items.
                let Wire::Bytes(bytes) = wire else { return Err(wrong()) };
                Parts(bytes).try_for_each(|part| match part? {
                    (1, wire) => reader.items(item, wire, list),
                    _ => Ok(()),
                })
            }
        }
        Shape::Map(item) => {
            let Wire::Bytes(bytes) = wire else { return Err(wrong()) };
            let (mut key, mut found) = ("", None);
            for part in Parts(bytes) {
                match part? {
                    (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                    (2, wire) => found = Some(wire),
                    _ => {}
                }
            }
            let found = match found {
                Some(wire) => reader.single(item, wire).map_err(|fault| fault.below(key))?,
                None => reader.zero(item)?,
            };
            let entry = tree.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = entry else { return Err(wrong()) };
            map.insert(key.to_owned(), found);
            Ok(())
        }
        Shape::Object(id) => {
            let Wire::Bytes(bytes) = wire else { return Err(wrong()) };
            let entry = tree.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = entry else { return Err(wrong()) };
            message(schema, schema.get(*id), bytes, map, depth + 1)
        }
        shape => {
            let found = reader.single(shape, wire)?;
            if found.is_null() || is_left_out(field, &found) {
                tree.remove(&*field.name);
            } else {
                tree.insert(field.name.to_string(), found);
            }
            Ok(())
        }
    }
}

/// What Go's `omitempty` leaves out of JSON; structs never are.
fn is_left_out(field: &Field, found: &Value) -> bool {
    let is_plain = matches!(
        field.shape,
        Shape::String
            | Shape::Enum(_)
            | Shape::Int32
            | Shape::Int64
            | Shape::Float
            | Shape::Bool
            | Shape::Bytes
    );
    let is_zero = match found {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(flag) => !flag,
        _ => false,
    };
    is_plain && is_zero && field.omit_empty && !field.pointer
}

fn wrong() -> Fault {
    Fault::new("the wire type is not that of the field")
}

#[derive(Clone, Copy)]
struct Reader<'s> {
    schema: &'s Schema,
    form: Form,
    depth: usize,
}

impl Reader<'_> {
    /// One item of a list, or a packed run of numbers.
    fn items(self, item: &Shape, wire: Wire<'_>, list: &mut Vec<Value>) -> Result<(), Fault> {
        let Wire::Bytes(bytes) = wire else {
            list.push(self.single(item, wire)?);
            return Ok(());
        };
        let mut parts = Parts(bytes);
        match item {
            Shape::Int32 | Shape::Int64 | Shape::Bool => {
                while !parts.0.is_empty() {
                    let number = parts.varint()?;
                    list.push(self.single(item, Wire::Varint(number))?);
                }
            }
            Shape::Float => {
                while !parts.0.is_empty() {
                    let bits = parts.fixed64()?;
                    list.push(self.single(item, Wire::Fixed64(bits))?);
                }
            }
            item => {
                let found = self.single(item, wire);
                list.push(found.map_err(|fault| fault.below(&format!("[{}]", list.len())))?);
            }
        }
        Ok(())
    }

    /// What an absent value of a map's entry is.
    fn zero(self, shape: &Shape) -> Result<Value, Fault> {
        match shape {
            Shape::Int32 | Shape::Int64 | Shape::Bool => self.single(shape, Wire::Varint(0)),
            Shape::Float => self.single(shape, Wire::Fixed64(0)),
            shape => self.single(shape, Wire::Bytes(&[])),
        }
    }

    fn single(self, shape: &Shape, wire: Wire<'_>) -> Result<Value, Fault> {
        Ok(match (shape, wire) {
            (Shape::String | Shape::Enum(_), Wire::Bytes(bytes)) => text(bytes)?.into(),
            // As Go does: the low bits.
            (Shape::Int32, Wire::Varint(number)) => (number as u32).cast_signed().into(),
            (Shape::Int64, Wire::Varint(number)) => number.cast_signed().into(),
            (Shape::Bool, Wire::Varint(number)) => (number != 0).into(),
            (Shape::Float, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            (Shape::Float, Wire::Fixed32(bits)) => f64::from(f32::from_bits(bits)).into(),
            (Shape::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Shape::Quantity, Wire::Bytes(bytes)) => match text(bytes_at(bytes, 1)?)? {
                "" => "0".into(),
                quantity => quantity.into(),
            },
            (Shape::Time | Shape::MicroTime, Wire::Bytes(bytes)) => {
                // An empty message is no time.
                if bytes.is_empty() {
                    return Ok(Value::Null);
                }
                let digits = if *shape == Shape::Time { 0 } else { 6 };
                let seconds = varint_at(bytes, 1)?.cast_signed();
                let nanos = (varint_at(bytes, 2)? as u32).cast_signed();
                scalar::instant(seconds, nanos.into(), digits)?.into()
            }
            (Shape::Duration, Wire::Bytes(bytes)) => {
                scalar::duration(varint_at(bytes, 1)?.cast_signed()).into()
            }
            (Shape::IntOrString, Wire::Bytes(bytes)) => match varint_at(bytes, 1)? {
                0 => (varint_at(bytes, 2)? as u32).cast_signed().into(),
                1 => text(bytes_at(bytes, 3)?)?.into(),
                _ => return Err(Fault::new("must be an integer or a string")),
            },
            (Shape::Fields, Wire::Bytes(bytes)) => {
                any::read(self.schema, Form::Raw, bytes, self.depth + 1)?
            }
            (Shape::Any, Wire::Bytes(bytes)) => {
                any::read(self.schema, self.form, bytes, self.depth)?
            }
            (Shape::Object(id), Wire::Bytes(bytes)) => {
                let mut tree = Map::new();
                let of = self.schema.get(*id);
                message(self.schema, of, bytes, &mut tree, self.depth + 1)?;
                Value::Object(tree)
            }
            // A list within a map is a message that holds its items.
            (Shape::List(item), Wire::Bytes(bytes)) => {
                let mut list = Vec::new();
                let deeper = Self { depth: self.depth + 1, ..self };
                for part in Parts(bytes) {
                    if let (1, wire) = part? {
                        deeper.items(item, wire, &mut list)?;
                    }
                }
                Value::Array(list)
            }
            _ => return Err(wrong()),
        })
    }
}

/// The last value of a field; empty where it is absent.
pub(super) fn bytes_at(bytes: &[u8], wanted: u32) -> Result<&[u8], Fault> {
    let mut found: &[u8] = &[];
    for part in Parts(bytes) {
        if let (number, Wire::Bytes(value)) = part?
            && number == wanted
        {
            found = value;
        }
    }
    Ok(found)
}

fn varint_at(bytes: &[u8], wanted: u32) -> Result<u64, Fault> {
    let mut found = 0;
    for part in Parts(bytes) {
        if let (number, Wire::Varint(value)) = part?
            && number == wanted
        {
            found = value;
        }
    }
    Ok(found)
}
