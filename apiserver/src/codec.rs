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
}

const ACCEPTED: &str = "the body of the request was in an unknown format - accepted media types include: \
                        application/json, application/yaml";

/// The type without its parameters, in lower case; empty where there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn format(headers: &HeaderMap) -> Result<Format, Status> {
    match media_type(headers).as_str() {
        "" | "application/json" | "*/*" => Ok(Format::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
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
            .map_err(|error| Status::bad_request(format!("couldn't parse the body as JSON: {error}"))),
        Format::Yaml => yaml(body),
    }
}

pub(crate) fn yaml(body: &[u8]) -> Result<Value, Status> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Status::bad_request("the body is not valid UTF-8"))?;
    let mut documents = warren_api::yaml::documents(text)
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: yaml: {error}")))?;
    match documents.len() {
        0 => Ok(Value::Null),
        1 => Ok(documents.remove(0)),
        _ => Err(Status::bad_request("the body holds more than one YAML document")),
    }
}

/// Reads an object of this kind. The second result is warnings.
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
    };
    let (mut object, warnings) =
        decoded.map_err(|error| error.status(&kind.api_version(), kind.kind()))?;
    identify(kind, &mut object)?;
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

/// Encodes with `kind` and `apiVersion` first and a hole for the revision.
pub(crate) fn encode(object: &Object) -> Body {
    let mut json = Vec::with_capacity(1024);
    json.push(b'{');
    for field in ["kind", "apiVersion"] {
        string(&mut json, field);
        json.push(b':');
        string(&mut json, object.str_at(&[field]));
        json.push(b',');
    }
    json.extend_from_slice(b"\"metadata\":{");
    if let Some(Value::Object(metadata)) = object.get("metadata") {
        for (key, value) in metadata {
            if key != "resourceVersion" {
                member(&mut json, key, value);
            }
        }
    }
    json.extend_from_slice(b"\"resourceVersion\":\"");
    let hole = json.len();
    json.extend_from_slice(b"\"}");
    for (key, value) in object.iter() {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            json.push(b',');
            member(&mut json, key, value);
            json.pop();
        }
    }
    json.push(b'}');
    Body { json, hole }
}

fn member(json: &mut Vec<u8>, key: &str, value: &Value) {
    string(json, key);
    json.push(b':');
    // Writing a tree to memory cannot fail.
    let _ = serde_json::to_writer(&mut *json, value);
    json.push(b',');
}

fn string(json: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(json, text);
}

/// The bytes of a tree.
pub(crate) fn bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hole_is_between_the_quotes() {
        for tree in [
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "resourceVersion": "9"},
                   "spec": {"x": [1]}, "status": {}}),
            json!({"apiVersion": "v1", "kind": "Pod"}),
        ] {
            let object = Object::try_from(tree).unwrap();
            let mut body = encode(&object);
            body.json.splice(body.hole..body.hole, *b"17");
            let mut read: Object = serde_json::from_slice(&body.json).unwrap();
            assert_eq!(read.str_at(&["metadata", "resourceVersion"]), "17");
            let mut expected = object.clone();
            expected.set_at(&["metadata", "resourceVersion"], "17");
            assert_eq!(read, expected);
            read.remove_at(&["metadata"]);
        }
    }

    #[test]
    fn media_types() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", text.parse().unwrap());
            format(&headers).map_err(|e| e.reason)
        };
        assert_eq!(of("application/json; charset=utf-8"), Ok(Format::Json));
        assert_eq!(of("application/yaml"), Ok(Format::Yaml));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), Err(Reason::UnsupportedMediaType));
        assert_eq!(of("text/plain"), Err(Reason::UnsupportedMediaType));
        assert_eq!(format(&HeaderMap::new()), Ok(Format::Json));
    }
}
