//! Two controllers processes: the second acts within two seconds of the end of the first, and the first writes no more.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hyper::Method;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Options, RabbitMq, Role};

/// From a signal to the first write of the other process.
const LIMIT: Duration = Duration::from_secs(2);
/// The same while the broker is away, where only the Lease's clock tells.
const BY_THE_CLOCK: Duration = Duration::from_secs(4);
/// The same where there is no broker at all: a Lease lasts 15 seconds.
const WITHOUT_BROKER: Duration = Duration::from_secs(20);
const ROUNDS: usize = 5;
const REPLICAS: i32 = 3;

struct World {
    cluster: Cluster,
    client: kube::Client,
    /// Names of the Deployments that were made.
    made: Vec<String>,
    /// What a process says last that could lead at once.
    warm: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
struct Holding {
    holder: String,
    term: i32,
    version: String,
}

impl World {
    async fn new(mut cluster: Cluster, warm: &'static str) -> Self {
        cluster.start(&Role::Standby);
        let client = cluster.client().await;
        let mut world = Self { cluster, client, made: Vec::new(), warm };
        let leads = world.leader().await;
        let other = world.other(&leads);
        world.stands_by(&other).await;
        world
    }

    async fn lease(&self) -> Option<Holding> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-system");
        let lease = api.get_opt("warren-controllers").await.unwrap()?;
        let spec = lease.spec.unwrap_or_default();
        Some(Holding {
            holder: spec.holder_identity?,
            term: spec.lease_transitions.unwrap_or(0),
            version: lease.metadata.resource_version.unwrap(),
        })
    }

    async fn held(&self) -> Holding {
        until("somebody leads", SOON, async || self.lease().await).await
    }

    /// The role whose process holds the Lease, by its log.
    async fn leader(&self) -> Role {
        until("the leader says so", SOON, async || {
            let held = self.lease().await?;
            let leads = |line: &str| line.contains(" leading term=") && line.contains(&held.holder);
            let roles = [Role::Controllers, Role::Standby];
            roles.into_iter().find(|role| self.cluster.log(role).lines().any(leads))
        })
        .await
    }

    fn other(&self, role: &Role) -> Role {
        if *role == Role::Controllers { Role::Standby } else { Role::Controllers }
    }

    /// Waits until a process is warm: it hears the leader of now, or without a broker knows it.
    async fn stands_by(&mut self, role: &Role) {
        until("it stands by", SOON, async || {
            let held = self.lease().await?;
            let log = self.cluster.log(role);
            let said = log.lines().rfind(|line| {
                let words = [" leading ", " standing by ", " the leader answers "];
                words.iter().any(|words| line.contains(words))
            })?;
            (said.contains(self.warm) && said.contains(&held.holder)).then_some(())
        })
        .await;
    }

    /// Asks for a Deployment.
    async fn ask(&mut self) -> String {
        let name = format!("d{}", self.made.len());
        let labels = json!({"app": name});
        let deployment = json!({
            "metadata": {"name": name},
            "spec": {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "example/web:1"}]}}},
        });
        let api: Api<Deployment> = Api::default_namespaced(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(deployment).unwrap())
            .await
            .unwrap();
        self.made.push(name.clone());
        name
    }

    /// Waits until somebody acts on a Deployment: from then to now.
    async fn acted(&self, name: &str, since: Instant) -> Duration {
        let api: Api<ReplicaSet> = Api::default_namespaced(self.client.clone());
        let of = ListParams::default().labels(&format!("app={name}"));
        until("somebody acts", SOON, async || {
            (!api.list(&of).await.unwrap().items.is_empty()).then_some(())
        })
        .await;
        since.elapsed()
    }

    /// A write in the name of a term.
    async fn write_as(&self, held: &Holding) -> (u16, Value) {
        let fence = format!("kube-system/warren-controllers@{}/{}", held.term, held.holder);
        let map = json!({"metadata": {"generateName": "fenced-"}}).to_string();
        let request = http::Request::post("/api/v1/namespaces/default/configmaps?dryRun=All")
            .header("content-type", "application/json")
            .header("warren-fence", fence)
            .body(map.into_bytes())
            .unwrap();
        match self.client.request::<Value>(request).await {
            Ok(made) => (201, made),
            Err(kube::Error::Api(status)) => (status.code, json!(status.message)),
            Err(other) => panic!("{other}"),
        }
    }

    async fn refused(&self) -> u64 {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = self.client.request_text(request).await.unwrap();
        let line = text.lines().find(|line| line.starts_with("warren_fenced_writes_total "));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Every Deployment has one ReplicaSet and its pods, all of them running, and nothing else is there.
    async fn converged(&self) {
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        let sets: Api<ReplicaSet> = Api::default_namespaced(self.client.clone());
        let mut seen = String::new();
        let all = ListParams::default();
        let start = Instant::now();
        loop {
            let mut count: BTreeMap<String, (i32, i32)> = BTreeMap::new();
            let app = |labels: Option<BTreeMap<String, String>>| labels.unwrap()["app"].clone();
            for set in sets.list(&all).await.unwrap() {
                count.entry(app(set.metadata.labels)).or_default().0 += 1;
            }
            for pod in pods.list(&all).await.unwrap() {
                let phase = pod.status.unwrap_or_default().phase.unwrap_or_default();
                let pod = &mut count.entry(app(pod.metadata.labels)).or_default().1;
                *pod += if phase == "Running" { 1 } else { 1_000 };
            }
            let names: BTreeSet<_> = count.keys().cloned().collect();
            if count.values().all(|found| *found == (1, REPLICAS))
                && names == self.made.iter().cloned().collect()
            {
                return;
            }
            seen.clear();
            seen += &format!("{count:?}");
            assert!(start.elapsed() < SOON, "not as wished: {seen}");
            look_again().await;
        }
    }
}

async fn look_again() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        look_again().await;
    }
}

fn tell(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let (middle, longest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what}: median {middle:?}, longest {longest:?} of {}", took.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_takes_over() {
    let (cluster, mut rabbit) = Cluster::on_rabbitmq(Options::default()).await;
    let mut world = World::new(cluster, "the leader answers").await;
    let first = world.ask().await;
    world.acted(&first, Instant::now()).await;
    world.converged().await;

    killed(&mut world).await;
    stopped(&mut world).await;
    told_to_end(&mut world).await;
    idle(&world, &rabbit).await;
    without_the_broker(&mut world, &mut rabbit).await;
    world.converged().await;
    drop(world);
}

async fn killed(world: &mut World) {
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let leader = world.leader().await;
        let before = world.held().await;
        world.cluster.kill9(&leader);
        let since = Instant::now();
        let name = world.ask().await;
        took.push(world.acted(&name, since).await);
        let after = world.held().await;
        assert!(after.term == before.term + 1 && after.holder != before.holder, "{after:?}");
        assert_eq!(world.write_as(&before).await.0, 409);
        assert_eq!(world.write_as(&after).await.0, 201);
        world.cluster.start(&leader);
        world.stands_by(&leader).await;
    }
    tell("killed with -9, to the first write of the other", took.clone());
    assert!(took.iter().all(|took| *took <= LIMIT), "{took:?}");
    world.converged().await;
}

async fn stopped(world: &mut World) {
    let mut took = Vec::new();
    let mut refused = 0;
    for round in 0..ROUNDS {
        let leader = world.leader().await;
        let before = world.held().await;
        // In the middle of its work: what is left of it is tried when it wakes up.
        for _ in 0..round {
            world.ask().await;
        }
        world.cluster.pause(&leader, true);
        let since = Instant::now();
        let name = world.ask().await;
        took.push(world.acted(&name, since).await);
        let after = world.held().await;
        assert!(after.term == before.term + 1 && after.holder != before.holder, "{after:?}");
        let at_first = world.refused().await;
        world.cluster.pause(&leader, false);
        world.stands_by(&leader).await;
        refused += world.refused().await - at_first;
        let (code, why) = world.write_as(&before).await;
        assert!(code == 409 && why.as_str().unwrap().contains("is over"), "{code} {why}");
        let now = world.held().await;
        assert_eq!((now.holder, now.term), (after.holder, after.term), "it takes nothing back");
        world.converged().await;
    }
    tell("stopped, to the first write of the other", took.clone());
    println!("writes refused to those that woke up: {refused}");
    assert!(took.iter().all(|took| *took <= LIMIT), "{took:?}");
}

/// A supervisor's signal: nobody waits for a silence.
async fn told_to_end(world: &mut World) {
    let leader = world.leader().await;
    let before = world.held().await;
    let since = Instant::now();
    assert_eq!(world.cluster.stop(&leader), Some(0));
    let name = world.ask().await;
    let took = world.acted(&name, since).await;
    println!("told to end, to the first write of the other: {took:?}");
    assert!(took <= LIMIT, "{took:?}");
    assert_eq!(world.held().await.term, before.term + 1);
    world.cluster.start(&leader);
    world.stands_by(&leader).await;
}

/// The leader becomes the active consumer, and then writes nothing of its being there.
async fn idle(world: &World, rabbit: &RabbitMq) {
    let queue = until("the leader's queue has its consumers", SOON, async || {
        let path = "/api/queues/%2f/controllers.controllers.leader";
        let (_, queue) = rabbit.http(Method::GET, path, None).await.ok()?;
        (queue["consumers"] == 2).then_some(queue)
    })
    .await;
    assert_eq!(queue["arguments"]["x-single-active-consumer"], true, "{queue}");
    stays(world).await;
}

/// Waits until the Lease is as it was three seconds ago.
async fn stays(world: &World) {
    let (mut last, mut since) = (world.held().await, Instant::now());
    until("the lease is not renewed any more", SOON, async || {
        let now = world.held().await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(3)).then_some(())
    })
    .await;
}

async fn without_the_broker(world: &mut World, rabbit: &mut RabbitMq) {
    let (leader, before) = (world.leader().await, world.held().await);
    rabbit.kill9();
    // It goes on, and says so in the Lease.
    let mut versions = BTreeSet::new();
    until("the lease is renewed", SOON, async || {
        let now = world.held().await;
        assert_eq!((&now.holder, now.term), (&before.holder, before.term), "the leader stays");
        versions.insert(now.version);
        (versions.len() > 8).then_some(())
    })
    .await;
    world.cluster.kill9(&leader);
    let since = Instant::now();
    let name = world.ask().await;
    let took = world.acted(&name, since).await;
    println!("killed with -9 without the broker, to the first write of the other: {took:?}");
    assert!(took <= BY_THE_CLOCK, "{took:?}");
    world.cluster.start(&leader);
    let after = world.held().await;
    assert_eq!(after.term, before.term + 1);
    rabbit.restart().await.unwrap();
    stays(world).await;
    world.stands_by(&leader).await;
    let now = world.held().await;
    assert_eq!((now.holder, now.term), (after.holder, after.term), "the leader stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_the_lease_alone_decides() {
    let cluster = Cluster::up(Options { split: true, ..Options::default() });
    let mut world = World::new(cluster, "standing by").await;
    let first = world.ask().await;
    world.acted(&first, Instant::now()).await;
    let (leader, before) = (world.leader().await, world.held().await);
    // Renewed in time, it stays.
    let mut versions = BTreeSet::new();
    until("the lease is renewed", SOON, async || {
        let now = world.held().await;
        assert_eq!((&now.holder, now.term), (&before.holder, before.term));
        versions.insert(now.version);
        (versions.len() > 3).then_some(())
    })
    .await;
    world.cluster.kill9(&leader);
    let since = Instant::now();
    let name = world.ask().await;
    let took = world.acted(&name, since).await;
    println!("killed with -9 where there is no broker: {took:?}");
    assert!(took <= WITHOUT_BROKER, "{took:?}");
    assert_eq!(world.held().await.term, before.term + 1);
    world.converged().await;
}
