//! An agent that is stopped past its lease (SIGSTOP), and goes on after its pods run elsewhere.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use warren_tests::cluster::SOON;
use warren_tests::space::{condition, is_ready};
use warren_tests::{Cluster, Options, Role, Runtime, until};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn solo(node: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "solo"},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "warren/busybox:1", "command": ["sleep", "3600"]}],
        },
    })
    .to_string()
}

fn now() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_moved_while_an_agent_was_stopped_is_not_started_there_again() {
    let (mut cluster, rabbit) = Cluster::on_rabbitmq(Options {
        nodes: 2,
        runtime: Runtime::Docker,
        controllers: words(&["--node-monitor-grace-period=8s"]),
        agents: words(&["--node-lease-duration-seconds=4"]),
        ..Options::default()
    })
    .await;
    cluster.kubectl_with(["apply", "-f", "-"], &solo("node-1")).ok();
    let old = cluster.wait_object("pod", "default", "solo", is_ready);
    let old = old["metadata"]["uid"].as_str().unwrap().to_owned();
    let container = cluster.containers_of(&old).remove(0);
    let stopped = Role::Agent("node-1".into());
    cluster.pause(&stopped, true);
    cluster.wait_object("node", "", "node-1", |node| condition(node, "Ready") == "Unknown");
    // The same name elsewhere, as somebody does who takes the node for lost.
    cluster.kubectl(["delete", "pod", "solo", "--force", "--grace-period=0"]).ok();
    cluster.kubectl_with(["apply", "-f", "-"], &solo("node-2")).ok();
    let moved = |pod: &Value| is_ready(pod) && pod["spec"]["nodeName"] == "node-2";
    let new = cluster.wait_object("pod", "default", "solo", moved);
    let new = new["metadata"]["uid"].as_str().unwrap().to_owned();
    // What the agent will see first, and would answer by another start.
    cluster.docker(&["kill", &container.id]).ok();
    let runs = cluster.containers_of(&new);
    let since = now();

    cluster.pause(&stopped, false);
    until("nothing of the pod is left there", SOON, || {
        cluster.containers().iter().all(|c| c.uid != old)
    });
    cluster.wait_ready();
    let label = format!("label=io.warren.pod.uid={old}");
    let started = cluster.docker(&[
        "events",
        "--since",
        &since,
        "--until",
        &now(),
        "--filter",
        &label,
        "--filter",
        "event=start",
        "--format",
        "{{.ID}}",
    ]);
    assert_eq!(started.ok().trim(), "", "started on a node that it had left");
    assert_eq!(cluster.containers_of(&new), runs, "the other goes on");
    let log = cluster.log(&stopped);
    assert!(log.contains("this agent was stopped for longer"), "{log}");
    drop(cluster);
    drop(rabbit);
}
