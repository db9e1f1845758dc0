//! `warren events -f` over deaths and restarts of the server.

use std::collections::BTreeSet;

use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Role, until};

use crate::{events, lines};

/// Creates some, and adds the revision of each.
fn write(cluster: &Cluster, round: u64, written: &mut BTreeSet<u64>) {
    for n in 0..3 {
        let create = ["create", "configmap", &format!("of-{round}-{n}"), "-o", "json"];
        let object = cluster.kubectl(create).json();
        written.insert(revision(&object["metadata"]["resourceVersion"]));
    }
}

fn revision(value: &serde_json::Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn it_goes_on_where_it_was_when_the_server_was_killed_or_restarted() {
    let mut cluster = Cluster::simulated();
    let mut all = events(&cluster, &["--since", "0"]);
    let told = |running: &warren_tests::running::Running| -> Vec<u64> {
        let lines = lines(running);
        let ours = lines.iter().filter(|line| line["object"]["kind"] == "ConfigMap");
        let ours = ours.filter(|line| line["object"]["metadata"]["namespace"] == "default");
        let ours = ours.filter(|line| line["object"]["metadata"]["name"] != "kube-root-ca.crt");
        ours.map(|line| revision(&line["object"]["metadata"]["resourceVersion"])).collect()
    };
    let mut written = BTreeSet::new();
    for round in 0..4 {
        write(&cluster, round, &mut written);
        // What is on its way when the server dies is told when it is back.
        match round % 2 {
            0 => cluster.kill9(&Role::Up),
            _ => drop(cluster.stop(&Role::Up)),
        }
        let said = |words: &str| all.output().matches(words).count() as u64;
        until("it says that it waits", SOON, || said("waiting for the server: ") == round + 1);
        cluster.start(&Role::Up);
        until("it says that it goes on", SOON, || said("going on where it was") == round + 1);
    }
    cluster.wait_ready();
    write(&cluster, 4, &mut written);
    until("all is told", SOON, || written.iter().all(|one| told(&all).contains(one)));
    let told = told(&all);
    assert_eq!(told, written.into_iter().collect::<Vec<_>>(), "each once, and in order");
    let output = all.output();
    assert_eq!(output.matches("waiting for the server: ").count(), 4, "{output}");
    assert!(!output.contains("may be missing"), "{output}");
    let all_lines = lines(&all);
    let seen: BTreeSet<String> = all_lines
        .iter()
        .map(|line| {
            let metadata = &line["object"]["metadata"];
            format!("{} {}", metadata["uid"], metadata["resourceVersion"])
        })
        .collect();
    assert_eq!(seen.len(), all_lines.len(), "nothing is told twice");
    assert!(!all.has_ended());
}

#[test]
fn a_revision_that_the_server_does_not_have_yet_is_said_once() {
    let cluster = Cluster::simulated();
    let pods = events(&cluster, &["configmaps,pods", "--since", "99999999"]);
    let said = || pods.output().matches("the server is only at revision ").count();
    until("it is said", SOON, || said() == 1);
    cluster.kubectl(["create", "configmap", "later"]).ok();
    until("what comes then is told", SOON, || {
        lines(&pods).iter().any(|line| line["object"]["metadata"]["name"] == "later")
    });
    assert_eq!(said(), 1, "{}", pods.output());
}

#[test]
fn warnings_are_about_kinds_that_were_named() {
    let cluster = Cluster::simulated();
    let endpoints = events(&cluster, &["endpoints", "--since", "0"]);
    let warned = |running: &warren_tests::running::Running| running.output().contains("Warning: ");
    until("the deprecated kind warns", SOON, || warned(&endpoints));
    let all = events(&cluster, &["--since", "0"]);
    until("all kinds are told", SOON, || {
        lines(&all).iter().any(|line| line["object"]["kind"] == "Service")
    });
    assert!(!warned(&all), "{}", all.output());
}
