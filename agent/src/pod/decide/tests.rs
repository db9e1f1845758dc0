//! Every combination of what is wanted and what there is, as one table.

use std::fmt::Write;

use expect_test::expect_file;
use serde_json::json;

use super::*;
use crate::pod::memory::Failure;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn pod(policy: &str, init: bool) -> Pod {
    let mut spec = json!({
        "restartPolicy": policy,
        "containers": [{"name": "c", "image": "i:1"}],
    });
    if init {
        spec["initContainers"] = json!([
            {"name": "init", "image": "i:1"},
            {"name": "side", "image": "i:1", "restartPolicy": "Always"},
        ]);
    }
    serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
}

fn container(pod: &Pod, name: &str, attempt: u32, sandbox: &str, state: State) -> Container {
    let spec = spec::find_container(spec::spec(pod), name).unwrap();
    Container {
        id: format!("{name}-{attempt}").into(),
        name: name.into(),
        sandbox: sandbox.into(),
        attempt,
        image: "i:1".into(),
        image_id: "".into(),
        hash: spec::hash(&spec),
        created_at: now(),
        state,
    }
}

fn exited(code: i32) -> State {
    State::Exited(Exit {
        code,
        reason: String::new(),
        message: None,
        started_at: Some(now()),
        finished_at: now(),
    })
}

fn running() -> State {
    State::Running { started_at: now() }
}

fn sandbox(id: &str, attempt: u32, ready: bool) -> Sandbox {
    Sandbox { id: id.into(), attempt, ready, ip: None, created_at: now() }
}

fn plan(pod: &Pod, wanted: Wanted, observed: &Observed, memory: &Memory) -> Plan {
    let backoffs = Backoffs::default();
    decide(&Input { pod, wanted, observed, memory, backoffs: &backoffs, now: now() })
}

fn show(plan: &Plan) -> String {
    let mut words: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Action::RemoveSandbox { id } => format!("remove sandbox {id}"),
            Action::Start { name, attempt, existing, .. } => {
                let how = if existing.is_some() { "start made" } else { "start" };
                format!("{how} {name} {attempt}")
            }
            Action::CancelStart { name } => format!("cancel {name}"),
            Action::Stop { id, deadline, again, .. } => {
                let word = if *again { "stop again" } else { "stop" };
                format!("{word} {id} in {}s", deadline.duration_since(now()).as_secs())
            }
            Action::Hurry { name, deadline } => {
                format!("hurry {name} in {}s", deadline.duration_since(now()).as_secs())
            }
            Action::Remove { id, .. } => format!("remove {id}"),
            Action::Fail(terminal) => format!("fail {}", terminal.reason),
            Action::CleanUp => "clean up".to_owned(),
        })
        .collect();
    if let Some(wake) = plan.wake {
        words.push(format!("wake in {}s", wake.duration_since(now()).as_secs()));
    }
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

#[test]
fn every_combination() {
    let stop = |then| Wanted::Stop { deadline: later(now(), Duration::from_secs(30)), then };
    let wants = [
        ("run", Wanted::Run),
        ("keep", stop(Then::Keep)),
        ("gone", stop(Then::Gone)),
        ("gone now", Wanted::Stop { deadline: now(), then: Then::Gone }),
    ];
    let states: [(&str, Option<State>); 6] = [
        ("none", None),
        ("created", Some(State::Created)),
        ("running", Some(running())),
        ("exit 0", Some(exited(0))),
        ("exit 1", Some(exited(1))),
        ("unknown", Some(State::Unknown)),
    ];
    let sandboxes = [("none", None), ("dead", Some(false)), ("ready", Some(true))];
    let mut table = String::new();
    for policy in ["Always", "OnFailure", "Never"] {
        for (wanted_name, wanted) in wants {
            for (sandbox_name, ready) in sandboxes {
                for changed in [false, true] {
                    for (state_name, state) in &states {
                        let pod = pod(policy, false);
                        let mut observed = Observed::default();
                        observed.sandboxes.extend(ready.map(|ready| sandbox("s", 0, ready)));
                        if let Some(state) = state {
                            let mut c = container(&pod, "c", 0, "s", state.clone());
                            c.hash ^= u64::from(changed);
                            observed.containers.push(c);
                        } else if changed {
                            continue;
                        }
                        let plan = plan(&pod, wanted, &observed, &Memory::default());
                        let hash = if changed { "changed" } else { "same" };
                        writeln!(
                            table,
                            "{policy:9} | {wanted_name:8} | sandbox {sandbox_name:5} | {hash:7} | {state_name:7} | {}",
                            show(&plan)
                        )
                        .unwrap();
                    }
                }
            }
        }
    }
    expect_file!["./table.txt"].assert_eq(&table);
}

#[test]
fn init_containers_and_sidecars_in_order() {
    let pod = pod("Always", true);
    let mut observed = Observed { sandboxes: vec![sandbox("s", 0, true)], containers: vec![] };
    let mut memory = Memory::default();
    let step =
        |observed: &Observed, memory: &Memory| show(&plan(&pod, Wanted::Run, observed, memory));
    assert_eq!(step(&observed, &memory), "start init 0");
    observed.containers.push(container(&pod, "init", 0, "s", running()));
    assert_eq!(step(&observed, &memory), "-");
    observed.containers[0].state = exited(1);
    assert_eq!(step(&observed, &memory), "start init 1");
    observed.containers[0].state = exited(0);
    assert_eq!(step(&observed, &memory), "start side 0");
    observed.containers.push(container(&pod, "side", 0, "s", running()));
    assert_eq!(step(&observed, &memory), "-", "it runs, but has not started");
    memory.container("side").started = Some("side-0".into());
    assert_eq!(step(&observed, &memory), "start c 0");
    observed.containers.push(container(&pod, "c", 0, "s", running()));
    observed.containers[1].state = exited(0);
    assert_eq!(step(&observed, &memory), "start side 1", "beside the others");
    observed.containers[1].state = running();
    let stop = Wanted::Stop { deadline: later(now(), Duration::from_secs(9)), then: Then::Gone };
    let ends = |observed: &Observed| show(&plan(&pod, stop, observed, &Memory::default()));
    assert_eq!(ends(&observed), "stop c-0 in 9s");
    observed.containers[2].state = exited(0);
    assert_eq!(ends(&observed), "stop side-0 in 9s", "sidecars last");
    observed.containers[1].state = exited(0);
    assert_eq!(ends(&observed), "clean up");
}

#[test]
fn what_is_busy_is_left_alone_but_stopped_sooner() {
    let pod = pod("Always", false);
    let mut observed = Observed { sandboxes: vec![sandbox("s", 0, true)], containers: vec![] };
    let mut memory = Memory::default();
    memory.container("c").busy = Some(Busy::Starting);
    let at = |seconds| Wanted::Stop {
        deadline: later(now(), Duration::from_secs(seconds)),
        then: Then::Gone,
    };
    assert_eq!(show(&plan(&pod, Wanted::Run, &observed, &memory)), "-");
    assert_eq!(show(&plan(&pod, at(30), &observed, &memory)), "cancel c");
    observed.containers.push(container(&pod, "c", 0, "s", running()));
    memory.container("c").busy =
        Some(Busy::Stopping { deadline: later(now(), Duration::from_secs(30)) });
    assert_eq!(show(&plan(&pod, at(30), &observed, &memory)), "-");
    assert_eq!(show(&plan(&pod, at(1), &observed, &memory)), "hurry c in 1s");
    memory = Memory { sandbox_busy: true, ..Memory::default() };
    observed = Observed::default();
    assert_eq!(show(&plan(&pod, Wanted::Run, &observed, &memory)), "-");
    assert_eq!(show(&plan(&pod, at(1), &observed, &memory)), "-");
}

#[test]
fn back_offs() {
    let pod = pod("Always", false);
    let observed = Observed {
        sandboxes: vec![sandbox("s", 0, true)],
        containers: vec![container(&pod, "c", 4, "s", exited(1))],
    };
    let backoffs = Backoffs::default();
    let mut memory = Memory::default();
    let mut crash = None;
    let mut delays = Vec::new();
    for _ in 0..7 {
        let next = next_crash(crash, &backoffs, now());
        delays.push(next.delay.as_secs());
        crash = Some(next);
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    memory.container("c").crash = crash;
    assert_eq!(show(&plan(&pod, Wanted::Run, &observed, &memory)), "wake in 300s");
    let old = now() - jiff::SignedDuration::from_secs(601);
    memory.container("c").crash = Some(CrashLoop { delay: Duration::from_secs(300), updated: old });
    assert_eq!(show(&plan(&pod, Wanted::Run, &observed, &memory)), "start c 5", "forgiven");

    let mut memory = Memory::default();
    let failure = Failure::next(None, "ErrImagePull", String::new(), now(), backoffs.image);
    memory.container("c").failure = Some(failure);
    let empty = Observed { containers: vec![], ..observed };
    assert_eq!(show(&plan(&pod, Wanted::Run, &empty, &memory)), "wake in 10s");
}

#[test]
fn deadline_kill_and_old_containers() {
    let mut pod = pod("Always", false);
    let mut observed = Observed {
        sandboxes: vec![sandbox("s", 0, true)],
        containers: vec![container(&pod, "c", 3, "s", running())],
    };
    let mut memory = Memory::default();
    memory.container("c").kill = Some(("c-3".into(), "why".into()));
    assert_eq!(show(&plan(&pod, Wanted::Run, &observed, &memory)), "stop c-3 in 30s");
    for attempt in 0..3 {
        observed.containers.push(container(&pod, "c", attempt, "s", exited(1)));
    }
    let plan_of = |pod: &Pod, memory: &Memory| show(&plan(pod, Wanted::Run, &observed, memory));
    assert_eq!(plan_of(&pod, &Memory::default()), "remove c-0", "one at a time, two stay");
    memory = Memory { start_time: Some(now()), ..Memory::default() };
    pod.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
    assert!(plan_of(&pod, &memory).ends_with("wake in 60s"));
    memory.start_time = Some(now() - jiff::SignedDuration::from_secs(60));
    assert_eq!(plan_of(&pod, &memory), "fail DeadlineExceeded");
}

/// Each state of a container that looks into a pod, in a pod whose init container fails again and again.
#[test]
fn ephemeral_containers_run_once_whatever_else_goes_on() {
    let stop = |then| Wanted::Stop { deadline: later(now(), Duration::from_secs(9)), then };
    let states: [(&str, Option<State>); 6] = [
        ("none", None),
        ("created", Some(State::Created)),
        ("running", Some(running())),
        ("exit 0", Some(exited(0))),
        ("exit 1", Some(exited(1))),
        ("unknown", Some(State::Unknown)),
    ];
    let mut table = String::new();
    for policy in ["Always", "Never"] {
        let mut pod = pod(policy, false);
        let spec = pod.spec.as_mut().unwrap();
        let list = |name: &str| json!([{"name": name, "image": "i:1"}]);
        spec.init_containers = Some(serde_json::from_value(list("init")).unwrap());
        spec.ephemeral_containers = Some(serde_json::from_value(list("eph")).unwrap());
        for (wanted_name, wanted) in
            [("run", Wanted::Run), ("keep", stop(Then::Keep)), ("gone", stop(Then::Gone))]
        {
            for (sandbox_name, sandboxes) in [
                ("none", vec![]),
                ("ready", vec![sandbox("s", 0, true)]),
                ("another", vec![sandbox("t", 1, true)]),
            ] {
                for (state_name, state) in &states {
                    let state = state.clone();
                    let made = state.map(|state| container(&pod, "eph", 0, "s", state));
                    let observed = Observed {
                        sandboxes: sandboxes.clone(),
                        containers: made.into_iter().collect(),
                    };
                    let plan = plan(&pod, wanted, &observed, &Memory::default());
                    writeln!(
                        table,
                        "{policy:6} | {wanted_name:4} | sandbox {sandbox_name:7} | {state_name:7} | {}",
                        show(&plan)
                    )
                    .unwrap();
                }
            }
        }
    }
    expect_file!["./ephemeral.txt"].assert_eq(&table);
}

#[test]
fn an_ephemeral_container_holds_no_pod_up() {
    let mut pod = pod("Never", false);
    let list = json!([{"name": "eph", "image": "i:1"}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = Some(serde_json::from_value(list).unwrap());
    let mut observed = Observed {
        sandboxes: vec![sandbox("s", 0, true)],
        containers: vec![
            container(&pod, "c", 0, "s", exited(0)),
            container(&pod, "eph", 0, "s", running()),
        ],
    };
    assert_eq!(outcome(&pod, &observed), Some(Outcome::Succeeded));
    assert_eq!(
        show(&plan(&pod, Wanted::Run, &observed, &Memory::default())),
        "stop eph-0 in 30s",
        "it ends with the pod"
    );
    observed.containers[0].state = running();
    observed.containers[1].state = exited(1);
    assert_eq!(outcome(&pod, &observed), None);
    // Its start failed, and is tried again.
    let mut memory = Memory::default();
    observed.containers.truncate(1);
    let other = Backoffs::default().other;
    let failure = Failure::next(None, "CreateContainerConfigError", String::new(), now(), other);
    memory.container("eph").failure = Some(failure);
    assert_eq!(show(&plan(&pod, Wanted::Run, &observed, &memory)), "wake in 1s");
    memory.container("eph").failure = None;
    assert_eq!(show(&plan(&pod, Wanted::Run, &observed, &memory)), "start eph 0");
    memory.container("eph").busy = Some(Busy::Starting);
    assert_eq!(show(&plan(&pod, stop_now(), &observed, &memory)), "cancel eph, stop c-0 in 0s");
}

#[test]
fn nothing_is_ended_while_all_is_removed() {
    let pod = pod("Always", false);
    let memory = Memory { cleaning: true, ..Memory::default() };
    for wanted in [
        stop_now(),
        Wanted::Stop { deadline: later(now(), Duration::from_secs(9)), then: Then::Keep },
    ] {
        for state in [State::Created, running(), exited(0), exited(1), State::Unknown] {
            let observed = Observed {
                sandboxes: vec![sandbox("s", 0, false)],
                containers: vec![container(&pod, "c", 0, "s", state)],
            };
            assert_eq!(show(&plan(&pod, wanted, &observed, &memory)), "-");
        }
    }
}

#[test]
fn an_end_is_begun_once_for_each_container() {
    let pod = pod("Always", false);
    let mut observed = Observed {
        sandboxes: vec![sandbox("s", 0, true)],
        containers: vec![container(&pod, "c", 1, "s", running())],
    };
    let mut memory = Memory::default();
    memory.container("c").stopped = Some("c-0".into());
    assert_eq!(show(&plan(&pod, stop_now(), &observed, &memory)), "stop c-1 in 0s");
    // The runtime failed meanwhile.
    memory.container("c").stopped = Some("c-1".into());
    assert_eq!(show(&plan(&pod, stop_now(), &observed, &memory)), "stop again c-1 in 0s");
    observed.containers[0].state = exited(143);
    assert_eq!(show(&plan(&pod, stop_now(), &observed, &memory)), "clean up");
}

fn stop_now() -> Wanted {
    Wanted::Stop { deadline: now(), then: Then::Gone }
}
