//! One agent, whole, with simulated containers and an API in memory. Time is tokio's, and goes as fast as it can.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::runtime::simulated::Simulation;
use crate::testing::{FakeApi, FakeFabric, TokioClock};

mod alone;
mod references;
mod restored;

struct World {
    api: Arc<FakeApi>,
    fabric: Arc<FakeFabric>,
    simulation: Simulation,
    index: PodIndex,
    tasks: Tasks,
}

async fn start(change: impl FnOnce(&mut Config)) -> World {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let api = Arc::new(FakeApi::default());
    let fabric = FakeFabric::new();
    fabric.follow(&api);
    let tasks = Tasks::new();
    let simulation = Simulation::new(Arc::clone(&clock), &tasks);
    let world = World { api, fabric, simulation, index: PodIndex::default(), tasks };
    world.agent(clock, change).await;
    world
}

impl World {
    async fn agent(&self, clock: Arc<dyn Clock>, change: impl FnOnce(&mut Config)) {
        let mut config = Config::simulated("test", "n1");
        config.normal_events = true;
        change(&mut config);
        let deps = AgentDeps {
            api: self.api.clone(),
            fabric: self.fabric.clone(),
            runtime: self.simulation.node("n1"),
            runtime_name: "simulated",
            clock,
            index: self.index.clone(),
            logs: crate::Logs::default(),
            sinks: Vec::new(),
            trace: warren_process::trace::Trace::new("agent", "test"),
        };
        Agent::start(config, deps, &self.tasks).await.unwrap();
    }

    async fn pod_is(&self, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        self.api.until(what, |api| api.get("default", "web").filter(|pod| check(pod))).await
    }
}

fn pod(spec: Value, annotations: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = "n1".into();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "annotations": annotations}, "spec": spec})
}

fn one(container: Value) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    container["image"] = "nginx:1".into();
    json!({"containers": [container]})
}

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

fn condition<'a>(pod: &'a Value, name: &str) -> &'a str {
    let all = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = all.iter().find(|c| c["type"] == name);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

/// Controllers that were cut off may judge by what they knew; the next full status would be minutes away.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_taken_for_lost_says_at_once_that_it_is_not() {
    let world = start(|_| {}).await;
    let is_ready = |api: &FakeApi| {
        let node = api.node_object("n1")?;
        let conditions = node["status"]["conditions"].as_array()?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
        (ready["status"] == "True").then(|| node.clone())
    };
    let mut node = world.api.until("Ready", is_ready).await;
    for condition in node["status"]["conditions"].as_array_mut().unwrap() {
        condition["status"] = "Unknown".into();
    }
    let began = tokio::time::Instant::now();
    world.api.set_node("n1", node.clone());
    world.fabric.node_changed(&node);
    world.api.until("Ready again", is_ready).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_pod_lives_and_goes() {
    let world = start(|_| {}).await;
    world.api.apply(pod(one(json!({})), json!({})));
    let running = world.pod_is("ready", |p| condition(p, "Ready") == "True").await;
    assert_eq!(phase(&running), "Running");
    let status = &running["status"]["containerStatuses"][0];
    assert_eq!(status["started"], true);
    assert!(status["containerID"].as_str().unwrap().starts_with("simulated://"));
    assert!(running["status"]["podIP"].as_str().unwrap().starts_with("10."));
    assert_eq!(running["status"]["qosClass"], "BestEffort");

    world.api.delete_gracefully("default", "web", 30);
    world.api.until("gone", |api| api.get("default", "web").is_none().then_some(())).await;
    let runtime = world.simulation.node("n1");
    world.api.until("cleaned", |_| world.index.pods(None).is_empty().then_some(())).await;
    assert!(runtime.pods().await.unwrap().is_empty());
    let reasons = world.api.reasons();
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(reasons.contains(&reason.to_owned()), "{reason}: {reasons:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn crash_loop_and_recovery() {
    let world = start(|_| {}).await;
    let notes =
        json!({"simulated.warren.dev/run-for": "1s", "simulated.warren.dev/exit-code": "3"});
    world.api.apply(pod(one(json!({})), notes));
    let waiting = world
        .pod_is("back-off", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let status = &waiting["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["restartCount"], 1);
    assert_eq!(phase(&waiting), "Running");
    assert_eq!(condition(&waiting, "Ready"), "False");
    let from = tokio::time::Instant::now();
    world.pod_is("fourth", |p| p["status"]["containerStatuses"][0]["restartCount"] == 4).await;
    let took = from.elapsed().as_secs();
    assert!((65..80).contains(&took), "10 + 20 + 40 seconds and runs: {took}");
}

/// What a crash loop has come to is known from the containers.
#[tokio::test(start_paused = true)]
async fn a_restarted_agent_backs_off_as_the_one_before_did() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let api = Arc::new(FakeApi::default());
    let simulation = Simulation::new(Arc::clone(&clock), &Tasks::new());
    let agent = async || {
        let fabric = FakeFabric::new();
        fabric.follow(&api);
        let (api, simulation) = (Arc::clone(&api), simulation.clone());
        let (index, tasks) = (PodIndex::default(), Tasks::new());
        let world = World { api, fabric, simulation, index, tasks };
        world.agent(Arc::clone(&clock), |_| {}).await;
        world
    };
    let world = agent().await;
    let notes =
        json!({"simulated.warren.dev/run-for": "1s", "simulated.warren.dev/exit-code": "3"});
    world.api.apply(pod(one(json!({})), notes));
    let restarts = |p: &Value| p["status"]["containerStatuses"][0]["restartCount"].as_i64();
    let waits = |p: &Value| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    world.pod_is("backed off for 40 s", |p| restarts(p) == Some(3) && waits(p)).await;
    world.tasks.shutdown().trigger();
    world.tasks.wait(Duration::from_secs(5)).await.unwrap();
    drop(world);

    let from = tokio::time::Instant::now();
    let world = agent().await;
    world.pod_is("fourth", |p| restarts(p) == Some(4)).await;
    let took = from.elapsed().as_secs();
    assert!((30..45).contains(&took), "{took} s of the 40 s that were due");
    world.pod_is("backed off for 80 s", |p| restarts(p) == Some(4) && waits(p)).await;
    let from = tokio::time::Instant::now();
    world.pod_is("fifth", |p| restarts(p) == Some(5)).await;
    assert!((75..90).contains(&from.elapsed().as_secs()), "{:?}", from.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_job_ends() {
    let world = start(|_| {}).await;
    let mut spec = one(json!({"command": ["sleep", "5"]}));
    spec["restartPolicy"] = "Never".into();
    world.api.apply(pod(spec, json!({})));
    let done = world.pod_is("done", |p| phase(p) == "Succeeded").await;
    let ended = &done["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (ended["exitCode"].as_i64(), ended["reason"].as_str()),
        (Some(0), Some("Completed"))
    );
    assert_eq!(condition(&done, "Ready"), "False");
}

#[tokio::test(start_paused = true)]
async fn init_containers_come_first_and_probes_decide_readiness() {
    let world = start(|_| {}).await;
    let mut spec = one(json!({"readinessProbe": {"periodSeconds": 1, "tcpSocket": {"port": 80}}}));
    spec["initContainers"] = json!([
        {"name": "first", "image": "i:1", "command": ["sleep", "3"]},
        {"name": "side", "image": "i:1", "restartPolicy": "Always"},
    ]);
    world.api.apply(pod(spec, json!({"simulated.warren.dev/ready-after": "20s"})));
    let pending = world
        .pod_is("init", |p| !p["status"]["initContainerStatuses"][0]["state"]["running"].is_null())
        .await;
    assert_eq!(phase(&pending), "Pending");
    assert_eq!(
        pending["status"]["containerStatuses"][0]["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    let running = world.pod_is("running", |p| phase(p) == "Running").await;
    assert_eq!(condition(&running, "Ready"), "False");
    assert_eq!(condition(&running, "Initialized"), "True");
    world.pod_is("ready", |p| condition(p, "Ready") == "True").await;
}

#[tokio::test(start_paused = true)]
async fn liveness_restarts_and_deadline_ends() {
    let world = start(|_| {}).await;
    let mut spec = one(json!({"livenessProbe":
        {"periodSeconds": 1, "failureThreshold": 2, "tcpSocket": {"port": 80}}}));
    spec["activeDeadlineSeconds"] = 60.into();
    world.api.apply(pod(spec, json!({"simulated.warren.dev/ready": "false"})));
    world.pod_is("restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    assert!(world.api.reasons().contains(&"Unhealthy".to_owned()));
    let failed = world.pod_is("failed", |p| phase(p) == "Failed").await;
    assert_eq!(failed["status"]["reason"], "DeadlineExceeded");
}

#[tokio::test(start_paused = true)]
async fn a_failed_pull_backs_off_and_a_deletion_ends_it() {
    let world = start(|_| {}).await;
    let mut spec = one(json!({}));
    spec["containers"][0]["image"] = "missing.invalid/x:1".into();
    world.api.apply(pod(spec, json!({})));
    world
        .pod_is("pulling", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
        })
        .await;
    let about = |api: &FakeApi| {
        let mut told = api.told();
        told.retain(|(_, message)| message.contains("mage"));
        Some(told).filter(|told| told.len() >= 5)
    };
    let told = world.api.until("told", about).await;
    assert_eq!(
        told.iter().map(|(reason, message)| (&**reason, &**message)).collect::<Vec<_>>(),
        [
            ("Pulling", "Pulling image \"missing.invalid/x:1\""),
            ("Failed", "Failed to pull image \"missing.invalid/x:1\": not found"),
            ("Failed", "Error: ErrImagePull"),
            ("BackOff", "Back-off pulling image \"missing.invalid/x:1\""),
            ("Failed", "Error: ImagePullBackOff"),
        ]
    );
    world.api.delete_gracefully("default", "web", 30);
    world.api.until("gone", |api| api.get("default", "web").is_none().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_sandbox_is_replaced() {
    let world = start(|_| {}).await;
    let uid = world.api.apply(pod(one(json!({})), json!({})))["metadata"]["uid"].clone();
    let before = world.pod_is("ready", |p| condition(p, "Ready") == "True").await;
    world.simulation.kill_sandbox("n1", uid.as_str().unwrap());
    let after = world
        .pod_is("again", |p| {
            condition(p, "Ready") == "True"
                && p["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    assert_ne!(before["status"]["podIP"], after["status"]["podIP"]);
    assert_eq!(after["status"]["podIPs"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_node_registers_and_says_when_its_runtime_is_down() {
    let world = start(|_| {}).await;
    let ready = |node: &Value| {
        let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().find(|c| c["type"] == "Ready").map(|c| c["status"].clone())
    };
    let is = |status: &'static str| {
        world.api.until("node", move |api| {
            api.node_object("n1").filter(|n| ready(n) == Some(status.into()))
        })
    };
    let node = is("True").await;
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert_eq!(node["status"]["capacity"]["pods"], "110");
    let first = world.api.until("lease", |api| api.lease("n1")).await;
    world
        .api
        .until("renewed", |api| {
            api.lease("n1").filter(|l| l["spec"]["renewTime"] != first["spec"]["renewTime"])
        })
        .await;
    world.simulation.set_down("n1", true);
    is("False").await;
    world.simulation.set_down("n1", false);
    is("True").await;
}

#[tokio::test(start_paused = true)]
async fn commands_go_to_the_api_under_their_publishers_name() {
    let world = start(|_| {}).await;
    let body = pod(one(json!({})), json!({})).to_string();
    world.fabric.command(&body, Some("alice"), None);
    world.pod_is("ready", |p| condition(p, "Ready") == "True").await;
    let mut any = pod(one(json!({})), json!({}));
    any["metadata"] = json!({"generateName": "any-"});
    for body in [&body, &any.to_string(), &any.to_string()] {
        world.fabric.command(body, Some("alice"), None);
    }
    world.fabric.command("nonsense", None, None);
    world.fabric.command(r#"{"action":"delete","podname":"web"}"#, None, None);
    world.api.until("gone", |api| api.get("default", "web").is_none().then_some(())).await;
    let log = world.api.log();
    let by_alice: Vec<_> = log.iter().filter(|l| l.ends_with("alice")).collect();
    let expected = [
        "create default/web by system:broker:alice",
        // Again: it changes what is there, and makes no second one where the name is the server's choice.
        "create default/web by system:broker:alice",
        "patch default/web by system:broker:alice",
        "create default/ by system:broker:alice",
    ];
    assert_eq!(by_alice, expected);
    assert!(log.iter().any(|l| l.ends_with("by system:broker-anonymous")), "{log:?}");
    let refused: Vec<_> =
        world.fabric.outcomes.lock().iter().filter(|o| *o != "ack").cloned().collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_answer_to_a_command_gets_a_status() {
    let world = start(|_| {}).await;
    let body = pod(one(json!({})), json!({})).to_string();
    world.fabric.command(&body, Some("alice"), Some("alices"));
    world.fabric.command("nonsense", None, Some("nobodys"));
    world.fabric.command(r#"{"action":"add","podname":"nowhere"}"#, None, Some("nobodys"));
    world.fabric.command(r#"{"action":"delete","podname":"web"}"#, None, Some("alices"));
    let four = |_: &FakeApi| {
        let replies = world.fabric.replies.lock().clone();
        (replies.len() == 4).then_some(replies)
    };
    let replies = world.api.until("answers", four).await;
    let short = |(queue, status): &(String, Value)| {
        assert_eq!(status["kind"], "Status", "{status}");
        let name = status["details"]["name"].as_str().unwrap_or("-").to_owned();
        let said = status["reason"].as_str().or(status["status"].as_str()).unwrap().to_owned();
        format!("{queue} {} {said} {name}", status["code"])
    };
    let replies: Vec<_> = replies.iter().map(short).collect();
    assert_eq!(
        replies,
        [
            "alices 201 Success web",
            "nobodys 400 BadRequest -",
            "nobodys 404 NotFound -",
            "alices 200 Success web"
        ]
    );
}

#[tokio::test]
async fn a_manifest_runs_without_an_api_and_is_mirrored_later() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let write = |text: &str| {
        let part = manifests.join(".part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, manifests.join("web.yaml")).unwrap();
    };
    write(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: 'i:1'}]}\n",
    );
    let world = start(|config| {
        config.manifests = Some(manifests.clone());
        config.dir = Some(dir.path().join("agent"));
    })
    .await;
    world.api.set_down(true);
    let running = |name: &str| {
        let entry = world.index.by_name("default", name)?;
        entry.observed.container("c").is_some_and(|c| c.is_running()).then_some(entry)
    };
    let first = world.api.until("runs", |_| running("web-n1")).await;
    assert!(world.api.get("default", "web-n1").is_none());
    world.api.set_down(false);
    let mirror = |api: &FakeApi| api.get("default", "web-n1").filter(|p| phase(p) == "Running");
    let seen = world.api.until("mirrored", mirror).await;
    let notes = &seen["metadata"]["annotations"];
    assert_eq!(notes["kubernetes.io/config.source"], "file");
    assert_eq!(notes["kubernetes.io/config.mirror"], notes["kubernetes.io/config.hash"]);

    // A broken version keeps the pod; a deleted mirror comes back.
    write("apiVersion: v1\nkind: Pod\nspec: [");
    world
        .api
        .until("said", |api| api.reasons().contains(&"BadManifest".to_owned()).then_some(()))
        .await;
    world.api.delete_gracefully("default", "web-n1", 30);
    world
        .api
        .until("back", |api| {
            mirror(api).filter(|p| p["metadata"]["uid"] != seen["metadata"]["uid"])
        })
        .await;
    assert_eq!(running("web-n1").unwrap().uid(), first.uid(), "the pod itself went on");

    // A new version replaces it, and without the file it goes.
    write(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: 'i:2'}]}\n",
    );
    world.api.until("new", |_| running("web-n1").filter(|e| e.uid() != first.uid())).await;
    std::fs::remove_file(manifests.join("web.yaml")).unwrap();
    world.api.until("gone", |api| api.get("default", "web-n1").is_none().then_some(())).await;
    world.api.until("ended", |_| world.index.pods(None).is_empty().then_some(())).await;
}

#[test]
fn what_is_lost_with_a_damaged_database_is_said() {
    let (path, detail) = ("/var/lib/warren/agent.db".into(), "page 7".to_owned());
    let error = StartError::from(warren_store::OpenError::Damaged { path, detail }).to_string();
    for part in ["/var/lib/warren/agent.db is damaged: page 7", "move it", "statuses", "commands"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let other = warren_store::OpenError::InUse { path: "/var/lib/warren/agent.db".into() };
    assert!(!StartError::from(other).to_string().contains("move it"));
}
