//! Reads JSON along the table of types: one pass, straight into the tree.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Field, Schema, Shape, Type, TypeId, defaults::is_zero, scalar};
use crate::{Object, Reason, Status};

/// The most bytes that [`decode_slice`] reads; Kubernetes' bound for a request.
pub const MAX_OBJECT_BYTES: usize = 3 << 20;

/// The most unknown and duplicate fields that are named; more are counted.
const MAX_STRICT_ERRORS: usize = 100;

/// What happens to unknown and duplicate fields; the query parameter `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    /// They are dropped, and named in the warnings. What a request gets that does not ask.
    #[default]
    Warn,
    Strict,
}

impl std::str::FromStr for FieldValidation {
    type Err = String;

    /// The empty string is the default.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "Ignore" => Ok(Self::Ignore),
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            _ => Err(format!(
                "fieldValidation: Unsupported value: {text:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            )),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the object has {bytes} bytes, more than the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// Not JSON, or nested too deep (128); names line and column.
    #[error("invalid JSON: {0}")]
    Syntax(String),
    /// A value of the wrong type; names the field.
    #[error("{0}")]
    Type(String),
    /// Unknown and duplicate fields where [`FieldValidation::Strict`] was asked for.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    #[error("no such type: {0}")]
    UnknownType(String),
}

impl DecodeError {
    /// The answer of a server that was to read a `kind` (`Pod`) of `api_version` (`v1`).
    pub fn status(&self, api_version: &str, kind: &str) -> Status {
        match self {
            DecodeError::TooLarge { .. } => {
                Status::new(Reason::RequestEntityTooLarge, self.to_string())
            }
            DecodeError::UnknownType(_) => Status::internal(self.to_string()),
            _ => Status::bad_request(format!(
                "{kind} in version {api_version:?} cannot be handled as a {kind}: {self}"
            )),
        }
    }
}

/// Reads an object from JSON text. The second result is a warning for every unknown and duplicate field.
///
/// As Kubernetes reads: names are case-sensitive; nulls, and zeros of fields that are left out when they are zero, are
/// dropped; unknown fields are dropped; of a duplicate the last value stays; instants and base64 get their canonical
/// form.
pub fn decode_slice(
    schema: &Schema,
    type_name: &str,
    json: &[u8],
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), DecodeError> {
    if json.len() > MAX_OBJECT_BYTES {
        return Err(DecodeError::TooLarge { bytes: json.len(), limit: MAX_OBJECT_BYTES });
    }
    let context = Context::new(schema, false, validation);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let object = context.object(type_name, &mut reader)?;
    reader.end().map_err(|error| DecodeError::Syntax(error.to_string()))?;
    context.finish(object)
}

/// As [`decode_slice`], of a tree (in which duplicates are gone already).
pub fn decode(
    schema: &Schema,
    type_name: &str,
    value: Value,
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), DecodeError> {
    let context = Context::new(schema, false, validation);
    let object = context.object(type_name, value)?;
    context.finish(object)
}

/// As [`decode`], but zeros stay: whoever applies `hostNetwork: false` owns the field.
pub fn decode_keeping_zeros(
    schema: &Schema,
    type_name: &str,
    value: Value,
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), DecodeError> {
    let context = Context::new(schema, true, validation);
    let object = context.object(type_name, value)?;
    context.finish(object)
}

/// Reads an object only to see where it fails.
pub(crate) struct Check<'s> {
    pub schema: &'s Schema,
    pub type_id: TypeId,
}

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        let context = Context::new(self.schema, false, FieldValidation::Ignore);
        let at = Path { parent: None, step: Step::Root };
        let shape = Shape::Object(self.type_id);
        Seed { context: &context, shape: &shape, owner: None, at: &at }
            .deserialize(reader)
            .map(drop)
    }
}

struct Context<'s> {
    schema: &'s Schema,
    keep_zeros: bool,
    validation: FieldValidation,
    /// The first type error; serde's own would add a position that means nothing for a tree.
    error: RefCell<Option<String>>,
    strict: RefCell<Vec<String>>,
}

impl<'s> Context<'s> {
    fn new(schema: &'s Schema, keep_zeros: bool, validation: FieldValidation) -> Self {
        Self {
            schema,
            keep_zeros,
            validation,
            error: RefCell::default(),
            strict: RefCell::default(),
        }
    }

    fn object<'de, D: Deserializer<'de>>(
        &self,
        type_name: &str,
        reader: D,
    ) -> Result<Object, DecodeError>
    where
        D::Error: fmt::Display,
    {
        let id = self
            .schema
            .find(type_name)
            .ok_or_else(|| DecodeError::UnknownType(type_name.to_owned()))?;
        let at = Path { parent: None, step: Step::Root };
        let seed = Seed { context: self, shape: &Shape::Object(id), owner: None, at: &at };
        match seed.deserialize(reader) {
            Ok(Some(Value::Object(map))) => Ok(Object(map)),
            Ok(_) => Err(DecodeError::Type("the object is null".to_owned())),
            Err(error) => Err(match self.error.take() {
                Some(message) => DecodeError::Type(message),
                None => DecodeError::Syntax(error.to_string()),
            }),
        }
    }

    fn finish(self, object: Object) -> Result<(Object, Vec<String>), DecodeError> {
        let found = self.strict.into_inner();
        if self.validation == FieldValidation::Strict && !found.is_empty() {
            return Err(DecodeError::Strict(found));
        }
        Ok((object, found))
    }

    fn strict(&self, what: &str, at: &Path<'_>, name: &str) {
        if self.validation == FieldValidation::Ignore {
            return;
        }
        let mut found = self.strict.borrow_mut();
        if found.len() < MAX_STRICT_ERRORS {
            let mut path = at.to_string();
            if !path.is_empty() {
                path.push('.');
            }
            found.push(format!("{what} field \"{path}{name}\""));
        }
    }
}

/// Where the reader is: a list on the stack, so that it costs nothing until somebody asks.
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Key(&'p str),
    Index(usize),
}

impl<'p> Path<'p> {
    fn to(&'p self, step: Step<'p>) -> Path<'p> {
        Path { parent: Some(self), step }
    }

    /// The way as Go's decoder says it in a type error: names of fields only.
    fn fields(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.fields(out);
        }
        if let Step::Field(name) = self.step {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(name);
        }
    }
}

/// `spec.containers[0].image`
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            fmt::Display::fmt(parent, f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Field(name) | Step::Key(name) => {
                if self.parent.is_some_and(|parent| parent.parent.is_some()) {
                    f.write_char('.')?;
                }
                f.write_str(name)
            }
        }
    }
}

/// Reads one value of a shape; `None` for a null.
#[derive(Clone, Copy)]
struct Seed<'a, 's> {
    context: &'a Context<'s>,
    shape: &'a Shape,
    /// The innermost type that has the value in a field.
    owner: Option<&'a Type>,
    at: &'a Path<'a>,
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
                Some(value) if self.context.keep_zeros || !left_out(field, &value) => {
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

fn left_out(field: &Field, value: &Value) -> bool {
    // An embedded struct, an instant or a quantity is no zero to Go's encoder.
    let can_be_empty = !matches!(
        field.shape,
        Shape::Object(_)
            | Shape::Quantity
            | Shape::IntOrString
            | Shape::Time
            | Shape::MicroTime
            | Shape::Any
    );
    field.omit_empty && !field.pointer && can_be_empty && is_zero(value)
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
        if *self.shape == Shape::Any {
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

#[cfg(test)]
mod tests;
