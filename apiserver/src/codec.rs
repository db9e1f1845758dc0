//! Objects in and out of bytes.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use warren_api::schema::{self, FieldValidation};
use warren_api::{Kind, Object, Reason, Registry, Status};
use warren_store::Body;

/// What a body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

const ACCEPTED: &str = "the body of the request was in an unknown format - accepted media types include: \
                        application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The type without its parameters, in lower case; empty where there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn format(headers: &HeaderMap) -> Result<Format, Status> {
    match media_type(headers).as_str() {
        "" | "application/json" | "*/*" => Ok(Format::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        warren_api::protobuf::MEDIA_TYPE => Ok(Format::Protobuf),
        _ => Err(Status::new(Reason::UnsupportedMediaType, ACCEPTED)),
    }
}

/// Any tree, for bodies that are no stored kind: DeleteOptions, reviews, bindings. An empty body is null.
pub(crate) fn value(body: &[u8], format: Format) -> Result<Value, Status> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    match format {
        Format::Json => serde_json::from_slice(body)
            .map_err(|error| Status::bad_request(unparsed(&syntax_error(body, &error)))),
        Format::Yaml => yaml(body),
        Format::Protobuf => protobuf(body, "", ""),
    }
}

/// The type is this one where the body names none.
fn protobuf(body: &[u8], api_version: &str, kind: &str) -> Result<Value, Status> {
    warren_api::protobuf::decode_as(body, api_version, kind).map_err(|error| {
        Status::bad_request(format!("couldn't parse the body as protobuf: {error}"))
    })
}

pub(crate) fn yaml(body: &[u8]) -> Result<Value, Status> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Status::bad_request("the body is not valid UTF-8"))?;
    let mut documents = warren_api::yaml::documents(text).map_err(|error| {
        Status::bad_request(format!("error converting YAML to JSON: yaml: {error}"))
    })?;
    match documents.len() {
        0 => Ok(Value::Null),
        1 => Ok(documents.remove(0)),
        _ => Err(Status::bad_request("the body holds more than one YAML document")),
    }
}

/// Reads an object of this kind, as it is stored. The second result is warnings.
pub(crate) fn object(
    kind: &dyn Kind,
    body: &[u8],
    format: Format,
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), Status> {
    let decoded = match format {
        Format::Json => {
            schema::decode_slice(schema::builtin(), kind.schema_type(), body, validation)
        }
        Format::Yaml => {
            schema::decode(schema::builtin(), kind.schema_type(), yaml(body)?, validation)
        }
        Format::Protobuf => {
            let tree = protobuf(body, &kind.api_version(), kind.kind())?;
            schema::decode(schema::builtin(), kind.schema_type(), tree, validation)
        }
    };
    let (mut object, warnings) = decoded.map_err(|error| {
        unrecognised(kind, body, format)
            .unwrap_or_else(|| error.status(kind.version(), kind.kind()))
    })?;
    identify(kind, &mut object)?;
    kind.to_stored(&mut object);
    Ok((object, warnings))
}

/// What is no JSON object has no kind that could be named.
fn unrecognised(kind: &dyn Kind, body: &[u8], format: Format) -> Option<Status> {
    if format != Format::Json {
        return None;
    }
    let why = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(other) => {
            let found = match other {
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                _ => "array",
            };
            format!("json: cannot unmarshal {found} into Go value of type {TYPE_META}")
        }
        Err(error) => syntax_error(body, &error),
    };
    Some(Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {} ({})",
        kind.kind(),
        unparsed(&why),
        summary(body)
    )))
}

const TYPE_META: &str = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind \
                         string \"json:\\\"kind,omitempty\\\"\" }";

fn unparsed(why: &str) -> String {
    format!("couldn't get version/kind; json parse error: {why}")
}

/// The beginning of a body as Kubernetes shows it: what is no map stands in hexadecimal.
fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let (head, dots) = (&body[..body.len().min(MAX)], if body.len() > MAX { " ..." } else { "" });
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{dots}", String::from_utf8_lossy(head)),
        Some(_) => {
            let hex: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{dots}")
        }
    }
}

/// What Go's decoder says of broken JSON, as far as it finds the same place wrong.
pub(crate) fn syntax_error(body: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let told = error.to_string();
    let before = body.split_inclusive(|byte| *byte == b'\n').take(error.line().max(1) - 1);
    let start: usize = before.map(<[u8]>::len).sum();
    let byte = body.get(start + error.column().max(1) - 1).copied().unwrap_or(b' ');
    let context = [
        ("expected value", "looking for beginning of value"),
        ("key must be a string", "looking for beginning of object key string"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
        ("trailing comma", "looking for beginning of value"),
    ];
    let Some((_, context)) = context.iter().find(|(serde, _)| told.starts_with(serde)) else {
        return told;
    };
    let context = match (told.starts_with("trailing comma"), byte) {
        (true, b'}') => "looking for beginning of object key string",
        _ => context,
    };
    let shown = match byte {
        b'\'' => r"'\''".to_owned(),
        byte if byte.is_ascii_graphic() || byte == b' ' => format!("'{}'", char::from(byte)),
        byte => format!("'\\x{byte:02x}'"),
    };
    format!("invalid character {shown} {context}")
}

/// Fills in `kind` and `apiVersion`; refuses others than the path's.
pub(crate) fn identify(kind: &dyn Kind, object: &mut Object) -> Result<(), Status> {
    let expected = kind.api_version();
    if object.kind() != kind.kind()
        && let Some(other) = Registry::builtin().by_kind(object.api_version(), object.kind())
    {
        // Kubernetes reads it as what it is, and fails to convert it; its package is the group's first word.
        let package = match kind.group().split('.').next() {
            Some("") | None => "core",
            Some(word) => word,
        };
        let (version, given, wanted) = (other.version(), other.kind(), kind.kind());
        return Err(Status::bad_request(format!(
            "{given} in version {version:?} cannot be handled as a {wanted}: converting \
             ({version}.{given}) to ({package}.{wanted}): unknown conversion"
        )));
    }
    match object.api_version() {
        "" => object.set_at(&["apiVersion"], expected),
        given if given == expected => {}
        given => {
            return Err(Status::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version \
                 ({expected})"
            )));
        }
    }
    match object.kind() {
        "" => object.set_at(&["kind"], kind.kind()),
        given if given == kind.kind() => {}
        given => {
            return Err(Status::bad_request(format!(
                "{given} in version {:?} cannot be handled as a {}: the kind in the data does not \
                 match the expected kind",
                kind.version(),
                kind.kind()
            )));
        }
    }
    Ok(())
}

/// For the journal, which fills in the revision.
pub(crate) fn encode(object: &Object) -> Body {
    let (json, hole) = object.encode_with_hole();
    Body { json, hole }
}

/// What is stored in the form that this kind is served in.
pub(crate) fn served(kind: &dyn Kind, bytes: Bytes) -> Bytes {
    if kind.conversion().is_none() {
        return bytes;
    }
    match serde_json::from_slice::<Object>(&bytes) {
        Ok(mut object) if object.kind() == kind.kind() => {
            kind.to_served(&mut object);
            self::bytes(&object.into())
        }
        // A Status.
        _ => bytes,
    }
}

/// The bytes of a tree.
pub(crate) fn bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", text.parse().unwrap());
            format(&headers).map_err(|e| e.reason)
        };
        assert_eq!(of("application/json; charset=utf-8"), Ok(Format::Json));
        assert_eq!(of("application/yaml"), Ok(Format::Yaml));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), Ok(Format::Protobuf));
        assert_eq!(of("text/plain"), Err(Reason::UnsupportedMediaType));
        assert_eq!(format(&HeaderMap::new()), Ok(Format::Json));
    }
}
