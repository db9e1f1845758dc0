//! Files in the manifests folder: a pod appears, changes and disappears with its file.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Role, until, until_some};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: still, labels: {app: still}}
spec:
  containers: [{name: c, image: 'example/still:1'}]
";

/// Written elsewhere and moved in, as editors and configuration tools do.
fn drop_in(cluster: &Cluster, name: &str, text: &str) -> PathBuf {
    let dir = cluster.manifests_dir();
    fs::create_dir_all(&dir).unwrap();
    let (new, path) = (dir.join(format!(".{name}.new")), dir.join(name));
    fs::write(&new, text).unwrap();
    fs::rename(&new, &path).unwrap();
    path
}

fn running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

fn node_events(cluster: &Cluster) -> Vec<String> {
    let list = cluster.kubectl(["get", "events", "-A", "-o", "json"]).json();
    let text = |event: &Value| {
        format!(
            "{}: {}",
            event["reason"].as_str().unwrap_or(""),
            event["message"].as_str().unwrap_or("")
        )
    };
    list["items"].as_array().unwrap().iter().map(text).collect()
}

#[test]
fn a_pod_lives_with_its_file() {
    let cluster = Cluster::simulated();
    let path = drop_in(&cluster, "still.yaml", POD);
    let pod = cluster.wait_object("pod", "default", "still-node-1", running);
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
    assert!(pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "Node");

    // Deleting the mirror deletes nothing that runs; it goes, as kubectl waits for, and is there again.
    cluster.kubectl(["delete", "pod", "still-node-1", "--timeout=30s"]).ok();
    let uid = pod["metadata"]["uid"].clone();
    cluster.wait_object("pod", "default", "still-node-1", |pod| {
        running(pod)
            && pod["metadata"]["uid"] != uid
            && pod["metadata"]["deletionTimestamp"].is_null()
    });

    drop_in(&cluster, "still.yaml", &POD.replace("still:1", "still:2"));
    cluster.wait_object("pod", "default", "still-node-1", |pod| {
        running(pod) && pod["spec"]["containers"][0]["image"] == "example/still:2"
    });
    fs::remove_file(path).unwrap();
    until("the pod is gone", SOON, || cluster.object("pod", "default", "still-node-1").is_none());
}

#[test]
fn the_first_form_is_read() {
    let cluster = Cluster::simulated();
    let text = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../manifests/examples/dummy-v0.yaml"
    ));
    let path = drop_in(&cluster, "dummy.yaml", &text.unwrap());
    let pod = cluster.wait_object("pod", "podnamespace", "dummy-pod-node-1", running);
    assert_eq!(pod["spec"]["hostNetwork"], true);
    assert_eq!(pod["spec"]["containers"][0]["name"], "container1");
    assert!(cluster.object("namespace", "", "podnamespace").is_some(), "made where it was missing");
    fs::remove_file(path).unwrap();
    until("the pod is gone", SOON, || {
        cluster.object("pod", "podnamespace", "dummy-pod-node-1").is_none()
    });
}

#[test]
fn the_first_form_can_be_applied_and_deleted() {
    let cluster = Cluster::simulated();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/examples/dummy-v0.yaml");
    let out = cluster.warren(["apply", "-f", file]);
    assert!(out.succeeded() && out.stdout.contains("created"), "{}", out.told());
    let pod = cluster.wait_object("pod", "podnamespace", "dummy-pod", running);
    assert_eq!(pod["spec"]["containers"][0]["name"], "container1");
    assert_eq!(pod["metadata"]["annotations"]["warren.dev/original-name"], "dummy pod");
    let out = cluster.warren(["apply", "-f", file]);
    assert!(out.succeeded() && out.stdout.contains("unchanged"), "{}", out.told());
    let out = cluster.warren(["delete", "-f", file]);
    assert!(out.succeeded(), "{}", out.told());
    until("the pod is gone", SOON, || cluster.object("pod", "podnamespace", "dummy-pod").is_none());
}

#[test]
fn a_broken_file_leaves_what_runs() {
    let cluster = Cluster::simulated();
    drop_in(&cluster, "still.yaml", POD);
    let before = cluster.wait_object("pod", "default", "still-node-1", running);
    let table = [
        ("half written", "apiVersion: v1\nkind: Pod\nmetadata: {name: st"),
        ("not a manifest", "just some text"),
        ("an unknown kind", "apiVersion: v1\nkind: Pood\nmetadata: {name: still}\n"),
        (
            "no containers",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: still}\nspec: {containers: []}\n",
        ),
        (
            "a foreign address",
            "version: v0\nkind: Pod\nspec: {name: still, ip: 203.0.113.77, hostNetwork: true, containers: [{name: c, image: a}]}\n",
        ),
    ];
    for (name, text) in table {
        let seen =
            node_events(&cluster).iter().filter(|event| event.contains("still.yaml")).count();
        drop_in(&cluster, "still.yaml", text);
        until_some(&format!("{name}: an Event names the file"), SOON, || {
            let log = cluster.log(&Role::Up);
            let events = node_events(&cluster);
            let named = events.iter().filter(|event| event.contains("still.yaml")).count() > seen
                || events
                    .iter()
                    .any(|event| event.contains("still.yaml") && event.contains("Manifest"));
            (named && log.contains("still.yaml")).then_some(())
        });
        let now = cluster.object("pod", "default", "still-node-1").unwrap();
        assert_eq!(now["metadata"]["uid"], before["metadata"]["uid"], "{name}");
        assert!(running(&now), "{name}");
    }
    // Mended, it is read again.
    drop_in(&cluster, "still.yaml", &POD.replace("still:1", "still:3"));
    cluster.wait_object("pod", "default", "still-node-1", |pod| {
        pod["spec"]["containers"][0]["image"] == "example/still:3"
    });
}

#[test]
fn of_two_files_with_the_same_pod_one_runs() {
    let cluster = Cluster::simulated();
    drop_in(&cluster, "a.yaml", POD);
    cluster.wait_object("pod", "default", "still-node-1", running);
    let other = drop_in(&cluster, "b.yaml", &POD.replace("still:1", "still:2"));
    until("the second is refused aloud", SOON, || cluster.log(&Role::Up).contains("b.yaml"));
    let pod = cluster.object("pod", "default", "still-node-1").unwrap();
    assert_eq!(
        pod["spec"]["containers"][0]["image"], "example/still:1",
        "the first keeps the name"
    );
    fs::remove_file(other).unwrap();
    let pod = cluster.object("pod", "default", "still-node-1").unwrap();
    assert!(running(&pod));
}
