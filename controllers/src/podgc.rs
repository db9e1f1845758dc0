//! Pods that nobody will end: their node is gone, or never was, or they are many and finished.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::json;
use warren_process::Tasks;

use crate::caches::Key;
use crate::plan::{Plan, Target, Write};
use crate::pods;
use crate::queue::WorkQueue;
use crate::runner::{Context, Controller, run};

/// Kubernetes' period, and how long a node must be missing.
const PERIOD: Duration = Duration::from_secs(20);
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// Finished pods that may stay, as Kubernetes has it.
const FINISHED: usize = 12_500;
/// Deleted by one decision.
const BURST: usize = 500;

pub(crate) struct Snapshot<'a> {
    pub pods: &'a [Arc<Pod>],
    /// Nodes that pods name and that are not there, and since when.
    pub missing: &'a BTreeMap<String, Timestamp>,
    /// Nodes that people have declared dead.
    pub out_of_service: &'a dyn Fn(&str) -> bool,
}

pub(crate) fn decide(now: Timestamp, snapshot: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    plan.again(PERIOD);
    let mut finished: Vec<&Arc<Pod>> = Vec::new();
    for pod in snapshot.pods {
        let node = pods::node(pod);
        let since = node.and_then(|node| snapshot.missing.get(node));
        let orphaned = since.is_some_and(|since| now.duration_since(*since) >= QUARANTINE);
        let terminating = pods::is_terminating(pod);
        let dead = terminating && node.is_some_and(|node| (snapshot.out_of_service)(node));
        let never_ran = terminating && node.is_none();
        if orphaned || dead || never_ran {
            end(&mut plan, pod, orphaned && !terminating);
        } else if pods::is_finished(pod) && !terminating {
            finished.push(pod);
        }
        if plan.steps.len() >= BURST {
            return plan;
        }
    }
    finished.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    let surplus = finished.len().saturating_sub(FINISHED).min(BURST);
    finished[..surplus].iter().for_each(|pod| end(&mut plan, pod, false));
    plan
}

/// Deletes it for good; nobody is there who would confirm.
fn end(plan: &mut Plan, pod: &Pod, fail: bool) {
    if fail && !pods::is_finished(pod) {
        plan.push(Write::Patch {
            target: Target::of(pod),
            subresource: Some("status"),
            resource_version: None,
            patch: json!({"status": {"phase": "Failed"}}),
        });
    }
    plan.push(Write::Delete {
        target: Target::of(pod),
        resource_version: None,
        grace_seconds: Some(0),
        propagation: Some("Background"),
    });
}

pub(crate) struct PodGc {
    context: Context,
    missing: Mutex<BTreeMap<String, Timestamp>>,
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-garbage-collector";
    const RESOURCE: (&'static str, &'static str) = ("", "pods");

    fn plan(&self, now: Timestamp, _: &Key) -> Plan {
        let caches = &self.context.caches;
        let mut missing = self.missing.lock();
        let named = caches.pods_on.keys();
        missing.retain(|node, _| named.contains(node) && caches.nodes.get("", node).is_none());
        for node in named {
            if caches.nodes.get("", &node).is_none() {
                missing.entry(node).or_insert(now);
            }
        }
        let out_of_service = |name: &str| {
            let node = caches.nodes.get("", name);
            let taints = node.as_ref().and_then(|node| node.spec.as_ref()?.taints.as_ref());
            taints.is_some_and(|all| {
                all.iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service")
            })
        };
        let pods = caches.pods.store().state();
        let snapshot = Snapshot { pods: &pods, missing: &missing, out_of_service: &out_of_service };
        decide(now, &snapshot)
    }
}

pub(crate) fn start(context: &Context, tasks: &Tasks) {
    let queue = WorkQueue::default();
    queue.add(Key::new("", "pods"));
    let to = queue.clone();
    context.caches.nodes.on_change(move |change| {
        if change.new.is_none() {
            to.add(Key::new("", "pods"));
        }
    });
    // One that goes before it has a node has nobody else who would end it.
    let to = queue.clone();
    context.caches.pods.on_change(move |change| {
        let Some(pod) = &change.new else { return };
        if pods::is_terminating(pod) && pods::node(pod).is_none() {
            to.add(Key::new("", "pods"));
        }
    });
    let controller = PodGc { context: context.clone(), missing: Mutex::default() };
    run(context, tasks, queue, 1, controller);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_nodes_that_are_gone_are_ended_after_a_while() {
        let pod = |name: &str, node: Option<&str>, going: bool| {
            let going = going.then_some("2026-01-01T00:00:00Z");
            let pod = json!({
                "metadata": {"name": name, "uid": name, "deletionTimestamp": going},
                "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"},
            });
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let pods = [
            pod("lost", Some("gone"), false),
            pod("fine", Some("here"), false),
            pod("never", None, true),
            pod("dead", Some("dead"), true),
            pod("going", Some("here"), true),
        ];
        let missing: BTreeMap<_, _> = [("gone".to_owned(), Timestamp::UNIX_EPOCH)].into();
        let ended = |seconds| {
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
            let snapshot =
                Snapshot { pods: &pods, missing: &missing, out_of_service: &|n| n == "dead" };
            let name = |step: &crate::plan::Step| match &step.write {
                Write::Delete { target, grace_seconds: Some(0), .. } => Some(target.name.clone()),
                _ => None,
            };
            decide(now, &snapshot).steps.iter().filter_map(name).collect::<Vec<_>>()
        };
        assert_eq!(ended(39), ["never", "dead"]);
        assert_eq!(ended(40), ["lost", "never", "dead"]);
    }
}
