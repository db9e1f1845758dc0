//! The worker of all pods of a node: one task that owns their state. It decides when something about a pod changed and
//! spawns what takes time; a pod about which nothing happens costs no task and no timer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use warren_api::Listed;
use warren_process::trace::Step;

use super::decide::{self, Action, Then, Wanted};
use super::execute::{self, StartError, Started};
use super::index::PodEntry;
use super::memory::{Busy, ContainerMemory, Failure, Memory, later, until};
use super::probe::{self, Answer, Counter, Kind, Target, Verdict};
use super::{spec, status};
use crate::agreement::Agreement;
use crate::context::Context;
use crate::events::Level;
use crate::runtime::{Observed, PodRef, RuntimeEvent, State};
use crate::status_writer::{StatusWriter, Update};
use crate::volume::Volumes;

mod act;
mod observe;
mod wanted;

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
    /// A pod that is not wanted, and of which something may be left.
    Ended(Arc<Pod>),
    /// Everything that is wanted has been said: what else runs is an orphan. By this list, where it is on disk.
    Complete(Option<Listed>),
    /// What the API has for this pod was made anew (a static pod's mirror, a pod that was begun without the API): it has no
    /// status.
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
    /// The deadlines of what is being stopped.
    hurries: BTreeMap<Arc<str>, watch::Sender<Timestamp>>,
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
    agreement: Agreement,
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
            agreement: Agreement::default(),
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
            // A process that was stopped sees what came meanwhile before it looks whether it still is the node.
            let vigil = Arc::clone(&self.context.vigil);
            tokio::select! {
                message = inbox.recv() => {
                    vigil.may_act().await;
                    match message {
                        Some(message) => self.handle(message),
                        None => return,
                    }
                }
                event = events.recv() => {
                    vigil.may_act().await;
                    match event {
                        Some(RuntimeEvent::Pod(uid)) => self.touch(&uid),
                        Some(RuntimeEvent::Relist) => self.list(),
                        Some(RuntimeEvent::Down(why)) => self.down(Some(why)),
                        None => events = self.context.runtime.events(),
                    }
                }
                () = tokio::time::sleep(wait) => {
                    vigil.may_act().await;
                    self.fire();
                }
                () = vigil.woke() => {}
                () = shutdown.draining() => return,
            }
            if vigil.is_behind() {
                // What was begun before goes on only after all that was missed is known here.
                while let Ok(message) = inbox.try_recv() {
                    self.handle(message);
                }
                vigil.caught_up();
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

    fn agrees(&self, agreed: Option<Listed>) {
        *self.context.agreed.lock() = agreed;
    }

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
        if let Some(at) = self.slots.get(uid).and_then(|slot| slot.wake) {
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
        // How it ended is known, also where the runtime has nothing left of it.
        let over = matches!(slot.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if over && observed.sandboxes.is_empty() && observed.containers.is_empty() {
            return;
        }
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

fn all_statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lasting = status.init_container_statuses.iter().chain(&status.container_statuses);
    lasting.chain(&status.ephemeral_container_statuses).flatten()
}

fn backoff_events(context: &Context, pod: &Pod, old: &PodStatus, new: &PodStatus) {
    let waiting = |status: &PodStatus, name: &str| {
        let found = all_statuses(status).find(|s| s.name == name)?;
        found.state.as_ref()?.waiting.as_ref()?.reason.clone()
    };
    for said in all_statuses(new) {
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
                let message = "Error: ImagePullBackOff";
                context.events.pod(pod, Level::Warning, "Failed", message, Some(&field));
            }
            _ => {}
        }
    }
}
