//! A backup of a server that works, and a cluster that is put back to it.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};
use warren_tests::cluster::{Options, Role, SOON, binary};
use warren_tests::kubectl::{self, Output};
use warren_tests::{Cluster, until};

fn warren(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--data-dir").arg(cluster.data_dir()).env_remove("KUBECONFIG");
    kubectl::run(command, None)
}

fn names(objects: &[Value]) -> Vec<&str> {
    let mut names: Vec<_> =
        objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
    names.sort_unstable();
    names
}

fn running(cluster: &Cluster, app: &str) -> usize {
    let pods = cluster.objects("pods", "default");
    let of = |pod: &&Value| {
        pod["metadata"]["labels"]["app"] == app && pod["status"]["phase"] == "Running"
    };
    pods.iter().filter(of).count()
}

fn revision(cluster: &Cluster) -> u64 {
    let list = cluster.kubectl(["get", "--raw", "/api/v1/namespaces"]).json();
    list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn deploy(cluster: &Cluster, name: &str) {
    cluster.kubectl(["create", "deployment", name, "--image=any", "--replicas=3"]).ok();
    until("its pods run", SOON, || running(cluster, name) == 3);
}

#[test]
fn a_cluster_goes_back_to_its_backup() {
    let mut cluster = Cluster::up(Options { nodes: 2, ..Options::default() });
    deploy(&cluster, "before");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.db");
    let path = file.to_str().unwrap();
    let out = warren(&cluster, &["backup", path]);
    assert!(out.ok().contains(" objects at revision "), "{}", out.told());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "Secrets are in it");
    assert!(warren(&cluster, &["backup", path]).err().contains("--force"));
    warren(&cluster, &["backup", path, "--force"]).ok();
    assert!(warren(&cluster, &["check"]).ok().contains("whole"));
    assert!(warren(&cluster, &["check", path]).ok().contains("whole"));
    deploy(&cluster, "after");
    cluster.kubectl(["delete", "deployment", "before"]).ok();
    let at = revision(&cluster);
    assert!(warren(&cluster, &["restore", path]).err().contains("stop the server"));

    cluster.kill9(&Role::Up);
    let out = warren(&cluster, &["restore", path]);
    assert!(out.ok().contains("restored; revision"), "{}", out.told());
    cluster.start(&Role::Up);
    cluster.wait_ready();
    assert_eq!(names(&cluster.objects("deployments", "default")), ["before"]);
    until("pods of then run, and no others", SOON, || {
        running(&cluster, "before") == 3 && cluster.objects("pods", "default").len() == 3
    });
    assert!(revision(&cluster) > at + 999_999_999, "no revision comes twice");
    let watch = format!("/api/v1/pods?watch=1&resourceVersion={at}&timeoutSeconds=5");
    let out = cluster.kubectl(["get", "--raw", &watch]);
    assert!(out.told().contains("\"code\":410"), "a reader of the old world: {}", out.told());
    // And the cluster goes on from there.
    deploy(&cluster, "next");
}

#[test]
fn what_is_no_backup_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::simulated();
    cluster.kubectl(["create", "configmap", "mine"]).ok();
    cluster.kill9(&Role::Up);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    warren(&cluster, &["backup", &at("whole")]).ok();
    let mut bytes = std::fs::read(at("whole")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0x5a);
    std::fs::write(at("damaged"), bytes).unwrap();
    std::fs::write(at("letter"), "Dear reader").unwrap();
    for (name, said) in [("damaged", "damaged"), ("letter", "damaged"), ("missing", "cannot read")]
    {
        for verb in ["restore", "check"] {
            let out = warren(&cluster, &[verb, &at(name)]);
            assert!(out.err().contains(said), "{verb} {name}: {}", out.told());
        }
    }
    cluster.start(&Role::Up);
    cluster.wait_ready();
    assert!(cluster.object("configmap", "default", "mine").is_some());
}

/// Since the backup it was given to a node, which may run it still.
#[test]
fn a_pod_without_a_node_gets_one_when_all_nodes_have_listed_theirs() {
    let mut cluster = Cluster::up(Options { nodes: 2, ..Options::default() });
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
        "schedulerName": "somebody", "containers": [{"name": "c", "image": "any"}]}});
    cluster.kubectl_with(["create", "-f", "-"], &pod.to_string()).ok();
    let uid = cluster.object("pod", "default", "web").unwrap()["metadata"]["uid"].clone();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.db").display().to_string();
    warren(&cluster, &["backup", &file]).ok();
    let bind = |cluster: &Cluster, node: &str| {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web", "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let path = "/api/v1/namespaces/default/pods/web/binding";
        cluster.kubectl_with(["create", "--raw", path, "-f", "-"], &binding.to_string())
    };
    bind(&cluster, "node-1").ok();
    let runs = |pod: &Value| pod["status"]["phase"] == "Running";
    cluster.wait_object("pod", "default", "web", runs);

    cluster.kill9(&Role::Up);
    warren(&cluster, &["restore", &file]).ok();
    cluster.start(&Role::Up);
    cluster.wait_ready();
    let refused = bind(&cluster, "node-2");
    assert!(refused.err().contains("may run since before; waiting for"), "{}", refused.told());
    let ready = cluster.kubectl(["get", "--raw", "/readyz?verbose"]);
    assert!(ready.ok().contains("[+]restore degraded: "), "{}", ready.told());
    // It is remembered, though nothing about it stands in the backup.
    cluster.kill9(&Role::Up);
    cluster.start(&Role::Up);
    cluster.wait_ready();
    assert!(bind(&cluster, "node-2").err().contains("may run since before"));
    until("both nodes have listed their pods", SOON, || bind(&cluster, "node-2").succeeded());
    let pod = cluster.wait_object("pod", "default", "web", runs);
    assert_eq!(pod["spec"]["nodeName"], "node-2");
    let ready = cluster.kubectl(["get", "--raw", "/readyz?verbose"]);
    assert!(ready.ok().contains("[+]restore ok"), "{}", ready.told());
}
