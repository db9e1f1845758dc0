//! Reads JSON along the table of types: one pass, straight into the tree.

mod read;

use std::cell::RefCell;
use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer};
use serde_json::Value;

use self::read::Seed;
use super::{Schema, Shape, TypeId};
use crate::{Object, Reason, Status};

/// The most bytes that [`decode_slice`] reads; Kubernetes' bound for a request.
pub const MAX_OBJECT_BYTES: usize = 3 << 20;

/// The most unknown and duplicate fields that are named; more are dropped without a word.
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

#[cfg(test)]
mod tests;
