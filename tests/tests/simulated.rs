//! Controllers and the scheduler over nodes without machines.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

#[path = "simulated/proxy.rs"]
mod proxy;

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Options, Role, until, until_some};

fn nodes(count: usize) -> Cluster {
    Cluster::up(Options { nodes: count, ..Options::default() })
}

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

fn images(cluster: &Cluster) -> Vec<String> {
    let mut found: Vec<_> = live_pods(cluster)
        .iter()
        .map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn live_pods(cluster: &Cluster) -> Vec<Value> {
    let mut pods = cluster.objects("pods", "default");
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods
}

fn events_of(cluster: &Cluster, name: &str, reason: &str) -> Vec<String> {
    cluster
        .objects("events", "default")
        .iter()
        .filter(|event| event["involvedObject"]["name"] == name && event["reason"] == reason)
        .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_deployment_rolls_out_and_back() {
    let cluster = nodes(2);
    cluster.kubectl_with(["apply", "-f", "-"], &deployment("web", 4, "example/web:1")).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    cluster.kubectl_with(["apply", "-f", "-"], &deployment("web", 4, "example/web:2")).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    until("only the new image runs", SOON, || images(&cluster) == ["example/web:2"]);
    let history = cluster.kubectl(["rollout", "history", "deploy/web"]);
    let revisions = history.ok().lines().filter(|line| line.starts_with(['1', '2'])).count();
    assert_eq!(revisions, 2, "{}", history.told());

    cluster.kubectl(["rollout", "undo", "deploy/web"]).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    until("the old image is back", SOON, || images(&cluster) == ["example/web:1"]);

    let names = |cluster: &Cluster| -> Vec<String> {
        live_pods(cluster)
            .iter()
            .map(|p| p["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = names(&cluster);
    cluster.kubectl(["rollout", "restart", "deploy/web"]).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    until("every pod is another", SOON, || {
        let now = names(&cluster);
        now.len() == 4 && now.iter().all(|name| !before.contains(name))
    });
}

#[test]
fn a_pod_that_goes_is_replaced() {
    let cluster = nodes(1);
    cluster.kubectl_with(["apply", "-f", "-"], &deployment("web", 2, "example/web:1")).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    let name = live_pods(&cluster)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.kubectl(["delete", "pod", &name, "--timeout=60s"]).ok();
    until("two run again", SOON, || {
        let pods = live_pods(&cluster);
        pods.len() == 2 && pods.iter().all(|pod| pod["status"]["phase"] == "Running")
    });
    assert!(cluster.object("pod", "default", &name).is_none());
    // What owned them is gone, and so are they.
    cluster.kubectl(["delete", "deploy", "web", "--timeout=60s"]).ok();
    until("all pods are gone", SOON, || cluster.objects("pods", "default").is_empty());
    assert!(cluster.objects("replicasets", "default").is_empty());
}

#[test]
fn pods_that_fit_nowhere_say_why() {
    let cluster = nodes(3);
    cluster.kubectl(["taint", "node", "node-1", "only=me:NoSchedule"]).ok();
    cluster.kubectl(["cordon", "node-2"]).ok();
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: picky}
spec:
  nodeSelector: {disk: fast}
  containers: [{name: c, image: 'example/a:1'}]
";
    cluster.kubectl_with(["apply", "-f", "-"], pod).ok();
    let message = until_some("the scheduler says why", SOON, || {
        events_of(&cluster, "picky", "FailedScheduling").pop()
    });
    assert!(message.starts_with("0/3 nodes are available"), "{message}");
    for part in ["untolerated taint", "unschedulable", "node affinity/selector"] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    let picky = cluster.wait_object("pod", "default", "picky", |pod| {
        pod["status"]["conditions"][0]["reason"] == "Unschedulable"
    });
    assert_eq!(picky["status"]["phase"], "Pending");
    // As soon as it fits it runs.
    cluster.kubectl(["label", "node", "node-3", "disk=fast"]).ok();
    let running =
        cluster.wait_object("pod", "default", "picky", |p| p["status"]["phase"] == "Running");
    assert_eq!(running["spec"]["nodeName"], "node-3");
}

#[test]
fn requests_are_counted() {
    let cluster = nodes(2);
    let big = |name: &str, cpu: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  containers:
  - {{name: c, image: 'example/a:1', resources: {{requests: {{cpu: '{cpu}'}}}}}}
"
        )
    };
    let node = cluster.object("node", "", "node-1").unwrap();
    let cpus: u32 = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
    let most = (cpus * 3 / 4).to_string();
    for name in ["a", "b", "c"] {
        cluster.kubectl_with(["apply", "-f", "-"], &big(name, &most)).ok();
    }
    let message = until_some("one does not fit", SOON, || {
        ["a", "b", "c"].iter().find_map(|name| events_of(&cluster, name, "FailedScheduling").pop())
    });
    assert!(message.contains("2 Insufficient cpu"), "{message}");
    let placed = |cluster: &Cluster| -> Vec<String> {
        let pods = live_pods(cluster);
        pods.iter().filter_map(|p| p["spec"]["nodeName"].as_str().map(str::to_owned)).collect()
    };
    let mut nodes = placed(&cluster);
    nodes.sort();
    assert_eq!(nodes, ["node-1", "node-2"]);
    let first =
        live_pods(&cluster).into_iter().find(|pod| !pod["spec"]["nodeName"].is_null()).unwrap();
    cluster
        .kubectl(["delete", "pod", first["metadata"]["name"].as_str().unwrap(), "--timeout=60s"])
        .ok();
    until("the one that waited runs", SOON, || {
        live_pods(&cluster).iter().filter(|p| p["status"]["phase"] == "Running").count() == 2
    });
}

#[test]
fn a_job_completes_and_one_that_fails_says_so() {
    let cluster = nodes(1);
    let job = |name: &str, command: &str| {
        format!(
            "
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  completions: 3
  parallelism: 2
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{{name: c, image: 'example/job:1', command: [sh, -c, '{command}']}}]
"
        )
    };
    cluster.kubectl_with(["apply", "-f", "-"], &job("good", "echo done; exit 0")).ok();
    cluster.kubectl(["wait", "--for=condition=complete", "job/good", "--timeout=60s"]).ok();
    let good = cluster.object("job", "default", "good").unwrap();
    assert_eq!(good["status"]["succeeded"], 3);
    cluster.kubectl_with(["apply", "-f", "-"], &job("bad", "exit 3")).ok();
    cluster.kubectl(["wait", "--for=condition=failed", "job/bad", "--timeout=60s"]).ok();
    let bad = cluster.object("job", "default", "bad").unwrap();
    let conditions = bad["status"]["conditions"].as_array().unwrap();
    let failed = conditions.iter().find(|c| c["type"] == "Failed").unwrap();
    assert_eq!(failed["reason"], "BackoffLimitExceeded", "{bad}");
}

/// Each waits for the next one, and the last for the first.
#[test]
fn owners_in_a_circle_are_deleted_in_the_foreground() {
    let cluster = nodes(1);
    let names = ["a", "b", "c"];
    for name in names {
        cluster.kubectl(["create", "configmap", name]).ok();
    }
    for (at, name) in names.iter().enumerate() {
        let owner = names[(at + 1) % names.len()];
        let uid = &cluster.object("configmap", "default", owner).unwrap()["metadata"]["uid"];
        let patch = serde_json::json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
            "name": owner, "uid": uid, "blockOwnerDeletion": true}]}});
        cluster
            .kubectl(["patch", "configmap", name, "--type=merge", "-p", &patch.to_string()])
            .ok();
    }
    cluster.kubectl(["delete", "configmap", "b", "--cascade=foreground", "--timeout=25s"]).ok();
    until("all are gone", SOON, || {
        names.iter().all(|name| cluster.object("configmap", "default", name).is_none())
    });
}

/// Its renewals are no events, so who collects it has an old state of it.
#[test]
fn a_lease_that_was_renewed_goes_with_its_node() {
    let cluster = nodes(1);
    let node = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gone"}}"#;
    cluster.kubectl_with(["create", "-f", "-"], node).ok();
    let uid = &cluster.object("node", "", "gone").unwrap()["metadata"]["uid"];
    let lease = serde_json::json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "gone", "namespace": "kube-node-lease", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": uid}]},
        "spec": {"holderIdentity": "gone", "leaseDurationSeconds": 40}});
    cluster.kubectl_with(["create", "-f", "-"], &lease.to_string()).ok();
    for second in 1..=3 {
        let renewal =
            format!(r#"{{"spec": {{"renewTime": "2026-01-01T00:00:0{second}.000000Z"}}}}"#);
        let patch =
            ["patch", "lease", "gone", "-n", "kube-node-lease", "--type=merge", "-p", &renewal];
        cluster.kubectl(patch).ok();
    }
    cluster.kubectl(["delete", "node", "gone"]).ok();
    until("the Lease is gone", SOON, || {
        cluster.object("lease", "kube-node-lease", "gone").is_none()
    });
}

#[test]
fn a_node_is_drained() {
    let cluster = nodes(2);
    cluster.kubectl_with(["apply", "-f", "-"], &deployment("web", 4, "example/web:1")).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    cluster.kubectl(["drain", "node-1", "--ignore-daemonsets", "--timeout=60s"]).ok();
    until("all run on the other node", SOON, || {
        let pods = live_pods(&cluster);
        pods.len() == 4
            && pods.iter().all(|pod| {
                pod["spec"]["nodeName"] == "node-2" && pod["status"]["phase"] == "Running"
            })
    });
    let nodes = cluster.kubectl(["get", "nodes"]);
    assert!(nodes.ok().contains("Ready,SchedulingDisabled"), "{}", nodes.told());
    cluster.kubectl(["uncordon", "node-1"]).ok();
    cluster.kubectl(["scale", "deploy/web", "--replicas=8"]).ok();
    until("the node is used again", SOON, || {
        live_pods(&cluster).iter().any(|pod| pod["spec"]["nodeName"] == "node-1")
    });
}

#[test]
fn services_follow_ready_pods() {
    let arguments = ["--service-cidr", "10.98.7.0/24"].map(str::to_owned).to_vec();
    let cluster = Cluster::up(Options { arguments, ..Options::default() });
    cluster.kubectl_with(["apply", "-f", "-"], &deployment("web", 2, "example/web:1")).ok();
    cluster.kubectl(["expose", "deploy", "web", "--port=80", "--target-port=8080"]).ok();
    let addresses = |cluster: &Cluster| -> usize {
        let endpoints = cluster.object("endpoints", "default", "web").unwrap_or_default();
        endpoints["subsets"][0]["addresses"].as_array().map_or(0, Vec::len)
    };
    let service = cluster.object("service", "default", "web").unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    assert!(address.starts_with("10.98.7."), "an address of the range: {address}");
    until("both pods are endpoints", SOON, || addresses(&cluster) == 2);
    let slices = cluster.kubectl([
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
        "-o",
        "json",
    ]);
    let slice = &slices.json()["items"][0];
    assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(2), "{slice}");
    assert_eq!(slice["ports"][0]["port"], 8080);
    cluster.kubectl(["delete", "service", "kubernetes"]).ok();
    cluster.kubectl(["scale", "deploy/web", "--replicas=1"]).ok();
    until("one is left", SOON, || addresses(&cluster) == 1);
    cluster.wait_object("service", "default", "kubernetes", |service| {
        service["spec"]["clusterIP"] == "10.98.7.1"
    });
}

#[test]
fn a_simulated_node_uses_what_its_pods_use() {
    let cluster = nodes(1);
    let top = cluster.kubectl(["top", "nodes", "--no-headers"]);
    let words: Vec<_> = top.ok().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["node-1", "0m", "0%", "0Mi", "0%"], "not what this machine uses");
}

/// The node's lease is renewed no more; after the grace period its pods are replaced elsewhere.
#[test]
fn pods_of_a_lost_node_run_elsewhere() {
    let mut cluster = Cluster::up(Options { nodes: 2, split: true, ..Options::default() });
    // Evict at once and not after five minutes.
    let text = deployment("web", 2, "example/web:1").replace(
        "      containers:",
        "      tolerations:\n      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, \
         tolerationSeconds: 1}\n      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, \
         tolerationSeconds: 1}\n      containers:",
    );
    cluster.kubectl_with(["apply", "-f", "-"], &text).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    cluster.kill9(&Role::Agent("node-1".into()));
    let limit = std::time::Duration::from_secs(120);
    until("the node is not ready", limit, || {
        let node = cluster.object("node", "", "node-1").unwrap_or_default();
        node["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "Unknown"))
    });
    until("both run on the other", limit, || {
        let running: Vec<_> = live_pods(&cluster)
            .into_iter()
            .filter(|pod| {
                pod["spec"]["nodeName"] == "node-2" && pod["status"]["phase"] == "Running"
            })
            .collect();
        running.len() == 2
    });
    cluster.start(&Role::Agent("node-1".into()));
    until("the node is back", SOON, || {
        let node = cluster.object("node", "", "node-1").unwrap_or_default();
        node["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    });
}
