//! The annotation `warren.dev/autonomous`: nothing is evicted from such a node.

use std::collections::BTreeMap;

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Options, Role, until};

const MARKED: &str = "node-1";
const OTHER: &str = "node-2";

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn pod(node: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: on-{node}}}
spec:
  nodeName: {node}
  containers: [{{name: c, image: 'example/web:1'}}]
"
    )
}

fn going(cluster: &Cluster, node: &str) -> bool {
    let pod = cluster.object("pod", "default", &format!("on-{node}")).unwrap();
    !pod["metadata"]["deletionTimestamp"].is_null()
}

fn condition(cluster: &Cluster, node: &str) -> Value {
    let node = cluster.object("node", "", node).unwrap();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|c| c["type"] == "Ready");
    ready.map_or(Value::Null, |c| c["status"].clone())
}

#[test]
fn nothing_leaves_a_marked_node() {
    let mut cluster = Cluster::up(Options {
        nodes: 2,
        split: true,
        arguments: words(&[
            "--default-not-ready-toleration-seconds=2",
            "--default-unreachable-toleration-seconds=2",
        ]),
        controllers: words(&["--node-monitor-grace-period=8s"]),
        agents: words(&["--node-lease-duration-seconds=4"]),
        ..Options::default()
    });
    cluster.kubectl(["annotate", "node", MARKED, "warren.dev/autonomous=true"]).ok();
    let mut uids = BTreeMap::new();
    for node in [MARKED, OTHER] {
        cluster.kubectl_with(["apply", "-f", "-"], &pod(node)).ok();
        let name = format!("on-{node}");
        let running = |pod: &Value| pod["status"]["phase"] == "Running";
        let pod = cluster.wait_object("pod", "default", &name, running);
        uids.insert(node, pod["metadata"]["uid"].clone());
    }
    // The marked one first, so that its pods would have been the first to leave.
    for node in [MARKED, OTHER] {
        cluster.kill9(&Role::Agent(node.into()));
        until("the node is unknown", SOON, || condition(&cluster, node) == "Unknown");
    }
    until("the other's pod leaves", SOON, || going(&cluster, OTHER));
    assert!(!going(&cluster, MARKED));
    let node = cluster.object("node", "", MARKED).unwrap();
    let taints = node["spec"]["taints"].as_array().unwrap();
    let taints: Vec<_> = taints.iter().map(|t| (t["key"].clone(), t["effect"].clone())).collect();
    assert_eq!(taints, [("node.kubernetes.io/unreachable".into(), "NoSchedule".into())]);
    let table = cluster.kubectl(["get", "node", MARKED]);
    assert!(table.ok().contains("NotReady"), "{}", table.told());

    for node in [MARKED, OTHER] {
        cluster.start(&Role::Agent(node.into()));
        until("the node is back", SOON, || condition(&cluster, node) == "True");
    }
    let pod = cluster.wait_object("pod", "default", &format!("on-{MARKED}"), |pod| {
        warren_tests::space::is_ready(pod)
    });
    assert_eq!(pod["metadata"]["uid"], uids[MARKED]);
    until("the other's pod is gone", SOON, || {
        cluster.object("pod", "default", &format!("on-{OTHER}")).is_none()
    });
}
