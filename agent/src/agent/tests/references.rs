//! What pods refer to: asked for, brought by the queue, kept for a start without an API.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_is_waited_for() {
    let world = start(|_| {}).await;
    let spec = one(json!({"env": [{"name": "A",
        "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}));
    world.api.apply(pod(spec, json!({})));
    let waiting = world
        .pod_is("waiting", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                == "CreateContainerConfigError"
        })
        .await;
    let state = &waiting["status"]["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(state["message"], "configmap \"m\" not found");
    world.api.put_config_map("default", "m", &[("k", "v")]);
    world.pod_is("ready", |p| condition(p, "Ready") == "True").await;
}

#[tokio::test]
async fn what_the_queue_brings_is_not_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let world = start(|config| config.dir = Some(dir.path().join("agent"))).await;
    let refers = |name: &str, map: &str| {
        let from = json!({"configMapKeyRef": {"name": map, "key": "k"}});
        let spec = one(json!({"env": [{"name": "A", "valueFrom": from}]}));
        let mut pod = pod(spec, json!({}));
        pod["metadata"]["name"] = name.into();
        pod
    };
    world.api.apply(refers("first", "none"));
    world
        .api
        .until("the node has listed its pods", |_| world.index.by_name("default", "first"))
        .await;
    world.api.set_down(true);
    let map = |data: &str| json!({"metadata": {"namespace": "default", "name": "m", "resourceVersion": "5"}, "data": {"k": data}});
    world.fabric.brings("configmaps", &map("v"));
    // Of other things nothing is made, and nothing is damaged by what cannot be read.
    world.fabric.brings("persistentvolumeclaims", &map("v"));
    world.fabric.brings("configmaps", &json!({"metadata": "m"}));
    world.api.apply(refers("web", "m"));
    let runs = |_: &FakeApi| {
        let entry = world.index.by_name("default", "web")?;
        entry.observed.container("c").filter(|c| c.is_running()).map(drop)
    };
    world.api.until("runs", runs).await;
    let waits = world.index.by_name("default", "first").unwrap();
    assert!(waits.observed.container("c").is_none(), "nobody brought its map");
    assert!(world.fabric.outcomes.lock().iter().all(|outcome| outcome == "ack"));
}

#[tokio::test]
async fn a_cold_start_needs_no_api() {
    let dir = tempfile::tempdir().unwrap();
    let agent_dir = dir.path().join("agent");
    let world = start(|config| config.dir = Some(agent_dir.clone())).await;
    world.api.put_config_map("default", "m", &[("k", "v")]);
    world.api.put_secret("default", "s", &[("k", "hush hush")]);
    let env = json!([
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]);
    world.api.apply(pod(one(json!({"env": env})), json!({})));
    world.pod_is("ready", |p| condition(p, "Ready") == "True").await;
    world.tasks.shutdown().trigger();
    world.tasks.wait(Duration::from_secs(5)).await.unwrap();
    drop(world);
    for file in std::fs::read_dir(&agent_dir).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        // As JSON has it: the data of a Secret are base64.
        for plain in [&b"hush hush"[..], b"aHVzaCBodXNo"] {
            let there = bytes.windows(plain.len()).any(|part| part == plain);
            assert!(!there, "the secret stands in {}", path.display());
        }
    }

    // Another machine of the same name and disk: no API, no containers.
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let tasks = Tasks::new();
    let fabric = FakeFabric::new();
    let world = World {
        api: Arc::new(FakeApi::default()),
        simulation: Simulation::new(Arc::clone(&clock), &tasks),
        fabric,
        index: PodIndex::default(),
        tasks,
    };
    world.api.set_down(true);
    world.agent(clock, |config| config.dir = Some(agent_dir)).await;
    world
        .api
        .until("runs", |_| {
            let entry = world.index.by_name("default", "web")?;
            entry.observed.container("c").filter(|c| c.is_running()).map(drop)
        })
        .await;
}
