use serde_json::{Value, json};

use super::*;
use crate::pod::memory::{CrashLoop, Failure, Terminal};
use crate::runtime::Sandbox;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn pod(policy: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 3},
        "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i:1"}]},
    }))
    .unwrap()
}

fn observed(pod: &Pod, state: Option<State>) -> Observed {
    let spec = &spec::spec(pod).containers[0];
    let sandbox = Sandbox {
        id: "s".into(),
        attempt: 0,
        ready: true,
        ip: Some([10, 0, 0, 9].into()),
        created_at: now(),
    };
    let container = state.map(|state| Container {
        id: "c-1".into(),
        name: "c".into(),
        sandbox: "s".into(),
        attempt: 1,
        image: "i:1".into(),
        image_id: "sha".into(),
        hash: spec::hash(spec),
        created_at: now(),
        state,
    });
    Observed { sandboxes: vec![sandbox], containers: container.into_iter().collect() }
}

fn exited(code: i32) -> State {
    let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
    let started_at = Some(now());
    State::Exited(Exit { code, reason, message: None, started_at, finished_at: now() })
}

fn say(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    before: &PodStatus,
    stop: bool,
) -> PodStatus {
    status(&Input {
        pod,
        stopping: stop,
        observed,
        memory,
        backoffs: &Backoffs::default(),
        before,
        runtime: "docker",
        host_ip: "192.0.2.1",
        now: now(),
    })
}

#[test]
fn phases_and_states() {
    let running = State::Running { started_at: now() };
    let cases = [
        ("Always", None, false, "Pending", "waiting ContainerCreating"),
        ("Always", Some(State::Created), false, "Pending", "waiting ContainerCreating"),
        ("Always", Some(running.clone()), false, "Running", "running"),
        ("Always", Some(exited(0)), false, "Running", "terminated Completed"),
        ("Always", Some(exited(1)), false, "Running", "terminated Error"),
        ("OnFailure", Some(exited(0)), false, "Succeeded", "terminated Completed"),
        ("OnFailure", Some(exited(1)), false, "Running", "terminated Error"),
        ("Never", Some(exited(0)), false, "Succeeded", "terminated Completed"),
        ("Never", Some(exited(1)), false, "Failed", "terminated Error"),
        ("Always", Some(exited(0)), true, "Succeeded", "terminated Completed"),
        ("Always", Some(exited(143)), true, "Failed", "terminated Error"),
        ("Always", Some(running), true, "Running", "running"),
    ];
    for (policy, state, stop, phase, shown) in cases {
        let pod = pod(policy);
        let text = format!("{policy} {state:?} {stop}");
        let status =
            say(&pod, &observed(&pod, state), &Memory::default(), &PodStatus::default(), stop);
        assert_eq!(status.phase.as_deref(), Some(phase), "{text}");
        let state = serde_json::to_value(&status.container_statuses.unwrap()[0].state).unwrap();
        let (name, inner) = state.as_object().unwrap().iter().next().unwrap();
        let reason = inner["reason"].as_str().unwrap_or_default();
        assert_eq!(format!("{name} {reason}").trim(), shown, "{text}");
    }
}

/// `Init:0/2` for people: the reason is that of all its containers, as the kubelet has it.
#[test]
fn before_its_init_containers_run_a_pod_initializes() {
    let mut pod = pod("Always");
    let init = json!([{"name": "first", "image": "i:1"}, {"name": "second", "image": "i:1"}]);
    pod.spec.as_mut().unwrap().init_containers = Some(serde_json::from_value(init).unwrap());
    let seen = Observed::default();
    let said = say(&pod, &seen, &Memory::default(), &PodStatus::default(), false);
    let all = said.init_container_statuses.iter().chain(&said.container_statuses).flatten();
    let reasons: Vec<_> =
        all.filter_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.as_deref()).collect();
    assert_eq!(reasons, ["PodInitializing"; 3]);
    assert!(is_interim(&said));
}

#[test]
fn readiness_times_and_what_stays() {
    let pod = pod("Always");
    let seen = observed(&pod, Some(State::Running { started_at: now() }));
    let mut memory = Memory::default();
    let first = say(&pod, &seen, &memory, &PodStatus::default(), false);
    let ready = |s: &PodStatus| {
        let all = s.conditions.clone().unwrap();
        all.into_iter().find(|c| c.type_ == "Ready").unwrap()
    };
    assert_eq!(ready(&first).status, "False");
    assert_eq!(ready(&first).message.unwrap(), "containers with unready status: [c]");
    assert_eq!(ready(&first).observed_generation, Some(3));
    memory.container("c").started = Some("c-1".into());
    let second = say(&pod, &seen, &memory, &first, false);
    assert_eq!(ready(&second).status, "True");
    assert_eq!(second.pod_ip.as_deref(), Some("10.0.0.9"));
    let mut before = second.clone();
    let old: Timestamp = "2025-01-01T00:00:00Z".parse().unwrap();
    for condition in before.conditions.iter_mut().flatten() {
        condition.last_transition_time = Some(Time(old));
    }
    let third = say(&pod, &seen, &memory, &before, false);
    assert_eq!(ready(&third).last_transition_time, Some(Time(old)), "nothing changed");
    assert!(same(&third, &before));
    let over = PodStatus { phase: Some("Failed".into()), ..PodStatus::default() };
    assert_eq!(say(&pod, &seen, &memory, &over, false).phase.as_deref(), Some("Failed"));
}

#[test]
fn why_it_waits() {
    let pod = pod("Always");
    let mut memory = Memory::default();
    let backoffs = Backoffs::default();
    let reason = |memory: &Memory, seen: &Observed| {
        let status = say(&pod, seen, memory, &PodStatus::default(), false);
        let status = status.container_statuses.unwrap().remove(0);
        let waiting = status.state.unwrap().waiting.unwrap();
        (waiting.reason.unwrap(), waiting.message.unwrap_or_default())
    };
    let failure = |ago: i64| {
        let at = now() - jiff::SignedDuration::from_secs(ago);
        Some(Failure::next(None, "ErrImagePull", "no".into(), at, backoffs.image))
    };
    memory.container("c").failure = failure(0);
    let none = observed(&pod, None);
    assert_eq!(reason(&memory, &none), ("ErrImagePull".into(), "no".into()));
    memory.container("c").failure = failure(3);
    let text = "Back-off pulling image \"i:1\": ErrImagePull: no";
    assert_eq!(reason(&memory, &none), ("ImagePullBackOff".into(), text.into()));
    memory.container("c").failure = None;
    let delay = std::time::Duration::from_secs(160);
    memory.container("c").crash = Some(CrashLoop { delay, updated: now() });
    let text = "back-off 2m40s restarting failed container=c pod=p_ns(u)";
    let crashed = observed(&pod, Some(exited(1)));
    assert_eq!(reason(&memory, &crashed), ("CrashLoopBackOff".into(), text.into()));
    // On its way already.
    memory.container("c").busy = Some(Busy::Starting);
    let status = say(&pod, &crashed, &memory, &PodStatus::default(), false);
    let state = status.container_statuses.unwrap().remove(0).state.unwrap();
    assert!(state.waiting.is_none() && state.terminated.is_some(), "{state:?}");
}

#[test]
fn what_somebody_else_has_changed_is_noticed() {
    let pod = pod("Always");
    // The daemon counts in nanoseconds, the API in seconds.
    let started_at = "2026-01-01T00:59:00.123456789Z".parse().unwrap();
    let running = observed(&pod, Some(State::Running { started_at }));
    let mut memory = Memory::default();
    memory.container("c").started = Some("c-1".into());
    let ours = say(&pod, &running, &memory, &PodStatus::default(), false);
    let stored = |ours: &PodStatus| -> PodStatus {
        serde_json::from_value(serde_json::to_value(ours).unwrap()).unwrap()
    };
    let mut theirs = stored(&ours);
    assert!(same(&theirs, &ours) && !overruled(&theirs, &ours));
    let conditions = theirs.conditions.iter_mut().flatten();
    conditions.filter(|c| c.type_ == "Ready").for_each(|c| c.status = "False".into());
    assert!(overruled(&theirs, &ours));
    let earlier = say(&pod, &observed(&pod, None), &memory, &PodStatus::default(), false);
    assert!(!overruled(&stored(&earlier), &ours), "our own, and late");
}

#[test]
fn patches_remove_what_is_ours_and_gone() {
    let pod = pod("Always");
    let mut memory = Memory::default();
    let none = Observed::default();
    let status = say(&pod, &none, &memory, &PodStatus::default(), false);
    let value = patch(Some("u"), &status);
    assert_eq!(value["metadata"]["uid"], "u");
    assert_eq!(value["status"]["podIP"], Value::Null);
    assert!(value["status"].as_object().unwrap().contains_key("reason"));
    memory.terminal = Some(Terminal { reason: "Evicted".into(), message: "m".into() });
    let status = say(&pod, &observed(&pod, None), &memory, &PodStatus::default(), false);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let value = patch(None, &status);
    assert_eq!(value["status"]["podIPs"][0], json!({"$patch": "replace"}));
    assert_eq!(value["status"]["reason"], "Evicted");
}

#[test]
fn what_is_said_of_an_ephemeral_container_changes_nothing_else() {
    let mut pod = pod("Never");
    let mut memory = Memory::default();
    memory.container("c").started = Some("c-1".into());
    let mut seen = observed(&pod, Some(State::Running { started_at: now() }));
    let without = say(&pod, &seen, &memory, &PodStatus::default(), false);
    assert_eq!(without.ephemeral_container_statuses, None);
    let list = json!([{"name": "eph", "image": "e:1", "targetContainerName": "c"}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = Some(serde_json::from_value(list).unwrap());
    let like = seen.containers[0].clone();
    let made = |state: State| Container {
        id: "eph-0".into(),
        name: "eph".into(),
        attempt: 0,
        image: "e:1".into(),
        hash: 0,
        state,
        ..like.clone()
    };
    let cases = [
        (None, "waiting ContainerCreating"),
        (Some(made(State::Created)), "waiting ContainerCreating"),
        (Some(made(State::Running { started_at: now() })), "running"),
        (Some(made(exited(0))), "terminated Completed"),
        (Some(made(exited(1))), "terminated Error"),
    ];
    seen.containers.truncate(1);
    for (container, shown) in cases {
        seen.containers.truncate(1);
        seen.containers.extend(container);
        let mut status = say(&pod, &seen, &memory, &PodStatus::default(), false);
        let said = status.ephemeral_container_statuses.take().unwrap().remove(0);
        assert_eq!((said.name.as_str(), said.image.as_str()), ("eph", "e:1"), "{shown}");
        assert_eq!((said.ready, said.started, said.restart_count), (false, None, 0), "{shown}");
        let state = serde_json::to_value(&said.state).unwrap();
        let (name, inner) = state.as_object().unwrap().iter().next().unwrap();
        let reason = inner["reason"].as_str().unwrap_or_default();
        assert_eq!(format!("{name} {reason}").trim(), shown);
        assert_eq!(status, without, "{shown}");
    }
    // What the runtime has lost meanwhile has ended, where the pod has.
    seen.containers.truncate(1);
    seen.containers.push(made(exited(3)));
    let before = say(&pod, &seen, &memory, &PodStatus::default(), false);
    seen.containers.truncate(1);
    let after = say(&pod, &seen, &memory, &before, true);
    let said = after.ephemeral_container_statuses.unwrap().remove(0);
    assert_eq!(said.state.unwrap().terminated.unwrap().exit_code, 3);
}

#[test]
fn a_pod_that_is_looked_into_says_so_at_once() {
    let mut pod = pod("Always");
    let list = json!([{"name": "eph", "image": "e:1"}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = Some(serde_json::from_value(list).unwrap());
    let mut seen = observed(&pod, None);
    let status = say(&pod, &seen, &Memory::default(), &PodStatus::default(), false);
    assert!(is_interim(&status));
    let c = observed(&pod, Some(State::Running { started_at: now() })).containers.remove(0);
    seen.containers.push(Container { name: "eph".into(), ..c });
    let status = say(&pod, &seen, &Memory::default(), &PodStatus::default(), false);
    assert!(!is_interim(&status));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}
