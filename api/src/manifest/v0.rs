//! The first form of a pod's manifest: `version: v0`, with name and namespace in the spec.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{ORIGINAL_NAME, kind_of};
use crate::validation::names;

/// The pod in Kubernetes' form, and the address that it asks for.
pub(super) fn pod(
    mut map: Map<String, Value>,
) -> Result<(Map<String, Value>, Option<IpAddr>), String> {
    match map.remove("version") {
        Some(Value::String(version)) if version == "v0" => {}
        other => {
            let shown = other.unwrap_or_default();
            return Err(format!(
                "version: Unsupported value: {shown}: supported values: \"v0\" (Kubernetes' form has apiVersion instead)"
            ));
        }
    }
    match map.remove("kind") {
        Some(Value::String(kind)) if kind == "Pod" => {}
        None => return Err("kind: Required value".to_owned()),
        Some(other) => {
            return Err(format!("kind: Unsupported value: {other}: supported values: \"Pod\""));
        }
    }
    let spec = match map.remove("spec") {
        Some(Value::Object(spec)) => spec,
        None => return Err("spec: Required value".to_owned()),
        Some(other) => return Err(format!("spec: a map is wanted, not {}", kind_of(&other))),
    };
    let metadata = map.remove("metadata");
    if let Some(key) = map.keys().next() {
        return Err(format!(
            "unknown field {key:?}: a v0 pod has version, kind, metadata and spec"
        ));
    }
    from_spec(metadata, spec)
}

/// A name as people write it, as the API takes it.
pub(super) fn plain_name(written: &str) -> String {
    written.trim().to_lowercase().replace(char::is_whitespace, "-")
}

/// A pod from a spec that also has `name`, `namespace` and `ip`.
pub(super) fn from_spec(
    metadata: Option<Value>,
    mut spec: Map<String, Value>,
) -> Result<(Map<String, Value>, Option<IpAddr>), String> {
    let mut metadata = match metadata {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(metadata)) => metadata,
        Some(other) => return Err(format!("metadata: a map is wanted, not {}", kind_of(&other))),
    };
    if let Some(written) = text(&mut spec, "name")? {
        let name = plain_name(&written);
        if let Some(why) = names::dns1123_subdomain(&name).into_iter().next() {
            return Err(format!("spec.name: Invalid value: {written:?}: {why}"));
        }
        if name != written {
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            if let Value::Object(annotations) = annotations {
                annotations.insert(ORIGINAL_NAME.to_owned(), written.into());
            }
        }
        metadata.insert("name".to_owned(), name.into());
    } else if !metadata.contains_key("name") {
        return Err("spec.name: Required value".to_owned());
    }
    if let Some(namespace) = text(&mut spec, "namespace")? {
        if let Some(why) = names::dns1123_label(&namespace).into_iter().next() {
            return Err(format!("spec.namespace: Invalid value: {namespace:?}: {why}"));
        }
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    let ip = match text(&mut spec, "ip")? {
        None => None,
        Some(ip) => Some(ip.parse().map_err(|_| {
            format!("spec.ip: Invalid value: {ip:?}: must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
        })?),
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    match pod {
        Value::Object(pod) => Ok((pod, ip)),
        _ => Err("not a map".to_owned()),
    }
}

/// Takes a text, or a number that somebody did not quote, out of the spec.
fn text(spec: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match spec.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(format!("spec.{key}: a text is wanted, not {}", kind_of(&other))),
    }
}
