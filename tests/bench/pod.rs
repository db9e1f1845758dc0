//! The pods that are written.

use bytes::Bytes;
use serde_json::{Value, json};

/// Pads to the 2.8 KB that the goals name, as stored (with defaults and managed fields).
const PADDING: usize = 64;

/// A pod as people write them: a probe, resources, a volume.
pub fn pod(name: &str, node: Option<&str>) -> Bytes {
    let container = |name: &str, port: u16| {
        json!({
            "name": name, "image": format!("registry.example/{name}:v1.2.3"),
            "ports": [{"containerPort": port}],
            "env": [{"name": "REGION", "value": "north"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": port}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        })
    };
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "bench", "tier": "backend"},
            "annotations": {"example.com/note": "x".repeat(PADDING)},
        },
        "spec": {
            "containers": [container("web", 8080)],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    bytes(&pod)
}

/// A pod that any runtime of this project can run.
pub fn small(name: &str, image: &str) -> Bytes {
    bytes(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": image, "command": ["sleep", "3600"],
                            "imagePullPolicy": "IfNotPresent"}],
        },
    }))
}

pub fn node(name: &str) -> Bytes {
    bytes(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
}

/// The number at the end of the name of the object of an event: `…"name":"<prefix>000123"`.
pub fn number_in(event: &[u8], prefix: &str) -> Option<usize> {
    number_after(event, &format!("\"name\":\"{prefix}"))
}

/// A merge patch that leaves its number in the object.
pub fn numbered(number: usize) -> Bytes {
    format!("{{\"metadata\":{{\"annotations\":{{{NUMBER}{number:0DIGITS$}\"}}}}}}").into()
}

/// The number that the last such patch left.
pub fn number_of(event: &[u8]) -> Option<usize> {
    number_after(event, NUMBER)
}

fn number_after(event: &[u8], mark: &str) -> Option<usize> {
    let at = event.windows(mark.len()).position(|window| window == mark.as_bytes())? + mark.len();
    std::str::from_utf8(event.get(at..at + DIGITS)?).ok()?.parse().ok()
}

const DIGITS: usize = 6;
const NUMBER: &str = "\"example.com/number\":\"";

pub fn name(prefix: &str, number: usize) -> String {
    format!("{prefix}{number:0DIGITS$}")
}

fn bytes(value: &Value) -> Bytes {
    value.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_events() {
        let body = pod(&name("a-", 123), None);
        assert_eq!(number_in(&body, "a-"), Some(123));
        assert_eq!(number_in(&body, "b-"), None);
        assert_eq!(number_in(b"\"name\":\"a-0001", "a-"), None);
        assert_eq!((number_of(&numbered(99_999)), number_of(&body)), (Some(99_999), None));
    }
}
