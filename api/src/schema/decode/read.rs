//! Reads one value along its shape.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Context, Path, Step};
use crate::schema::{Field, Schema, Shape, Type, TypeId, scalar};

/// Reads one value of a shape; `None` for a null.
#[derive(Clone, Copy)]
pub(super) struct Seed<'a, 's> {
    pub context: &'a Context<'s>,
    pub shape: &'a Shape,
    /// The innermost type that has the value in a field.
    pub owner: Option<&'a Type>,
    pub at: &'a Path<'a>,
}

impl<'a, 's> Seed<'a, 's> {
    fn fail<E: serde::de::Error>(&self, message: String) -> E {
        *self.context.error.borrow_mut() = Some(message);
        E::custom("")
    }

    fn mismatch<E: serde::de::Error>(&self, found: &str) -> E {
        let go_type = go_type(self.context.schema, self.shape);
        let message = match self.owner {
            None => format!("json: cannot unmarshal {found} into Go value of type {go_type}"),
            Some(owner) => {
                let mut fields = String::new();
                self.at.fields(&mut fields);
                let owner = owner.short_name();
                format!(
                    "json: cannot unmarshal {found} into Go struct field {owner}.{fields} of type {go_type}"
                )
            }
        };
        self.fail(message)
    }

    fn refused<E: serde::de::Error>(&self, why: &str) -> E {
        self.fail(format!("{}: {why}", self.at))
    }

    fn checked<'t, E: serde::de::Error>(
        &self,
        text: &'t str,
        check: fn(&'t str) -> Result<Cow<'t, str>, String>,
    ) -> Result<Option<Value>, E> {
        match check(text) {
            Ok(text) => Ok(Some(Value::String(text.into_owned()))),
            Err(why) => Err(self.refused(&why)),
        }
    }

    fn number<E: serde::de::Error>(&self, number: Number) -> Result<Option<Value>, E> {
        match self.shape {
            Shape::Int64 if number.is_i64() => Ok(Some(Value::Number(number))),
            Shape::Int32 | Shape::IntOrString
                if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                Ok(Some(Value::Number(number)))
            }
            Shape::Float | Shape::Any => Ok(Some(Value::Number(number))),
            Shape::Quantity => match scalar::quantity(&number.to_string()) {
                Ok(text) => Ok(Some(Value::String(text.into_owned()))),
                Err(why) => Err(self.refused(&why)),
            },
            Shape::Int32 | Shape::Int64 | Shape::IntOrString => {
                Err(self.mismatch(&format!("number {number}")))
            }
            _ => Err(self.mismatch("number")),
        }
    }

    /// What a null stands for in a list or a map: the zero of its type.
    fn zero(&self) -> Value {
        match self.shape {
            Shape::String | Shape::Enum(_) | Shape::Bytes | Shape::Duration => Value::from(""),
            Shape::Int32 | Shape::Int64 | Shape::IntOrString => Value::from(0),
            Shape::Float => Value::from(0.0),
            Shape::Bool => Value::from(false),
            Shape::Quantity => Value::from("0"),
            Shape::Object(_) | Shape::Fields => Value::Object(Map::new()),
            Shape::List(_) | Shape::Map(_) | Shape::Any | Shape::Time | Shape::MicroTime => {
                Value::Null
            }
        }
    }

    fn fields<'de, A: MapAccess<'de>>(
        &self,
        id: TypeId,
        mut entries: A,
    ) -> Result<Value, A::Error> {
        let of = self.context.schema.get(id);
        let mut map = Map::new();
        let mut nulls: Vec<&str> = Vec::new();
        while let Some(key) = entries.next_key_seed(Key(of))? {
            let field = match key {
                Ok(field) => field,
                Err(name) => {
                    self.context.strict("unknown", self.at, &name);
                    entries.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let at = self.at.to(Step::Field(&field.name));
            let seed = Seed { shape: &field.shape, owner: Some(of), at: &at, ..*self };
            let value = entries.next_value_seed(seed)?;
            let duplicate = match value {
                Some(value) if self.context.keep_zeros || !field.leaves_out(&value) => {
                    map.insert(field.name.to_string(), value).is_some()
                        || nulls.contains(&&*field.name)
                }
                // Rare, so that a list is cheap.
                _ => {
                    let seen = map.remove(&*field.name).is_some() || nulls.contains(&&*field.name);
                    nulls.push(&field.name);
                    seen
                }
            };
            if duplicate {
                self.context.strict("duplicate", self.at, &field.name);
            }
        }
        Ok(Value::Object(map))
    }
}

fn go_type(schema: &Schema, shape: &Shape) -> String {
    match shape {
        Shape::String | Shape::Duration => "string".to_owned(),
        Shape::Enum(id) => last(&schema.values(*id).name),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Float => "float64".to_owned(),
        Shape::Bool => "bool".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        Shape::Time => "v1.Time".to_owned(),
        Shape::MicroTime => "v1.MicroTime".to_owned(),
        Shape::Fields => "v1.FieldsV1".to_owned(),
        Shape::Any => "interface {}".to_owned(),
        Shape::Object(id) => last(&schema.get(*id).name),
        Shape::List(item) => format!("[]{}", go_type(schema, item)),
        Shape::Map(item) => format!("map[string]{}", go_type(schema, item)),
    }
}

/// `v1.Pod` of `core/v1.Pod`
fn last(name: &str) -> String {
    name.rsplit_once('/').map_or(name, |(_, last)| last).to_owned()
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Option<Value>, D::Error> {
        if matches!(self.shape, Shape::Any) {
            let value = <Value as serde::Deserialize>::deserialize(reader)?;
            return Ok(Some(value).filter(|value| !value.is_null()));
        }
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&go_type(self.context.schema, self.shape))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Option<Value>, E> {
        match self.shape {
            Shape::Bool => Ok(Some(Value::Bool(value))),
            _ => Err(self.mismatch("bool")),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Option<Value>, E> {
        self.number(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Option<Value>, E> {
        self.number(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Option<Value>, E> {
        match Number::from_f64(value) {
            Some(number) => self.number(number),
            None => Err(self.mismatch("number")),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Option<Value>, E> {
        match self.shape {
            Shape::String | Shape::Enum(_) | Shape::IntOrString | Shape::Duration => {
                Ok(Some(Value::String(text.to_owned())))
            }
            Shape::Quantity => self.checked(text, scalar::quantity),
            Shape::Time => self.checked(text, |text| scalar::time(text, 0)),
            Shape::MicroTime => self.checked(text, |text| scalar::time(text, 6)),
            Shape::Bytes => self.checked(text, scalar::base64),
            _ => Err(self.mismatch("string")),
        }
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Option<Value>, E> {
        match self.shape {
            Shape::String | Shape::Enum(_) => Ok(Some(Value::String(text))),
            _ => self.visit_str(&text),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Value>, A::Error> {
        let Shape::List(shape) = self.shape else { return Err(self.mismatch("array")) };
        let mut list = Vec::new();
        loop {
            let at = self.at.to(Step::Index(list.len()));
            let seed = Seed { shape, at: &at, ..self };
            match items.next_element_seed(seed)? {
                Some(value) => list.push(value.unwrap_or_else(|| seed.zero())),
                None => return Ok(Some(Value::Array(list))),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<Value>, A::Error> {
        match self.shape {
            Shape::Object(id) => self.fields(*id, entries).map(Some),
            Shape::Map(shape) => {
                let mut map = Map::new();
                while let Some(key) = entries.next_key::<String>()? {
                    let at = self.at.to(Step::Key(&key));
                    let seed = Seed { shape, at: &at, ..self };
                    let value = entries.next_value_seed(seed)?.unwrap_or_else(|| seed.zero());
                    if map.contains_key(&key) {
                        self.context.strict("duplicate", self.at, &key);
                    }
                    map.insert(key, value);
                }
                Ok(Some(Value::Object(map)))
            }
            Shape::Fields => {
                let mut map = Map::new();
                while let Some((key, value)) = entries.next_entry()? {
                    map.insert(key, value);
                }
                Ok(Some(Value::Object(map)))
            }
            _ => Err(self.mismatch("object")),
        }
    }
}

/// Finds the field without making a string of its name; an unknown name is the error.
struct Key<'a>(&'a Type);

impl<'de, 'a> DeserializeSeed<'de> for Key<'a> {
    type Value = Result<&'a Field, String>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Key<'a> {
    type Value = Result<&'a Field, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(name).ok_or_else(|| name.to_owned()))
    }
}
