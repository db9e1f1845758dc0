//! What a message wants of this node; pure.

use serde::{Deserialize, Serialize};
use warren_api::manifest::{self, Manifest};
use warren_api::validation::names;
use warren_api::{Object, Registry};

/// A larger message is refused.
const BODY_LIMIT: usize = 1 << 20;

/// What a command wants of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Wish {
    Apply(Box<Object>),
    Delete { namespace: String, name: String, uid: Option<String> },
    Start(String),
}

impl Wish {
    pub(crate) fn makes_another(&self) -> bool {
        matches!(self, Self::Apply(object) if object.name().is_empty())
    }
}

/// Reads a message. `Err` says why nobody can use it.
pub(crate) fn read(registry: &Registry, node: &str, body: &[u8]) -> Result<Vec<Wish>, String> {
    if body.len() > BODY_LIMIT {
        return Err(format!("the message is larger than {BODY_LIMIT} bytes"));
    }
    let commands = manifest::commands(registry, body).map_err(|error| error.to_string())?;
    if commands.is_empty() {
        return Err("there is no object in the message".into());
    }
    commands.into_iter().map(|command| wish(node, command)).collect()
}

fn wish(node: &str, command: manifest::Command) -> Result<Wish, String> {
    match command {
        manifest::Command::Apply(manifest) => {
            let Manifest { mut object, .. } = *manifest;
            pod_only(object.str_at(&["apiVersion"]), object.str_at(&["kind"]))?;
            let wanted = object.str_at(&["spec", "nodeName"]);
            if !wanted.is_empty() && wanted != node {
                return Err(format!(
                    "spec.nodeName: Invalid value: {wanted:?}: this is the queue of node {node:?}"
                ));
            }
            if object.str_at(&["metadata", "namespace"]).is_empty() {
                object.set_at(&["metadata", "namespace"], "default");
            }
            if object.str_at(&["metadata", "name"]).is_empty()
                && object.str_at(&["metadata", "generateName"]).is_empty()
            {
                return Err(
                    "metadata.name: Required value: name or generateName is required".into()
                );
            }
            // An old copy of the object must not make the write fail.
            for field in
                ["resourceVersion", "uid", "managedFields", "creationTimestamp", "generation"]
            {
                object.remove_at(&["metadata", field]);
            }
            object.remove_at(&["status"]);
            object.set_at(&["spec", "nodeName"], node);
            check_namespace(object.str_at(&["metadata", "namespace"]))?;
            Ok(Wish::Apply(Box::new(object)))
        }
        manifest::Command::Delete { api_version, kind, namespace, name, uid } => {
            pod_only(&api_version, &kind)?;
            let namespace = namespace.unwrap_or_else(|| "default".into());
            check_namespace(&namespace)?;
            if let Some(why) = names::dns1123_subdomain(&name).into_iter().next() {
                return Err(format!("metadata.name: Invalid value: {name:?}: {why}"));
            }
            Ok(Wish::Delete { namespace, name, uid })
        }
        manifest::Command::StartManifest { name } => Ok(Wish::Start(name)),
    }
}

/// It becomes a part of a path.
fn check_namespace(namespace: &str) -> Result<(), String> {
    match names::dns1123_label(namespace).into_iter().next() {
        None => Ok(()),
        Some(why) => Err(format!("metadata.namespace: Invalid value: {namespace:?}: {why}")),
    }
}

fn pod_only(api_version: &str, kind: &str) -> Result<(), String> {
    if (api_version, kind) == ("v1", "Pod") {
        return Ok(());
    }
    Err(format!(
        "kind {kind:?} in version {api_version:?} is not taken on a node's queue: only Pods are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let registry = Registry::builtin();
        let read = |text: &str| super::read(&registry, "n1", text.as_bytes());
        let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
        for text in [
            pod.to_owned(),
            format!(r#"{{"type":"ADDED","object":{pod}}}"#),
            format!(r#"{{"action":"add","podspec":{pod}}}"#),
        ] {
            let wishes = read(&text).unwrap();
            let [Wish::Apply(object)] = &wishes[..] else { panic!("{text}: {wishes:?}") };
            assert_eq!(object.str_at(&["spec", "nodeName"]), "n1");
            assert_eq!(object.str_at(&["metadata", "namespace"]), "default");
        }
        assert_eq!(read(r#"{"action":"add","podname":"x"}"#), Ok(vec![Wish::Start("x".into())]));
        assert!(matches!(
            &read(r#"{"action":"delete","podname":"x"}"#).unwrap()[..],
            [Wish::Delete { name, .. }] if name == "x"
        ));
        let foreign = pod.replace("\"containers\"", "\"nodeName\":\"n2\",\"containers\"");
        for (text, reason) in [
            (
                foreign.as_str(),
                "spec.nodeName: Invalid value: \"n2\": this is the queue of node \"n1\"",
            ),
            (
                "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"x\"}}",
                "is not taken on a node's queue: only Pods are",
            ),
            ("{]", ""),
            ("hello", ""),
            ("{\"kind\":\"Nonsense\",\"apiVersion\":\"v1\"}", "Nonsense"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
