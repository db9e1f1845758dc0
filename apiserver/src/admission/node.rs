//! What a node may write, as Kubernetes' NodeRestriction has it: its own objects, and of those not what says where pods
//! go. Also who hands a command in through a node. Asked within the commit, of the object that is there then: between
//! the authorizer's look and the write, while a body is still on its way, another may have come in its place.

use serde_json::Value;
use warren_api::{Kind, Object, Status, Uid};

use super::MIRROR;
use crate::authn::User;
use crate::refs;

/// Labels below these domains are the cluster's to give, but for those that describe the machine.
const PROTECTED: [&str; 2] = ["kubernetes.io", "k8s.io"];
const OF_THE_MACHINE: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];
/// And all below these.
const OF_THE_NODE: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// `old` is what is there; nothing where the object is made.
pub(super) fn writes(
    user: &User,
    kind: &dyn Kind,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let deny = |why: String| Err(Status::forbidden(&kind.resource(), object.name(), &why));
    if let Some(node) = &user.via_node {
        if object.str_at(&["spec", "nodeName"]) != &*node.0 {
            return deny(format!("what was handed in by node {:?} may run there only", &*node.0));
        }
        // The node vouches for the account, and may read what its pods refer to: it could read any Secret so.
        let secret = |name: &String| name.starts_with("secrets/");
        if old.is_none() && refs::of_pod(object).iter().any(secret) {
            return deny(format!(
                "what was handed in by node {:?} may not refer to Secrets; publish it to the exchange \
                 warren.commands, with the routing key {:?}",
                &*node.0, &*node.0
            ));
        }
    }
    let Some(node) = user.as_node() else { return Ok(()) };
    match (kind.group(), kind.kind(), old) {
        ("", "Pod", None) => mirror_pod(node, object).or_else(deny),
        ("", "Pod", Some(old)) => own_pod(node, old).or_else(deny),
        ("", "Node", _) if object.name() != node => {
            deny(format!("node {node:?} is not allowed to modify node {:?}", object.name()))
        }
        ("", "Node", old) => own_node(node, object, old).or_else(deny),
        ("coordination.k8s.io", "Lease", _) if object.name() != node => {
            deny("can only access node lease with the same name as the requesting node".into())
        }
        _ => Ok(()),
    }
}

/// The uid that a pod has already: an autonomous node ran it before the API heard of the command. Only what a node may give
/// (its name is in it) and only on behalf of who gave the command.
pub(crate) fn given_uid(user: &User, kind: &dyn Kind, object: &Object) -> Option<Uid> {
    let node = user.via_node.as_ref().filter(|_| (kind.group(), kind.kind()) == ("", "Pod"))?;
    object.uid().filter(|uid| uid.is_of_node(node))
}

/// Of a delete, which has no new object.
pub(crate) fn deletes(user: &User, kind: &dyn Kind, old: &Object) -> Result<(), Status> {
    let node = user.via_node.as_ref().map(|node| &*node.0).or_else(|| user.as_node());
    match (node, kind.group(), kind.kind()) {
        (Some(node), "", "Pod") => {
            own_pod(node, old).map_err(|why| Status::forbidden(&kind.resource(), old.name(), &why))
        }
        _ => Ok(()),
    }
}

fn own_pod(node: &str, pod: &Object) -> Result<(), String> {
    match pod.str_at(&["spec", "nodeName"]) == node {
        true => Ok(()),
        false => {
            Err(format!("node {node:?} can only change pods with spec.nodeName set to itself"))
        }
    }
}

fn mirror_pod(node: &str, pod: &Object) -> Result<(), String> {
    if pod.annotation(MIRROR).is_none() {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    // It could read any of them, by saying that it runs a pod which uses it.
    match refs::of_pod(pod).first() {
        None => Ok(()),
        Some(found) => Err(format!("node {node:?} can not create pods that reference {found}")),
    }
}

fn own_node(node: &str, object: &Object, old: Option<&Object>) -> Result<(), String> {
    if let Some(old) = old {
        for (path, what) in
            [(["spec", "taints"], "taints"), (["metadata", "ownerReferences"], "ownerReferences")]
        {
            if object.at(&path) != old.at(&path) {
                return Err(format!("node {node:?} is not allowed to modify {what}"));
            }
        }
    }
    let label = |object: &Object, key: &str| {
        object.at(&["metadata", "labels"]).and_then(|labels| labels.get(key)).cloned()
    };
    let keys = |object: &Object| -> Vec<String> {
        let labels = object.at(&["metadata", "labels"]).and_then(Value::as_object);
        labels.into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let mut changed = keys(object);
    changed.extend(old.map(keys).unwrap_or_default());
    changed.retain(|key| label(object, key) != old.and_then(|old| label(old, key)));
    match changed.iter().find(|key| is_protected(key)) {
        None => Ok(()),
        Some(key) => Err(format!("is not allowed to modify labels: {key}")),
    }
}

fn is_protected(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let below =
        |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|d| d.ends_with('.'));
    below("node-restriction.kubernetes.io")
        || (PROTECTED.iter().any(|of| below(of))
            && !OF_THE_MACHINE.contains(&key)
            && !OF_THE_NODE.iter().any(|of| below(of)))
}

#[cfg(test)]
mod tests {
    use warren_api::{NodeName, Registry};

    use super::*;

    #[test]
    fn a_uid_is_given_by_the_pods_own_node_only() {
        let registry = Registry::builtin();
        let kind = |kind| registry.by_kind("v1", kind).unwrap();
        let node = |name: &str| NodeName(name.into());
        let mut via = User::broker(Some("alice"));
        via.via_node = Some(node("a"));
        let of = |uid: &str| {
            let mut pod = Object::default();
            pod.set_at(&["metadata", "uid"], uid);
            pod
        };
        let own = of(&Uid::of_node(&node("a"), [7; 10]).0);
        let foreign = of(&Uid::of_node(&node("b"), [7; 10]).0);
        let cases = [
            (&via, "Pod", &own, true),
            (&via, "Pod", &foreign, false),
            (&via, "Pod", &of("c5a7f3e0-7f0c-4f6e-8f43-0f3f5e5a9b11"), false),
            (&via, "Pod", &of("x"), false),
            (&via, "Pod", &Object::default(), false),
            (&via, "ConfigMap", &own, false),
            (&User::broker(Some("alice")), "Pod", &own, false),
            (&User::new("system:node:a", &["system:nodes"]), "Pod", &own, false),
            (&User::new("admin", &["system:masters"]), "Pod", &own, false),
        ];
        for (n, (user, name, object, given)) in cases.into_iter().enumerate() {
            assert_eq!(given_uid(user, kind(name), object).is_some(), given, "{n}");
        }
    }

    #[test]
    fn labels_that_say_where_pods_go_are_not_the_nodes() {
        for (key, protected) in [
            ("kubernetes.io/hostname", false),
            ("topology.kubernetes.io/zone", false),
            ("sub.node.kubernetes.io/x", false),
            ("example.com/x", false),
            ("mykubernetes.io/x", false),
            ("x", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/x", true),
            ("a.node-restriction.kubernetes.io/x", true),
            ("kubernetes.io/x", true),
            ("a.k8s.io/x", true),
        ] {
            assert_eq!(is_protected(key), protected, "{key}");
        }
    }
}
