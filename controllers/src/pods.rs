//! What a pod's status says.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::core::{Selector, SelectorExt};
use serde_json::{Value, json};

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Its containers have ended for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts as one of its owner's replicas.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when it is ready; `None` where it is not.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// `Ok` where it has been ready for so many seconds, `Err` with the time when it will have been.
pub(crate) fn available(pod: &Pod, seconds: i32, now: Timestamp) -> Result<(), Option<Timestamp>> {
    let since = ready_since(pod).ok_or(None)?;
    if seconds == 0 {
        return Ok(());
    }
    let at = since.saturating_add(SignedDuration::from_secs(seconds.into()));
    let at = at.unwrap_or(Timestamp::MAX);
    if at <= now { Ok(()) } else { Err(Some(at)) }
}

pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).fold(0, i32::saturating_add)
}

/// A selector that matches nothing where it cannot be read or is empty: controllers never own everything.
pub(crate) fn selector(selector: &LabelSelector) -> Option<Selector> {
    let selector: Selector = selector.clone().try_into().ok()?;
    (!selector.selects_all()).then_some(selector)
}

pub(crate) fn matches<K: kube::Resource>(selector: &Selector, object: &K) -> bool {
    static NONE: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    selector.matches(object.meta().labels.as_ref().unwrap_or(&NONE))
}

/// The pod that a template describes, controlled by its owner.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    name: &str,
    generate_name: &str,
    owner: &OwnerReference,
) -> Value {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "generateName": generate_name,
            "ownerReferences": [owner],
        },
        "spec": template.spec,
    });
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            pod["metadata"][field] = value;
        }
    };
    set("labels", meta.labels.map(|labels| json!(labels)));
    set("annotations", meta.annotations.map(|annotations| json!(annotations)));
    set("finalizers", meta.finalizers.map(|finalizers| json!(finalizers)));
    pod
}
