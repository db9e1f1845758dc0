//! Containers that are added to a running pod, to look into it.

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::space::{is_ready, status};
use warren_tests::{Space, until};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, 'trap exit TERM; sleep 4711 & wait']
  - {name: side, image: 'warren/busybox:1', command: [sleep, '4712']}
";

fn said<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = pod["status"]["ephemeralContainerStatuses"].as_array();
    all.into_iter().flatten().find(|s| s["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn a_debugger_sees_the_processes_of_its_target() {
    let space = Space::on_docker("debug");
    space.apply(POD);
    space.ready("web");
    let debug = |rest: &str| {
        space.line(&format!("debug web --image=warren/busybox:1 --image-pull-policy=Never {rest}"))
    };
    let ended = |name: &str| {
        let pod = space.pod("web", |pod| !said(pod, name)["state"]["terminated"].is_null());
        let ended = said(&pod, name)["state"]["terminated"].clone();
        (ended["exitCode"].as_i64(), space.line(&format!("logs web -c {name}")).ok().to_owned())
    };
    debug("--target=c -c looks -- ps").ok();
    let (code, seen) = ended("looks");
    assert_eq!(code, Some(0));
    assert!(seen.contains("sleep 4711") && !seen.contains("sleep 4712"), "{seen}");
    debug("-c alone -- ps").ok();
    let (_, seen) = ended("alone");
    assert!(seen.contains("ps") && !seen.contains("sleep 47"), "{seen}");

    // Talked to: its input, its output, and the name of the pod. The input stays open: without stdinOnce its end ends
    // the session, in Docker as with the kubelet's runtimes.
    let mut words: Vec<&str> = "debug web --image=warren/busybox:1 --image-pull-policy=Never \
        --target=c -c talks -i --quiet -- sh -c"
        .split_whitespace()
        .collect();
    words.push("read a; echo got $a; hostname");
    let mut talk = space.talking(&words);
    talk.say("word\n");
    until("the session ends with the debugger", SOON, || talk.has_ended());
    assert!(talk.output().contains("got word\nweb\n"), "{}", talk.output());

    // The target is ended from within: it starts again, and the debuggers do not.
    let end = ["sh", "-c", "kill 1"];
    let words = "debug web --image=warren/busybox:1 --target=c -c kills --".split_whitespace();
    space.kubectl(&words.chain(end).collect::<Vec<_>>()).ok();
    let pod = space.pod("web", |pod| is_ready(pod) && status(pod, "c")["restartCount"] == 1);
    for name in ["looks", "alone", "talks", "kills"] {
        assert_eq!(said(&pod, name)["restartCount"], 0, "{name}");
        assert!(said(&pod, name)["state"]["running"].is_null(), "{name}");
    }

    // One that goes on is found by exec, and ends with the pod.
    debug("--target=side -c stays -- sleep 4713").ok();
    let pod = space.pod("web", |pod| !said(pod, "stays")["state"]["running"].is_null());
    let seen = space.sh("web -c stays", "ps");
    assert!(
        seen.ok().contains("sleep 4712") && seen.ok().contains("sleep 4713"),
        "{}",
        seen.told()
    );
    let started = || {
        space.cluster.objects("events", &space.name).iter().any(|event| {
            event["message"] == "Started container stays"
                && event["involvedObject"]["fieldPath"] == "spec.ephemeralContainers{stays}"
        })
    };
    until("its start is told", SOON, started);
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    space.line("delete pod web --timeout=60s").ok();
    until("nothing of it is left", SOON, || {
        space.cluster.containers().iter().all(|container| container.uid != uid)
    });
}
