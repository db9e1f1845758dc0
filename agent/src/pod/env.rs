//! The environment of a container, and `$(VAR)` in its command and arguments.

use std::borrow::Cow;
use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::spec::{self, NodeFields};
use crate::objects::{ObjectError, Objects};

/// What the kernel takes as one string of a program's arguments or environment; a longer one cannot be run with.
pub const MAX_EXPANDED: usize = 128 << 10;
/// Of all values of a container together, as of all its arguments: more than the kernel takes. A few variables that each
/// name the one before twice would be terabytes.
const MAX_ALL: usize = 4 << 20;

/// Why a container cannot be configured; it is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("{0}")]
    Object(#[from] ObjectError),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key { key: String, kind: &'static str, namespace: String, name: String },
    #[error("{0}")]
    Field(String),
    #[error("{0}: too large with its references expanded")]
    TooLarge(String),
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
                let value = value.ok_or_else(|| EnvError::TooLarge(format!("env {}", var.name)))?;
                env.set(var.name.clone(), value);
            }
        }
        if env.bytes > MAX_ALL {
            return Err(EnvError::TooLarge(format!("env {}", var.name)));
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
            None => Some(Cow::Borrowed(container)),
        };
        let value = of.and_then(|c| {
            spec::resource_field(&c, node, &resource.resource, resource.divisor.as_ref())
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
    /// Of all values that were ever set.
    bytes: usize,
}

impl Env {
    fn set(&mut self, name: String, value: String) {
        self.bytes += value.len();
        match self.at.get(&name) {
            Some(at) => self.list[*at].1 = value,
            None => {
                self.at.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    fn expand(&self, text: &str) -> Option<String> {
        expand(text, |name| self.at.get(name).map(|at| self.list[*at].1.as_str()))
    }
}

/// `$(NAME)` becomes its value where there is one and stays where there is none; `$$` becomes `$`. `None` where it grows
/// beyond [`MAX_EXPANDED`].
pub fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let limit = text.len().max(MAX_EXPANDED);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        if out.len() > limit {
            return None;
        }
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
    (out.len() <= limit).then_some(out)
}

/// Expands a command or arguments with the container's environment. `field` is which of them, for an error.
pub fn expand_all(
    field: &str,
    words: Option<&Vec<String>>,
    env: &[(String, String)],
) -> Result<Vec<String>, EnvError> {
    let value = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let mut bytes = 0;
    let expanded = words.into_iter().flatten().map(|word| {
        let word = expand(word, value).filter(|word| {
            bytes += word.len();
            bytes <= MAX_ALL
        });
        word.ok_or_else(|| EnvError::TooLarge(field.to_owned()))
    });
    expanded.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::FakeApi;

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
            assert_eq!(expand(text, value).as_deref(), Some(expected), "{text}");
        }
    }

    #[tokio::test]
    async fn bombs_are_refused() {
        let objects = Objects::new(Arc::new(FakeApi::default()));
        let node = NodeFields {
            host_ip: "10.0.0.1".into(),
            cpu_millis: 1000,
            memory_bytes: 1 << 30,
            ephemeral_storage_bytes: 1 << 30,
        };
        let resolve = async |env: Vec<(String, String)>| {
            let env: Vec<_> = env
                .into_iter()
                .map(|(name, value)| serde_json::json!({"name": name, "value": value}))
                .collect();
            let container = serde_json::json!({"name": "c", "env": env});
            let container: Container = serde_json::from_value(container).unwrap();
            super::resolve(&Pod::default(), &container, &node, &objects).await
        };
        let doubled = |n: usize| (format!("V{}", n + 1), format!("$(V{n})$(V{n})"));
        let mut bomb = vec![("V0".to_owned(), "x".repeat(64))];
        bomb.extend((0..60).map(doubled));
        let error = resolve(bomb.clone()).await.unwrap_err();
        assert_eq!(error.to_string(), "env V12: too large with its references expanded");
        bomb.truncate(11);
        bomb.extend((0..1000).map(|n| (format!("W{n}"), "$(V10)".to_owned())));
        assert!(matches!(resolve(bomb.clone()).await, Err(EnvError::TooLarge(_))));
        bomb.truncate(11);
        let env = resolve(bomb).await.unwrap();
        let words = vec!["$(V10)".to_owned(); 100];
        assert!(expand_all("args", Some(&words), &env).is_err());
        assert_eq!(expand_all("args", Some(&words[..2].to_vec()), &env).unwrap().len(), 2);
    }
}
