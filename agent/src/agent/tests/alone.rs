//! An autonomous node without an API.

use super::*;
use crate::commands::PATIENCE;

/// A machine: its disk, and containers that outlive an agent.
struct Place {
    dir: tempfile::TempDir,
    clock: Arc<dyn Clock>,
    api: Arc<FakeApi>,
    simulation: Simulation,
    _containers: Tasks,
}

impl Place {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
        let containers = Tasks::new();
        let simulation = Simulation::new(Arc::clone(&clock), &containers);
        let dir = tempfile::tempdir().unwrap();
        Self { dir, clock, api: Arc::default(), simulation, _containers: containers }
    }

    async fn agent(&self, autonomous: bool) -> World {
        let fabric = FakeFabric::new();
        fabric.follow(&self.api);
        let (api, simulation) = (Arc::clone(&self.api), self.simulation.clone());
        let (index, tasks) = (PodIndex::default(), Tasks::new());
        let world = World { api, fabric, simulation, index, tasks };
        world
            .agent(Arc::clone(&self.clock), |config| {
                config.dir = Some(self.dir.path().join("agent"));
                config.autonomous = autonomous;
                config.contested = false;
            })
            .await;
        world
    }
}

impl World {
    async fn end(self) {
        self.tasks.shutdown().trigger();
        self.tasks.wait(Duration::from_secs(5)).await.unwrap();
    }

    /// The uid of the pod, and the id of the container that runs.
    async fn runs(&self, image: &str) -> (String, String) {
        let found = |_: &FakeApi| {
            let entry = self.index.by_name("default", "web")?;
            let container = entry.observed.container("c").filter(|c| c.is_running())?;
            let wanted = entry.pod.spec.as_ref()?.containers[0].image.as_deref() == Some(image);
            wanted.then(|| (entry.uid().to_owned(), container.id.to_string()))
        };
        self.api.until(&format!("{image} runs"), found).await
    }

    async fn nothing_runs(&self) {
        let runtime = self.simulation.node("n1");
        while !runtime.pods().await.unwrap().is_empty() || !self.index.pods(None).is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn acknowledged(&self, count: usize) {
        let all = |_: &FakeApi| {
            let outcomes = self.fabric.outcomes.lock().clone();
            (outcomes.iter().filter(|o| *o == "ack").count() >= count).then_some(())
        };
        self.api.until("acknowledged", all).await;
    }
}

fn web(image: &str) -> String {
    let mut spec = one(json!({}));
    spec["containers"][0]["image"] = image.into();
    spec["terminationGracePeriodSeconds"] = 1.into();
    pod(spec, json!({})).to_string()
}

/// A pod of the API ran; the API is away, and alice has asked for the pod's end.
async fn deleted_alone() -> (Place, World, (String, String)) {
    let place = Place::new();
    let world = place.agent(true).await;
    place.api.apply(serde_json::from_str(&web("i:1")).unwrap());
    let old = world.runs("i:1").await;
    place.api.set_down(true);
    world.fabric.command(r#"{"action":"delete","podname":"web"}"#, Some("alice"), None);
    (place, world, old)
}

fn created_by_alice(log: &[String]) -> usize {
    log.iter().filter(|l| *l == "create default/web by system:broker:alice").count()
}

#[tokio::test]
async fn what_was_begun_alone_is_adopted_and_goes_on() {
    let place = Place::new();
    place.api.set_down(true);
    let world = place.agent(true).await;
    world.fabric.command(&web("i:1"), Some("alice"), Some("alices"));
    let first = world.runs("i:1").await;
    world.acknowledged(1).await;
    assert!(world.fabric.replies.lock().is_empty(), "who waits is answered by the API");
    // A second agent after the first, still alone.
    world.end().await;
    let world = place.agent(true).await;
    assert_eq!(world.runs("i:1").await, first);
    world.fabric.command(&web("i:2"), Some("alice"), None);
    let second = world.runs("i:2").await;
    assert_eq!(second.0, first.0, "the same pod, with another image");

    place.api.set_down(false);
    let told = world
        .pod_is("told", |p| phase(p) == "Running" && p["spec"]["containers"][0]["image"] == "i:2");
    let told = told.await;
    assert_eq!(told["metadata"]["uid"], second.0);
    let replied = |_: &FakeApi| world.fabric.replies.lock().first().cloned();
    // That queue was the first agent's fabric; the record remembers where the answer goes.
    let (queue, status) = world.api.until("answered", replied).await;
    assert_eq!((&*queue, &status["code"]), ("alices", &json!(201)), "{status}");
    world
        .api
        .until("said", |api| api.reasons().contains(&"Adopted".to_owned()).then_some(()))
        .await;
    assert_eq!(world.runs("i:2").await, second, "nothing was started again");
    let log = place.api.log();
    assert!(created_by_alice(&log) >= 1, "{log:?}");
    assert!(log.contains(&"patch default/web by system:broker:alice".to_owned()), "{log:?}");

    // It is the API's like any other: an agent after this one has it from there, and ends it when the API does.
    world.end().await;
    let world = place.agent(true).await;
    assert_eq!(world.runs("i:2").await, second);
    assert_eq!(created_by_alice(&place.api.log()), created_by_alice(&log), "no record is left");
    place.api.delete_gracefully("default", "web", 1);
    world.api.until("gone", |api| api.get("default", "web").is_none().then_some(())).await;
    world.nothing_runs().await;
}

#[tokio::test]
async fn what_the_api_refuses_is_stopped_and_told() {
    let place = Place::new();
    place.api.set_down(true);
    let world = place.agent(true).await;
    world.fabric.command(&web("i:1"), Some("alice"), Some("alices"));
    world.runs("i:1").await;
    place.api.refuse_creations("no quota is left");
    place.api.set_down(false);
    world.nothing_runs().await;
    let about = |api: &FakeApi| {
        let mut told = api.told();
        told.retain(|(reason, text)| {
            reason == "CommandRefused" && text.contains("no quota is left")
        });
        (told.len() == 2).then_some(told)
    };
    world.api.until("said of the pod and of the node", about).await;
    let replied = |_: &FakeApi| world.fabric.replies.lock().first().cloned();
    let (_, status) = world.api.until("answered", replied).await;
    assert_eq!(status["reason"], "Forbidden", "{status}");
    assert!(place.api.get("default", "web").is_none());
}

#[tokio::test]
async fn a_pod_of_the_api_is_ended_alone_and_another_takes_its_name() {
    let (place, world, old) = deleted_alone().await;
    world.fabric.command(&web("i:2"), Some("alice"), None);
    let new = world.runs("i:2").await;
    assert_ne!(new.0, old.0);
    // The disk still has the old one as the API's, and the new one on record only.
    world.end().await;
    let world = place.agent(true).await;
    assert_eq!(world.runs("i:2").await, new);
    place.api.set_down(false);
    let there = world.pod_is("adopted", |p| p["metadata"]["uid"] == new.0 && phase(p) == "Running");
    there.await;
    assert_eq!(world.runs("i:2").await, new);
    assert_eq!(world.index.pods(None).len(), 1);
    let log = place.api.log();
    let by_alice: Vec<_> = log.iter().filter(|l| l.ends_with(":alice")).collect();
    assert_eq!(
        by_alice,
        [
            "delete default/web Some(0) by system:broker:alice",
            "create default/web by system:broker:alice"
        ]
    );
}

#[tokio::test]
async fn an_end_that_the_api_refuses_is_undone() {
    let (place, world, old) = deleted_alone().await;
    world.nothing_runs().await;
    place.api.refuse_deletions("it is protected");
    place.api.set_down(false);
    let again = world.runs("i:1").await;
    assert_eq!(again.0, old.0, "the pod that the API has");
    assert_ne!(again.1, old.1, "in another container");
}

#[tokio::test]
async fn another_pod_of_the_name_in_the_api_takes_its_place() {
    let place = Place::new();
    place.api.set_down(true);
    let world = place.agent(true).await;
    world.fabric.command(&web("i:1"), Some("alice"), None);
    let ours = world.runs("i:1").await;
    // Somebody who had the API was faster.
    place.api.apply(serde_json::from_str(&web("i:3")).unwrap());
    place.api.set_down(false);
    let there = world.pod_is("theirs runs, as the command wants it", |p| {
        phase(p) == "Running" && p["spec"]["containers"][0]["image"] == "i:1"
    });
    let uid = there.await["metadata"]["uid"].clone();
    assert_ne!(uid, ours.0);
    let one = |_: &FakeApi| (world.index.pods(None).len() == 1).then_some(());
    world.api.until("ours is gone", one).await;
}

#[tokio::test]
async fn who_is_not_autonomous_waits_and_what_is_forged_is_refused() {
    let place = Place::new();
    place.api.set_down(true);
    let world = place.agent(false).await;
    world.fabric.command(&web("i:1"), Some("alice"), None);
    // Who acts by itself would have by then.
    let by_then = tokio::time::Instant::now() + PATIENCE + Duration::from_secs(1);
    let in_vain = |api: &FakeApi| api.asked_in_vain().filter(|at| *at > by_then);
    place.api.until("the API is asked on", in_vain).await;
    assert!(world.index.pods(None).is_empty());
    assert!(world.fabric.outcomes.lock().is_empty());
    world.end().await;

    let world = place.agent(true).await;
    world.fabric.forged(&web("i:1"), Some("alice"));
    world.fabric.command("nonsense", Some("alice"), None);
    let mut bad: Value = serde_json::from_str(&web("i:1")).unwrap();
    bad["spec"]["containers"] = json!([]);
    world.fabric.command(&bad.to_string(), Some("alice"), None);
    let three = |_: &FakeApi| {
        let outcomes = world.fabric.outcomes.lock().clone();
        (outcomes.len() == 3).then_some(outcomes)
    };
    let outcomes = world.api.until("refused", three).await;
    assert!(outcomes[0].contains("form of an event"), "{outcomes:?}");
    assert!(outcomes[2].contains("spec.containers: Required value"), "{outcomes:?}");
    assert!(world.index.pods(None).is_empty());
}

#[tokio::test]
async fn what_is_dressed_as_an_event_feeds_nobody() {
    let place = Place::new();
    let world = place.agent(false).await;
    // As a queue brings it that is bound to all events, and whose dead letters come here: also what is said of it.
    for n in 0..20 {
        world.fabric.forged(&web(&format!("i:{n}")), Some("server"));
    }
    world.fabric.command("nonsense", Some("alice"), None);
    let all = |_: &FakeApi| (world.fabric.outcomes.lock().len() == 21).then_some(());
    world.api.until("refused", all).await;
    let told = |api: &FakeApi| {
        let mut told = api.told();
        told.retain(|(reason, _)| reason == "CommandRefused");
        told.iter().any(|(_, text)| text.contains("alice")).then_some(told)
    };
    let told = world.api.until("told", told).await;
    assert_eq!(told.len(), 2, "of all that are no events once: {told:#?}");
}
