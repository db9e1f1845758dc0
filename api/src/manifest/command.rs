//! What a message asks for, in each of the forms that people write.

use serde_json::{Map, Value};

use super::{Manifest, ManifestError, Raw, from_value, kind_of, read, typed, v0};
use crate::validation::names;
use crate::{Kind as _, Registry, kinds, yaml};

/// What a message asks for. Nothing here says that its sender may.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Create the object, or update the one of that name.
    Apply(Box<Manifest>),
    /// Delete the object of that name, and only that life of it where a uid is given.
    Delete {
        api_version: String,
        kind: String,
        /// Not given for cluster-scoped kinds, and where the sender leaves it to the reader.
        namespace: Option<String>,
        name: String,
        uid: Option<String>,
    },
    /// Start the manifest of that name in the node's folder.
    StartManifest { name: String },
}

impl Command {
    /// Whether to do it once more makes something new: an object whose name the server chooses.
    pub fn makes_another(&self) -> bool {
        matches!(self, Self::Apply(manifest) if manifest.object.name().is_empty())
    }
}

/// Reads the body of a message: `{"type":"ADDED|MODIFIED|DELETED","object":…}`,
/// `{"action":"add|update|delete","podspec":…}` or `{"action":…,"podname":…}`, or a bare manifest, in YAML or JSON.
///
/// # Errors
/// A body that is none of these, or has no object. Nothing of it is to be used then.
pub fn commands(registry: &Registry, body: &[u8]) -> Result<Vec<Command>, ManifestError> {
    let text = std::str::from_utf8(body).map_err(|error| ManifestError {
        line: 0,
        reason: format!("the message is no text: {error}"),
    })?;
    let documents = yaml::parse(text)
        .map_err(|error| ManifestError { line: error.line, reason: error.message })?;
    if documents.is_empty() {
        return Err(ManifestError { line: 0, reason: "the message is empty".to_owned() });
    }
    let is_wrapped = |value: &Value| {
        value.get("action").is_some()
            || (value.get("type").is_some() && value.get("kind").is_none())
    };
    if !documents.iter().any(|document| is_wrapped(&document.value)) {
        let manifests = read(registry, text)?;
        return Ok(manifests.into_iter().map(|found| Command::Apply(Box::new(found))).collect());
    }
    let mut found = Vec::new();
    for document in documents {
        let line = document.line;
        let read = match document.value {
            Value::Object(map) if map.contains_key("action") => action(registry, map, line),
            Value::Object(map) if map.contains_key("type") => event(registry, map, line),
            value => objects(registry, value, line).map(apply_all),
        };
        found.extend(read.map_err(|reason| ManifestError { line, reason })?);
    }
    Ok(found)
}

/// `{"type":"ADDED","object":…}`
fn event(
    registry: &Registry,
    mut map: Map<String, Value>,
    line: usize,
) -> Result<Vec<Command>, String> {
    let object = match map.remove("object") {
        Some(object @ Value::Object(_)) => object,
        None => return Err("object: Required value".to_owned()),
        Some(other) => return Err(format!("object: a map is wanted, not {}", kind_of(&other))),
    };
    match map.get("type").and_then(Value::as_str) {
        Some("ADDED" | "MODIFIED") => objects(registry, object, line)
            .map(apply_all)
            .map_err(|reason| format!("object: {reason}")),
        Some("DELETED") => deletion(&object).map(|delete| vec![delete]),
        _ => Err(format!(
            "type: Unsupported value: {}: supported values: \"ADDED\", \"MODIFIED\", \"DELETED\"",
            map.get("type").unwrap_or(&Value::Null)
        )),
    }
}

/// `{"action":"add","podspec":…}`, `{"action":"add","podname":…}`
fn action(
    registry: &Registry,
    mut map: Map<String, Value>,
    line: usize,
) -> Result<Vec<Command>, String> {
    let action = map.remove("action").unwrap_or_default();
    let is_deletion = match action.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("add" | "update") => false,
        Some("delete") => true,
        _ => {
            return Err(format!(
                "action: Unsupported value: {action}: supported values: \"add\", \"update\", \"delete\""
            ));
        }
    };
    let mut text = |key: &str| match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(format!("{key}: a text is wanted")),
    };
    // As people write it in the first form of manifests.
    let (pod_name, namespace) =
        (text("podname")?.map(|name| v0::plain_name(&name)), text("namespace")?);
    if let Some(name) = &pod_name
        && let Some(why) = names::dns1123_subdomain(name).into_iter().next()
    {
        return Err(format!("podname: Invalid value: {name:?}: {why}"));
    }
    let spec = map.remove("podspec");
    match (spec, pod_name) {
        (Some(_), Some(_)) => Err("podspec and podname exclude each other".to_owned()),
        (None, None) => Err("podspec: Required value (or podname)".to_owned()),
        (None, Some(name)) if is_deletion => Ok(vec![Command::Delete {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace,
            name,
            uid: None,
        }]),
        (None, Some(name)) => Ok(vec![Command::StartManifest { name }]),
        (Some(spec), None) => {
            let mut pods =
                pod_spec(registry, spec, line).map_err(|reason| format!("podspec: {reason}"))?;
            if let Some(namespace) = namespace {
                for pod in pods.iter_mut().filter(|pod| pod.object.namespace().is_empty()) {
                    pod.object.set_at(&["metadata", "namespace"], namespace.as_str());
                }
            }
            if is_deletion {
                pods.into_iter().map(|pod| deletion(&pod.object.into())).collect()
            } else {
                Ok(apply_all(pods))
            }
        }
    }
}

/// A whole manifest in either form (also as a text), a pod without `apiVersion` and `kind`, or a bare spec with a name.
fn pod_spec(registry: &Registry, spec: Value, line: usize) -> Result<Vec<Manifest>, String> {
    let mut map = match spec {
        Value::Object(map) => map,
        Value::String(text) => {
            let found = read(registry, &text).map_err(|error| error.to_string())?;
            return if found.is_empty() { Err("the text is empty".to_owned()) } else { Ok(found) };
        }
        other => return Err(format!("a map is wanted, not {}", kind_of(&other))),
    };
    if map.contains_key("apiVersion") || map.contains_key("version") {
        return objects(registry, Value::Object(map), line);
    }
    let (pod, ip) = if map.contains_key("spec") {
        map.insert("apiVersion".to_owned(), kinds::POD.api_version().into());
        map.insert("kind".to_owned(), kinds::POD.kind().into());
        (map, None)
    } else {
        let metadata = map.remove("metadata");
        v0::from_spec(metadata, map)?
    };
    let raw = Raw { object: pod, line, ip, is_v0: false };
    Ok(vec![typed(registry, raw).map_err(|refused| refused.reason)?])
}

fn objects(registry: &Registry, value: Value, line: usize) -> Result<Vec<Manifest>, String> {
    let mut found = Vec::new();
    from_value(value, line, &mut |raw| typed(registry, raw), &mut found)
        .map_err(|refused| refused.reason)?;
    Ok(found)
}

fn apply_all(found: Vec<Manifest>) -> Vec<Command> {
    found.into_iter().map(|manifest| Command::Apply(Box::new(manifest))).collect()
}

/// A deletion needs names only, so that metadata is enough.
fn deletion(object: &Value) -> Result<Command, String> {
    let text =
        |path: &str| object.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let wanted = |path: &str| {
        let field = path[1..].replace('/', ".");
        text(path).map(str::to_owned).ok_or_else(|| format!("object.{field}: Required value"))
    };
    Ok(Command::Delete {
        api_version: wanted("/apiVersion")?,
        kind: wanted("/kind")?,
        namespace: text("/metadata/namespace").map(str::to_owned),
        name: wanted("/metadata/name")?,
        uid: text("/metadata/uid").map(str::to_owned),
    })
}
