//! Which ConfigMaps, Secrets and claims the pods of each node use: their changes are published to the node, what is new
//! there is brought to it, and the node may read them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;
use serde::Deserialize;
use serde_json::Value;
use warren_api::{Object, Revision};

/// `configmaps/<name>`, `secrets/<name>`, `persistentvolumeclaims/<name>`, all in the pod's namespace.
pub(crate) fn of_pod(pod: &Object) -> BTreeSet<String> {
    pod.at(&["spec"]).map(of_spec).unwrap_or_default()
}

/// Those of an encoded pod; none where it is damaged.
fn of_body(body: &[u8]) -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct Pod {
        spec: Value,
    }
    serde_json::from_slice(body).map(|pod: Pod| of_spec(&pod.spec)).unwrap_or_default()
}

fn of_spec(spec: &Value) -> BTreeSet<String> {
    let mut refs = BTreeSet::new();
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

/// What a node's pods have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    pods: u32,
    /// The change by which the first of them came; since then there was always one.
    since: Revision,
}

#[derive(Debug)]
struct Known {
    node: Arc<str>,
    /// Sorted; most pods have none.
    refs: Box<[Arc<str>]>,
}

type Users = BTreeMap<Arc<str>, Use>;

/// The references of all pods that have a node. Follows the pods' changes; asked with every write of something that can be
/// referred to, so that costs nothing that grows with the pods.
#[derive(Debug, Default)]
pub(crate) struct Refs {
    /// By namespace and reference: the nodes.
    users: AHashMap<Arc<str>, AHashMap<Arc<str>, Users>>,
    /// By namespace and name.
    pods: AHashMap<Arc<str>, AHashMap<Arc<str>, Known>>,
}

impl Refs {
    /// A pod as it is since a revision; `node` is none where it has none, or is gone.
    pub(crate) fn set(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        at: Revision,
        node: Option<&Arc<str>>,
        body: &[u8],
    ) {
        let refs: Box<[Arc<str>]> = match node {
            Some(_) if may_refer(body) => of_body(body).into_iter().map(Arc::from).collect(),
            _ => Box::default(),
        };
        let known = self.pods.get(namespace).and_then(|pods| pods.get(name));
        match (known, node) {
            (None, _) if refs.is_empty() => return,
            (Some(known), Some(node)) if known.node == *node && known.refs == refs => return,
            _ => {}
        }
        // What is new is added before the old is taken away, or what stays would seem to begin now.
        let users = self.users.entry(Arc::clone(namespace)).or_default();
        for (reference, node) in refs.iter().zip(std::iter::repeat(node)) {
            let Some(node) = node else { continue };
            let nodes = users.entry(Arc::clone(reference)).or_default();
            let of_node = nodes.entry(Arc::clone(node)).or_insert(Use { pods: 0, since: at });
            // What is read from the disk comes in no order.
            (of_node.pods, of_node.since) = (of_node.pods + 1, of_node.since.min(at));
        }
        let pods = self.pods.entry(Arc::clone(namespace)).or_default();
        let old = match node.filter(|_| !refs.is_empty()) {
            Some(node) => pods.insert(Arc::clone(name), Known { node: Arc::clone(node), refs }),
            None => pods.remove(name),
        };
        if pods.is_empty() {
            self.pods.remove(namespace);
        }
        for (reference, node) in old.iter().flat_map(|old| old.refs.iter().map(|r| (r, &old.node)))
        {
            let Some(nodes) = users.get_mut(reference) else { continue };
            if let Some(known) = nodes.get_mut(node) {
                known.pods -= 1;
                if known.pods == 0 {
                    nodes.remove(node);
                }
            }
            if nodes.is_empty() {
                users.remove(reference);
            }
        }
        if users.is_empty() {
            self.users.remove(namespace);
        }
    }

    fn users(&self, namespace: &str, reference: &str) -> Option<&Users> {
        self.users.get(namespace)?.get(reference)
    }

    /// The nodes whose pods refer to `configmaps/<name>` of a namespace, in order.
    pub(crate) fn nodes(&self, namespace: &str, reference: &str) -> Vec<Arc<str>> {
        let users = self.users(namespace, reference);
        users.into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    pub(crate) fn uses(&self, node: &str, namespace: &str, reference: &str) -> bool {
        self.users(namespace, reference).is_some_and(|users| users.contains_key(node))
    }

    /// What a pod's change has brought to its node: no other pod there referred to it.
    pub(crate) fn brought(&self, namespace: &str, name: &str, at: Revision) -> Vec<Arc<str>> {
        let known = self.pods.get(namespace).and_then(|pods| pods.get(name));
        let Some(Known { node, refs }) = known else { return Vec::new() };
        let is_new = |reference: &&Arc<str>| {
            let of_node = self.users(namespace, reference).and_then(|users| users.get(node));
            of_node.is_some_and(|of_node| of_node.since == at)
        };
        refs.iter().filter(is_new).cloned().collect()
    }
}

/// Whether a pod's bytes have any of the words by which it can refer to something: most have none, and are not parsed.
fn may_refer(body: &[u8]) -> bool {
    const WORDS: [&[u8]; 3] = [b"onfigMap", b"ecret", b"persistentVolumeClaim"];
    WORDS.iter().any(|word| memchr::memmem::find(body, word).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
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
        // Each of them alone is seen in the bytes.
        for way in [
            json!({"volumes": [{"configMap": {"name": "a"}}]}),
            json!({"volumes": [{"secret": {"secretName": "a"}}]}),
            json!({"volumes": [{"persistentVolumeClaim": {"claimName": "a"}}]}),
            json!({"imagePullSecrets": [{"name": "a"}]}),
            json!({"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "a", "key": "k"}}}]}]}),
            json!({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}}]}]}),
            json!({"containers": [{"envFrom": [{"configMapRef": {"name": "a"}}]}]}),
            json!({"containers": [{"envFrom": [{"secretRef": {"name": "a"}}]}]}),
        ] {
            assert!(may_refer(json!({"spec": way}).to_string().as_bytes()), "{way}");
        }
        assert!(!may_refer(br#"{"spec":{"containers":[{"image":"a"}]}}"#));
    }

    fn body(refs: &BTreeSet<String>) -> Vec<u8> {
        let source = |name: &String| json!({"configMap": {"name": name}});
        let volumes: Vec<_> = refs.iter().map(source).collect();
        json!({"spec": {"volumes": volumes}}).to_string().into_bytes()
    }

    fn text(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn what_is_new_to_a_node_is_brought_once() {
        let maps = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut refs = Refs::default();
        let mut shown = String::new();
        for (at, pod, node, names) in [
            (1, "a", None, &["m"][..]),
            (2, "a", Some("n"), &["m"]),
            // Its status.
            (3, "a", Some("n"), &["m"]),
            (4, "b", Some("n"), &["m", "k"]),
            (5, "c", Some("o"), &["m"]),
            (6, "a", None, &[]),
            (7, "b", None, &[]),
            (8, "d", Some("n"), &["m"]),
            // A debug container's.
            (9, "d", Some("n"), &["m", "k"]),
            (10, "e", Some("n"), &[]),
        ] {
            refs.set(
                &text("s"),
                &text(pod),
                Revision(at),
                node.map(text).as_ref(),
                &body(&maps(names)),
            );
            let brought = refs.brought("s", pod, Revision(at)).join(" ");
            let nodes = refs.nodes("s", "configmaps/m").join(" ");
            shown += &format!("{at} brings [{brought}]; m is used by [{nodes}]\n");
        }
        expect_test::expect![[r#"
            1 brings []; m is used by []
            2 brings [configmaps/m]; m is used by [n]
            3 brings []; m is used by [n]
            4 brings [configmaps/k]; m is used by [n]
            5 brings [configmaps/m]; m is used by [n o]
            6 brings []; m is used by [n o]
            7 brings []; m is used by [o]
            8 brings [configmaps/m]; m is used by [n o]
            9 brings [configmaps/k]; m is used by [n o]
            10 brings []; m is used by [n o]
        "#]]
        .assert_eq(&shown);
    }

    proptest! {
        /// As if all pods were looked through each time, and nothing is left behind.
        #[test]
        fn the_index_is_what_the_pods_say(
            steps in proptest::collection::vec(
                (0..2usize, 0..4usize, proptest::option::of(0..2usize), proptest::collection::btree_set("[a-c]", 0..3)),
                0..60,
            ),
        ) {
            let mut refs = Refs::default();
            let mut pods: BTreeMap<(String, String), (String, BTreeSet<String>)> = BTreeMap::new();
            let mut since: BTreeMap<(String, String, String), u64> = BTreeMap::new();
            for (at, (namespace, pod, node, names)) in (1..).zip(steps) {
                let (namespace, pod) = (format!("s{namespace}"), format!("p{pod}"));
                let node = node.map(|node| format!("n{node}"));
                let of_node = node.as_deref().map(text);
                refs.set(&text(&namespace), &text(&pod), Revision(at), of_node.as_ref(), &body(&names));
                match node {
                    Some(node) => pods.insert((namespace.clone(), pod.clone()), (node, names)),
                    None => pods.remove(&(namespace.clone(), pod.clone())),
                };
                let used: BTreeSet<_> = pods
                    .iter()
                    .flat_map(|((ns, _), (node, names))| names.iter().map(move |name| (ns.clone(), name.clone(), node.clone())))
                    .collect();
                since.retain(|key, _| used.contains(key));
                for key in used {
                    since.entry(key).or_insert(at);
                }
                for (ns, name) in ["s0", "s1"].iter().flat_map(|ns| ["a", "b", "c"].map(|name| (*ns, name))) {
                    let reference = format!("configmaps/{name}");
                    let expected: Vec<_> = since.keys().filter(|(s, n, _)| s == ns && n == name).map(|(_, _, node)| text(node)).collect();
                    prop_assert_eq!(refs.nodes(ns, &reference), expected);
                }
                let brought: Vec<_> = pods.get(&(namespace.clone(), pod.clone())).into_iter().flat_map(|(node, names)| {
                    let (since, namespace) = (&since, &namespace);
                    names.iter().filter(move |name| since[&(namespace.clone(), (*name).clone(), node.clone())] == at)
                }).map(|name| text(&format!("configmaps/{name}"))).collect();
                prop_assert_eq!(refs.brought(&namespace, &pod, Revision(at)), brought);
            }
            for (namespace, pod) in pods.into_keys() {
                refs.set(&text(&namespace), &text(&pod), Revision(1_000), None, b"");
            }
            prop_assert!(refs.users.is_empty() && refs.pods.is_empty());
        }
    }
}
