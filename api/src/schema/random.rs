//! Random objects of a type, for tests.

use serde_json::{Map, Value};

use super::{Field, ListType, Schema, Shape};

/// A small generator; the same seed gives the same object.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Few different names, so that two objects have much in common.
    fn name(&mut self) -> String {
        ["a", "b", "c"][self.below(3) as usize].to_owned()
    }

    pub(crate) fn value(&mut self, schema: &Schema, shape: &Shape, depth: usize) -> Value {
        let count = if depth == 0 { 0 } else { self.below(3) };
        match shape {
            Shape::String | Shape::Enum(_) | Shape::Duration => self.name().into(),
            Shape::Int32 | Shape::Int64 | Shape::IntOrString => self.below(3).into(),
            Shape::Float => (self.below(3) as f64 + 0.5).into(),
            Shape::Bool => (self.below(2) == 0).into(),
            Shape::Bytes => "aGk=".into(),
            Shape::Quantity => format!("{}m", self.below(3) * 500).into(),
            Shape::Time => "2024-01-01T00:00:00Z".into(),
            Shape::MicroTime => "2024-01-01T00:00:00.000001Z".into(),
            Shape::Fields | Shape::Any => serde_json::json!({self.name(): self.below(3)}),
            Shape::List(item) => (0..count).map(|_| self.value(schema, item, depth - 1)).collect(),
            Shape::Map(item) => {
                let entries =
                    (0..count).map(|_| (self.name(), self.value(schema, item, depth - 1)));
                Value::Object(entries.collect::<Vec<_>>().into_iter().collect())
            }
            Shape::Object(id) => {
                let mut map = Map::new();
                for field in schema.get(*id).fields() {
                    let is_nested = schema.type_below(&field.shape).is_some();
                    let chance = if field.is_required() { 1 } else { 4 };
                    if (depth > 0 || !is_nested)
                        && self.below(chance) == 0
                        && &*field.name != "managedFields"
                    {
                        let mut value = self.value(schema, &field.shape, depth.saturating_sub(1));
                        if let Value::Array(items) = &mut value {
                            tell_apart(schema, field, items);
                        }
                        map.insert(field.name.to_string(), value);
                    }
                }
                Value::Object(map)
            }
        }
    }
}

/// No two items of a list with keys are the same.
fn tell_apart(schema: &Schema, field: &Field, items: &mut Vec<Value>) {
    let keys = match &field.list_type {
        ListType::Map(keys) => &keys[..],
        _ => field.patch.merge_key.as_slice(),
    };
    let Some(of) = schema.type_below(&field.shape) else {
        items.sort_by_key(Value::to_string);
        items.dedup();
        return;
    };
    for (index, item) in items.iter_mut().enumerate() {
        for key in keys {
            item[&**key] = match of.field(key).map(|field| &field.shape) {
                Some(Shape::Int32 | Shape::Int64) => index.into(),
                _ => format!("k{index}").into(),
            };
        }
    }
}
