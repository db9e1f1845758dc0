//! Node lifecycle: a node that is not heard of is unknown, then its pods leave.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use warren_client::Change;
use warren_process::Tasks;

use crate::caches::Key;
use crate::plan::{Plan, Step, Target, Write, delete, normal, status_patch};
use crate::pods;
use crate::queue::WorkQueue;
use crate::runner::{Context, Controller, run};
use crate::scheduler::tolerates;

/// Without a watch leases are listed so often; a short grace period makes it more often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const WORKERS: usize = 4;
/// `node-monitor-period`: how often a node is looked at, unless the grace period asks for more.
const PERIOD: Duration = Duration::from_secs(5);
/// How often at most.
const SHORTEST: Duration = Duration::from_millis(100);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// `"true"` on a Node that keeps its pods though nobody hears of it.
const AUTONOMOUS: &str = "warren.dev/autonomous";

pub(crate) struct Snapshot<'a> {
    pub node: &'a Node,
    /// When its lease was last seen to change, by our own clock. `None` while leases cannot be read: nobody is judged
    /// for our own deafness.
    pub heard: Option<Timestamp>,
    pub pods: &'a [Arc<Pod>],
    /// So long a node may be silent: `node-monitor-grace-period`.
    pub grace: Duration,
}

pub(crate) fn decide(now: Timestamp, snapshot: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    plan.again(PERIOD.min(snapshot.grace / 4).max(SHORTEST));
    let (node, Some(heard)) = (snapshot.node, snapshot.heard) else { return plan };
    let status = node.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.clone().unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    let mut ready = ready.map_or("Unknown", |condition| condition.status.as_str()).to_owned();
    if now.duration_since(heard)
        > SignedDuration::try_from(snapshot.grace).unwrap_or(SignedDuration::MAX)
    {
        if ready != "Unknown" {
            let text = format!("Node {} status is now: NodeNotReady", node.name_any());
            plan.notes.push(normal(node, "NodeNotReady", text));
        }
        ready = "Unknown".to_owned();
        for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            let at = conditions.iter().position(|condition| condition.type_ == kind);
            if at.is_some_and(|at| conditions[at].status == "Unknown") {
                continue;
            }
            let before = at.map(|at| conditions.remove(at)).unwrap_or_default();
            let posted = before.last_heartbeat_time.is_some();
            conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some(
                    if posted { "NodeStatusUnknown" } else { "NodeStatusNeverUpdated" }.to_owned(),
                ),
                message: Some(
                    if posted {
                        "Kubelet stopped posting node status."
                    } else {
                        "Kubelet never posted node status."
                    }
                    .to_owned(),
                ),
                last_heartbeat_time: before.last_heartbeat_time,
                last_transition_time: Some(Time(now)),
            });
        }
        let mut new = status;
        new.conditions = Some(conditions);
        plan.steps.extend(status_patch(node, node.status.as_ref(), &new).map(Step::from));
    }
    let taints = taints(&mut plan, now, node, &ready);
    if ready != "True" {
        for pod in snapshot.pods.iter().filter(|pod| pods::is_ready(pod)) {
            plan.steps.extend(unready(now, pod).map(Step::from));
        }
    }
    evict(&mut plan, now, &taints, snapshot.pods);
    plan
}

/// The taints as they shall be: those of other people, and ours by readiness.
fn taints(plan: &mut Plan, now: Timestamp, node: &Node, ready: &str) -> Vec<Taint> {
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = match ready {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    let is_ours = |taint: &&Taint| {
        matches!(taint.key.as_str(), NOT_READY | UNREACHABLE)
            && matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
    };
    let mut new: Vec<Taint> = old.iter().filter(|taint| !is_ours(taint)).cloned().collect();
    // Where a node goes on alone, nothing new comes and nothing leaves.
    let effects: &[&str] =
        if is_autonomous(node) { &["NoSchedule"] } else { &["NoSchedule", "NoExecute"] };
    for effect in effects.iter().copied() {
        let Some(key) = wanted else { break };
        let known = old.iter().find(|taint| taint.key == key && taint.effect == effect);
        new.push(known.cloned().unwrap_or_else(|| Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            time_added: Some(Time(now)),
            value: None,
        }));
    }
    let same = new.len() == old.len() && new.iter().all(|taint| old.contains(taint));
    if !same {
        plan.push(Write::Patch {
            target: Target::of(node),
            subresource: None,
            resource_version: node.metadata.resource_version.clone(),
            patch: json!({"spec": {"taints": new}}),
        });
    }
    new
}

fn is_autonomous(node: &Node) -> bool {
    node.annotations().get(AUTONOMOUS).is_some_and(|mark| mark == "true")
}

/// A pod that nobody hears of serves nobody.
fn unready(now: Timestamp, pod: &Pod) -> Option<Write> {
    let old = pod.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let ready = conditions.iter_mut().find(|condition| condition.type_ == "Ready")?;
    ready.status = "False".to_owned();
    ready.last_transition_time = Some(Time(now));
    let new = PodStatus { conditions: Some(conditions), ..old };
    status_patch(pod, pod.status.as_ref(), &new)
}

/// Pods leave that do not tolerate a taint, or have tolerated it long enough.
fn evict(plan: &mut Plan, now: Timestamp, taints: &[Taint], all: &[Arc<Pod>]) {
    let hard: Vec<&Taint> = taints.iter().filter(|taint| taint.effect == "NoExecute").collect();
    if hard.is_empty() {
        return;
    }
    for pod in all.iter().filter(|pod| pods::is_active(pod)) {
        let annotations = pod.metadata.annotations.as_ref();
        if annotations.is_some_and(|all| all.contains_key(MIRROR)) {
            continue;
        }
        let mut leaves: Option<Timestamp> = None;
        for taint in &hard {
            let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
            let matching: Vec<_> = tolerations.filter(|t| tolerates(t, taint)).collect();
            let since = taint.time_added.as_ref().map_or(now, |time| time.0);
            let at = if matching.is_empty() {
                now
            } else {
                let seconds = matching.iter().filter_map(|t| t.toleration_seconds).min();
                let Some(seconds) = seconds else { continue };
                let after = SignedDuration::from_secs(seconds.max(0));
                since.saturating_add(after).unwrap_or(Timestamp::MAX)
            };
            leaves = Some(leaves.map_or(at, |other| other.min(at)));
        }
        match leaves {
            Some(at) if at <= now => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let text = format!("Marking for deletion Pod {namespace}/{}", pods::name(pod));
                let note = normal(&**pod, "TaintManagerEviction", text);
                plan.push(Step::from(delete(&**pod)).note(note));
            }
            Some(at) => plan.again_at(now, at),
            None => {}
        }
    }
}

/// What leases say, as it was heard here.
#[derive(Default)]
struct Heard {
    /// When this began, or began anew after an outage: before that nothing can be held against anybody.
    since: Option<Timestamp>,
    leases: HashMap<String, (Option<String>, Timestamp)>,
    /// The same of what nodes say of themselves: a node that comes back posts its status before its lease is seen.
    statuses: HashMap<String, (Timestamp, Timestamp)>,
}

pub(crate) struct NodeLifecycle {
    context: Context,
    heard: Arc<Mutex<Heard>>,
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-controller";
    const RESOURCE: (&'static str, &'static str) = ("", "nodes");

    fn plan(&self, now: Timestamp, key: &Key) -> Plan {
        let caches = &self.context.caches;
        let Some(node) = caches.nodes.get("", &key.name) else { return Plan::default() };
        let heard = {
            let heard = self.heard.lock();
            let lease = heard.leases.get(&*key.name).map(|(_, at)| *at);
            let status = heard.statuses.get(&*key.name).map(|(_, at)| *at);
            let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
            heard.since.map(|since| lease.max(status).max(created).unwrap_or(since).max(since))
        };
        let pods = caches.pods_on.get(&key.name);
        let grace = self.context.node_grace;
        decide(now, &Snapshot { node: &node, heard, pods: &pods, grace })
    }
}

pub(crate) fn start(context: &Context, tasks: &Tasks) {
    let queue = WorkQueue::default();
    let heard: Arc<Mutex<Heard>> = Arc::default();
    let (to, heard_, clock) = (queue.clone(), Arc::clone(&heard), Arc::clone(&context.clock));
    context.caches.nodes.on_change(move |change| {
        heard_.lock().status(clock.now(), change);
        change.new.iter().for_each(|node| to.add(Key::of(&**node)));
    });
    let (context_, heard_) = (context.clone(), Arc::clone(&heard));
    let shutdown = tasks.shutdown().clone();
    // Heartbeats are no events on the fabric: they are watched by HTTP, and without it looked at now and then.
    tasks.spawn("node-leases", async move {
        tokio::select! {
            () = shutdown.draining() => {}
            () = listen(&context_, &heard_), if context_.watches => {}
            () = look(&context_, &heard_), if !context_.watches => {}
        }
    });
    let to = queue.clone();
    context.caches.pods.on_change(move |change| {
        let node = change.new.as_ref().and_then(|pod| pods::node(pod));
        let was = change.old.as_ref().and_then(|pod| pods::node(pod));
        if node != was {
            node.into_iter().for_each(|node| to.add(Key::new("", node)));
        }
    });
    run(context, tasks, queue, WORKERS, NodeLifecycle { context: context.clone(), heard });
}

async fn listen(context: &Context, heard: &Mutex<Heard>) {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), "kube-node-lease");
    let mut events = watcher(api, watcher::Config::default()).boxed();
    let mut told = false;
    loop {
        let event = events.try_next().await;
        match event {
            Ok(Some(event)) => {
                // The first of a list that may fail again.
                told &= matches!(event, watcher::Event::Init);
                heard.lock().enter(context.clock.now(), event);
            }
            Ok(None) => return,
            Err(error) => {
                heard.lock().since = None;
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "leases cannot be watched; no node is judged meanwhile");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// The same where nothing can be watched.
async fn look(context: &Context, heard: &Mutex<Heard>) {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), "kube-node-lease");
    let every = (context.node_grace / 8).clamp(Duration::from_millis(500), LOOK_EVERY);
    let mut told = false;
    loop {
        match api.list(&ListParams::default()).await {
            Ok(list) => {
                told = false;
                heard.lock().listed(context.clock.now(), list.items);
            }
            Err(error) => {
                heard.lock().since = None;
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "leases cannot be listed; no node is judged meanwhile");
                }
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// When the node last said itself how it is.
fn posted(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    ready.last_heartbeat_time.as_ref().map(|time| time.0)
}

impl Heard {
    fn status(&mut self, now: Timestamp, change: &Change<Node>) {
        let Some(node) = change.any() else { return };
        let (name, posted) = (node.name_any(), change.new.as_deref().and_then(posted));
        match posted {
            Some(posted) if self.statuses.get(&name).is_none_or(|(known, _)| *known != posted) => {
                self.statuses.insert(name, (posted, now));
            }
            None if change.new.is_none() => {
                self.statuses.remove(&name);
            }
            _ => {}
        }
    }

    fn listed(&mut self, now: Timestamp, leases: Vec<Lease>) {
        let there: HashSet<String> = leases.iter().map(ResourceExt::name_any).collect();
        self.leases.retain(|name, _| there.contains(name));
        for lease in leases {
            self.enter(now, watcher::Event::Apply(lease));
        }
        self.since.get_or_insert(now);
    }

    fn enter(&mut self, now: Timestamp, event: watcher::Event<Lease>) {
        match event {
            watcher::Event::Apply(lease) | watcher::Event::InitApply(lease) => {
                self.since.get_or_insert(now);
                let name = lease.name_any();
                let renewed = lease.spec.and_then(|spec| spec.renew_time);
                let renewed = renewed.map(|time| time.0.to_string());
                if self.leases.get(&name).is_none_or(|(known, _)| *known != renewed) {
                    self.leases.insert(name, (renewed, now));
                }
            }
            watcher::Event::Delete(lease) => {
                self.leases.remove(&lease.name_any());
            }
            watcher::Event::Init => {}
            watcher::Event::InitDone => {
                self.since.get_or_insert(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = crate::Config::NODE_GRACE;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn node(ready: &str, taints: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "uid": "n"},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready,
                "lastHeartbeatTime": "1970-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }

    fn pod(tolerated: Option<i64>) -> Arc<Pod> {
        let tolerations = tolerated.map(|seconds| {
            json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}])
        });
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "p", "uid": "p", "namespace": "default"},
                "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True"}]},
            }))
            .unwrap(),
        )
    }

    fn kinds(plan: &Plan) -> Vec<String> {
        let kind = |step: &Step| match &step.write {
            Write::Patch { target, subresource, .. } => {
                format!("{}/{}", target.resource.plural, subresource.unwrap_or("spec"))
            }
            Write::Delete { target, .. } => format!("delete {}", target.name),
            _ => unreachable!(),
        };
        plan.steps.iter().map(kind).collect()
    }

    #[test]
    fn silence_makes_a_node_unknown_and_its_pods_leave_in_time() {
        let pods = [pod(Some(30))];
        let node_ = node("True", json!(null));
        let plan = |now, node: &Node, heard| {
            decide(at(now), &Snapshot { node, heard, pods: &pods, grace: GRACE })
        };
        assert!(kinds(&plan(40, &node_, Some(at(0)))).is_empty());
        let lost = plan(41, &node_, Some(at(0)));
        assert_eq!(kinds(&lost), ["nodes/status", "nodes/spec", "pods/status"]);
        assert_eq!(lost.notes[0].reason, "NodeNotReady");
        assert!(kinds(&plan(500, &node_, None)).is_empty(), "deaf, not dead");

        let taint = |effect| {
            json!({"key": UNREACHABLE, "effect": effect,
            "timeAdded": "1970-01-01T00:00:41Z"})
        };
        let tainted = node("Unknown", json!([taint("NoSchedule"), taint("NoExecute")]));
        let waiting = plan(60, &tainted, Some(at(0)));
        assert!(!kinds(&waiting).contains(&"delete p".to_owned()));
        assert!(kinds(&plan(71, &tainted, Some(at(0)))).contains(&"delete p".to_owned()));

        let mut back = tainted.clone();
        back.status = node("True", json!(null)).status;
        assert_eq!(kinds(&plan(72, &back, Some(at(70)))), ["nodes/spec"]);
    }

    #[test]
    fn nothing_leaves_a_node_that_goes_on_alone() {
        let pods = [pod(None)];
        let taint = |effect: &str| json!({"key": UNREACHABLE, "effect": effect});
        let foreign = json!({"key": "mine", "effect": "NoExecute"});
        for (mark, ready, heard, taints, expected) in [
            ("true", "True", 0, json!(null), &["nodes/status", "nodes/spec", "pods/status"][..]),
            ("true", "Unknown", 0, json!([taint("NoSchedule")]), &["pods/status"]),
            ("true", "False", 90, json!(null), &["nodes/spec", "pods/status"]),
            // Marked when it was lost already.
            (
                "true",
                "Unknown",
                0,
                json!([taint("NoSchedule"), taint("NoExecute")]),
                &["nodes/spec", "pods/status"],
            ),
            ("true", "True", 90, json!([taint("NoSchedule")]), &["nodes/spec"]),
            ("true", "True", 90, json!([foreign]), &["delete p"]),
            ("false", "False", 90, json!(null), &["nodes/spec", "pods/status", "delete p"]),
            ("yes", "False", 90, json!(null), &["nodes/spec", "pods/status", "delete p"]),
        ] {
            let mut node = node(ready, taints);
            if ready == "Unknown" {
                let status = node.status.get_or_insert_default();
                for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
                    status.conditions.get_or_insert_default().push(NodeCondition {
                        type_: kind.to_owned(),
                        status: "Unknown".to_owned(),
                        ..NodeCondition::default()
                    });
                }
            }
            node.metadata.annotations = Some([(AUTONOMOUS.to_owned(), mark.to_owned())].into());
            let snapshot =
                Snapshot { node: &node, heard: Some(at(heard)), pods: &pods, grace: GRACE };
            let plan = decide(at(100), &snapshot);
            assert_eq!(kinds(&plan), expected, "{mark} {ready}");
            for step in &plan.steps {
                let Write::Patch { patch, .. } = &step.write else { continue };
                let told = patch["spec"]["taints"].to_string();
                assert_eq!(told.contains("NoExecute"), told != "null" && mark != "true");
            }
        }
    }

    #[test]
    fn without_a_toleration_a_pod_leaves_at_once_and_mirrors_stay() {
        let mut mirror = (*pod(None)).clone();
        mirror.metadata.name = Some("mirror".to_owned());
        mirror.metadata.annotations = Some([(MIRROR.to_owned(), "x".to_owned())].into());
        let pods = [pod(None), Arc::new(mirror)];
        let node = node("True", json!([{"key": "mine", "effect": "NoExecute"}]));
        let snapshot = Snapshot { node: &node, heard: Some(at(0)), pods: &pods, grace: GRACE };
        let plan = decide(at(9), &snapshot);
        assert_eq!(kinds(&plan), ["delete p"]);
    }
}
