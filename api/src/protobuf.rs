//! Kubernetes' protobuf, read and written along the table of types. Clients in Go prefer it (kubectl's `create` among
//! them).
//!
//! A body is a four-byte magic and an envelope (`runtime.Unknown`) that names the type of the message within. What is
//! read is the tree that Kubernetes' JSON would give; what is written are the bytes that Kubernetes writes: fields in
//! the order of their numbers, maps by key, plain fields also where they are zero.

mod any;
mod read;
mod scalar;
#[cfg(test)]
mod tests;
mod wire;
mod write;

use serde_json::{Map, Value};

use crate::schema::{self, MAX_OBJECT_BYTES, Schema, TypeId};
use wire::{Out, Parts, Wire};

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Of watches: frames of [`watch_frame`].
pub const WATCH_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

const MAGIC: &[u8] = b"k8s\0";
/// As deep as JSON is read: messages within messages.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("the message has {bytes} bytes, more than the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the body does not start with the protobuf magic number")]
    NoMagic,
    #[error("the envelope is encoded as {0:?}, which is not known")]
    Encoding(String),
    #[error("no type is known for {kind:?} in version {api_version:?}")]
    UnknownType { api_version: String, kind: String },
    /// `at` is the field, `Deployment.spec.replicas`.
    #[error("{at}: {why}")]
    Field { at: String, why: String },
}

/// Why a message cannot be read or written; the steps to the field are added on the way out.
#[derive(Debug)]
struct Fault {
    /// From the innermost out.
    steps: Vec<String>,
    why: String,
}

impl Fault {
    fn new(why: impl Into<String>) -> Self {
        Self { steps: Vec::new(), why: why.into() }
    }

    fn below(mut self, step: &str) -> Self {
        self.steps.push(step.to_owned());
        self
    }

    fn of(self, type_name: &str) -> ProtobufError {
        let mut at = type_name.to_owned();
        for step in self.steps.iter().rev() {
            at.push('.');
            at.push_str(step);
        }
        ProtobufError::Field { at, why: self.why }
    }
}

/// The tree of a body, with `kind` and `apiVersion` from its envelope.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    decode_as(body, "", "")
}

/// As [`decode`]; the type is this one where the envelope names none.
pub fn decode_as(body: &[u8], api_version: &str, kind: &str) -> Result<Value, ProtobufError> {
    if body.len() > MAX_OBJECT_BYTES {
        return Err(ProtobufError::TooLarge { bytes: body.len(), limit: MAX_OBJECT_BYTES });
    }
    decode_below(body, api_version, kind, 0)
}

/// A body within `depth` other messages.
fn decode_below(
    body: &[u8],
    api_version: &str,
    kind: &str,
    depth: usize,
) -> Result<Value, ProtobufError> {
    let envelope = Envelope::read(body)?;
    let (version, named) = match envelope.kind {
        "" => (api_version, kind),
        named => (envelope.api_version, named),
    };
    let schema = schema::builtin();
    let id = find(schema, version, named)?;
    let mut tree = Map::new();
    read::message(schema, schema.get(id), envelope.raw, &mut tree, depth)
        .map_err(|fault| fault.of(named))?;
    if !envelope.api_version.is_empty() {
        tree.insert("apiVersion".to_owned(), envelope.api_version.into());
    }
    if !envelope.kind.is_empty() {
        tree.insert("kind".to_owned(), envelope.kind.into());
    }
    Ok(Value::Object(tree))
}

/// Whether the table has this type; those that it lacks (tables, custom kinds) travel as JSON.
pub fn has_type(api_version: &str, kind: &str) -> bool {
    find(schema::builtin(), api_version, kind).is_ok()
}

/// The bytes of an object that names its type.
///
/// # Errors
/// The type is not in the table, or a field has a value that its type cannot have.
pub fn encode(object: &Map<String, Value>) -> Result<Vec<u8>, ProtobufError> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let schema = schema::builtin();
    let id = find(schema, api_version, kind)?;
    envelope(api_version, kind, |out| write::message(schema, schema.get(id), object, out, 0))
        .map_err(|fault| fault.of(kind))
}

/// The bytes of a list of `kind`: `metadata` is that of the list.
///
/// # Errors
/// As [`encode`].
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    metadata: &Map<String, Value>,
    items: impl IntoIterator<Item = std::borrow::Cow<'a, Map<String, Value>>>,
) -> Result<Vec<u8>, ProtobufError> {
    let schema = schema::builtin();
    let of = schema.get(find(schema, api_version, kind)?);
    let meta = schema.get(find(schema, "v1", "ListMeta")?);
    let list = format!("{kind}List");
    envelope(api_version, &list, |out| {
        out.nested(1, |out| write::message(schema, meta, metadata, out, 1))?;
        for (index, item) in items.into_iter().enumerate() {
            out.nested(2, |out| write::message(schema, of, &item, out, 1))
                .map_err(|fault| fault.below(&format!("items[{index}]")))?;
        }
        Ok(())
    })
    .map_err(|fault| fault.of(&list))
}

/// One event of a watch: four bytes of length, then a `WatchEvent` around the bytes of [`encode`].
pub fn watch_frame(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Out(vec![0; 4]);
    out.bytes(1, event_type.as_bytes());
    let wrapped: Result<(), Fault> = out.nested(2, |out| {
        out.bytes(1, object);
        Ok(())
    });
    debug_assert!(wrapped.is_ok(), "bytes can always be wrapped");
    let mut frame = out.0;
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(body: &'a [u8]) -> Result<Self, ProtobufError> {
        let bytes = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
        let mut envelope = Self::default();
        let mut encoding = "";
        envelope.fields(bytes, &mut encoding).map_err(|fault| fault.of("Unknown"))?;
        match encoding {
            "" => Ok(envelope),
            other => Err(ProtobufError::Encoding(other.chars().take(64).collect())),
        }
    }

    fn fields(&mut self, bytes: &'a [u8], encoding: &mut &'a str) -> Result<(), Fault> {
        for part in Parts(bytes) {
            match part? {
                (1, Wire::Bytes(meta)) => {
                    for part in Parts(meta) {
                        match part? {
                            (1, Wire::Bytes(text)) => self.api_version = wire::text(text)?,
                            (2, Wire::Bytes(text)) => self.kind = wire::text(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => self.raw = raw,
                (3, Wire::Bytes(text)) => *encoding = wire::text(text)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn envelope(
    api_version: &str,
    kind: &str,
    raw: impl FnOnce(&mut Out) -> Result<(), Fault>,
) -> Result<Vec<u8>, Fault> {
    let mut out = Out(MAGIC.to_vec());
    out.nested(1, |out| {
        out.bytes(1, api_version.as_bytes());
        out.bytes(2, kind.as_bytes());
        Ok(())
    })?;
    out.nested(2, raw)?;
    // Neither content encoding nor content type.
    out.bytes(3, b"");
    out.bytes(4, b"");
    Ok(out.0)
}

/// `apps/v1` Deployment is `apps/v1.Deployment`. Options, Status and their like are of `meta/v1`, in whichever group
/// they are sent.
fn find(schema: &Schema, api_version: &str, kind: &str) -> Result<TypeId, ProtobufError> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    // A group of somebody else may begin with the same word.
    let folder = match group.split_once('.') {
        _ if group.is_empty() => Some("core"),
        None => Some(group),
        Some((folder, rest)) => (rest == "k8s.io" || rest.ends_with(".k8s.io")).then_some(folder),
    };
    folder
        .and_then(|folder| schema.find(&format!("{folder}/{version}.{kind}")))
        .or_else(|| {
            let is_meta = group.is_empty() || kind.ends_with("Options");
            if is_meta { schema.find(&format!("meta/v1.{kind}")) } else { None }
        })
        .ok_or_else(|| ProtobufError::UnknownType {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        })
}
