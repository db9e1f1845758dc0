//! A disk that is full under a server that runs, and one that can only be read when it starts; both come back.
//!
//! The data folder is a small file system of its own, in memory: making one needs root.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::os::unix::fs::symlink;

use warren_tests::cluster::{Options, Role, SOON};
use warren_tests::{Cluster, Disk, until};

/// Room for the database, its log, and some hundred objects.
const SIZE: &str = "size=24m";
/// What is created until nothing fits.
const OBJECT_BYTES: usize = 400_000;

fn on(disk: &Disk) -> Cluster {
    let mut cluster = Cluster::prepare(Options::default());
    let data = disk.path().join("data");
    std::fs::create_dir(&data).unwrap();
    symlink(&data, cluster.data_dir()).unwrap();
    cluster.start_all();
    cluster.wait_ready();
    cluster
}

fn manifest(name: &str, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{text: {text}}}\n")
}

/// Writes again as soon as that is possible, without anybody's help; and nothing of what was acknowledged is missing.
#[track_caller]
fn recovers(cluster: &mut Cluster, acknowledged: &[String]) {
    until("writes work again", SOON, || {
        cluster.kubectl_with(["apply", "-f", "-"], &manifest("after", 10)).succeeded()
    });
    cluster.kubectl(["create", "deployment", "web", "--image=any"]).ok();
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let pid = cluster.pid(&Role::Up);
    cluster.kill9(&Role::Up);
    cluster.start(&Role::Up);
    cluster.wait_ready();
    assert_ne!(cluster.pid(&Role::Up), pid);
    let stored = cluster.kubectl(["get", "configmaps", "-o", "name"]);
    for name in acknowledged.iter().map(String::as_str).chain(["after"]) {
        assert!(stored.ok().lines().any(|line| line == format!("configmap/{name}")), "{name}");
    }
    let log = cluster.log(&Role::Up);
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_full_disk_refuses_writes_says_so_and_recovers() {
    let disk = Disk::mount(SIZE);
    let mut cluster = on(&disk);
    let mut acknowledged = Vec::new();
    let refused = loop {
        let name = format!("m{}", acknowledged.len());
        let out = cluster.kubectl_with(["create", "-f", "-"], &manifest(&name, OBJECT_BYTES));
        if !out.succeeded() {
            break out;
        }
        acknowledged.push(name);
        assert!(acknowledged.len() < 100, "the disk has 24 MB");
    };
    assert!(refused.err().contains("disk is full"), "{}", refused.told());
    let filler = disk.fill();
    let out = cluster.kubectl_with(["create", "-f", "-"], &manifest("small", OBJECT_BYTES));
    assert!(out.err().contains("disk is full"), "{}", out.told());
    // Reading goes on.
    let stored = cluster.objects("configmaps", "default");
    let named = |name: &String| stored.iter().any(|o| o["metadata"]["name"] == **name);
    assert!(acknowledged.iter().all(named), "{acknowledged:?}");
    cluster.kubectl(["get", "nodes"]).ok();

    std::fs::remove_file(filler).unwrap();
    disk.remount("size=128m");
    recovers(&mut cluster, &acknowledged);
}

#[test]
fn a_data_folder_that_can_only_be_read_is_named() {
    let disk = Disk::mount(SIZE);
    let mut cluster = on(&disk);
    cluster.kubectl_with(["create", "-f", "-"], &manifest("before", 10)).ok();
    cluster.kill9(&Role::Up);
    disk.remount("ro");
    cluster.start(&Role::Up);
    let folder = cluster.data_dir().display().to_string();
    until("the start says why", SOON, || {
        let log = cluster.log(&Role::Up);
        log.contains("Read-only file system") && log.contains(&folder)
    });
    disk.remount("rw");
    cluster.kill9(&Role::Up);
    cluster.start(&Role::Up);
    cluster.wait_ready();
    recovers(&mut cluster, &["before".to_owned()]);
}
