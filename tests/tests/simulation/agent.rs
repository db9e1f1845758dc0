//! An agent: the real `Desired`, `decide` and `status`, and around them what the manager of `warren-agent` does, without
//! tasks. It dies with its process; what lasts is the machine's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use warren_agent::agreement::Agreement;
use warren_agent::desired::{Desired, Effect};
use warren_agent::pod::decide::{self, Action, Then, Wanted};
use warren_agent::pod::memory::{Backoffs, Busy, Failure, Memory, later};
use warren_agent::pod::{spec, status};
use warren_agent::runtime::{Observed, PodRef, State};
use warren_api::Listed;
use warren_controllers::plan::Target;

use super::machine::{Machine, Op};
use super::server::Request;

pub struct Slot {
    pub pod: Arc<Pod>,
    removed: bool,
    memory: Memory,
    status: Arc<PodStatus>,
    stop_by: Option<Timestamp>,
    cleaned: bool,
    cancelled: BTreeSet<Arc<str>>,
    /// What is being stopped.
    stopping: BTreeMap<Arc<str>, Arc<str>>,
    learnt: bool,
}

struct Update {
    target: Target,
    status: Arc<PodStatus>,
    delete: bool,
}

/// What the world does for the agent.
pub enum Todo {
    /// Takes a while; a stop at most until then.
    Run {
        uid: Arc<str>,
        op: Op,
        until: Option<Timestamp>,
    },
    Wake {
        uid: Arc<str>,
        at: Timestamp,
    },
}

/// (namespace, name)
type Named = (Arc<str>, Arc<str>);

pub struct Agent {
    pub node: String,
    pub up: bool,
    /// Counts the agent's processes on this machine.
    pub run: u64,
    pub desired: Desired,
    pub slots: BTreeMap<Arc<str>, Slot>,
    names: BTreeMap<Named, Vec<Arc<str>>>,
    complete: bool,
    listed: bool,
    agreement: Agreement,
    /// What its lease says of the list that it agrees with.
    pub agreed: Option<Listed>,
    updates: BTreeMap<Arc<str>, Update>,
    /// A status is on its way.
    pub writing: bool,
    pub todo: Vec<Todo>,
    pub registered: bool,
    /// Heartbeats failed, and others may have taken the node for lost.
    pub silent: bool,
    /// The heartbeat that is next, whether one is under way, and whether the next is wanted at once.
    pub beat: u64,
    pub beating: bool,
    pub soon: bool,
    /// The queue lost something, and the server was not told yet.
    pub lost: bool,
    /// What the server said of the node's streams, for the feed.
    pub told: Option<String>,
    backoffs: Backoffs,
}

impl Agent {
    pub fn new(node: &str, run: u64) -> Self {
        Self {
            node: node.to_owned(),
            up: true,
            run,
            desired: Desired::default(),
            slots: BTreeMap::new(),
            names: BTreeMap::new(),
            complete: false,
            listed: false,
            agreement: Agreement::default(),
            agreed: None,
            updates: BTreeMap::new(),
            writing: false,
            todo: Vec::new(),
            registered: false,
            silent: true,
            beat: 0,
            beating: false,
            soon: false,
            lost: false,
            told: None,
            backoffs: Backoffs::default(),
        }
    }

    /// The process starts: what is on disk runs first, then what the runtime has is looked at.
    pub fn start(&mut self, machine: &Machine, now: Timestamp) {
        let stored: Vec<Pod> =
            machine.keep.values().filter_map(|body| serde_json::from_slice(body).ok()).collect();
        for pod in stored {
            let effect = self.desired.upsert(&self.node.clone(), pod);
            self.apply(effect, machine, now);
        }
        self.listed = true;
        let uids: Vec<_> = self.slots.keys().cloned().collect();
        uids.iter().for_each(|uid| self.step(uid, machine, now));
    }

    pub fn apply(&mut self, effect: Option<Effect>, machine: &Machine, now: Timestamp) {
        match effect {
            Some(Effect::Run(pod)) => self.upsert(pod, machine, now),
            Some(Effect::End(uid, last)) => self.remove(&uid, last, machine, now),
            // There are no manifests here.
            Some(Effect::MirrorSeen(_) | Effect::MirrorGone { .. }) | None => {}
        }
    }

    fn upsert(&mut self, pod: Arc<Pod>, machine: &Machine, now: Timestamp) {
        let PodRef { namespace, name, uid } = spec::pod_ref(&pod);
        if let Some(slot) = self.slots.get_mut(&uid) {
            let (old, new) = (&slot.pod.metadata, &pod.metadata);
            let same = old.generation == new.generation
                && old.deletion_timestamp == new.deletion_timestamp
                && old.deletion_grace_period_seconds == new.deletion_grace_period_seconds
                && old.labels == new.labels
                && old.annotations == new.annotations;
            slot.pod = pod;
            if !same || slot.removed {
                slot.removed = false;
                self.agreed = self.agreement.gone(&uid);
                self.step(&uid, machine, now);
            }
            return self.insist(&uid);
        }
        let status = Arc::new(pod.status.clone().unwrap_or_default());
        let start_time = status.start_time.as_ref().map(|time| time.0);
        let memory = Memory { start_time, ..Memory::default() };
        self.names.entry((namespace, name)).or_default().push(uid.clone());
        self.insert(uid.clone(), pod, false, memory, status);
        self.step(&uid, machine, now);
    }

    fn insert(
        &mut self,
        uid: Arc<str>,
        pod: Arc<Pod>,
        removed: bool,
        memory: Memory,
        status: Arc<PodStatus>,
    ) {
        let slot = Slot {
            pod,
            removed,
            memory,
            status,
            stop_by: None,
            cleaned: false,
            cancelled: BTreeSet::new(),
            stopping: BTreeMap::new(),
            learnt: false,
        };
        self.slots.insert(uid, slot);
    }

    fn remove(&mut self, uid: &str, last: Option<Arc<Pod>>, machine: &Machine, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        if let Some(last) = last {
            slot.pod = last;
        }
        slot.removed = true;
        if slot.cleaned {
            return self.drop_slot(uid, machine, now);
        }
        self.step(uid, machine, now);
    }

    /// All that is wanted has been said: what else runs is ended.
    pub fn complete(&mut self, listed: Listed, machine: &Machine, now: Timestamp) {
        self.complete = true;
        self.agreement.listed(listed);
        self.look(machine, now);
        let differs = |slot: &Slot| {
            slot.learnt && slot.pod.status.as_ref().is_none_or(|s| !status::same(s, &slot.status))
        };
        let again: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| differs(slot))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in again {
            let cleaned = self.slots.get(&uid).is_some_and(|slot| slot.cleaned);
            self.put(&uid, cleaned);
        }
    }

    /// Lists the runtime.
    pub fn look(&mut self, machine: &Machine, now: Timestamp) {
        if self.complete {
            for (uid, (pod, _)) in &machine.pods {
                if self.slots.contains_key(uid) {
                    continue;
                }
                let name = (pod.namespace.clone(), pod.name.clone());
                self.names.entry(name).or_default().insert(0, uid.clone());
                let body = Arc::new(Pod {
                    metadata: ObjectMeta {
                        namespace: Some(pod.namespace.to_string()),
                        name: Some(pod.name.to_string()),
                        uid: Some(uid.to_string()),
                        ..ObjectMeta::default()
                    },
                    ..Pod::default()
                });
                self.insert(uid.clone(), body, true, Memory::default(), Arc::default());
            }
            let ending = self.slots.iter().filter(|(_, slot)| slot.removed);
            self.agreed = self.agreement.looked(ending.map(|(uid, _)| uid.clone()));
        }
        let uids: Vec<_> = self.slots.keys().cloned().collect();
        uids.iter().for_each(|uid| self.step(uid, machine, now));
    }

    fn must_wait(&self, uid: &str) -> bool {
        let Some(slot) = self.slots.get(uid) else { return false };
        let pod = spec::pod_ref(&slot.pod);
        let uids = self.names.get(&(pod.namespace, pod.name)).map(Vec::as_slice);
        let before = uids.unwrap_or_default().iter().take_while(|u| ***u != *uid);
        before.into_iter().any(|u| self.slots.get(u).is_some_and(|slot| !slot.cleaned))
    }

    pub fn step(&mut self, uid: &str, machine: &Machine, now: Timestamp) {
        if !self.listed || self.slots.get(uid).is_none_or(|slot| slot.cleaned) {
            return;
        }
        let observed = machine.observed(uid);
        self.learn(uid, &observed);
        if self.must_wait(uid) {
            return;
        }
        let backoffs = self.backoffs;
        let Some(slot) = self.slots.get_mut(uid) else { return };
        slot.memory.start_time.get_or_insert(now);
        let wanted = wanted(slot, now);
        let plan = decide::decide(&decide::Input {
            pod: &slot.pod,
            wanted,
            observed: &observed,
            memory: &slot.memory,
            backoffs: &backoffs,
            now,
        });
        let mut again = false;
        for action in plan.actions {
            again |= matches!(action, Action::Fail(_));
            self.perform(uid, action, now);
        }
        self.tell(uid, &observed, now);
        if let Some(at) = plan.wake {
            self.todo.push(Todo::Wake { uid: uid.into(), at });
        }
        if again {
            self.step(uid, machine, now);
        }
    }

    fn perform(&mut self, uid: &str, action: Action, now: Timestamp) {
        let backoffs = self.backoffs;
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let memory = &mut slot.memory;
        let mut until = None;
        let op = match action {
            Action::CreateSandbox { attempt } => {
                memory.sandbox_busy = true;
                Op::CreateSandbox { pod: spec::pod_ref(&slot.pod), attempt }
            }
            Action::RemoveSandbox { id } => {
                memory.sandbox_busy = true;
                Op::RemoveSandbox { id }
            }
            Action::Start { name, attempt, existing, after } => {
                let container = memory.container(&name);
                if container.busy.is_some() {
                    return;
                }
                container.busy = Some(Busy::Starting);
                if after.is_some() {
                    container.crash = Some(decide::next_crash(container.crash, &backoffs, now));
                }
                slot.cancelled.remove(&name);
                Op::Start { pod: Arc::clone(&slot.pod), name, attempt, existing }
            }
            Action::CancelStart { name } => {
                slot.cancelled.insert(name);
                return;
            }
            Action::Stop { name, id, deadline, .. } => {
                memory.container(&name).busy = Some(Busy::Stopping { deadline });
                until = Some(deadline);
                slot.stopping.insert(name.clone(), id.clone());
                Op::Stop { name, id }
            }
            Action::Hurry { name, deadline } => {
                memory.container(&name).busy = Some(Busy::Stopping { deadline });
                let Some(id) = slot.stopping.get(&name).cloned() else { return };
                until = Some(deadline);
                Op::Stop { name, id }
            }
            Action::Remove { name, id } => {
                let container = memory.container(&name);
                if container.busy.is_some() {
                    return;
                }
                container.busy = Some(Busy::Removing);
                Op::Remove { name, id }
            }
            Action::Fail(terminal) => {
                memory.terminal = Some(terminal);
                return;
            }
            Action::CleanUp => {
                memory.cleaning = true;
                Op::CleanUp
            }
        };
        self.todo.push(Todo::Run { uid: uid.into(), op, until });
    }

    /// Whether a start was called off before it came to it.
    pub fn is_cancelled(&self, uid: &str, op: &Op) -> bool {
        let Op::Start { name, .. } = op else { return false };
        self.slots.get(uid).is_some_and(|slot| slot.cancelled.contains(name))
    }

    /// The runtime has done it, or not.
    pub fn done(
        &mut self,
        uid: &Arc<str>,
        op: &Op,
        result: Result<Option<Arc<str>>, String>,
        machine: &Machine,
        now: Timestamp,
    ) {
        let backoffs = self.backoffs;
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let memory = &mut slot.memory;
        let failed = |before: Option<&Failure>, message| {
            Failure::next(before, "Failed", message, now, backoffs.other)
        };
        match op {
            Op::CreateSandbox { .. } | Op::RemoveSandbox { .. } => {
                memory.sandbox_busy = false;
                let before = memory.sandbox_failure.take();
                memory.sandbox_failure = result.err().map(|why| failed(before.as_ref(), why));
            }
            Op::Start { name, .. } => {
                let cancelled = slot.cancelled.remove(name);
                let container = memory.container(name);
                container.busy = None;
                match result {
                    Ok(id) => {
                        container.failure = None;
                        container.started = id;
                    }
                    Err(_) if cancelled => container.failure = None,
                    Err(why) => {
                        container.failure = Some(failed(container.failure.as_ref(), why));
                    }
                }
            }
            // One that was hurried ends once.
            Op::Stop { name, id } if slot.stopping.get(name) != Some(id) => return,
            Op::Stop { name, .. } => {
                slot.stopping.remove(name);
                memory.container(name).busy = None;
            }
            Op::Remove { name, .. } => memory.container(name).busy = None,
            Op::CleanUp => {
                memory.cleaning = false;
                slot.cleaned = true;
                if slot.removed {
                    return self.drop_slot(uid, machine, now);
                }
                self.put(uid, true);
                return self.next_of_name(uid, machine, now);
            }
        }
        self.step(uid, machine, now);
    }

    fn next_of_name(&mut self, uid: &Arc<str>, machine: &Machine, now: Timestamp) {
        let Some(slot) = self.slots.get(uid) else { return };
        let pod = spec::pod_ref(&slot.pod);
        let others = self.names.get(&(pod.namespace, pod.name)).into_iter().flatten();
        let others: Vec<_> = others.filter(|other| *other != uid).cloned().collect();
        others.iter().for_each(|other| self.step(other, machine, now));
    }

    fn drop_slot(&mut self, uid: &str, machine: &Machine, now: Timestamp) {
        let Some(slot) = self.slots.remove(uid) else { return };
        self.agreed = self.agreement.gone(uid);
        self.updates.remove(uid);
        let pod = spec::pod_ref(&slot.pod);
        let key = (pod.namespace, pod.name);
        let Some(uids) = self.names.get_mut(&key) else { return };
        uids.retain(|u| **u != *uid);
        match uids.first().cloned() {
            Some(next) => self.step(&next, machine, now),
            None => drop(self.names.remove(&key)),
        }
    }

    fn learn(&mut self, uid: &str, observed: &Observed) {
        let backoffs = self.backoffs;
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let first = !std::mem::replace(&mut slot.learnt, true);
        if slot.memory.start_time.is_none() {
            slot.memory.start_time = observed.sandboxes.iter().map(|s| s.created_at).min();
        }
        for container in spec::all_containers(spec::spec(&slot.pod)) {
            let Some(newest) = observed.container(&container.name) else { continue };
            let memory = slot.memory.container(&container.name);
            let older = observed
                .containers
                .iter()
                .filter(|c| *c.name == *container.name && c.attempt < newest.attempt)
                .max_by_key(|c| c.attempt);
            if first && memory.crash.is_none() {
                memory.crash = decide::crash_found(newest, older, &backoffs);
            }
            if let Some(older) = older
                && let State::Exited(exit) = &older.state
            {
                memory.last = Some((older.id.clone(), exit.clone()));
            }
            if newest.is_running() && memory.busy.is_none() {
                memory.started = Some(newest.id.clone());
            }
        }
    }

    fn tell(&mut self, uid: &str, observed: &Observed, now: Timestamp) {
        let backoffs = self.backoffs;
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let status = status::status(&status::Input {
            pod: &slot.pod,
            stopping: slot.removed || slot.pod.metadata.deletion_timestamp.is_some(),
            observed,
            memory: &slot.memory,
            backoffs: &backoffs,
            before: &slot.status,
            runtime: "simulated",
            host_ip: "10.1.0.1",
            now,
        });
        if status == *slot.status {
            return;
        }
        let first_write = slot.pod.status.as_ref().is_some_and(|s| status::same(s, &status));
        slot.status = Arc::new(status);
        let orphan = slot.pod.spec.is_none();
        if !orphan && !slot.removed && !first_write {
            self.put(uid, false);
        }
    }

    /// Says again what somebody else has overruled.
    fn insist(&mut self, uid: &str) {
        let Some(slot) = self.slots.get(uid) else { return };
        let stored = slot.pod.status.as_ref();
        let overruled = stored.is_some_and(|s| status::overruled(s, &slot.status));
        if slot.learnt && !slot.cleaned && !slot.removed && overruled {
            self.put(uid, false);
        }
    }

    fn put(&mut self, uid: &str, delete: bool) {
        let Some(slot) = self.slots.get(uid) else { return };
        let delete = delete || self.updates.get(uid).is_some_and(|update| update.delete);
        let mut status = Arc::clone(&slot.status);
        if delete {
            let mut last = (*status).clone();
            for condition in last.conditions.iter_mut().flatten() {
                if condition.type_ == "Ready" || condition.type_ == "ContainersReady" {
                    condition.status = "False".into();
                }
            }
            status = Arc::new(last);
        }
        let update = Update { target: Target::of(&*slot.pod), status, delete };
        self.updates.insert(uid.into(), update);
    }

    /// The next status to write.
    pub fn take(&mut self) -> Option<(Arc<str>, Request)> {
        if self.writing || !self.up {
            return None;
        }
        let (uid, update) = self.updates.pop_first()?;
        self.writing = true;
        let patch: Value = status::patch(Some(&uid), &update.status);
        Some((uid, Request::Status { target: update.target, patch, delete: update.delete }))
    }

    /// Nobody heard it: it waits again, unless something newer does.
    pub fn again(&mut self, uid: &Arc<str>, delete: bool) {
        match self.updates.get_mut(uid) {
            Some(newer) => newer.delete |= delete,
            None => self.put(uid, delete),
        }
    }

    pub fn has_updates(&self) -> bool {
        !self.updates.is_empty()
    }
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
