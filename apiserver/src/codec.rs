//! Objects in and out of bytes.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use warren_api::schema::{self, FieldValidation};
use warren_api::{Kind, Object, Reason, Status};
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
        Format::Json => serde_json::from_slice(body).map_err(|error| {
            Status::bad_request(format!("couldn't parse the body as JSON: {error}"))
        }),
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
    let (mut object, warnings) =
        decoded.map_err(|error| error.status(&kind.api_version(), kind.kind()))?;
    identify(kind, &mut object)?;
    kind.to_stored(&mut object);
    Ok((object, warnings))
}

/// As [`object`], of a tree that a patch gave.
pub(crate) fn object_of_tree(
    kind: &dyn Kind,
    tree: Value,
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), Status> {
    let (mut object, warnings) =
        schema::decode(schema::builtin(), kind.schema_type(), tree, validation)
            .map_err(|error| error.status(&kind.api_version(), kind.kind()))?;
    identify(kind, &mut object)?;
    kind.to_stored(&mut object);
    Ok((object, warnings))
}

/// Fills in `kind` and `apiVersion`; refuses others than the path's.
pub(crate) fn identify(kind: &dyn Kind, object: &mut Object) -> Result<(), Status> {
    let expected = kind.api_version();
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
