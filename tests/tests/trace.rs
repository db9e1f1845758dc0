//! `warren trace`: the way of a change, as server, controllers and agent remember it; and what `warren events` has
//! recorded, replayed into a fresh server.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Options, Role, until, until_some};

/// A hop, flat.
#[derive(Clone, Debug)]
struct Hop {
    time: i64,
    component: String,
    instance: String,
    step: String,
    revision: u64,
    detail: String,
}

struct Story {
    hops: Vec<Hop>,
    missing: Vec<String>,
}

fn trace(cluster: &Cluster, object: &str) -> Option<Story> {
    let output = cluster.warren(["trace", object, "-o", "json"]);
    let story = if output.succeeded() { output.json() } else { return None };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut hops: Vec<Hop> = Vec::new();
    for answered in story["reports"].as_array().unwrap() {
        for hop in answered["report"]["hops"].as_array().unwrap() {
            hops.push(Hop {
                time: hop["time"].as_i64().unwrap(),
                component: text(&hop["component"]),
                instance: text(&hop["instance"]),
                step: text(&hop["step"]),
                revision: hop["revision"].as_u64().unwrap(),
                detail: text(&hop["detail"]),
            });
        }
    }
    let missing = story["missing"].as_array().unwrap();
    let missing = missing.iter().map(|m| format!("{}: {}", text(&m["who"]), text(&m["why"])));
    Some(Story { hops, missing: missing.collect() })
}

fn micros() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

impl Story {
    /// The first hop that is so.
    #[track_caller]
    fn hop(&self, component: &str, step: &str, detail: &str) -> &Hop {
        let is = |hop: &&Hop| {
            hop.component == component && hop.step == step && hop.detail.contains(detail)
        };
        let found = self.hops.iter().filter(is).min_by_key(|hop| hop.time);
        found.unwrap_or_else(|| panic!("no {component} {step} {detail:?} in {:#?}", self.hops))
    }

    #[track_caller]
    fn of_revision(&self, revision: u64, component: &str, step: &str) -> &Hop {
        let is = |hop: &&Hop| {
            hop.component == component && hop.step == step && hop.revision == revision
        };
        let found = self.hops.iter().find(is);
        found.unwrap_or_else(|| panic!("no {component} {step} of {revision}: {:#?}", self.hops))
    }

    fn has(&self, step: &str, detail: &str) -> bool {
        self.hops.iter().any(|hop| hop.step == step && hop.detail.starts_with(detail))
    }
}

#[track_caller]
fn in_order(hops: &[&Hop]) {
    for pair in hops.windows(2) {
        assert!(pair[0].time <= pair[1].time, "{:#?}", pair);
    }
}

/// A Deployment of one pod, and the pod's story when it has said that it runs.
fn deployed(cluster: &Cluster) -> (String, Story) {
    let create = ["create", "deployment", "web", "--image=example/web:1"];
    cluster.kubectl(create).ok();
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let pods = cluster.kubectl(["get", "pods", "-l", "app=web", "-o", "name"]);
    let pod = pods.ok().trim().to_owned();
    let story = until_some("the pod's story is whole", SOON, || {
        trace(cluster, &pod).filter(|story| story.has("reported", "Running, 1 of 1"))
    });
    (pod, story)
}

fn is_plausible(story: &Story, began: i64) {
    let now = micros();
    for hop in &story.hops {
        assert!((began..=now).contains(&hop.time), "{hop:#?} is not of {began} to {now}");
    }
    assert_eq!(story.missing, Vec::<String>::new());
    let accepted = story.hop("apiserver", "accepted", "create by system:controllers, request ");
    let created = story.of_revision(accepted.revision, "apiserver", "committed");
    assert_eq!(created.detail, "added");
    let bound = story.hop("apiserver", "committed", "modified, for node node-1");
    let binding = story.of_revision(bound.revision, "apiserver", "accepted");
    assert!(binding.detail.starts_with("create of binding by system:controllers"), "{binding:?}");
    let agent = |step| story.of_revision(bound.revision, "agent", step);
    in_order(&[
        accepted,
        created,
        story.of_revision(accepted.revision, "controllers", "delivered"),
        story.hop("controllers", "decided", "default-scheduler: node node-1"),
        binding,
        bound,
        agent("delivered"),
        story.hop("agent", "decided", "create the sandbox"),
        story.hop("agent", "acted", "sandbox created"),
        story.hop("agent", "acted", "container web created"),
        story.hop("agent", "acted", "container web started"),
        story.hop("agent", "reported", "Running, 1 of 1 containers ready"),
    ]);
    in_order(&[agent("delivered"), agent("acknowledged")]);
    in_order(&[bound, story.hop("controllers", "wrote", "default-scheduler: binding to node-1")]);
    story.hop("controllers", "wrote", "replicaset-controller: create");
    assert_eq!(agent("delivered").instance, "node-1");
    let status = story.hop("apiserver", "accepted", "patch of status by system:node:node-1");
    in_order(&[story.hop("agent", "acted", "sandbox created"), status]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pod_over_server_broker_controllers_and_agent() {
    let began = micros();
    let options = Options { nodes: 2, ..Options::default() };
    let (mut cluster, _rabbit) = Cluster::on_rabbitmq(options).await;
    // One node only, so that its name is known.
    cluster.kubectl(["cordon", "node-2"]).ok();
    let (pod, story) = deployed(&cluster);
    is_plausible(&story, began);
    let bound = story.hop("apiserver", "committed", "modified, for node node-1").revision;
    let server = |step| story.of_revision(bound, "apiserver", step);
    in_order(&[server("committed"), server("published"), server("confirmed")]);
    for reader in ["agent", "controllers"] {
        in_order(&[
            server("published"),
            story.of_revision(bound, reader, "delivered"),
            story.of_revision(bound, reader, "acknowledged"),
        ]);
    }

    let text = cluster.warren(["trace", &pod]);
    let lines: Vec<&str> = text.ok().lines().collect();
    assert!(lines[0].starts_with("TIME (UTC)"), "{lines:#?}");
    assert!(lines.len() > 15 && lines.is_sorted_by_key(|line| &line[..2] == "TI"), "{lines:#?}");
    let times: Vec<&str> = lines[1..].iter().map(|line| &line[..15]).collect();
    assert!(times.is_sorted(), "{times:#?}");

    let own = trace(&cluster, "deployment/web").unwrap();
    own.hop("apiserver", "accepted", "create by admin, request ");
    own.hop("controllers", "decided", "deployment-controller: create replicasets default/web-");
    own.hop("controllers", "wrote", "deployment-controller: patch");
    assert_eq!(own.missing, Vec::<String>::new());

    let refused = cluster.warren(["trace", "pod/none"]);
    assert!(refused.err().contains("nobody remembers anything of pod \"none\""), "{refused:?}");
    let refused = cluster.warren(["trace", "pod"]);
    assert!(refused.err().contains("\"pod\" is no KIND/NAME"), "{refused:?}");

    // Who does not answer is named, and what the others know is told.
    cluster.kill9(&Role::Controllers);
    cluster.kill9(&Role::Agent("node-1".to_owned()));
    let story = trace(&cluster, &pod).unwrap();
    let missing = story.missing.join("\n");
    assert!(missing.contains("no answer in time"), "{missing}");
    assert!(missing.contains("node node-1: error dialing backend"), "{missing}");
    let components: BTreeSet<&str> = story.hops.iter().map(|hop| &*hop.component).collect();
    assert_eq!(components, BTreeSet::from(["apiserver"]));
    let text = cluster.warren(["trace", &pod]);
    assert!(text.stderr.contains("not here: node node-1: "), "{text:?}");
}

#[test]
fn a_pod_in_one_process_without_a_broker() {
    let began = micros();
    let cluster = Cluster::simulated();
    let (_, story) = deployed(&cluster);
    is_plausible(&story, began);
    assert!(!story.has("published", ""), "there is no broker");
    let readable = cluster.kubectl(["get", "--raw", "/debug/hops?resource=pods"]);
    assert!(readable.err().contains("name: Required value"), "{readable:?}");
    let refused = cluster.kubectl([
        "--as=system:node:node-1",
        "--as-group=system:nodes",
        "get",
        "--raw",
        "/debug/hops?resource=pods&name=x",
    ]);
    assert!(refused.err().contains("forbidden"), "{refused:?}");
}
