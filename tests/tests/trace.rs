//! `warren trace`: the way of a change, as server, controllers and agent remember it; and what `warren events` has
//! recorded, replayed into a fresh server.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::SystemTime;

use serde_json::{Value, json};
use warren_tests::cluster::{SOON, binary};
use warren_tests::running::Running;
use warren_tests::{Cluster, Options, Role, until, until_some};

mod trace {
    pub mod following;
}

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
        let is =
            |hop: &&Hop| hop.component == component && hop.step == step && hop.revision == revision;
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
    assert!(lines.len() > 15, "{lines:#?}");
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

fn events(cluster: &Cluster, arguments: &[&str]) -> Running {
    let mut command = Command::new(binary());
    command.args(["events", "-f", "-o", "json"]).args(arguments);
    command.arg("--kubeconfig").arg(cluster.kubeconfig());
    cluster.going_on(command)
}

fn lines(running: &Running) -> Vec<Value> {
    let output = running.output();
    // The last line may be on its way.
    let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {which: one}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kept, namespace: shop}
data: {a: b}
---
apiVersion: v1
kind: Secret
metadata: {name: kept, namespace: shop}
stringData: {a: not for everybody}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: goes, namespace: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'example/web:1'}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: job, namespace: shop}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: 'example/job:1'}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: goes, namespace: shop}
spec: {containers: [{name: c, image: 'example/web:1'}]}
";

/// What is compared: all but what the server chooses, with every uid in the place where it stands replaced by a name.
fn state(cluster: &Cluster) -> Vec<Value> {
    let mut found = Vec::new();
    for kind in [
        "namespaces",
        "configmaps",
        "secrets",
        "deployments",
        "replicasets",
        "pods",
        "services",
        "jobs",
        "nodes",
    ] {
        found.extend(
            cluster.kubectl(["get", kind, "-A", "-o", "json"]).json()["items"]
                .as_array()
                .unwrap()
                .clone(),
        );
    }
    let of_cluster =
        |object: &Value| object["kind"] == "Service" && object["metadata"]["name"] == "kubernetes";
    found.retain(|object| !of_cluster(object));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named: Vec<(String, String)> = found
        .iter()
        .map(|object| {
            let metadata = &object["metadata"];
            let name = format!("uid of {} {}", text(&object["kind"]), text(&metadata["name"]));
            (text(&metadata["uid"]), name)
        })
        .collect();
    for object in &mut found {
        let metadata = object["metadata"].as_object_mut().unwrap();
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"]
        {
            metadata.remove(field);
        }
        let mut whole = object.to_string();
        for (uid, name) in &named {
            whole = whole.replace(uid.as_str(), name);
        }
        *object = serde_json::from_str(&whole).unwrap();
    }
    found
}

#[test]
fn what_was_recorded_is_replayed_into_a_fresh_server() {
    let first = Cluster::simulated();
    let all = events(&first, &["--since", "0"]);
    let deleted = events(&first, &["configmaps,pods", "-n", "shop", "--verb", "deleted"]);
    let of_node = events(&first, &["--node", "node-1", "--since", "0"]);
    let of_none = events(&first, &["--node", "node-2", "--since", "0"]);
    until("the recording has begun", SOON, || {
        lines(&all).iter().any(|line| line["object"]["kind"] == "Node")
    });
    first.kubectl_with(["apply", "-f", "-"], OBJECTS).ok();
    first.kubectl(["rollout", "status", "deployment/web", "-n", "shop", "--timeout=60s"]).ok();
    first.kubectl(["annotate", "configmap", "kept", "-n", "shop", "a=b"]).ok();
    first.kubectl(["delete", "configmap/goes", "pod/goes", "-n", "shop"]).ok();
    first.kubectl(["scale", "deployment/web", "-n", "shop", "--replicas=1"]).ok();
    let alone = |list: &[Value]| {
        list.len() == 2 && list.iter().all(|pod| pod["status"]["phase"] == "Running")
    };
    until("one pod of the Deployment and one of the Job run", SOON, || {
        alone(&first.objects("pods", "shop"))
    });
    let ended = |running: &Running, kind: &str| {
        lines(running).iter().any(|line| {
            line["type"] == "DELETED"
                && line["object"]["kind"] == kind
                && line["object"]["metadata"]["name"] == "goes"
        })
    };
    until("the deletions were told", SOON, || {
        ended(&deleted, "ConfigMap") && ended(&deleted, "Pod")
    });
    for line in lines(&deleted) {
        assert_eq!(line["type"], "DELETED");
        assert!(line["time"].is_string(), "{line}");
    }
    until("the node's events were told", SOON, || ended(&of_node, "Pod"));
    for line in lines(&of_node) {
        let kind = line["object"]["kind"].as_str().unwrap();
        assert!(["Node", "Pod", "Event"].contains(&kind), "{line}");
    }
    assert_eq!(lines(&of_none), Vec::<Value>::new());

    // Nobody changes anything any more; what is newer than this one, the log has as well.
    first.kubectl(["create", "configmap", "last", "-n", "shop"]).ok();
    until("the log is whole", SOON, || {
        lines(&all).iter().any(|line| line["object"]["metadata"]["name"] == "last")
    });
    let wanted = state(&first);
    let log = first.data_dir().join("log");
    let text: String = lines(&all).iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&log, &text).unwrap();
    let log = log.to_str().unwrap();
    let refused = first.warren(["replay", log]);
    assert!(refused.err().contains("the server is not fresh: it has "), "{refused:?}");
    let again = first.warren(["replay", "/nowhere"]);
    assert!(again.err().contains("/nowhere"), "{again:?}");

    let mut fresh = Cluster::prepare(Options { split: true, ..Options::default() });
    fresh.start(&Role::Apiserver);
    until("the fresh server answers", SOON, || {
        fresh.kubeconfig().exists() && fresh.kubectl(["get", "namespaces"]).succeeded()
    });
    let replayed = fresh.warren(["replay", log]);
    let summary = replayed.ok();
    assert!(summary.contains(" changes read: "), "{summary}");
    assert_eq!(state(&fresh), wanted);

    // What cannot be replayed is named, and the rest is done.
    let line = json!({"type": "ADDED", "object": {"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "after", "namespace": "late"}}});
    let unknown = json!({"type": "ADDED", "object": {"apiVersion": "x/v1", "kind": "Unknown",
        "metadata": {"name": "u"}}});
    std::fs::write(log, format!("{unknown}\n{line}\n{{\"type\": \"ADDED\", \"obj")).unwrap();
    let partly = fresh.warren(["replay", log, "--force", "--speed", "10"]);
    let why = partly.err();
    assert!(why.contains("no matches for kind \"Unknown\""), "{why}");
    assert!(why.contains("line 3: no JSON"), "{why}");
    assert!(why.contains("2 requests or lines were not replayed"), "{why}");
    assert!(fresh.object("configmap", "late", "after").is_some());
}
