//! What to say about a pod: its `status`, a function of its spec, what there is, and what was said before.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{self, Outcome, Restart, Role};
use super::ephemeral;
use super::memory::{Backoffs, Busy, Memory};
use super::spec::{self, RestartPolicy};
use crate::runtime::{Container, Exit, Observed, State};

pub struct Input<'a> {
    pub pod: &'a Pod,
    /// Everything is being or has been stopped.
    pub stopping: bool,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub backoffs: &'a Backoffs,
    /// The status that was said last; at first the one that the pod came with.
    pub before: &'a PodStatus,
    /// `docker`: the scheme of container ids.
    pub runtime: &'a str,
    pub host_ip: &'a str,
    pub now: Timestamp,
}

/// After this long a failed pull is shown as a back-off.
pub const PULL_SHOWN_AS_FAILED: std::time::Duration = std::time::Duration::from_secs(2);

/// The conditions that the agent owns; others (of the scheduler, of readiness gates) are left alone.
pub const OWN_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

pub fn status(input: &Input<'_>) -> PodStatus {
    let Input { pod, observed, memory, before, .. } = *input;
    let spec = spec::spec(pod);
    let policy = spec::restart_policy(spec);
    let generation = pod.metadata.generation;
    let sandbox = observed.sandbox().filter(|s| s.ready);
    let initialized = match sandbox {
        Some(sandbox) => decide::initialized(pod, observed, sandbox),
        None => spec.containers.iter().any(|c| observed.container(&c.name).is_some()),
    };

    let init: Vec<ContainerStatus> = spec::init_containers(spec)
        .iter()
        .map(|c| {
            let role = if spec::is_sidecar(c) { Role::Sidecar } else { Role::Init };
            container(input, c, role, true)
        })
        .collect();
    let init_done = initialized || init.iter().zip(spec::init_containers(spec)).all(is_init_done);
    let main: Vec<ContainerStatus> =
        spec.containers.iter().map(|c| container(input, c, Role::Main, !init_done)).collect();
    let ephemeral: Vec<ContainerStatus> = ephemeral::all(spec)
        .iter()
        .map(|c| {
            let c = ephemeral::as_container(c);
            // Without probes there is nothing to say about its start, as the kubelet has it.
            let said = container(input, &c, Role::Ephemeral, !init_done);
            ContainerStatus { started: None, ..said }
        })
        .collect();

    let phase = phase(input, policy, &init, init_done, &main);
    let over = matches!(phase, "Succeeded" | "Failed");

    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        observed_generation: generation,
        host_ip: Some(input.host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: input.host_ip.to_owned() }]),
        qos_class: Some(before.qos_class.clone().unwrap_or_else(|| spec::qos_class(spec).into())),
        start_time: before.start_time.clone().or(memory.start_time.map(Time)),
        reason: before.reason.clone(),
        message: before.message.clone(),
        ..PodStatus::default()
    };
    if let Some(terminal) = &memory.terminal {
        status.reason = Some(terminal.reason.clone());
        status.message = Some(terminal.message.clone());
    }
    let ip = if spec.host_network == Some(true) {
        Some(input.host_ip.to_owned())
    } else {
        let seen = sandbox.and_then(|s| s.ip).map(|ip| ip.to_string());
        // An ended pod keeps the address that it had.
        seen.or_else(|| before.pod_ip.clone().filter(|_| over || input.stopping))
    };
    status.pod_ips = ip.clone().map(|ip| vec![PodIP { ip }]);
    status.pod_ip = ip;
    status.conditions = Some(conditions(input, phase, sandbox.is_some(), init_done, &init, &main));
    if !init.is_empty() {
        status.init_container_statuses = Some(init);
    }
    status.container_statuses = Some(main);
    if !ephemeral.is_empty() {
        status.ephemeral_container_statuses = Some(ephemeral);
    }
    status
}

fn is_init_done((status, spec): (&ContainerStatus, &Spec)) -> bool {
    let state = status.state.as_ref();
    if spec::is_sidecar(spec) {
        return status.started == Some(true);
    }
    state.and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0)
}

fn phase(
    input: &Input<'_>,
    policy: RestartPolicy,
    init: &[ContainerStatus],
    init_done: bool,
    main: &[ContainerStatus],
) -> &'static str {
    let Input { pod, observed, memory, before, .. } = *input;
    if let Some(phase @ ("Succeeded" | "Failed")) = before.phase.as_deref() {
        // It never goes back.
        return if phase == "Failed" { "Failed" } else { "Succeeded" };
    }
    if memory.terminal.is_some() {
        return "Failed";
    }
    match decide::outcome(pod, observed) {
        Some(Outcome::Failed) => return "Failed",
        Some(Outcome::Succeeded) => return "Succeeded",
        None => {}
    }
    let terminated = |s: &ContainerStatus| {
        s.state.as_ref().and_then(|s| s.terminated.clone()).map(|t| t.exit_code)
    };
    let never_started = |s: &ContainerStatus| {
        s.state.as_ref().is_some_and(|s| s.waiting.is_some()) && s.last_state.is_none()
    };
    if input.stopping && !main.is_empty() && main.iter().all(|s| terminated(s).is_some()) {
        // A deleted pod that has ended: what its last exit codes say.
        let failed = main.iter().any(|s| terminated(s) != Some(0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    let init_failed = policy == RestartPolicy::Never
        && init.iter().any(|s| terminated(s).is_some_and(|code| code != 0));
    if !init_done && init_failed && input.stopping {
        return "Failed";
    }
    if !init_done || main.iter().any(never_started) { "Pending" } else { "Running" }
}

fn conditions(
    input: &Input<'_>,
    phase: &str,
    sandbox_ready: bool,
    init_done: bool,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Vec<PodCondition> {
    let Input { pod, before, now, .. } = *input;
    let spec = spec::spec(pod);
    let names = |statuses: &mut dyn Iterator<Item = &ContainerStatus>| {
        statuses.map(|s| s.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    let over = match phase {
        "Succeeded" => Some(("False", Some("PodCompleted"), None)),
        "Failed" => Some(("False", Some("PodFailed"), None)),
        _ => None,
    };
    let initialized = if init_done || phase == "Succeeded" {
        ("True", (phase == "Succeeded").then_some("PodCompleted"), None)
    } else {
        let specs = spec::init_containers(spec);
        let missing =
            names(&mut init.iter().zip(specs).filter(|p| !is_init_done(*p)).map(|(s, _)| s));
        let message = format!("containers with incomplete status: [{missing}]");
        ("False", Some("ContainersNotInitialized"), Some(message))
    };
    // Sidecars count towards readiness.
    let sidecars = init.iter().zip(spec::init_containers(spec));
    let counted: Vec<&ContainerStatus> =
        sidecars.filter(|(_, c)| spec::is_sidecar(c)).map(|(s, _)| s).chain(main).collect();
    let containers_ready = over.clone().unwrap_or_else(|| {
        if counted.iter().all(|s| s.ready) {
            ("True", None, None)
        } else {
            let missing = names(&mut counted.iter().copied().filter(|s| !s.ready));
            let message = format!("containers with unready status: [{missing}]");
            ("False", Some("ContainersNotReady"), Some(message))
        }
    });
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    let current = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let open: Vec<String> = gates
        .iter()
        .filter(|g| !current.iter().any(|c| c.type_ == g.condition_type && c.status == "True"))
        .map(|g| match current.iter().find(|c| c.type_ == g.condition_type) {
            Some(c) => format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                g.condition_type, c.status
            ),
            None => format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                g.condition_type
            ),
        })
        .collect();
    let ready = if containers_ready.0 == "True" && !open.is_empty() {
        ("False", Some("ReadinessGatesNotReady"), Some(open.join(", ")))
    } else {
        containers_ready.clone()
    };
    let started = if sandbox_ready { "True" } else { "False" };

    [
        ("PodReadyToStartContainers", (started, None, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", ("True", None, None)),
    ]
    .into_iter()
    .map(|(type_, (status, reason, message))| {
        let all = before.conditions.as_deref().unwrap_or_default();
        let old = all.iter().find(|c| c.type_ == type_);
        let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_probe_time: None,
            last_transition_time: Some(since.unwrap_or(Time(now))),
            observed_generation: pod.metadata.generation,
        }
    })
    .collect()
}

fn container(input: &Input<'_>, spec: &Spec, role: Role, initializing: bool) -> ContainerStatus {
    let Input { pod, observed, memory, before, runtime, .. } = *input;
    let newest = observed.container(&spec.name);
    let remembered = memory.get(&spec.name);
    let said = before
        .init_container_statuses
        .iter()
        .chain(&before.container_statuses)
        .chain(&before.ephemeral_container_statuses)
        .flatten()
        .find(|s| s.name == spec.name);
    let id = |id: &str| format!("{runtime}://{id}");
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let ended = |id: Option<String>, exit: &Exit| ContainerStateTerminated {
        container_id: id,
        exit_code: exit.code,
        signal: None,
        reason: Some(exit.reason.clone()),
        message: exit.message.clone(),
        started_at: exit.started_at.map(Time),
        finished_at: Some(Time(exit.finished_at)),
    };
    // How the container before this one ended.
    let previous = |attempt: u32| {
        let older = observed.containers.iter().filter(|c| *c.name == *spec.name);
        let older = older.filter(|c| c.attempt < attempt).max_by_key(|c| c.attempt);
        match older.map(|c| (&c.id, &c.state)) {
            Some((cid, State::Exited(exit))) => Some(ended(Some(id(cid)), exit)),
            _ => remembered
                .and_then(|m| m.last.as_ref())
                .map(|(cid, exit)| ended(Some(id(cid)), exit))
                .or_else(|| said.and_then(|s| s.last_state.clone()).and_then(|s| s.terminated)),
        }
    };
    let Some(found) = newest else {
        status.restart_count = said.map_or(0, |s| s.restart_count);
        // It was there once and the runtime has lost it.
        let last = said.and_then(|s| s.state.as_ref()).and_then(|s| s.terminated.clone());
        status.state = Some(match last {
            Some(terminated) if input.stopping || is_over(before) => {
                ContainerState { terminated: Some(terminated), ..ContainerState::default() }
            }
            _ => waiting(input, spec, initializing),
        });
        status.last_state = previous(u32::MAX)
            .map(|t| ContainerState { terminated: Some(t), ..ContainerState::default() });
        return status;
    };
    status.container_id = Some(id(&found.id));
    // What it was made from; a changed spec is not that yet.
    if !found.image.is_empty() {
        status.image = found.image.to_string();
    }
    status.image_id = found.image_id.to_string();
    status.restart_count = i32::try_from(found.attempt).unwrap_or(i32::MAX);
    status.last_state = previous(found.attempt)
        .map(|t| ContainerState { terminated: Some(t), ..ContainerState::default() });
    match &found.state {
        State::Running { started_at } => {
            status.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }),
                ..ContainerState::default()
            });
            let started = memory.is_started(&spec.name, &found.id);
            status.started = Some(started);
            status.ready = match role {
                Role::Init | Role::Ephemeral => false,
                Role::Main | Role::Sidecar => {
                    started
                        && (spec.readiness_probe.is_none()
                            || memory.is_ready(&spec.name, &found.id))
                }
            };
        }
        State::Exited(exit) => {
            let terminated = ended(Some(id(&found.id)), exit);
            status.ready = role == Role::Init && exit.code == 0;
            status.state = Some(match back_off(input, spec, role, found, exit) {
                Some(waiting) => {
                    status.last_state = Some(ContainerState {
                        terminated: Some(terminated),
                        ..ContainerState::default()
                    });
                    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
                }
                None => {
                    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
                }
            });
        }
        State::Created => status.state = Some(waiting(input, spec, initializing)),
        State::Unknown => {
            let unknown = Exit {
                code: 137,
                reason: "ContainerStatusUnknown".into(),
                message: Some(
                    "The container could not be located when the pod was terminated".into(),
                ),
                started_at: None,
                finished_at: found.created_at,
            };
            status.state = Some(ContainerState {
                terminated: Some(ended(Some(id(&found.id)), &unknown)),
                ..ContainerState::default()
            });
        }
    }
    let _ = pod;
    status
}

/// Whether it says no more than that the pod was seen and its containers are being made.
pub fn is_interim(status: &PodStatus) -> bool {
    let being_made = |status: &ContainerStatus| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.filter(|w| w.message.is_none()).and_then(|w| w.reason.as_deref());
        matches!(reason, Some("ContainerCreating" | "PodInitializing"))
            && status.last_state.as_ref().is_none_or(|last| last.terminated.is_none())
    };
    let all = || {
        let init = status.init_container_statuses.iter();
        init.chain(&status.container_statuses).chain(&status.ephemeral_container_statuses).flatten()
    };
    status.phase.as_deref() == Some("Pending") && all().next().is_some() && all().all(being_made)
}

fn is_over(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn waiting(input: &Input<'_>, spec: &Spec, initializing: bool) -> ContainerState {
    let (reason, message) = match failure(input, spec) {
        Some((reason, message)) => (reason, Some(message)),
        None if initializing => ("PodInitializing".to_owned(), None),
        None => ("ContainerCreating".to_owned(), None),
    };
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason), message }),
        ..ContainerState::default()
    }
}

/// Why the container could not be started, if that is so; a failed pull becomes a back-off after a moment.
fn failure(input: &Input<'_>, spec: &Spec) -> Option<(String, String)> {
    let failure = input.memory.get(&spec.name)?.failure.as_ref()?;
    let shown = super::memory::later(failure.at, PULL_SHOWN_AS_FAILED);
    if failure.reason == "ErrImagePull" && input.now >= shown {
        let image = spec.image.as_deref().unwrap_or_default();
        let message =
            format!("Back-off pulling image \"{image}\": {}: {}", failure.reason, failure.message);
        return Some(("ImagePullBackOff".to_owned(), message));
    }
    Some((failure.reason.to_owned(), failure.message.clone()))
}

/// Whether an ended container is shown as waiting for its next start.
fn back_off(
    input: &Input<'_>,
    spec: &Spec,
    role: Role,
    container: &Container,
    exit: &Exit,
) -> Option<ContainerStateWaiting> {
    let Input { pod, memory, backoffs, now, .. } = *input;
    if input.stopping || is_over(input.before) || container.hash != spec::hash(spec) {
        return None;
    }
    let policy = spec::restart_policy(spec::spec(pod));
    let remembered = memory.get(&spec.name);
    if remembered.is_some_and(|m| m.busy == Some(Busy::Starting)) {
        // The wait that is noted already is that of its next end.
        return None;
    }
    let crash = remembered.and_then(|m| m.crash);
    let Restart::At(at) = decide::restart(policy, role, exit, crash, backoffs) else { return None };
    if let Some((reason, message)) = failure(input, spec) {
        return Some(ContainerStateWaiting { reason: Some(reason), message: Some(message) });
    }
    let delay = crash.filter(|_| at > now)?.delay;
    let meta = &pod.metadata;
    Some(ContainerStateWaiting {
        reason: Some("CrashLoopBackOff".into()),
        message: Some(format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            go_duration(delay),
            spec.name,
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default(),
        )),
    })
}

/// `10s`, `2m40s`: as Go writes a duration of whole seconds.
pub fn go_duration(duration: std::time::Duration) -> String {
    let (minutes, seconds) = (duration.as_secs() / 60, duration.as_secs() % 60);
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

#[cfg(test)]
mod tests;

/// The strategic merge patch that makes a stored pod's status this one. What is not set here is removed where it is
/// ours, and left alone where it is not.
pub fn patch(uid: Option<&str>, status: &PodStatus) -> serde_json::Value {
    use serde_json::{Value, json};
    let mut value = serde_json::to_value(status).unwrap_or_default();
    for condition in value["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    if status.pod_ips.is_none() {
        value["podIP"] = Value::Null;
        value["podIPs"] = Value::Null;
    } else if let Some(ips) = value["podIPs"].as_array_mut() {
        // Its merge key is the address: without this an old one would stay.
        ips.insert(0, json!({"$patch": "replace"}));
    }
    for field in ["reason", "message"] {
        if value.get(field).is_none() {
            value[field] = Value::Null;
        }
    }
    let mut patch = json!({"status": value});
    if let Some(uid) = uid {
        patch["metadata"]["uid"] = uid.into();
    }
    patch
}

/// Whether what the API has says the same as what we would write.
pub fn same(stored: &PodStatus, ours: &PodStatus) -> bool {
    let own = |s: &PodStatus| {
        let mut s = s.clone();
        if let Some(conditions) = &mut s.conditions {
            conditions.retain(|c| OWN_CONDITIONS.contains(&c.type_.as_str()));
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
            for condition in conditions.iter_mut() {
                condition.last_probe_time = None;
                if condition.type_ == "PodScheduled" {
                    condition.last_transition_time = None;
                    condition.observed_generation = None;
                }
            }
        }
        s.nominated_node_name = None;
        s.resize = None;
        s.ephemeral_container_statuses = s.ephemeral_container_statuses.filter(|e| !e.is_empty());
        s
    };
    // As JSON: the API keeps times to the second.
    serde_json::to_value(own(stored)).ok() == serde_json::to_value(own(ours)).ok()
}

/// Whether somebody else has changed a condition of ours in what the API has. Where the containers differ as well, it is
/// an earlier word of our own, and the later one is on its way.
pub fn overruled(stored: &PodStatus, ours: &PodStatus) -> bool {
    let of = |status: &PodStatus, name: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|c| c.type_ == name).map(|c| c.status.clone())
    };
    let changed = OWN_CONDITIONS.iter().any(|name| of(stored, name) != of(ours, name));
    let containers = |s: &PodStatus| serde_json::to_value(&s.container_statuses).ok();
    changed && containers(stored) == containers(ours)
}
