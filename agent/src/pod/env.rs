//! The environment of a container, and `$(VAR)` in its command and arguments.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::spec::{self, NodeFields};
use crate::objects::{ObjectError, Objects};

/// Why a container cannot be configured; it is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("{0}")]
    Object(#[from] ObjectError),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key { key: String, kind: &'static str, namespace: String, name: String },
    #[error("{0}")]
    Field(String),
}

/// Resolves `envFrom`, then `env`, later ones winning; in the order in which names first appear.
pub async fn resolve(
    pod: &Pod,
    container: &Container,
    node: &NodeFields,
    objects: &Objects,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut env = Env::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            let optional = source.optional.unwrap_or(false);
            if let Some(map) = objects.config_map(namespace, &source.name, optional).await? {
                for (key, value) in map.data.iter().flatten() {
                    env.set(format!("{prefix}{key}"), value.clone());
                }
            }
        }
        if let Some(source) = &from.secret_ref {
            let optional = source.optional.unwrap_or(false);
            if let Some(secret) = objects.secret(namespace, &source.name, optional).await? {
                for (key, value) in secret.data.iter().flatten() {
                    let value = String::from_utf8_lossy(&value.0).into_owned();
                    env.set(format!("{prefix}{key}"), value);
                }
            }
        }
    }
    for var in container.env.iter().flatten() {
        match &var.value_from {
            Some(source) => {
                if let Some(value) = from(pod, container, node, objects, source).await? {
                    env.set(var.name.clone(), value);
                }
            }
            None => {
                let value = env.expand(var.value.as_deref().unwrap_or_default());
                env.set(var.name.clone(), value);
            }
        }
    }
    Ok(env.list)
}

/// `None`: optional, and not there.
async fn from(
    pod: &Pod,
    container: &Container,
    node: &NodeFields,
    objects: &Objects,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let missing = |kind, name: &str, key: &str| EnvError::Key {
        key: key.to_owned(),
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    if let Some(field) = &source.field_ref {
        return match spec::field(pod, node, &field.field_path) {
            Some(value) => Ok(Some(value)),
            None => Err(EnvError::Field(format!("unsupported fieldPath: {}", field.field_path))),
        };
    }
    if let Some(resource) = &source.resource_field_ref {
        let of = match &resource.container_name {
            Some(name) => spec::find_container(spec::spec(pod), name),
            None => Some(container),
        };
        let value = of.and_then(|c| {
            spec::resource_field(c, node, &resource.resource, resource.divisor.as_ref())
        });
        let error = || EnvError::Field(format!("unsupported resource: {}", resource.resource));
        return value.map(Some).ok_or_else(error);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let map = objects.config_map(namespace, &reference.name, optional).await?;
        let value = map.as_ref().and_then(|m| m.data.as_ref()?.get(&reference.key).cloned());
        return match value {
            None if !optional => Err(missing("ConfigMap", &reference.name, &reference.key)),
            value => Ok(value),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let secret = objects.secret(namespace, &reference.name, optional).await?;
        let bytes = secret.as_ref().and_then(|s| s.data.as_ref()?.get(&reference.key).cloned());
        return match bytes {
            None if !optional => Err(missing("Secret", &reference.name, &reference.key)),
            bytes => Ok(bytes.map(|b| String::from_utf8_lossy(&b.0).into_owned())),
        };
    }
    Err(EnvError::Field("valueFrom names no source that is supported".into()))
}

#[derive(Default)]
struct Env {
    list: Vec<(String, String)>,
    at: HashMap<String, usize>,
}

impl Env {
    fn set(&mut self, name: String, value: String) {
        match self.at.get(&name) {
            Some(at) => self.list[*at].1 = value,
            None => {
                self.at.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    fn expand(&self, text: &str) -> String {
        expand(text, |name| self.at.get(name).map(|at| self.list[*at].1.as_str()))
    }
}

/// `$(NAME)` becomes its value where there is one and stays where there is none; `$$` becomes `$`.
pub fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Expands a command or arguments with the container's environment.
pub fn expand_all(words: Option<&Vec<String>>, env: &[(String, String)]) -> Vec<String> {
    let value = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    words.into_iter().flatten().map(|word| expand(word, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn expansion() {
        let value = |name: &str| (name == "A").then_some("1");
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("ä$(A)ö", "ä1ö"),
        ] {
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }
}
