//! The scheduler: gives each pod a node.
//!
//! Filters say where a pod can run and scores where it runs best, over a model of the cluster that follows every change.
//! A pod is counted on its node from the moment of the decision, before the API knows it. There is no preemption:
//! priorities order the queue, and nothing is evicted to make room.

mod cluster;
mod decide;
mod filters;
mod groups;
mod neighbours;
mod queue;
mod rules;
mod scores;
#[doc(hidden)]
pub mod simulation;
mod spread;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, Namespace, Node, Pod, PodCondition, PodStatus, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use warren_api::Cause;
use warren_client::{Change, Connection, Informer, InformerSet, Leadership};
use warren_process::trace::{About, Step as Hop, Subject, Trace};
use warren_process::{Clock, Tasks};

use crate::events::Recorder;
use crate::execute::execute;
use crate::plan::{Plan, Write, normal, status_patch, warning};
use crate::runner::{Context, Metrics};
use crate::{Config, pods};
use cluster::{Cluster, PodInfo};
use decide::{Unschedulable, decide};
pub(crate) use filters::tolerates;
use queue::Queue;

const NAME: &str = "default-scheduler";
/// Bindings and conditions on their way to the API. Policy: decisions wait.
const IN_FLIGHT: usize = 256;
/// Decisions in a row before answers of the API are looked at.
const BURST: usize = 32;
/// How often pods are sought that have waited very long.
const SWEEP: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    cluster: Cluster,
    queue: Queue,
}

struct Scheduler {
    /// Its bindings carry the term of `leader`.
    client: kube::Client,
    leader: Leadership,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    trace: Trace,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    shared: Arc<Shared>,
}

/// Starts the scheduler alone, on a subscription of its own. [`crate::start`] includes it.
pub fn start(connection: Connection, config: Config, tasks: &Tasks) {
    let leader = config.leadership;
    let client = leader.fenced(connection.client.clone());
    let trace = Trace::new("scheduler", config.instance.as_str());
    warren_client::answer_questions(connection.client.clone(), trace.clone(), tasks);
    let mut set = InformerSet::new(connection, "scheduler", config.instance);
    set.traced(trace.clone());
    let scheduler = Scheduler {
        recorder: Recorder::start(client.clone(), Arc::clone(&config.clock), tasks),
        client,
        leader,
        clock: config.clock,
        metrics: Arc::default(),
        trace,
        pods: set.informer(),
        nodes: set.informer(),
        namespaces: set.informer(),
        services: set.informer(),
        shared: Arc::default(),
    };
    scheduler.spawn(tasks);
    set.run(tasks);
}

pub(crate) fn start_shared(context: &Context, tasks: &Tasks) {
    let scheduler = Scheduler {
        client: context.client.clone(),
        leader: context.leader.clone(),
        clock: Arc::clone(&context.clock),
        recorder: context.recorder.clone(),
        metrics: Arc::clone(&context.metrics),
        trace: context.trace.clone(),
        pods: context.caches.pods.clone(),
        nodes: context.caches.nodes.clone(),
        namespaces: context.caches.namespaces.clone(),
        services: context.caches.services.clone(),
        shared: Arc::default(),
    };
    scheduler.spawn(tasks);
}

/// What became of a decision.
struct Outcome {
    uid: String,
    result: Result<(), ()>,
}

impl Scheduler {
    fn spawn(self, tasks: &Tasks) {
        let shared = Arc::clone(&self.shared);
        self.pods.on_change(move |change| {
            shared.state.lock().pod(change, Instant::now());
            shared.wake.notify_one();
        });
        let shared = Arc::clone(&self.shared);
        self.nodes.on_change(move |change| {
            if shared.state.lock().node(change, Instant::now()) {
                shared.wake.notify_one();
            }
        });
        let shared = Arc::clone(&self.shared);
        self.namespaces.on_change(move |change| {
            let known = &mut shared.state.lock().cluster.namespaces;
            let Some(namespace) = change.any() else { return };
            let name = namespace.metadata.name.clone().unwrap_or_default();
            match &change.new {
                Some(new) => known.insert(name, new.metadata.labels.clone().unwrap_or_default()),
                None => known.remove(&name),
            };
        });
        let shared = Arc::clone(&self.shared);
        self.services.on_change(move |change| {
            if let Some(service) = change.any() {
                shared.state.lock().cluster.set_service(service, change.new.is_some());
            }
        });
        let shutdown = tasks.shutdown().clone();
        tasks.spawn_critical(NAME, async move {
            tokio::select! {
                () = shutdown.draining() => {}
                () = self.run() => {}
            }
            Ok::<_, Infallible>(())
        });
    }

    async fn run(&self) {
        // Decisions on half a picture would be bad ones.
        self.namespaces.synced().await;
        self.services.synced().await;
        self.nodes.synced().await;
        self.pods.synced().await;
        let mut sweep = tokio::time::interval(SWEEP);
        let mut in_flight = FuturesUnordered::new();
        loop {
            let mut decided = 0;
            let term = self.leader.term();
            while decided < BURST && in_flight.len() < IN_FLIGHT {
                let Some(turn) = self.leader.turn_now() else { break };
                let Some((pod, decision)) = self.decide_next() else { break };
                decided += 1;
                in_flight.push(turn.run(self.tell(pod, decision)));
            }
            // Who stands by has a queue that only grows.
            let leads = self.leader.turn_now().is_some();
            let later = leads.then(|| self.shared.state.lock().queue.next_delay()).flatten();
            tokio::select! {
                biased;
                Some(outcome) = in_flight.next() => self.finish(&outcome),
                () = std::future::ready(()), if decided == BURST => {}
                () = self.shared.wake.notified(), if in_flight.len() < IN_FLIGHT => {}
                () = sleep_until(later), if in_flight.len() < IN_FLIGHT => {}
                () = self.leader.changed(term) => {}
                _ = sweep.tick() => self.shared.state.lock().queue.wake_old(Instant::now()),
            }
        }
    }

    /// Decides on the first pod of the queue and counts it where it goes.
    fn decide_next(&self) -> Option<(Arc<PodInfo>, Result<String, Unschedulable>)> {
        let mut state = self.shared.state.lock();
        let pod = state.queue.pop(Instant::now())?;
        self.metrics.decisions.fetch_add(1, Ordering::Relaxed);
        match decide(&pod, &state.cluster) {
            Ok((node, start)) => {
                state.cluster.start = start;
                state.cluster.place(&pod, &node);
                Some((pod, Ok(node)))
            }
            Err(why) => {
                state.queue.unschedulable(pod.uid(), Instant::now());
                Some((pod, Err(why)))
            }
        }
    }

    async fn tell(
        &self,
        pod: Arc<PodInfo>,
        decision: Result<String, Unschedulable>,
    ) -> Option<Outcome> {
        match decision {
            Ok(node) => {
                self.hop(Hop::Decided, &pod.pod, format!("{NAME}: node {node}"));
                let result = self.bind(&pod.pod, &node).await;
                Some(Outcome { uid: pod.uid().to_owned(), result })
            }
            Err(why) => {
                self.hop(Hop::Decided, &pod.pod, format!("{NAME}: no node: {}", why.0));
                self.explain(&pod.pod, &why).await;
                None
            }
        }
    }

    fn hop(&self, hop: Hop, pod: &Pod, detail: String) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let subject = Subject::new("", "pods", namespace, pods::name(pod));
        let about = About { subject, uid: pods::uid(pod).into(), revision: 0 };
        self.trace.push(hop, about, detail);
    }

    async fn bind(&self, pod: &Arc<Pod>, node: &str) -> Result<(), ()> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pods::name(pod);
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pods::uid(pod)},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/binding"))
            .header("Content-Type", "application/json")
            .body(binding.to_string().into_bytes());
        let Ok(request) = request else { return Err(()) };
        self.metrics.writes.fetch_add(1, Ordering::Relaxed);
        match self.client.request::<Value>(request).await {
            Ok(_) => {
                self.hop(Hop::Wrote, pod, format!("{NAME}: binding to {node}"));
                let text = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.record(NAME, normal(&**pod, "Scheduled", text));
                Ok(())
            }
            Err(kube::Error::Api(status)) if is_held(&status) => {
                let why = Unschedulable(format!("binding rejected: {}", status.message));
                self.explain(pod, &why).await;
                Err(())
            }
            Err(error) => {
                self.metrics.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(pod = name, namespace, node, %error, "a binding failed");
                Err(())
            }
        }
    }

    /// Says in the pod's status, and in an Event, why it has no node.
    async fn explain(&self, pod: &Arc<Pod>, why: &Unschedulable) {
        let note = warning(&**pod, "FailedScheduling", why.0.clone());
        self.recorder.record(NAME, note);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let Some(newest) = self.pods.get(namespace, pods::name(pod)) else { return };
        let patch = unscheduled(self.clock.now(), &newest, "Unschedulable", &why.0);
        if let Some(write) = patch.filter(|_| newest.metadata.uid == pod.metadata.uid) {
            let plan = Plan { steps: vec![write.into()], ..Plan::default() };
            // A lost race is no matter: the next attempt says it again.
            if let Err(error) = execute(&self.client, &plan, |_| {}).await.result {
                tracing::debug!(pod = pods::name(pod), %error, "no condition");
            }
        }
    }

    fn finish(&self, outcome: &Option<Outcome>) {
        let Some(Outcome { uid, result: Err(()) }) = outcome else { return };
        let mut state = self.shared.state.lock();
        // Told to the API or not, a pod that the cache shows on a node is there.
        if state.queue.contains(uid) {
            state.cluster.remove_pod(uid);
            state.queue.retry(uid, Instant::now());
        }
    }
}

/// The pod may run on a node since before a restore: nothing failed, and it is tried again.
fn is_held(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let held = json!(Cause::MayRunElsewhere);
    causes.into_iter().any(|cause| held == cause.reason)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The condition that says why there is no node, unless it says so already.
fn unscheduled(now: Timestamp, pod: &Pod, reason: &str, message: &str) -> Option<Write> {
    let old = pod.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let at = conditions.iter().position(|condition| condition.type_ == "PodScheduled");
    let before = at.map(|at| conditions.remove(at));
    if let Some(before) = &before
        && before.status == "False"
        && before.reason.as_deref() == Some(reason)
        && before.message.as_deref() == Some(message)
    {
        return None;
    }
    let since = before.filter(|before| before.status == "False");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: since.map_or(Some(Time(now)), |since| since.last_transition_time),
        ..PodCondition::default()
    });
    let new = PodStatus { conditions: Some(conditions), ..old };
    status_patch(pod, pod.status.as_ref(), &new)
}

impl State {
    fn pod(&mut self, change: &Change<Pod>, now: Instant) {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.metadata.uid != new.metadata.uid
        {
            self.forget(pods::uid(old), now);
        }
        let Some(pod) = &change.new else {
            if let Some(old) = &change.old {
                self.forget(pods::uid(old), now);
            }
            return;
        };
        let uid = pods::uid(pod);
        if pods::is_finished(pod) {
            self.forget(uid, now);
        } else if let Some(node) = pods::node(pod) {
            self.queue.remove(uid);
            if self.cluster.counts(pod, node) {
                return;
            }
            self.cluster.place(&Arc::new(PodInfo::new(Arc::clone(pod))), node);
        } else if is_ours(pod) {
            self.queue.put(Arc::new(PodInfo::new(Arc::clone(pod))), now);
        } else {
            self.queue.remove(uid);
        }
    }

    fn forget(&mut self, uid: &str, now: Instant) {
        self.queue.remove(uid);
        if self.cluster.has(uid) {
            self.cluster.remove_pod(uid);
            self.queue.wake_all(now);
        }
    }

    /// Whether something changed that matters here.
    fn node(&mut self, change: &Change<Node>, now: Instant) -> bool {
        let Some(node) = &change.new else {
            if let Some(old) = &change.old {
                self.cluster.remove_node(old.metadata.name.as_deref().unwrap_or_default());
            }
            return false;
        };
        let same = change.old.as_ref().is_some_and(|old| {
            fn amounts(node: &Node) -> impl PartialEq + '_ {
                node.status.as_ref().map(|s| (&s.allocatable, &s.capacity))
            }
            old.metadata.labels == node.metadata.labels
                && old.spec == node.spec
                && amounts(old) == amounts(node)
        });
        fn images(node: &Node) -> Option<&Vec<ContainerImage>> {
            node.status.as_ref()?.images.as_ref()
        }
        if same && change.old.as_deref().and_then(images) != images(node) {
            self.cluster.set_node(node);
        }
        if !same {
            self.cluster.set_node(node);
            self.queue.wake_all(now);
        }
        !same
    }
}

/// Ours to schedule, and ready for it.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let scheduler = spec.scheduler_name.as_deref().unwrap_or(NAME);
    let gated = spec.scheduling_gates.iter().flatten().next().is_some();
    scheduler == NAME && !gated && !pods::is_terminating(pod)
}

#[cfg(test)]
mod tests;
