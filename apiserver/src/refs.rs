//! Which ConfigMaps, Secrets and claims a pod uses: their changes are published to the pod's node, and the node may
//! read them. Pure.

use std::collections::BTreeSet;

use serde_json::Value;
use warren_api::Object;

/// `configmaps/<name>`, `secrets/<name>`, `persistentvolumeclaims/<name>`, all in the pod's namespace.
pub(crate) fn of_pod(pod: &Object) -> BTreeSet<String> {
    let mut refs = BTreeSet::new();
    let Some(spec) = pod.at(&["spec"]) else { return refs };
    for volume in list(spec, "volumes") {
        add(&mut refs, "configmaps", &volume["configMap"]["name"]);
        add(&mut refs, "secrets", &volume["secret"]["secretName"]);
        add(&mut refs, "persistentvolumeclaims", &volume["persistentVolumeClaim"]["claimName"]);
        for source in list(&volume["projected"], "sources") {
            add(&mut refs, "configmaps", &source["configMap"]["name"]);
            add(&mut refs, "secrets", &source["secret"]["name"]);
        }
    }
    for secret in list(spec, "imagePullSecrets") {
        add(&mut refs, "secrets", &secret["name"]);
    }
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    for container in containers.iter().flat_map(|field| list(spec, field)) {
        for env in list(container, "env") {
            add(&mut refs, "configmaps", &env["valueFrom"]["configMapKeyRef"]["name"]);
            add(&mut refs, "secrets", &env["valueFrom"]["secretKeyRef"]["name"]);
        }
        for source in list(container, "envFrom") {
            add(&mut refs, "configmaps", &source["configMapRef"]["name"]);
            add(&mut refs, "secrets", &source["secretRef"]["name"]);
        }
    }
    refs
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn add(refs: &mut BTreeSet<String>, resource: &str, name: &Value) {
    if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
        refs.insert(format!("{resource}/{name}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_refer_is_found() {
        let pod = Object::try_from(json!({"spec": {
            "volumes": [
                {"configMap": {"name": "a"}}, {"secret": {"secretName": "b"}}, {"emptyDir": {}},
                {"persistentVolumeClaim": {"claimName": "c"}},
                {"projected": {"sources": [{"configMap": {"name": "d"}}, {"secret": {"name": "e"}}]}},
            ],
            "imagePullSecrets": [{"name": "f"}],
            "initContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "g", "key": "k"}}}]}],
            "containers": [{
                "env": [{"valueFrom": {"secretKeyRef": {"name": "h", "key": "k"}}}, {"name": "x", "value": "y"}],
                "envFrom": [{"configMapRef": {"name": "i"}}, {"secretRef": {"name": "j"}}],
            }],
            "ephemeralContainers": [{"envFrom": [{"configMapRef": {"name": "k"}}]}],
        }}))
        .unwrap();
        let found: Vec<_> = of_pod(&pod).into_iter().collect();
        assert_eq!(
            found.join(" "),
            "configmaps/a configmaps/d configmaps/g configmaps/i configmaps/k persistentvolumeclaims/c secrets/b \
             secrets/e secrets/f secrets/h secrets/j"
        );
        assert!(of_pod(&Object::default()).is_empty());
    }
}
