//! What a pod's writer should hear of though it is taken. Which, and in which words: `GetWarningsForPod` and
//! `GetWarningsForPodTemplate` of k8s.io/kubernetes `pkg/api/pod`.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::tree::{self, Path, Tree};
use crate::validation::names;
use crate::{Object, Quantity};

const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const NO_MATCH: &str = "a null labelSelector results in matching no pod";

/// Of a pod as its client wants it.
pub(crate) fn of_pod(pod: &Object, old: Option<&Object>) -> Vec<String> {
    let mut found = Found::default();
    if old.is_none() {
        found.name(pod, "the Pod's hostname");
    }
    found.annotations(pod, &Path::root("metadata"), tree::map(pod, "spec"));
    if let Some(spec) = tree::map(pod, "spec") {
        found.spec(spec, &Path::root("spec"));
    }
    found.0
}

/// Of what makes pods of a template; of an update, where it changes the template.
pub(crate) fn of_template(object: &Object, old: Option<&Object>) -> Vec<String> {
    const TEMPLATE: [&str; 2] = ["spec", "template"];
    let mut found = Found::default();
    match old {
        Some(old) if tree::same(old.at(&TEMPLATE), object.at(&TEMPLATE)) => return found.0,
        Some(_) => {}
        None => found.name(object, "Pod names and hostnames"),
    }
    let Some(template) = object.at(&TEMPLATE).and_then(Value::as_object) else { return found.0 };
    let root = Path::root("spec");
    let path = root.field("template");
    let spec = tree::map(template, "spec");
    found.annotations(template, &path.field("metadata"), spec);
    if let Some(spec) = spec {
        found.spec(spec, &path.field("spec"));
    }
    found.0
}

/// The label of a node that has another name by now.
fn node_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

/// Far more than any client is told.
const MAX_FOUND: usize = 256;
/// Of the ports of one number, with how many each is compared.
const MAX_COMPARED: usize = 64;

#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn add(&mut self, path: &Path<'_>, message: &str) {
        if self.0.len() < MAX_FOUND {
            self.0.push(format!("{}: {message}", String::from(path)));
        }
    }

    fn name(&mut self, object: &Object, used_in: &str) {
        let why = names::dns1123_label(object.name());
        if !object.name().is_empty() && !why.is_empty() {
            let why = why.join(" ");
            self.0.push(format!(
                "metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is \
                 recommended: [{why}]"
            ));
        }
    }

    fn annotations(&mut self, object: &Tree, metadata: &Path<'_>, spec: Option<&Tree>) {
        let Some(annotations) =
            tree::map(object, "metadata").and_then(|m| tree::map(m, "annotations"))
        else {
            return;
        };
        let path = metadata.field("annotations");
        let known = ANNOTATIONS.iter().filter(|(key, _)| annotations.contains_key(*key));
        for (key, message) in known {
            self.add(&path.key(key), message);
        }
        let profile = |of: &Tree| {
            tree::map(of, "securityContext").is_some_and(|c| tree::has(c, "seccompProfile"))
        };
        const OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
        if annotations.contains_key(OF_POD) && !spec.is_some_and(profile) {
            self.add(&path.key(OF_POD), SECCOMP);
        }
        for (_, container) in spec.into_iter().flat_map(containers) {
            let name = tree::text(container, "name");
            let key = format!("container.seccomp.security.alpha.kubernetes.io/{name}");
            if annotations.contains_key(&key) && !profile(container) {
                self.add(&path.key(&key), SECCOMP);
            }
        }
    }

    fn spec(&mut self, spec: &Tree, path: &Path<'_>) {
        self.scheduling(spec, path);
        for (i, volume) in tree::maps(spec, "volumes") {
            let path = path.field("volumes");
            for (kind, message) in VOLUMES.iter().filter(|(kind, _)| tree::has(volume, kind)) {
                self.add(&path.index(i).field(kind), message);
            }
        }
        self.repeated(spec, "hostAliases", "ip", path);
        self.repeated(spec, "imagePullSecrets", "name", path);
        let overhead = tree::map(spec, "overhead");
        self.fractions(overhead, &path.field("overhead"));
        let mut ports = HashMap::new();
        for (place, container) in containers(spec) {
            let (list, index) = place;
            let list = path.field(list);
            let path = list.index(index);
            self.container(container, &path);
            self.ports(container, &path, &mut ports);
        }
        if tree::int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
            self.add(
                &path.field("terminationGracePeriodSeconds"),
                "must be >= 0; negative values are invalid and will be treated as 1",
            );
        }
    }

    fn scheduling(&mut self, spec: &Tree, path: &Path<'_>) {
        let selector = path.field("nodeSelector");
        for (key, _) in tree::pairs(spec, "nodeSelector") {
            if let Some(message) = node_label(key) {
                self.add(&selector.key(key), message);
            }
        }
        let none = Tree::new();
        let affinity = tree::map(spec, "affinity").unwrap_or(&none);
        let path_of_affinity = path.field("affinity");
        if let Some(node) = tree::map(affinity, "nodeAffinity") {
            let path = path_of_affinity.field("nodeAffinity");
            let required = "requiredDuringSchedulingIgnoredDuringExecution";
            let path_of_required = path.field(required);
            let terms = path_of_required.field("nodeSelectorTerms");
            for (i, term) in tree::map(node, required)
                .into_iter()
                .flat_map(|r| tree::maps(r, "nodeSelectorTerms"))
            {
                self.node_terms(term, &terms.index(i));
            }
            let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
            let path = path.field(preferred);
            for (i, term) in tree::maps(node, preferred) {
                if let Some(term) = tree::map(term, "preference") {
                    self.node_terms(term, &path.index(i).field("preference"));
                }
            }
        }
        for (i, spread) in tree::maps(spec, "topologySpreadConstraints") {
            let path = path.field("topologySpreadConstraints");
            let path = path.index(i);
            let key = tree::text(spread, "topologyKey");
            if let Some(message) = node_label(key) {
                self.add(&path.field("topologyKey"), &format!("{key} is {message}"));
            }
            if !tree::has(spread, "labelSelector") {
                self.add(&path.field("labelSelector"), NO_MATCH);
            }
        }
        for kind in ["podAffinity", "podAntiAffinity"] {
            let Some(terms) = tree::map(affinity, kind) else { continue };
            let path = path_of_affinity.field(kind);
            let required = "requiredDuringSchedulingIgnoredDuringExecution";
            for (i, term) in tree::maps(terms, required) {
                if !tree::has(term, "labelSelector") {
                    let path = path.field(required);
                    self.add(&path.index(i).field("labelSelector"), NO_MATCH);
                }
            }
            let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
            for (i, term) in tree::maps(terms, preferred) {
                let term = tree::map(term, "podAffinityTerm").unwrap_or(&none);
                if !tree::has(term, "labelSelector") {
                    let path = path.field(preferred);
                    let path = path.index(i);
                    self.add(&path.field("podAffinityTerm").field("labelSelector"), NO_MATCH);
                }
            }
        }
    }

    fn node_terms(&mut self, term: &Tree, path: &Path<'_>) {
        for (i, expression) in tree::maps(term, "matchExpressions") {
            let key = tree::text(expression, "key");
            if let Some(message) = node_label(key) {
                let path = path.field("matchExpressions");
                self.add(&path.index(i).field("key"), &format!("{key} is {message}"));
            }
        }
    }

    /// Items of a list that are told apart by a field, and cannot be.
    fn repeated(&mut self, spec: &Tree, list: &str, field: &str, path: &Path<'_>) {
        let mut seen = HashSet::new();
        let path = path.field(list);
        for (i, item) in tree::maps(spec, list) {
            let value = tree::text(item, field);
            let place = path.index(i);
            if !seen.insert(value) {
                self.add(&place.field(field), &format!("duplicate {field} {value:?}"));
            }
            if value.is_empty() && field == "name" {
                self.add(&place.field(field), &format!("invalid empty name {value:?}"));
            }
        }
    }

    /// Bytes come whole.
    fn fractions(&mut self, resources: Option<&Tree>, path: &Path<'_>) {
        for name in ["memory", "ephemeral-storage"] {
            let value = resources.and_then(|resources| resources.get(name));
            let Some(Ok(amount)) = value.map(Quantity::from_json) else { continue };
            if !amount.is_whole() {
                let message =
                    format!("fractional byte value \"{amount}\" is invalid, must be an integer");
                self.add(&path.key(name), &message);
            }
        }
    }

    fn container(&mut self, container: &Tree, path: &Path<'_>) {
        let of_resources = path.field("resources");
        let resources = tree::map(container, "resources");
        for which in ["limits", "requests"] {
            let amounts = resources.and_then(|resources| tree::map(resources, which));
            self.fractions(amounts, &of_resources.field(which));
        }
        let mut seen = HashSet::new();
        let env = path.field("env");
        for (i, variable) in tree::maps(container, "env") {
            let (name, value) = (tree::text(variable, "name"), tree::text(variable, "value"));
            let before = format!("$({name})");
            // One that builds on the value before it is meant.
            let builds_on = value != before && value.contains(&before);
            if !seen.insert(name) && (tree::has(variable, "valueFrom") || !builds_on) {
                let message = format!(
                    "hides previous definition of {name:?}, which may be dropped when using apply"
                );
                self.add(&env.index(i), &message);
            }
        }
    }

    /// `seen`: by number and protocol, where else in the pod.
    fn ports<'a>(
        &mut self,
        container: &'a Tree,
        path: &Path<'_>,
        seen: &mut HashMap<(i64, &'a str), Vec<(String, &'a Tree)>>,
    ) {
        let path = path.field("ports");
        for (i, port) in tree::maps(container, "ports") {
            let place = path.index(i);
            let protocol = Some(tree::text(port, "protocol")).filter(|p| !p.is_empty());
            let number = tree::int(port, "containerPort").unwrap_or(0);
            let others = seen.entry((number, protocol.unwrap_or("TCP"))).or_default();
            let of = |port: &'a Tree| {
                (tree::text(port, "hostIP"), tree::int(port, "hostPort").unwrap_or(0))
            };
            for (other, its) in &*others {
                let ((ip, host), (its_ip, its_host)) = (of(port), of(its));
                let what = if (ip, host) == (its_ip, its_host) {
                    "duplicate"
                } else if host == 0 || its_host == 0 {
                    "overlapping"
                } else if host == its_host && ip.is_empty() != its_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                self.add(&place, &format!("{what} port definition with {other}"));
            }
            if others.len() < MAX_COMPARED {
                others.push((String::from(&place), port));
            }
        }
    }
}

/// All containers, with where they stand.
fn containers(spec: &Tree) -> impl Iterator<Item = ((&'static str, usize), &Tree)> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(move |list| tree::maps(spec, list).map(move |(i, c)| ((list, i), c)))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(pod: Value, expected: Expect) {
        let pod = Object::try_from(pod).unwrap();
        expected.assert_eq(&of_pod(&pod, None).join("\n"));
    }

    /// Each with each, they would be two hundred million.
    #[test]
    fn many_of_the_same_are_not_all_told() {
        let ports = vec![json!({"containerPort": 80}); 20_000];
        let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "ports": ports}]}});
        let found = of_pod(&Object::try_from(pod).unwrap(), None);
        assert_eq!(found.len(), MAX_FOUND);
    }

    #[test]
    fn what_is_deprecated() {
        check(
            json!({
                "metadata": {"name": "a.b", "annotations": {
                    "scheduler.alpha.kubernetes.io/critical-pod": "",
                    "container.seccomp.security.alpha.kubernetes.io/c": "x",
                }},
                "spec": {
                    "nodeSelector": {"beta.kubernetes.io/os": "linux", "disk": "ssd"},
                    "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "gitRepo": {"repository": "x"}}],
                    "topologySpreadConstraints": [{"topologyKey": "failure-domain.beta.kubernetes.io/zone"}],
                    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}]},
                    ]}}},
                    "containers": [{"name": "c"}],
                },
            }),
            expect![[r#"
                metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]
                metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead
                metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: non-functional in v1.27+; use the "seccompProfile" field instead
                spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead
                spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: node-role.kubernetes.io/master is use "node-role.kubernetes.io/control-plane" instead
                spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead
                spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod
                spec.volumes[1].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"#]],
        );
    }

    #[test]
    fn what_is_said_twice_or_means_nothing() {
        check(
            json!({"metadata": {"name": "a"}, "spec": {
                "terminationGracePeriodSeconds": -1,
                "hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}],
                "imagePullSecrets": [{"name": ""}],
                "initContainers": [{"name": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}],
                "containers": [{
                    "name": "c", "resources": {"limits": {"memory": "100m", "cpu": "100m"}},
                    "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}],
                    "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"},
                              {"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}],
                }],
            }}),
            expect![[r#"
                spec.hostAliases[1].ip: duplicate ip "10.0.0.1"
                spec.imagePullSecrets[0].name: invalid empty name ""
                spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer
                spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply
                spec.containers[0].ports[0]: overlapping port definition with spec.initContainers[0].ports[0]
                spec.containers[0].ports[2]: dangerously ambiguous port definition with spec.initContainers[0].ports[0]
                spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]
                spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"#]],
        );
    }

    #[test]
    fn templates_warn_when_they_change() {
        let object = |image: &str, replicas: u32| {
            let container =
                json!({"name": "c", "image": image, "env": [{"name": "A"}, {"name": "A"}]});
            let value = json!({"metadata": {"name": "d"}, "spec": {
                "replicas": replicas, "template": {"spec": {"containers": [container]}},
            }});
            Object::try_from(value).unwrap()
        };
        let warning = "spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when \
             using apply";
        let old = object("a", 1);
        assert_eq!(of_template(&old, None), [warning]);
        assert_eq!(of_template(&object("b", 1), Some(&old)), [warning]);
        assert_eq!(of_template(&object("a", 2), Some(&old)), Vec::<String>::new());
    }
}
