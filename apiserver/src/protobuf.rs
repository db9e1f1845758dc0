//! Kubernetes' protobuf, read along the table of types into the tree that JSON would give. Typed Go clients (kubectl's
//! `create` among them) write it.
//!
//! A body is a four-byte magic and an envelope that names the type. Pure; input is bounded by the body's limit and
//! [`MAX_DEPTH`].

use base64::Engine as _;
use serde_json::{Map, Value};
use warren_api::schema::{self, Field, Schema, Shape, Type};

const MAGIC: &[u8] = b"k8s\0";
/// As deep as JSON is read.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    #[error("the body does not start with the protobuf magic number")]
    NoMagic,
    #[error("the message is cut off or malformed")]
    Malformed,
    #[error("nested too deep")]
    TooDeep,
    #[error("no type is known for {kind:?} in version {api_version:?}")]
    UnknownType { api_version: String, kind: String },
}

use ProtobufError::Malformed;

/// The tree of a body, with `kind` and `apiVersion` from its envelope.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[] as &[u8]);
    for part in Parts(envelope) {
        match part? {
            (1, Wire::Bytes(meta)) => {
                for part in Parts(meta) {
                    match part? {
                        (1, Wire::Bytes(text)) => api_version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let schema = schema::builtin();
    let name = type_name(&api_version, &kind);
    let Some(of) = schema.named(&name) else {
        return Err(ProtobufError::UnknownType { api_version, kind });
    };
    let mut tree = Map::new();
    message(schema, of, None, raw, &mut tree, 0)?;
    tree.insert("apiVersion".to_owned(), api_version.into());
    tree.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(tree))
}

/// `apps/v1` Deployment is `apps/v1.Deployment`; options are of `meta/v1` in whichever group they are sent.
fn type_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta/v1.DeleteOptions".to_owned();
    }
    match api_version.split_once('/') {
        None => format!("core/{api_version}.{kind}"),
        Some((group, version)) => {
            format!("{}/{version}.{kind}", group.split('.').next().unwrap_or_default())
        }
    }
}

enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtobufError> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn part(&mut self) -> Result<(u32, Wire<'a>), ProtobufError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
                Wire::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
                Wire::Fixed64(u64::from(u32::from_le_bytes(bytes)))
            }
            _ => return Err(Malformed),
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

/// Reads the fields that are embedded in message `within` (`None`: the type's own).
fn message(
    schema: &Schema,
    of: &Type,
    within: Option<u32>,
    bytes: &[u8],
    tree: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    for part in Parts(bytes) {
        let (number, wire) = part?;
        let field = of.fields().iter().find(|field| {
            field.proto.is_some_and(|proto| proto.number == number && proto.within == within)
        });
        if let Some(field) = field {
            value(schema, field, wire, tree, depth)?;
            continue;
        }
        let embeds = |field: &Field| field.proto.is_some_and(|p| p.within == Some(number));
        if within.is_none()
            && let Wire::Bytes(bytes) = wire
            && of.fields().iter().any(embeds)
        {
            message(schema, of, Some(number), bytes, tree, depth + 1)?;
        }
    }
    Ok(())
}

fn value(
    schema: &Schema,
    field: &Field,
    wire: Wire<'_>,
    tree: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    match &field.shape {
        Shape::List(item) => {
            let entry = tree.entry(&*field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = entry else { return Err(Malformed) };
            match wire {
                // Packed numbers.
                Wire::Bytes(bytes)
                    if matches!(**item, Shape::Int32 | Shape::Int64 | Shape::Bool) =>
                {
                    let mut parts = Parts(bytes);
                    while !parts.0.is_empty() {
                        let number = parts.varint()?;
                        list.push(single(schema, item, Wire::Varint(number), depth)?);
                    }
                }
                wire => list.push(single(schema, item, wire, depth)?),
            }
        }
        Shape::Map(item) => {
            let Wire::Bytes(bytes) = wire else { return Err(Malformed) };
            let (mut key, mut found) = (String::new(), None);
            for part in Parts(bytes) {
                match part? {
                    (1, Wire::Bytes(text)) => key = string(text)?,
                    (2, wire) => found = Some(single(schema, item, wire, depth)?),
                    _ => {}
                }
            }
            let found = match found {
                Some(found) => found,
                // What is empty is left out.
                None => single(schema, item, Wire::Bytes(&[]), depth)?,
            };
            let entry = tree.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = entry else { return Err(Malformed) };
            map.insert(key, found);
        }
        shape => {
            let found = single(schema, shape, wire, depth)?;
            tree.insert(field.name.to_string(), found);
        }
    }
    Ok(())
}

fn single(
    schema: &Schema,
    shape: &Shape,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Value, ProtobufError> {
    Ok(match (shape, wire) {
        (Shape::String | Shape::Enum(_), Wire::Bytes(text)) => string(text)?.into(),
        (Shape::Int32 | Shape::Int64, Wire::Varint(number)) => number.cast_signed().into(),
        (Shape::Bool, Wire::Varint(number)) => (number != 0).into(),
        (Shape::Float, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Shape::Bytes, Wire::Bytes(bytes)) => {
            base64::engine::general_purpose::STANDARD.encode(bytes).into()
        }
        (Shape::Quantity, Wire::Bytes(bytes)) => string(bytes_at(bytes, 1)?)?.into(),
        (Shape::Time | Shape::MicroTime, Wire::Bytes(bytes)) => time(bytes, shape)?,
        (Shape::Duration, Wire::Bytes(bytes)) => {
            go_duration(varint_at(bytes, 1)?.cast_signed()).into()
        }
        (Shape::IntOrString, Wire::Bytes(bytes)) => match varint_at(bytes, 1)? {
            0 => varint_at(bytes, 2)?.cast_signed().into(),
            _ => string(bytes_at(bytes, 3)?)?.into(),
        },
        (Shape::Fields | Shape::Any, Wire::Bytes(bytes)) => {
            let raw = bytes_at(bytes, 1)?;
            if raw.is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(raw).map_err(|_| Malformed)?
        }
        (Shape::Object(id), Wire::Bytes(bytes)) => {
            let mut tree = Map::new();
            message(schema, schema.get(*id), None, bytes, &mut tree, depth + 1)?;
            Value::Object(tree)
        }
        // A list within a map is a message that holds its items.
        (Shape::List(item), Wire::Bytes(bytes)) => {
            let mut list = Vec::new();
            for part in Parts(bytes) {
                if let (1, wire) = part? {
                    list.push(single(schema, item, wire, depth + 1)?);
                }
            }
            Value::Array(list)
        }
        _ => return Err(Malformed),
    })
}

fn string(bytes: &[u8]) -> Result<String, ProtobufError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
}

/// The last value of a field; empty where it is absent.
fn bytes_at(bytes: &[u8], wanted: u32) -> Result<&[u8], ProtobufError> {
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

fn varint_at(bytes: &[u8], wanted: u32) -> Result<u64, ProtobufError> {
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

/// As Go writes one, in the units that any reader takes.
fn go_duration(nanos: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (seconds, rest) = (nanos / SECOND, nanos % SECOND);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = format!(".{rest:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}{fraction}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}{fraction}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

/// Seconds and nanoseconds since 1970; an empty message is no time.
fn time(bytes: &[u8], shape: &Shape) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let seconds = varint_at(bytes, 1)?.cast_signed();
    let nanos = i32::try_from(varint_at(bytes, 2)?.cast_signed()).map_err(|_| Malformed)?;
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| Malformed)?;
    Ok(match shape {
        Shape::MicroTime => at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into(),
        _ => crate::prepare::instant(at).into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples() -> Option<std::fs::ReadDir> {
        let folder = std::env::var("KUBERNETES_FACTS").ok()?;
        std::fs::read_dir(std::path::Path::new(&folder).join("samples")).ok()
    }

    /// Runs where `KUBERNETES_FACTS` names the folder of the samples.
    #[test]
    fn samples_read_as_their_json() {
        let mut read = 0;
        for file in samples().into_iter().flatten() {
            let path = file.unwrap().path();
            // Its rules are embedded twice, which the table does not say; the group is not served.
            let skipped = path.to_string_lossy().contains("admissionregistration");
            if skipped || path.extension().is_none_or(|e| e != "pb") {
                continue;
            }
            let Ok(tree) = decode(&std::fs::read(&path).unwrap()) else { continue };
            let json: Value =
                serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap())
                    .unwrap();
            let kind = json["kind"].as_str().unwrap().to_owned();
            let name = type_name(json["apiVersion"].as_str().unwrap(), &kind);
            let canonical = |value: Value| {
                schema::decode(schema::builtin(), &name, value, schema::FieldValidation::Strict)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
                    .0
            };
            pretty_assert(
                &path.display().to_string(),
                canonical(tree).into(),
                canonical(json).into(),
            );
            read += 1;
        }
        assert!(samples().is_none() || read > 30, "{read} samples");
    }

    fn pretty_assert(name: &str, left: Value, right: Value) {
        assert!(
            left == right,
            "{name}\n{}\n{}",
            serde_json::to_string(&left).unwrap(),
            serde_json::to_string(&right).unwrap()
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            let mut body = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".to_vec();
            body.push(bytes.len().min(127) as u8);
            body.extend(bytes.iter().take(127));
            let _ = decode(&body);
        }
    }
}
