//! Nodes that are lost and come back, and rollouts, by kubectl.

use std::collections::BTreeSet;

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Options, Role, until};

fn deployment(name: &str, replicas: u32, image: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - {{name: c, image: '{image}'}}
"
    )
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn name(pod: &Value) -> String {
    text(&pod["metadata"]["name"])
}

fn is_going(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

fn running(cluster: &Cluster) -> Vec<Value> {
    let mut pods = cluster.objects("pods", "default");
    pods.retain(|pod| !is_going(pod) && pod["status"]["phase"] == "Running");
    pods
}

fn nodes(pods: &[Value]) -> Vec<String> {
    let mut nodes: Vec<_> = pods.iter().map(|pod| text(&pod["spec"]["nodeName"])).collect();
    nodes.sort();
    nodes
}

fn ready(cluster: &Cluster, node: &str) -> String {
    let node = cluster.object("node", "", node).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().find(|c| c["type"] == "Ready").map_or(String::new(), |c| text(&c["status"]))
}

fn taints(cluster: &Cluster, node: &str) -> BTreeSet<String> {
    let node = cluster.object("node", "", node).unwrap_or_default();
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints.iter().map(|t| format!("{}:{}", text(&t["key"]), text(&t["effect"]))).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// An agent is killed and not started again: its node is lost, its pods are replaced on the others. It comes back: the
/// node is Ready, what was to go is gone, and nothing runs twice.
#[test]
fn a_node_is_lost_and_comes_back() {
    let mut cluster = Cluster::up(Options {
        nodes: 3,
        split: true,
        arguments: words(&[
            "--default-not-ready-toleration-seconds=2",
            "--default-unreachable-toleration-seconds=2",
        ]),
        controllers: words(&["--node-monitor-grace-period=8s"]),
        agents: words(&["--node-lease-duration-seconds=4"]),
        ..Options::default()
    });
    cluster.kubectl_with(["apply", "-f", "-"], &deployment("web", 6, "example/web:1")).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    let before = running(&cluster);
    assert_eq!(
        nodes(&before),
        ["node-1", "node-1", "node-2", "node-2", "node-3", "node-3"],
        "equal nodes get equal shares"
    );
    assert_eq!(before[0]["spec"]["tolerations"][0]["tolerationSeconds"], 2);

    let lost = Role::Agent("node-1".into());
    cluster.kill9(&lost);
    until("the node is unknown", SOON, || ready(&cluster, "node-1") == "Unknown");
    let table = cluster.kubectl(["get", "node", "node-1"]);
    assert!(table.ok().contains("NotReady"), "{}", table.told());
    until("the node is tainted", SOON, || {
        ["NoSchedule", "NoExecute"].iter().all(|effect| {
            taints(&cluster, "node-1").contains(&format!("node.kubernetes.io/unreachable:{effect}"))
        })
    });
    until("six run on the others", SOON, || {
        nodes(&running(&cluster)) == ["node-2", "node-2", "node-2", "node-3", "node-3", "node-3"]
    });
    let names = |pods: &[Value]| pods.iter().map(name).collect::<BTreeSet<_>>();
    let on_lost: BTreeSet<_> =
        before.iter().filter(|pod| pod["spec"]["nodeName"] == "node-1").map(name).collect();
    // Nobody has said that they have ended: they stay, terminating, until the node says so.
    let going: BTreeSet<_> =
        cluster.objects("pods", "default").iter().filter(|pod| is_going(pod)).map(name).collect();
    assert_eq!(going, on_lost);
    assert!(names(&running(&cluster)).is_disjoint(&on_lost), "a pod runs twice");

    cluster.start(&lost);
    until("the node is back", SOON, || ready(&cluster, "node-1") == "True");
    until("its taints are gone", SOON, || taints(&cluster, "node-1").is_empty());
    until("what was to go is gone", SOON, || cluster.objects("pods", "default").len() == 6);
    assert!(names(&running(&cluster)).is_disjoint(&on_lost));
    cluster.kubectl(["scale", "deploy/web", "--replicas=9"]).ok();
    until("the shares are equal again", SOON, || {
        let nodes = nodes(&running(&cluster));
        nodes.len() == 9 && nodes.iter().filter(|node| *node == "node-1").count() == 3
    });
}

#[test]
fn rollouts_are_paused_resumed_and_undone() {
    let cluster = Cluster::up(Options { nodes: 2, ..Options::default() });
    let images = || -> BTreeSet<String> {
        let pods = running(&cluster);
        pods.iter().map(|pod| text(&pod["spec"]["containers"][0]["image"])).collect()
    };
    let done = || {
        cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    };
    cluster.kubectl_with(["apply", "-f", "-"], &deployment("web", 3, "example/web:1")).ok();
    done();
    cluster.kubectl(["rollout", "pause", "deploy/web"]).ok();
    cluster.kubectl(["set", "image", "deploy/web", "c=example/web:2"]).ok();
    // A paused one still scales, and all that comes is of the old revision.
    cluster.kubectl(["scale", "deploy/web", "--replicas=5"]).ok();
    until("five run", SOON, || running(&cluster).len() == 5);
    assert_eq!(images(), BTreeSet::from(["example/web:1".to_owned()]));
    cluster.kubectl(["rollout", "resume", "deploy/web"]).ok();
    done();
    until("the new image runs", SOON, || images() == BTreeSet::from(["example/web:2".to_owned()]));
    cluster.kubectl(["rollout", "undo", "deploy/web", "--to-revision=1"]).ok();
    done();
    until("the old image runs", SOON, || images() == BTreeSet::from(["example/web:1".to_owned()]));
    let history = cluster.kubectl(["rollout", "history", "deploy/web"]);
    let revisions: Vec<_> = history
        .ok()
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse::<u32>().ok())
        .collect();
    assert_eq!(revisions, [2, 3], "{}", history.told());
    cluster.kubectl(["scale", "deploy/web", "--replicas=0"]).ok();
    until("none is left", SOON, || cluster.objects("pods", "default").is_empty());
}

/// On the kubelet's path, for the identity that may use the port, and for nobody else.
#[test]
fn a_nodes_port_serves_metrics() {
    let cluster = Cluster::simulated();
    cluster.kubectl_with(["apply", "-f", "-"], &deployment("web", 2, "example/web:1")).ok();
    until("pods run", SOON, || running(&cluster).len() == 2);
    let node = cluster.object("node", "", "node-1").expect("the node");
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let pki = cluster.data_dir().join("pki");
    let get = |identity: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(pki.join("ca.crt"));
        curl.arg("--cert").arg(pki.join(format!("{identity}.crt")));
        curl.arg("--key").arg(pki.join(format!("{identity}.key")));
        curl.arg(format!("https://127.0.0.1:{port}/metrics"));
        warren_tests::kubectl::run(curl, None)
    };
    let output = get("apiserver-node");
    assert!(output.succeeded(), "{}", output.told());
    let value = |name: &str| {
        let found = output.stdout.lines().find_map(|line| line.strip_prefix(name));
        let found = found.unwrap_or_else(|| panic!("no {name} in {}", output.stdout));
        found.trim().parse::<f64>().expect("a number")
    };
    assert!(value("warren_agent_pods ") >= 2.0);
    assert!(value("warren_agent_running_containers ") >= 2.0);
    assert!(value("warren_controllers_decisions_total ") >= 2.0);
    let refused = get("admin");
    assert!(!refused.succeeded() && refused.err().contains("403"), "{}", refused.told());
}

/// Who is not the API server takes no room of the API server's.
#[test]
fn a_nodes_port_is_kept_free_for_the_api_server() {
    /// That are open at once without having said whose they are.
    const MOST: usize = 256;
    const IDLE: usize = 600;
    let cluster = Cluster::simulated();
    let node = cluster.object("node", "", "node-1").expect("the node");
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = u16::try_from(port.expect("a port")).expect("a port");
    let pki = cluster.data_dir().join("pki");
    let get = |identity: &str, paths: &[&str]| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--write-out", " %{num_connects}\\n"]);
        curl.args(["--max-time", "4", "--cacert"]).arg(pki.join("ca.crt"));
        curl.arg("--cert").arg(pki.join(format!("{identity}.crt")));
        curl.arg("--key").arg(pki.join(format!("{identity}.key")));
        curl.args(paths.iter().map(|path| format!("https://127.0.0.1:{port}/{path}")));
        warren_tests::kubectl::run(curl, None)
    };
    // Nobody else stays: a second request needs a second connection.
    assert_eq!(get("apiserver-node", &["healthz", "healthz"]).ok(), "ok 1\nok 0\n");
    let refused = "only the API server may use a node's port 1\n";
    assert_eq!(get("node-node-1", &["healthz", "healthz"]).ok(), refused.repeat(2));
    // Of connections that say nothing the oldest give way, and the newest is taken at once.
    let connect = |_| std::net::TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    let idle: Vec<_> = (0..IDLE).map(connect).collect();
    let metrics = get("apiserver-node", &["metrics"]);
    let value = |name: &str| {
        let found = metrics.ok().lines().find_map(|line| line.strip_prefix(name));
        found.and_then(|value| value.trim().parse::<usize>().ok()).expect("the metric is there")
    };
    assert!(value("warren_agent_port_handshakes ") <= MOST);
    assert!(value("warren_agent_port_handshakes_dropped_total ") > IDLE - MOST);
    assert!(value("warren_agent_port_connections ") >= 1);
    drop(idle);
}
