//! The worker of all pods of a node: one task that owns their state. It decides when something about a pod changed and
//! spawns what takes time; a pod about which nothing happens costs no task and no timer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::decide::{self, Action, Then, Wanted};
use super::execute::{self, StartError, Started};
use super::index::PodEntry;
use super::memory::{Busy, ContainerMemory, Failure, Memory, later, until};
use super::probe::{self, Answer, Counter, Kind, Target, Verdict};
use super::{spec, status};
use crate::context::Context;
use crate::events::Level;
use crate::runtime::{Observed, PodRef, RuntimeEvent, State};
use crate::status_writer::{StatusWriter, Update};
use crate::volume::Volumes;

mod observe;

/// Messages to the manager that may wait; senders then wait too.
pub(crate) const INBOX: usize = 4096;
/// How soon a runtime that does not answer is asked again.
const RUNTIME_RETRY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Api,
    /// A manifest; its status goes to the mirror pod.
    Static,
}

/// What the desired set says.
#[derive(Debug)]
pub(crate) enum Change {
    Upsert(Arc<Pod>, Source),
    /// The pod is no longer wanted. With its last body, where that says more (a shorter grace).
    Remove(Arc<str>, Option<Arc<Pod>>),
    /// Everything that is wanted has been said: what else runs is an orphan.
    Complete,
    /// The mirror of this static pod was made anew: it has no status.
    Mirrored(Arc<str>),
    /// What the API now says of this static pod's mirror.
    Told(Arc<str>, Arc<PodStatus>),
    /// A ConfigMap or Secret of this namespace and name changed.
    Object(String, String),
}

pub(crate) enum Message {
    Change(Change),
    Observed { uid: Arc<str>, version: u64, result: Result<Observed, String> },
    Listed(Result<Vec<(PodRef, Observed)>, String>),
    Done { uid: Arc<str>, done: Done },
    Probed { uid: Arc<str>, name: Arc<str>, kind: Kind, id: Arc<str>, answer: Answer },
}

pub(crate) enum Done {
    Sandbox(Result<(), (&'static str, String)>),
    Start(Arc<str>, Result<Started, StartError>),
    Stop(Arc<str>, Result<(), String>),
    Remove(Arc<str>),
    CleanUp(Result<(), String>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Step(Arc<str>),
    Probe(Arc<str>, Arc<str>, Kind),
    Relist,
    Volumes,
}

struct Slot {
    pod: Arc<Pod>,
    source: Source,
    /// No longer wanted, as an object.
    removed: bool,
    observed: Option<Arc<Observed>>,
    /// Raised by all that may change what is observed.
    version: u64,
    fresh: bool,
    observing: bool,
    memory: Memory,
    status: Arc<PodStatus>,
    /// What the API says of a static pod's mirror.
    told: Option<Arc<PodStatus>>,
    stop_by: Option<Timestamp>,
    wake: Option<Timestamp>,
    cancels: BTreeMap<Arc<str>, CancellationToken>,
    probes: Vec<ProbeSlot>,
    /// Nothing is left of it but the object.
    cleaned: bool,
}

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);

struct ProbeSlot {
    name: Arc<str>,
    kind: Kind,
    id: Arc<str>,
    counter: Counter,
    asking: bool,
}

pub(crate) struct Manager {
    context: Arc<Context>,
    writer: StatusWriter,
    send: mpsc::Sender<Message>,
    slots: HashMap<Arc<str>, Slot>,
    /// All pods of a name, in the order in which they came: the later wait for the earlier to be gone. What only the
    /// runtime knows came first.
    names: HashMap<Name, Vec<Arc<str>>>,
    /// What runs, and nobody has said yet whether it should.
    unclaimed: Vec<PodRef>,
    due: BinaryHeap<Reverse<(Timestamp, Due)>>,
    complete: bool,
    listed: bool,
    runtime_down: watch::Sender<Option<String>>,
}

impl Manager {
    pub(crate) fn new(
        context: Arc<Context>,
        writer: StatusWriter,
        send: mpsc::Sender<Message>,
        runtime_down: watch::Sender<Option<String>>,
    ) -> Self {
        Self {
            context,
            writer,
            send,
            slots: HashMap::new(),
            names: HashMap::new(),
            unclaimed: Vec::new(),
            due: BinaryHeap::new(),
            complete: false,
            listed: false,
            runtime_down,
        }
    }

    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let shutdown = self.context.tasks.shutdown().clone();
        let mut events = self.context.runtime.events();
        self.list();
        if !self.context.config.simulated {
            let at = later(self.context.now(), self.context.config.volumes_every);
            self.due.push(Reverse((at, Due::Volumes)));
        }
        loop {
            let wait = self.due.peek().map(|Reverse((at, _))| until(self.context.now(), *at));
            let wait = wait.unwrap_or(Duration::from_secs(3600)).max(Duration::from_millis(1));
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.handle(message),
                    None => return,
                },
                event = events.recv() => match event {
                    Some(RuntimeEvent::Pod(uid)) => self.touch(&uid),
                    Some(RuntimeEvent::Relist) => self.list(),
                    Some(RuntimeEvent::Down(why)) => self.down(Some(why)),
                    None => events = self.context.runtime.events(),
                },
                () = tokio::time::sleep(wait) => self.fire(),
                () = shutdown.draining() => return,
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Change(change) => self.change(change),
            Message::Observed { uid, version, result } => self.observed(&uid, version, result),
            Message::Listed(result) => self.on_list(result),
            Message::Done { uid, done } => self.done(&uid, done),
            Message::Probed { uid, name, kind, id, answer } => {
                self.probed(&uid, &name, kind, &id, &answer);
            }
        }
    }

    fn fire(&mut self) {
        let now = self.context.now();
        while let Some(Reverse((at, _))) = self.due.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse((at, due))) = self.due.pop() else { return };
            match due {
                Due::Step(uid) => {
                    if self.slots.get(&uid).is_some_and(|s| s.wake == Some(at)) {
                        self.step(&uid);
                    }
                }
                Due::Probe(uid, name, kind) => self.probe(&uid, &name, kind),
                Due::Relist => self.list(),
                Due::Volumes => {
                    let with: Vec<_> = self
                        .slots
                        .iter()
                        .filter(|(_, s)| Volumes::follows_objects(&s.pod))
                        .map(|(uid, _)| uid.clone())
                        .collect();
                    for uid in with {
                        self.refresh_volumes(&uid);
                    }
                    let next = later(now, self.context.config.volumes_every);
                    self.due.push(Reverse((next, Due::Volumes)));
                }
            }
        }
    }

    // What is wanted.

    fn change(&mut self, change: Change) {
        match change {
            Change::Upsert(pod, source) => self.upsert(pod, source),
            Change::Remove(uid, last) => {
                let Some(slot) = self.slots.get_mut(&uid) else { return };
                if let Some(last) = last {
                    slot.pod = last;
                }
                slot.removed = true;
                if slot.cleaned {
                    return self.drop_slot(&uid);
                }
                self.step(&uid);
            }
            Change::Mirrored(uid) => {
                if let Some(slot) = self.slots.get(&uid).filter(|s| s.observed.is_some()) {
                    self.writer.put(uid, update(slot, false));
                }
            }
            Change::Told(uid, status) => {
                if let Some(slot) = self.slots.get_mut(&uid) {
                    slot.told = Some(status);
                    self.insist(&uid);
                }
            }
            Change::Complete => {
                self.complete = true;
                self.list();
                for (uid, slot) in &self.slots {
                    let stored = slot.pod.status.as_ref();
                    let differs = stored.is_none_or(|s| !status::same(s, &slot.status));
                    if slot.source == Source::Api && slot.observed.is_some() && differs {
                        self.writer.put(uid.clone(), update(slot, slot.cleaned));
                    }
                }
            }
            Change::Object(namespace, _name) => {
                let with: Vec<_> = self
                    .slots
                    .iter()
                    .filter(|(_, s)| s.pod.metadata.namespace.as_deref() == Some(&namespace))
                    .map(|(uid, _)| uid.clone())
                    .collect();
                for uid in with {
                    self.refresh_volumes(&uid);
                    let Some(slot) = self.slots.get_mut(&uid) else { continue };
                    // Somebody may have mended what a container waits for.
                    let now = self.context.clock.now();
                    let config = |m: &&mut Box<ContainerMemory>| {
                        m.failure.as_ref().is_some_and(|f| f.reason == "CreateContainerConfigError")
                    };
                    for memory in slot.memory.containers.values_mut().filter(config) {
                        if let Some(failure) = &mut memory.failure {
                            failure.retry_at = now;
                        }
                    }
                    if let Some(failure) = &mut slot.memory.sandbox_failure {
                        failure.retry_at = now;
                    }
                    self.step(&uid);
                }
            }
        }
    }

    fn upsert(&mut self, pod: Arc<Pod>, source: Source) {
        let pod_ref = spec::pod_ref(&pod);
        let uid = pod_ref.uid.clone();
        if let Some(slot) = self.slots.get_mut(&uid) {
            let (old, new) = (&slot.pod.metadata, &pod.metadata);
            let same = old.generation == new.generation
                && old.deletion_timestamp == new.deletion_timestamp
                && old.deletion_grace_period_seconds == new.deletion_grace_period_seconds
                && old.labels == new.labels
                && old.annotations == new.annotations
                && (new.generation.is_some() || slot.pod.spec == pod.spec)
                && spec::spec(&pod).readiness_gates.is_none();
            slot.pod = Arc::clone(&pod);
            self.context.index.update(&uid, |entry| entry.pod = Arc::clone(&pod));
            if !same || slot.removed {
                slot.removed = false;
                self.refresh_volumes(&uid);
                self.step(&uid);
            }
            self.insist(&uid);
            return;
        }
        let status = Arc::new(pod.status.clone().unwrap_or_default());
        let mut memory =
            Memory { start_time: status.start_time.as_ref().map(|t| t.0), ..Memory::default() };
        seed(&mut memory, &status);
        if source == Source::Static {
            let unclaimed = std::mem::take(&mut self.unclaimed);
            for other in unclaimed {
                if is_version_of(&other, &pod_ref) {
                    self.end_orphan(&other);
                    self.observe(&other.uid);
                } else {
                    self.unclaimed.push(other);
                }
            }
        }
        self.insert(pod_ref, pod, source, false, memory, status);
        if self.listed {
            self.observe(&uid);
        }
    }

    fn insert(
        &mut self,
        pod_ref: PodRef,
        pod: Arc<Pod>,
        source: Source,
        removed: bool,
        memory: Memory,
        status: Arc<PodStatus>,
    ) {
        let uid = pod_ref.uid.clone();
        let same_name = self.names.entry((pod_ref.namespace, pod_ref.name)).or_default();
        let orphan = pod.spec.is_none();
        // Who asks for a name means the pod that is wanted.
        if !orphan || same_name.is_empty() {
            self.context.index.insert(PodEntry {
                node: self.context.node.0.clone(),
                pod: Arc::clone(&pod),
                observed: Arc::default(),
                status: Arc::clone(&status),
                runtime: Arc::clone(&self.context.runtime),
            });
        }
        same_name.insert(if orphan { 0 } else { same_name.len() }, uid.clone());
        self.slots.insert(
            uid,
            Slot {
                pod,
                source,
                removed,
                observed: None,
                version: 0,
                fresh: false,
                observing: false,
                memory,
                status,
                told: None,
                stop_by: None,
                wake: None,
                cancels: BTreeMap::new(),
                probes: Vec::new(),
                cleaned: false,
            },
        );
    }

    /// Whether a pod that nobody has asked for is a version of a static pod from before this agent started. It goes
    /// first, and now: both would want the same ports, and the API itself may be among them.
    fn is_replaced(&self, pod: &PodRef) -> bool {
        let key = (pod.namespace.clone(), pod.name.clone());
        let mut uids = self.names.get(&key).into_iter().flatten();
        uids.any(|uid| {
            let slot = self.slots.get(uid).filter(|slot| slot.source == Source::Static);
            slot.is_some_and(|slot| is_version_of(pod, &spec::pod_ref(&slot.pod)))
        })
    }

    fn end_orphan(&mut self, pod: &PodRef) {
        tracing::info!(%pod, uid = %pod.uid, "ending a pod that nobody wants any more");
        let body = Arc::new(orphan(pod));
        self.insert(pod.clone(), body, Source::Api, true, Memory::default(), Arc::default());
    }

    fn drop_slot(&mut self, uid: &str) {
        let Some(slot) = self.slots.remove(uid) else { return };
        self.context.index.remove(uid);
        self.writer.forget(uid);
        let pod = spec::pod_ref(&slot.pod);
        let key = (pod.namespace, pod.name);
        let Some(uids) = self.names.get_mut(&key) else { return };
        uids.retain(|u| **u != *uid);
        match uids.first().cloned() {
            Some(next) => self.step(&next),
            None => {
                self.names.remove(&key);
            }
        }
    }

    /// Whether an earlier pod of the same name is still there.
    fn must_wait(&self, uid: &str, slot: &Slot) -> bool {
        let pod = spec::pod_ref(&slot.pod);
        let uids = self.names.get(&(pod.namespace, pod.name)).map(Vec::as_slice);
        let before = uids.unwrap_or_default().iter().take_while(|u| ***u != *uid);
        before.into_iter().any(|u| self.slots.get(u).is_some_and(|s| !s.cleaned))
    }

    // Decide and do.

    /// Decides about a pod and does what it says. Asks the runtime first where what is known may be old.
    fn step(&mut self, uid: &str) {
        let Some(slot) = self.slots.get(uid) else { return };
        if !self.listed || slot.cleaned {
            return;
        }
        if slot.observed.is_none() || !slot.fresh {
            return self.observe(uid);
        }
        if self.must_wait(uid, slot) {
            return;
        }
        let (context, now) = (Arc::clone(&self.context), self.context.now());
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let Some(observed) = slot.observed.clone() else { return };
        slot.memory.start_time.get_or_insert(now);
        let wanted = wanted(slot, now);
        let plan = decide::decide(&decide::Input {
            pod: &slot.pod,
            wanted,
            observed: &observed,
            memory: &slot.memory,
            backoffs: &context.config.backoffs,
            now,
        });
        slot.wake = plan.wake;
        let mut again = false;
        for action in plan.actions {
            again |= matches!(action, Action::Fail(_));
            self.perform(uid, action, &observed, now);
        }
        self.tell(uid, now);
        if let Some((at, slot)) =
            self.slots.get(uid).and_then(|slot| slot.wake.map(|at| (at, slot)))
        {
            let _ = slot;
            self.due.push(Reverse((at, Due::Step(uid.into()))));
        }
        if again {
            self.step(uid);
        }
    }

    /// Computes the status, and writes it where it is new.
    fn tell(&mut self, uid: &str, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let Some(observed) = slot.observed.clone() else { return };
        let context = &self.context;
        let orphan = slot.pod.spec.is_none();
        let host_ip = context.host_ip.to_string();
        let status = status::status(&status::Input {
            pod: &slot.pod,
            stopping: slot.removed || slot.pod.metadata.deletion_timestamp.is_some(),
            observed: &observed,
            memory: &slot.memory,
            backoffs: &context.config.backoffs,
            before: &slot.status,
            runtime: context.runtime_name,
            host_ip: &host_ip,
            now,
        });
        for memory in slot.memory.containers.values() {
            // The failed pull becomes a back-off, though nothing happens.
            if let Some(failure) = memory.failure.as_ref().filter(|f| f.reason == "ErrImagePull") {
                let at = later(failure.at, status::PULL_SHOWN_AS_FAILED);
                if at > now && slot.wake.is_none_or(|wake| wake > at) {
                    slot.wake = Some(at);
                }
            }
        }
        if status == *slot.status {
            return;
        }
        backoff_events(context, &slot.pod, &slot.status, &status);
        let first_write = slot.source == Source::Api
            && slot.pod.status.as_ref().is_some_and(|s| status::same(s, &status));
        slot.status = Arc::new(status);
        let (shared, wait) = (Arc::clone(&slot.status), slot.removed && slot.source == Source::Api);
        if !orphan && !wait && !first_write {
            self.writer.put(uid.into(), update(slot, false));
        }
        self.context.index.update(uid, |entry| entry.status = shared);
    }

    fn perform(&mut self, uid: &str, action: Action, observed: &Observed, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&slot.pod));
        let memory = &mut slot.memory;
        let send = self.send.clone();
        let uid: Arc<str> = uid.into();
        let spawn = |uid: Arc<str>, work: futures::future::BoxFuture<'static, Done>| {
            self.context.tasks.spawn("pod-action", async move {
                let done = work.await;
                let _ = send.send(Message::Done { uid, done }).await;
            });
        };
        match action {
            Action::CreateSandbox { attempt } => {
                memory.sandbox_busy = true;
                spawn(
                    uid,
                    Box::pin(async move {
                        Done::Sandbox(execute::create_sandbox(&context, &pod, attempt).await)
                    }),
                );
            }
            Action::RemoveSandbox { id } => {
                memory.sandbox_busy = true;
                spawn(
                    uid,
                    Box::pin(async move {
                        let result = context.runtime.remove_sandbox(&id).await;
                        Done::Sandbox(result.map_err(|e| ("ContainerCreating", e.to_string())))
                    }),
                );
            }
            Action::Start { name, attempt, existing, after } => {
                let Some(sandbox) = observed.sandbox().cloned() else { return };
                let container = memory.container(&name);
                if container.busy.is_some() {
                    return;
                }
                container.busy = Some(Busy::Starting);
                if after.is_some() {
                    let next = decide::next_crash(container.crash, &context.config.backoffs, now);
                    container.crash = Some(next);
                }
                let cancel = CancellationToken::new();
                slot.cancels.insert(name.clone(), cancel.clone());
                spawn(
                    uid,
                    Box::pin(async move {
                        let started = execute::start(
                            &context, &pod, &name, attempt, existing, &sandbox, &cancel,
                        );
                        let result = started.await;
                        Done::Start(name, result)
                    }),
                );
            }
            Action::CancelStart { name } => {
                if let Some(cancel) = slot.cancels.get(&name) {
                    cancel.cancel();
                }
            }
            Action::Stop { name, id, deadline, why } => {
                memory.container(&name).busy = Some(Busy::Stopping { deadline });
                let ip = observed.sandbox().and_then(|s| s.ip);
                spawn(
                    uid,
                    Box::pin(async move {
                        let result =
                            execute::stop(&context, &pod, &name, &id, ip, deadline, &why).await;
                        Done::Stop(name, result.map_err(|e| e.to_string()))
                    }),
                );
            }
            Action::Remove { name, id } => {
                let container = memory.container(&name);
                if container.busy.is_some() {
                    return;
                }
                container.busy = Some(Busy::Removing);
                spawn(
                    uid,
                    Box::pin(async move {
                        if let Err(error) = context.runtime.remove_container(&id).await {
                            tracing::warn!(%id, %error, "a dead container was not removed");
                        }
                        Done::Remove(name)
                    }),
                );
            }
            Action::Fail(terminal) => {
                let (reason, message) = (&terminal.reason, &terminal.message);
                context.events.pod(&pod, Level::Normal, reason, message, None);
                memory.terminal = Some(terminal);
            }
            Action::CleanUp => {
                memory.cleaning = true;
                spawn(
                    uid,
                    Box::pin(async move { Done::CleanUp(execute::clean_up(&context, &pod).await) }),
                );
            }
        }
    }

    fn done(&mut self, uid: &str, done: Done) {
        let (now, backoffs) = (self.context.now(), self.context.config.backoffs);
        let Some(slot) = self.slots.get_mut(uid) else { return };
        slot.version += 1;
        slot.fresh = false;
        let memory = &mut slot.memory;
        match done {
            Done::Sandbox(result) => {
                memory.sandbox_busy = false;
                memory.sandbox_failure = result.err().map(|(reason, message)| {
                    let before = memory.sandbox_failure.as_ref();
                    Failure::next(before, reason, message, now, backoffs.other)
                });
            }
            Done::Start(name, result) => {
                slot.cancels.remove(&name);
                let container = memory.container(&name);
                container.busy = None;
                match result {
                    Ok(started) => {
                        container.failure = None;
                        if let Some(why) = started.hook_failed {
                            container.kill = Some((started.id.clone(), why));
                        }
                        let spec = spec::find_container(spec::spec(&slot.pod), &name);
                        if spec.is_some_and(|c| c.startup_probe.is_none()) {
                            container.started = Some(started.id);
                        }
                    }
                    Err(error) if error.kind == execute::Kind::Cancelled || error.made => {
                        container.failure = None;
                    }
                    Err(error) => {
                        let backoff = match error.kind {
                            execute::Kind::Image => backoffs.image,
                            _ => backoffs.other,
                        };
                        container.failure = Some(Failure::next(
                            container.failure.as_ref(),
                            error.reason,
                            error.message,
                            now,
                            backoff,
                        ));
                    }
                }
            }
            Done::Stop(name, result) => {
                memory.container(&name).busy = None;
                if let Err(error) = result {
                    tracing::warn!(pod = uid, container = %name, %error, "a stop failed");
                    // Not at once again: the observation that follows decides, a wake is the net.
                    let at = later(now, RUNTIME_RETRY);
                    slot.fresh = false;
                    slot.wake = Some(at);
                    self.due.push(Reverse((at, Due::Step(uid.into()))));
                    return;
                }
            }
            Done::Remove(name) => memory.container(&name).busy = None,
            Done::CleanUp(Ok(())) => {
                memory.cleaning = false;
                return self.cleaned(uid);
            }
            Done::CleanUp(Err(error)) => {
                tracing::warn!(pod = uid, %error, "cleaning up after a pod failed");
                memory.cleaning = false;
                let before = memory.cleanup_failure.as_ref();
                let failure = Failure::next(before, "CleanUpFailed", error, now, backoffs.other);
                memory.cleanup_failure = Some(failure);
            }
        }
        self.observe(uid);
    }

    /// Nothing is left of the pod on this machine.
    fn cleaned(&mut self, uid: &str) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        slot.cleaned = true;
        slot.probes.clear();
        if slot.removed || slot.source == Source::Static {
            return self.drop_slot(uid);
        }
        self.writer.put(uid.into(), update(slot, true));
        self.context.index.remove(uid);
        let pod = spec::pod_ref(&slot.pod);
        let next = self.names.get(&(pod.namespace, pod.name)).into_iter().flatten();
        let next: Vec<_> = next.filter(|u| ***u != *uid).cloned().collect();
        for uid in next {
            self.step(&uid);
        }
    }

    fn refresh_volumes(&mut self, uid: &str) {
        let Some(slot) = self.slots.get(uid) else { return };
        if self.context.config.simulated
            || slot.cleaned
            || slot.removed
            || slot.observed.as_ref().is_none_or(|o| o.sandbox().is_none())
            || !Volumes::follows_objects(&slot.pod)
        {
            return;
        }
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&slot.pod));
        self.context.tasks.spawn("pod-volumes", async move {
            let prepared = context.volumes.prepare(&pod, &context.fields(), &context.objects).await;
            if let Err(error) = prepared {
                tracing::debug!(%error, "volumes were not brought up to date");
            }
        });
    }
}

fn update(slot: &Slot, delete: bool) -> Update {
    let mut status = Arc::clone(&slot.status);
    if delete {
        // It has ended, so nothing of it is ready.
        let mut last = (*status).clone();
        for condition in last.conditions.iter_mut().flatten() {
            if condition.type_ == "Ready" || condition.type_ == "ContainersReady" {
                condition.status = "False".into();
            }
        }
        status = Arc::new(last);
    }
    Update { pod: spec::pod_ref(&slot.pod), mirror: slot.source == Source::Static, status, delete }
}

fn wanted(slot: &mut Slot, now: Timestamp) -> Wanted {
    let over = matches!(slot.status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let gone = slot.removed || slot.pod.metadata.deletion_timestamp.is_some();
    if !gone && !over && slot.memory.terminal.is_none() {
        slot.stop_by = None;
        return Wanted::Run;
    }
    let deadline = later(now, spec::grace(&slot.pod));
    let deadline = slot.stop_by.map_or(deadline, |by| by.min(deadline));
    slot.stop_by = Some(deadline);
    Wanted::Stop { deadline, then: if gone { Then::Gone } else { Then::Keep } }
}

/// Takes over what the stored status knows of containers that run since before the agent did.
fn seed(memory: &mut Memory, status: &PodStatus) {
    let statuses = status.init_container_statuses.iter().chain(&status.container_statuses);
    for said in statuses.flatten() {
        let id = said.container_id.as_deref().and_then(|id| id.split_once("://"));
        let Some((_, id)) = id else { continue };
        let container = memory.container(&said.name);
        if said.started == Some(true) {
            container.started = Some(id.into());
        }
        if said.ready {
            container.ready = Some(id.into());
        }
    }
}

fn backoff_events(context: &Context, pod: &Pod, old: &PodStatus, new: &PodStatus) {
    let waiting = |status: &PodStatus, name: &str| {
        let all = status.init_container_statuses.iter().chain(&status.container_statuses);
        let found = all.flatten().find(|s| s.name == name)?;
        found.state.as_ref()?.waiting.as_ref()?.reason.clone()
    };
    let all = new.init_container_statuses.iter().chain(&new.container_statuses);
    for said in all.flatten() {
        let now = waiting(new, &said.name);
        if now == waiting(old, &said.name) {
            continue;
        }
        let field = execute::container_field(pod, &said.name);
        match now.as_deref() {
            Some("CrashLoopBackOff") => {
                let meta = &pod.metadata;
                let message = format!(
                    "Back-off restarting failed container {} in pod {}_{}({})",
                    said.name,
                    meta.name.as_deref().unwrap_or_default(),
                    meta.namespace.as_deref().unwrap_or_default(),
                    meta.uid.as_deref().unwrap_or_default(),
                );
                context.events.pod(pod, Level::Warning, "BackOff", &message, Some(&field));
            }
            Some("ImagePullBackOff") => {
                let message = format!("Back-off pulling image \"{}\"", said.image);
                context.events.pod(pod, Level::Normal, "BackOff", &message, Some(&field));
            }
            _ => {}
        }
    }
}

/// Whether a pod that runs came from another version of a static pod's manifest. The uids of static pods are hashes,
/// those of the API have dashes.
fn is_version_of(runs: &PodRef, wanted: &PodRef) -> bool {
    runs.uid != wanted.uid
        && !runs.uid.contains('-')
        && (&runs.namespace, &runs.name) == (&wanted.namespace, &wanted.name)
}

/// A pod that only the runtime knows: all there is to do is to end it.
fn orphan(pod: &PodRef) -> Pod {
    Pod {
        metadata: ObjectMeta {
            namespace: Some(pod.namespace.to_string()),
            name: Some(pod.name.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}
