//! What to do about a pod: a total function of what is wanted, what there is, and the time.
//!
//! It names every action that can be taken now; the shell carries them out at once, each target (the sandbox, a
//! container) busy until its action is done. Nothing is decided about a busy target but to stop it sooner.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::ephemeral;
use super::memory::{Backoffs, Busy, CrashLoop, Memory, Terminal, later};
use super::spec::{self, RestartPolicy};
use crate::runtime::{Container, Exit, Id, Observed, Sandbox, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Run,
    /// Everything ends by `deadline`.
    Stop {
        deadline: Timestamp,
        then: Then,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The pod is over, but it is still an object: its containers stay for their logs.
    Keep,
    /// Nothing stays.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    CreateSandbox {
        attempt: u32,
    },
    RemoveSandbox {
        id: Id,
    },
    /// Pull, create, start, run the hook. `existing` is a container that was made for it before.
    Start {
        name: Arc<str>,
        attempt: u32,
        existing: Option<Id>,
        /// The end of the container that it replaces, for the crash-loop back-off.
        after: Option<Exit>,
    },
    CancelStart {
        name: Arc<str>,
    },
    Stop {
        name: Arc<str>,
        id: Id,
        deadline: Timestamp,
        why: String,
        /// It was told before, and the preStop hook was run; the runtime failed.
        again: bool,
    },
    /// What is being stopped has less time from now on.
    Hurry {
        name: Arc<str>,
        deadline: Timestamp,
    },
    /// A dead container that nobody needs any more.
    Remove {
        name: Arc<str>,
        id: Id,
    },
    /// The pod is over from here on, and fails with this.
    Fail(Terminal),
    /// Remove all that is left of the pod, and tell that it is gone.
    CleanUp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// When to decide again though nothing has happened.
    pub wake: Option<Timestamp>,
}

pub struct Input<'a> {
    pub pod: &'a Pod,
    pub wanted: Wanted,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub backoffs: &'a Backoffs,
    pub now: Timestamp,
}

pub fn decide(input: &Input<'_>) -> Plan {
    let mut decider = Decider { input, plan: Plan::default() };
    match input.wanted {
        Wanted::Run => decider.run(),
        Wanted::Stop { deadline, then } => decider.stop(deadline, then),
    }
    decider.plan
}

/// How a pod ended whose containers all have ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
}

/// `None` while something runs or will be started (again).
pub fn outcome(pod: &Pod, observed: &Observed) -> Option<Outcome> {
    let spec = spec::spec(pod);
    let policy = spec::restart_policy(spec);
    if policy == RestartPolicy::Always || spec.containers.is_empty() {
        return None;
    }
    let exits = || spec.containers.iter().map(|c| observed.container(&c.name));
    let any_main = exits().any(|c| c.is_some());
    if policy == RestartPolicy::Never && !any_main {
        let failed = spec::init_containers(spec)
            .iter()
            .filter(|c| !spec::is_sidecar(c))
            .any(|c| matches!(observed.container(&c.name).map(|c| &c.state), Some(State::Exited(e)) if e.code != 0));
        return failed.then_some(Outcome::Failed);
    }
    // Never with a dead sandbox: what has not started by now never will.
    let lost = policy == RestartPolicy::Never
        && any_main
        && !observed.sandbox().is_some_and(|sandbox| sandbox.ready);
    let mut outcome = Outcome::Succeeded;
    for (wanted, container) in spec.containers.iter().zip(exits()) {
        match container.map(|c| (&c.state, c.hash)) {
            Some((State::Exited(exit), hash)) if hash == spec::hash(wanted) || lost => {
                if exit.code != 0 {
                    outcome = Outcome::Failed;
                    if policy == RestartPolicy::OnFailure {
                        return None;
                    }
                }
            }
            None | Some((State::Created, _)) if lost => outcome = Outcome::Failed,
            _ => return None,
        }
    }
    Some(outcome)
}

/// Whether (and from when on) an ended container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Never,
    At(Timestamp),
}

/// `regular_init`: an init container that must succeed; it is restarted until it does, unless the policy is Never.
pub fn restart(
    policy: RestartPolicy,
    kind: Role,
    exit: &Exit,
    crash: Option<CrashLoop>,
    backoffs: &Backoffs,
) -> Restart {
    let again = match (kind, policy) {
        (Role::Sidecar, _) => true,
        (Role::Init, RestartPolicy::Never) => false,
        (Role::Init, _) => exit.code != 0,
        (Role::Main, RestartPolicy::Always) => true,
        (Role::Main, RestartPolicy::OnFailure) => exit.code != 0,
        (Role::Main, RestartPolicy::Never) | (Role::Ephemeral, _) => false,
    };
    if !again {
        return Restart::Never;
    }
    match crash {
        Some(crash) if exit.finished_at <= later(crash.updated, backoffs.crash_reset) => {
            Restart::At(later(exit.finished_at, crash.delay))
        }
        _ => Restart::At(exit.finished_at),
    }
}

/// The back-off entry once a container is restarted at `now`.
pub fn next_crash(crash: Option<CrashLoop>, backoffs: &Backoffs, now: Timestamp) -> CrashLoop {
    let delay = match crash {
        Some(crash) if now <= later(crash.updated, backoffs.crash_reset) => {
            (crash.delay * 2).min(backoffs.crash.last)
        }
        _ => backoffs.crash.first,
    };
    CrashLoop { delay, updated: now }
}

/// The back-off entry of a container that the agent finds when it starts: what it would remember of so many restarts.
/// Nothing is kept for it, because the runtime knows the restart count and the times; a container that ran long before
/// these is backed off as if it had not, until it runs long again. (The kubelet forgets and starts it at once.)
pub fn crash_found(
    newest: &Container,
    before: Option<&Container>,
    backoffs: &Backoffs,
) -> Option<CrashLoop> {
    // A new definition or a new sandbox is no crash.
    let again = |b: &Container| b.hash == newest.hash && b.sandbox == newest.sandbox;
    if newest.attempt == 0 || !before.is_none_or(again) {
        return None;
    }
    let started = match &newest.state {
        State::Running { started_at } => Some(*started_at),
        State::Exited(exit) => exit.started_at,
        State::Created | State::Unknown => None,
    };
    let updated = started.unwrap_or(newest.created_at);
    Some(CrashLoop { delay: backoffs.crash.after(newest.attempt), updated })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Init,
    Sidecar,
    Main,
    Ephemeral,
}

/// How many containers of one name are kept: the present one, and one for `logs --previous`.
const KEPT: usize = 2;

struct Decider<'a> {
    input: &'a Input<'a>,
    plan: Plan,
}

impl<'a> Decider<'a> {
    fn run(&mut self) {
        let Input { pod, observed, memory, now, .. } = *self.input;
        let spec = spec::spec(pod);
        let whole = later(now, spec::grace(pod));
        if outcome(pod, observed).is_some() {
            return self.stop(whole, Then::Keep);
        }
        if let (Some(seconds), Some(start)) = (spec.active_deadline_seconds, memory.start_time) {
            let end = later(start, Duration::from_secs(seconds.max(0).unsigned_abs()));
            if end <= now {
                self.plan.actions.push(Action::Fail(Terminal {
                    reason: "DeadlineExceeded".into(),
                    message: "Pod was active on the node longer than the specified deadline".into(),
                }));
                return;
            }
            self.wake(end);
        }
        let Some(sandbox) = observed.sandbox().filter(|sandbox| sandbox.ready) else {
            return self.sandbox(whole);
        };
        self.gc(sandbox);
        for old in observed.containers.iter().filter(|c| c.sandbox != sandbox.id && alive(c)) {
            self.end(old, whole, "Pod sandbox changed, it will be killed and re-created.");
        }
        for container in ephemeral::all(spec) {
            self.run_once(&container.name, sandbox);
        }
        if !self.init(sandbox) {
            return;
        }
        let policy = spec::restart_policy(spec);
        for container in &spec.containers {
            self.keep_running(container, Role::Main, policy, sandbox);
        }
    }

    /// There is none that works: end what runs, remove the dead one, make a new one.
    fn sandbox(&mut self, deadline: Timestamp) {
        let Input { observed, memory, now, .. } = *self.input;
        let mut waits = false;
        for container in observed.containers.iter().filter(|c| alive(c)) {
            waits = true;
            self.end(container, deadline, "Pod sandbox changed, it will be killed and re-created.");
        }
        for name in self.starting() {
            waits = true;
            self.plan.actions.push(Action::CancelStart { name });
        }
        if waits || memory.sandbox_busy {
            return;
        }
        if let Some(failure) = memory.sandbox_failure.as_ref().filter(|f| f.retry_at > now) {
            return self.wake(failure.retry_at);
        }
        match observed.sandbox() {
            Some(dead) => self.plan.actions.push(Action::RemoveSandbox { id: dead.id.clone() }),
            None => {
                let attempt = u32::from(!observed.containers.is_empty());
                self.plan.actions.push(Action::CreateSandbox { attempt });
            }
        }
    }

    /// Runs the init containers in their order. True once the others may start.
    fn init(&mut self, sandbox: &Sandbox) -> bool {
        let Input { pod, observed, memory, .. } = *self.input;
        let spec = spec::spec(pod);
        let policy = spec::restart_policy(spec);
        let initialized = initialized(pod, observed, sandbox);
        for container in spec::init_containers(spec) {
            if spec::is_sidecar(container) {
                self.keep_running(container, Role::Sidecar, policy, sandbox);
                let up = current(observed, container, sandbox)
                    .is_some_and(|c| c.is_running() && memory.is_started(&container.name, &c.id));
                if !up && !initialized {
                    return false;
                }
            } else if !initialized {
                let done = current(observed, container, sandbox)
                    .is_some_and(|c| matches!(&c.state, State::Exited(exit) if exit.code == 0));
                if !done {
                    self.keep_running(container, Role::Init, policy, sandbox);
                    return false;
                }
            }
        }
        true
    }

    /// Whatever has become of it, an ephemeral container is not started twice.
    fn run_once(&mut self, name: &str, sandbox: &Sandbox) {
        match self.input.observed.container(name) {
            None => self.start(name, 0, None, None),
            Some(made) if made.state == State::Created && made.sandbox == sandbox.id => {
                self.start(name, made.attempt, Some(made.id.clone()), None);
            }
            Some(_) => {}
        }
    }

    fn keep_running(
        &mut self,
        wanted: &Spec,
        role: Role,
        policy: RestartPolicy,
        sandbox: &Sandbox,
    ) {
        let Input { pod, observed, memory, backoffs, now, .. } = *self.input;
        let newest = observed.container(&wanted.name);
        if newest.is_some_and(|c| c.sandbox != sandbox.id && alive(c)) {
            return; // It is being ended.
        }
        let attempt = newest.map_or(0, |c| c.attempt + 1);
        let Some(container) = newest else {
            // All of them are lost; they count all the same.
            let lost = memory.get(&wanted.name).and_then(|m| m.attempt);
            let attempt = lost.map_or(0, |attempt| attempt.saturating_add(1));
            return self.start(&wanted.name, attempt, None, None);
        };
        let changed = container.hash != spec::hash(wanted);
        match &container.state {
            State::Created if container.sandbox != sandbox.id || changed => {
                self.start(&wanted.name, attempt, None, None);
            }
            State::Created => {
                self.start(&wanted.name, container.attempt, Some(container.id.clone()), None);
            }
            State::Running { .. } => {
                let kill = memory.get(&wanted.name).and_then(|m| m.kill.as_ref());
                if changed {
                    let why =
                        format!("Container {} definition changed, will be restarted", wanted.name);
                    self.end(container, later(now, spec::grace(pod)), &why);
                } else if let Some((_, why)) = kill.filter(|(id, _)| *id == container.id) {
                    self.end(container, later(now, kill_grace(pod, wanted)), why);
                }
            }
            State::Unknown => {
                let why = format!("Container {} is in an unknown state", wanted.name);
                self.end(container, later(now, spec::grace(pod)), &why);
            }
            State::Exited(exit) if container.sandbox != sandbox.id => {
                let over = role == Role::Main
                    && restart(policy, role, exit, None, backoffs) == Restart::Never;
                if !over {
                    self.start(&wanted.name, attempt, None, None);
                }
            }
            State::Exited(_) if changed => self.start(&wanted.name, attempt, None, None),
            State::Exited(exit) => {
                let crash = memory.get(&wanted.name).and_then(|m| m.crash);
                match restart(policy, role, exit, crash, backoffs) {
                    Restart::Never => {}
                    Restart::At(at) if at > now => self.wake(at),
                    Restart::At(_) => self.start(&wanted.name, attempt, None, Some(exit.clone())),
                }
            }
        }
    }

    fn start(&mut self, name: &str, attempt: u32, existing: Option<Id>, after: Option<Exit>) {
        let memory = self.input.memory.get(name);
        if memory.is_some_and(|m| m.busy.is_some()) {
            return;
        }
        if let Some(failure) = memory.and_then(|m| m.failure.as_ref())
            && failure.retry_at > self.input.now
        {
            return self.wake(failure.retry_at);
        }
        self.plan.actions.push(Action::Start { name: name.into(), attempt, existing, after });
    }

    /// Stops a container unless that is on its way already (and no later than wanted).
    fn end(&mut self, container: &Container, deadline: Timestamp, why: &str) {
        let name = &container.name;
        let memory = self.input.memory.get(name);
        match memory.and_then(|m| m.busy.as_ref()) {
            Some(Busy::Starting) => {
                self.plan.actions.push(Action::CancelStart { name: name.clone() });
            }
            Some(Busy::Removing) => {}
            Some(Busy::Stopping { deadline: present })
                if *present <= later(deadline, Duration::from_secs(1)) => {}
            Some(Busy::Stopping { .. }) => {
                self.plan.actions.push(Action::Hurry { name: name.clone(), deadline });
            }
            None => self.plan.actions.push(Action::Stop {
                name: name.clone(),
                id: container.id.clone(),
                deadline,
                why: why.to_owned(),
                again: memory.is_some_and(|m| m.stopped.as_ref() == Some(&container.id)),
            }),
        }
    }

    /// Ends the containers, the sidecars after the others and in reverse order, then the sandbox.
    fn stop(&mut self, deadline: Timestamp, then: Then) {
        let Input { pod, observed, memory, now, .. } = *self.input;
        // All has ended that there was; what is still seen is on its way out.
        if memory.cleaning {
            return;
        }
        let spec = spec::spec(pod);
        let mut waits = false;
        for name in self.starting() {
            waits = true;
            self.plan.actions.push(Action::CancelStart { name });
        }
        let is_sidecar = |c: &Container| {
            spec::init_containers(spec).iter().any(|s| s.name == *c.name && spec::is_sidecar(s))
        };
        let starting = self.starting();
        let living = || observed.containers.iter().filter(|c| alive(c));
        for container in living().filter(|c| !is_sidecar(c) && !starting.contains(&c.name)) {
            waits = true;
            self.end(container, deadline, &format!("Stopping container {}", container.name));
        }
        if !waits {
            let order =
                |c: &Container| spec::init_containers(spec).iter().position(|s| s.name == *c.name);
            if let Some(last) = living().filter(|c| is_sidecar(c)).max_by_key(|c| order(c)) {
                waits = true;
                self.end(last, deadline, &format!("Stopping container {}", last.name));
            }
        }
        if waits || memory.is_busy() {
            return;
        }
        if let Some(failure) = memory.cleanup_failure.as_ref().filter(|f| f.retry_at > now) {
            return self.wake(failure.retry_at);
        }
        match then {
            Then::Gone => self.plan.actions.push(Action::CleanUp),
            Then::Keep => {
                for sandbox in observed.sandboxes.iter().take(1) {
                    let id = sandbox.id.clone();
                    self.plan.actions.push(Action::RemoveSandbox { id });
                }
            }
        }
    }

    /// Old sandboxes, and all but the two newest dead containers of a name.
    fn gc(&mut self, sandbox: &Sandbox) {
        let Input { observed, memory, .. } = *self.input;
        for old in observed.sandboxes.iter().filter(|s| s.id != sandbox.id) {
            let used = observed.containers.iter().any(|c| c.sandbox == old.id && alive(c));
            if !used && !memory.sandbox_busy {
                self.plan.actions.push(Action::RemoveSandbox { id: old.id.clone() });
                break;
            }
        }
        for container in observed.containers.iter().filter(|c| !alive(c)) {
            let newer = observed
                .containers
                .iter()
                .filter(|c| c.name == container.name && c.attempt > container.attempt)
                .count();
            let busy = memory.get(&container.name).is_some_and(|m| m.busy.is_some());
            let listed = self
                .plan
                .actions
                .iter()
                .any(|a| matches!(a, Action::Remove { name, .. } if *name == container.name));
            if newer >= KEPT && !busy && !listed {
                self.plan.actions.push(Action::Remove {
                    name: container.name.clone(),
                    id: container.id.clone(),
                });
            }
        }
    }

    fn starting(&self) -> Vec<Arc<str>> {
        let containers = self.input.memory.containers.iter();
        containers
            .filter(|(_, m)| m.busy == Some(Busy::Starting))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn wake(&mut self, at: Timestamp) {
        self.plan.wake = Some(self.plan.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// Whether the init containers of this sandbox are done: all ended well, or a later container was made already.
pub fn initialized(pod: &Pod, observed: &Observed, sandbox: &Sandbox) -> bool {
    let spec = spec::spec(pod);
    spec.containers.iter().any(|c| current(observed, c, sandbox).is_some())
}

fn current<'a>(observed: &'a Observed, wanted: &Spec, sandbox: &Sandbox) -> Option<&'a Container> {
    observed.container(&wanted.name).filter(|c| c.sandbox == sandbox.id)
}

/// Whether it must be stopped before anything takes its place.
fn alive(container: &Container) -> bool {
    matches!(container.state, State::Running { .. } | State::Unknown)
}

/// A probe may give its container less time than the pod has.
fn kill_grace(pod: &Pod, container: &Spec) -> Duration {
    let probes = [&container.liveness_probe, &container.startup_probe];
    let own = probes.into_iter().flatten().find_map(|p| p.termination_grace_period_seconds);
    own.map_or_else(|| spec::grace(pod), |s| Duration::from_secs(s.max(1).unsigned_abs()))
}

#[cfg(test)]
mod tests;
