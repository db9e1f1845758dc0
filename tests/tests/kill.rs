//! Any process may be killed at any instant, the broker too: after it is back, the world converges and nothing is lost.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Options, RabbitMq, Role, until, until_some};

const WRITERS: u64 = 3;
/// Names of each writer: few, so that each is made, changed and deleted often.
const NAMES: u64 = 12;
/// Longer than a busy server takes for one write; a request that is given up may not be done later.
const REQUEST: Duration = Duration::from_secs(30);
/// Deaths in random order.
const ROUNDS: usize = 5;
const DEPLOYMENTS: [&str; 2] = ["web-a", "web-b"];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn anything_may_be_killed() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("SEED={seed}");
    let (cluster, rabbit) = Cluster::on_rabbitmq(Options { nodes: 2, ..Options::default() }).await;
    let mut world = World { cluster, rabbit, replicas: BTreeMap::new() };
    world.log_begins().await;
    let from = world.mark("from");
    for name in DEPLOYMENTS {
        let command = ["create", "deployment", name, "--image=example/web:1", "--replicas=3"];
        world.cluster.kubectl(command).ok();
        world.replicas.insert(name.to_owned(), 3);
    }
    world.converged();
    let load = Load::start(&world.cluster, seed).await;

    world.controllers_alone(&load);
    world.agent_alone(&load);
    world.apiserver_alone(&load);
    world.broker_alone(&load).await;
    world.in_random_order(&load, seed).await;

    let written = load.stop().await;
    world.converged();
    world.nothing_runs_twice();
    world.nothing_is_lost(&written);
    world.no_gap_is_undetected(from).await;
}

/// The cluster goes before its broker.
struct World {
    cluster: Cluster,
    rabbit: RabbitMq,
    replicas: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Apiserver,
    Controllers,
    Agent,
    Broker,
}

fn agent() -> Role {
    Role::Agent("node-1".into())
}

impl World {
    fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Apiserver => self.cluster.kill9(&Role::Apiserver),
            Victim::Controllers => self.cluster.kill9(&Role::Controllers),
            Victim::Agent => self.cluster.kill9(&agent()),
            Victim::Broker => self.rabbit.kill9(),
        }
    }

    /// What a supervisor does.
    async fn back(&mut self, victim: Victim) {
        match victim {
            Victim::Apiserver => self.cluster.start(&Role::Apiserver),
            Victim::Controllers => self.cluster.start(&Role::Controllers),
            Victim::Agent => self.cluster.start(&agent()),
            Victim::Broker => self.rabbit.restart().await.unwrap(),
        }
    }

    #[track_caller]
    fn scale(&mut self, name: &str, replicas: u64) {
        let to = format!("--replicas={replicas}");
        until("the API takes it", SOON, || {
            self.cluster.kubectl(["scale", "deployment", name, &to]).succeeded()
        });
        self.replicas.insert(name.to_owned(), replicas);
    }

    /// All pods that should run do, and no others are there.
    #[track_caller]
    fn converged(&self) {
        let wanted: u64 = self.replicas.values().sum();
        let mut said = String::new();
        let start = std::time::Instant::now();
        loop {
            let list = self.cluster.kubectl(["get", "pods", "-o", "json"]);
            if list.succeeded() {
                let pods = list.json();
                let pods = pods["items"].as_array().unwrap();
                let running = pods.iter().filter(|pod| runs(pod)).count() as u64;
                if running == wanted && pods.len() as u64 == wanted && self.rolled_out() {
                    return;
                }
                let told = pods.iter().map(|pod| {
                    let meta = &pod["metadata"];
                    format!(
                        "{} on {}: {} deleted {}",
                        meta["name"],
                        pod["spec"]["nodeName"],
                        pod["status"]["phase"],
                        meta["deletionTimestamp"]
                    )
                });
                said = told.collect::<Vec<_>>().join("\n");
            }
            assert!(start.elapsed() < SOON, "{wanted} pods should run; there are\n{said}");
            std::thread::yield_now();
        }
    }

    fn rolled_out(&self) -> bool {
        self.replicas.iter().all(|(name, replicas)| {
            let object = self.cluster.object("deployment", "default", name).unwrap_or_default();
            object["status"]["readyReplicas"].as_u64().unwrap_or_default() == *replicas
                && object["status"]["observedGeneration"] == object["metadata"]["generation"]
        })
    }

    fn mark(&self, name: &str) -> u64 {
        self.cluster.kubectl(["create", "configmap", name]).ok();
        let object = self.cluster.object("configmap", "default", name).unwrap();
        revision(&object)
    }

    fn readyz(&self) -> String {
        let output = self.cluster.kubectl(["get", "--raw", "/readyz?verbose"]);
        format!("{}{}", output.stdout, output.stderr)
    }

    async fn log_begins(&self) {
        let put = async |method, path: &str, body| {
            let (status, answer) = self.rabbit.http(method, path, Some(body)).await.unwrap();
            assert!(status.is_success(), "{path}: {status}: {answer}");
        };
        put(Method::PUT, "/api/queues/%2f/log", json!({"durable": true})).await;
        let bind = "/api/bindings/%2f/e/warren.events/q/log";
        put(Method::POST, bind, json!({"routing_key": "#"})).await;
    }

    fn controllers_alone(&mut self, load: &Load) {
        self.kill(Victim::Controllers);
        self.scale("web-a", 5);
        load.goes_on();
        self.cluster.start(&Role::Controllers);
        self.converged();
    }

    fn agent_alone(&mut self, load: &Load) {
        self.kill(Victim::Agent);
        self.scale("web-a", 2);
        self.scale("web-b", 6);
        load.goes_on();
        self.cluster.start(&agent());
        self.converged();
    }

    fn apiserver_alone(&mut self, load: &Load) {
        self.kill(Victim::Apiserver);
        assert!(!self.cluster.kubectl(["get", "nodes", "--request-timeout=2s"]).succeeded());
        self.cluster.start(&Role::Apiserver);
        load.goes_on();
        self.scale("web-a", 4);
        self.converged();
    }

    /// Broker down is not API down: writes go on, and pods start, by way of HTTP watch.
    async fn broker_alone(&mut self, load: &Load) {
        until("the broker is well", SOON, || !self.readyz().contains("degraded"));
        self.kill(Victim::Broker);
        until_some("readiness tells of the broker", SOON, || {
            let report = self.readyz();
            report.lines().any(|l| l.contains("broker") && l.contains("degraded")).then_some(())
        });
        assert!(self.cluster.kubectl(["get", "--raw", "/readyz"]).succeeded());
        load.goes_on();
        self.scale("web-b", 3);
        self.scale("web-a", 6);
        self.converged();
        until("readiness counts what waits", SOON, || {
            let report = self.readyz();
            report.contains("events wait") && !report.contains(" 0 events wait")
        });
        self.back(Victim::Broker).await;
        until_some("readiness tells that it is back", SOON, || {
            (!self.readyz().contains("degraded")).then_some(())
        });
        // Agents and controllers read from the broker again.
        self.cluster.wait_consumers(&self.rabbit).await;
        self.scale("web-a", 3);
        self.converged();
    }

    async fn in_random_order(&mut self, load: &Load, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let all = [Victim::Apiserver, Victim::Controllers, Victim::Agent, Victim::Broker];
        for round in 0..ROUNDS {
            // One or two at once.
            let first = all[random.random_range(0..all.len())];
            let second = all[random.random_range(0..all.len())];
            println!("round {round}: {first:?}, {second:?}");
            self.kill(first);
            if second != first {
                self.kill(second);
            }
            self.back(first).await;
            if second != first {
                self.back(second).await;
            }
            let name = DEPLOYMENTS[random.random_range(0..DEPLOYMENTS.len())];
            self.scale(name, random.random_range(1..=6));
            load.goes_on();
        }
    }

    /// What each node says that runs on it, against the API.
    #[track_caller]
    fn nothing_runs_twice(&self) {
        let mut wanted: Vec<String> = self
            .cluster
            .objects("pods", "default")
            .iter()
            .map(|p| text(&p["metadata"]["uid"]))
            .collect();
        wanted.sort();
        let (mut said, mut told) = (Vec::new(), String::new());
        let start = std::time::Instant::now();
        while said != wanted {
            assert!(start.elapsed() < SOON, "wanted {wanted:#?}, running {said:#?}; {told}");
            said.clear();
            for node in self.cluster.node_names() {
                let summary = match self.cluster.summary(&node) {
                    Ok(output) => output.json(),
                    Err(error) => {
                        told = error;
                        continue;
                    }
                };
                let pods = summary["pods"].as_array().cloned().unwrap_or_default();
                said.extend(pods.iter().map(|pod| text(&pod["podRef"]["uid"])));
            }
            said.sort();
        }
    }

    fn nothing_is_lost(&self, written: &BTreeMap<String, String>) {
        let list = ["get", "configmaps", "-l", "load=yes", "-o", "json"];
        let list = self.cluster.kubectl(list).json();
        let items = list["items"].as_array().unwrap().iter();
        let stored: BTreeMap<String, String> =
            items.map(|o| (text(&o["metadata"]["name"]), text(&o["data"]["v"]))).collect();
        assert_eq!(stored, *written);
    }

    /// What stands in the log, or is found to be missing by the rule, is all that happened.
    async fn no_gap_is_undetected(&self, from: u64) {
        let to = self.mark("to");
        let mut log = Log::default();
        let start = std::time::Instant::now();
        while log.last < to {
            assert!(start.elapsed() < SOON, "{to} is not published; the last is {}", log.last);
            for message in self.rabbit.take("log", 5_000).await.unwrap() {
                log.message(&message);
            }
        }
        let path = format!("/api/v1/configmaps?watch=1&resourceVersion={from}");
        let watch = self.cluster.kubectl_going_on(["get", "--raw", &path]);
        let all = until_some("the history", SOON, || {
            let output = watch.output();
            let events = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let changes = events.filter(|event| event["type"] != "BOOKMARK");
            let all: Vec<u64> = changes.map(|event| revision(&event["object"])).collect();
            all.contains(&to).then_some(all)
        });
        let missing: Vec<u64> = all.iter().filter(|rv| !log.seen.contains(rv)).copied().collect();
        let undetected: Vec<_> = missing
            .iter()
            .filter(|rv| !log.gaps.iter().any(|(after, at)| after < rv && *rv < at))
            .collect();
        println!(
            "{} changes, {} messages, {} of them again, {} missing and detected",
            all.len(),
            log.messages,
            log.again,
            missing.len()
        );
        assert!(undetected.is_empty(), "{undetected:?}");
        assert!(log.out_of_order.is_empty(), "{:?}", log.out_of_order);
    }
}

/// A reader that follows the rule of docs/events.md.
#[derive(Default)]
struct Log {
    streams: BTreeMap<(String, String), u64>,
    seen: BTreeSet<u64>,
    /// Detected: something may be missing between these.
    gaps: Vec<(u64, u64)>,
    out_of_order: Vec<u64>,
    last: u64,
    messages: usize,
    again: usize,
}

impl Log {
    fn message(&mut self, message: &Value) {
        self.messages += 1;
        let headers = &message["properties"]["headers"];
        let rv = headers["rv"].as_u64().unwrap();
        if text(&message["routing_key"]).starts_with("warren.floor") {
            self.gaps.push((0, rv + 1));
            return;
        }
        let shards = headers["shards"].as_array().unwrap();
        let prevs = headers["prev"].as_array().unwrap();
        let mut news = false;
        for (shard, prev) in shards.iter().zip(prevs) {
            let stream = (text(&headers["resource"]), text(shard));
            let known = self.streams.get(&stream).copied();
            if known.is_some_and(|seen| rv <= seen) {
                continue;
            }
            news = true;
            let prev = prev.as_u64().unwrap();
            if let Some(seen) = known
                && prev > seen
            {
                self.gaps.push((seen, rv));
            }
            self.streams.insert(stream, rv);
        }
        if !self.seen.insert(rv) {
            self.again += 1;
        } else if !news || rv < self.last {
            self.out_of_order.push(rv);
        }
        self.last = self.last.max(rv);
    }
}

/// Writers that remember what they were told is written.
struct Load {
    acknowledged: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    writers: Vec<JoinHandle<BTreeMap<String, String>>>,
}

impl Load {
    #[expect(clippy::disallowed_methods, reason = "each is waited for when the load stops")]
    async fn start(cluster: &Cluster, seed: u64) -> Self {
        let (acknowledged, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut writers = Vec::new();
        for id in 0..WRITERS {
            let writer = Writer {
                api: Api::namespaced(cluster.client().await, "default"),
                id,
                random: StdRng::seed_from_u64(seed.wrapping_add(id)),
                written: BTreeMap::new(),
                acknowledged: Arc::clone(&acknowledged),
            };
            writers.push(tokio::spawn(writer.run(Arc::clone(&ended))));
        }
        Self { acknowledged, ended, writers }
    }

    /// Waits until more is written than could have been on its way.
    #[track_caller]
    fn goes_on(&self) {
        assert!(self.writers.iter().all(|writer| !writer.is_finished()), "a writer has ended");
        let before = self.acknowledged.load(Ordering::Relaxed);
        until("writes go on", SOON, || {
            self.acknowledged.load(Ordering::Relaxed) >= before + 20 * WRITERS
        });
    }

    async fn stop(self) -> BTreeMap<String, String> {
        self.ended.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for writer in self.writers {
            all.extend(writer.await.expect("a writer ends well"));
        }
        println!("{} writes acknowledged", self.acknowledged.load(Ordering::Relaxed));
        all
    }
}

struct Writer {
    api: Api<ConfigMap>,
    id: u64,
    random: StdRng,
    written: BTreeMap<String, String>,
    acknowledged: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self, ended: Arc<AtomicBool>) -> BTreeMap<String, String> {
        let mut n = 0;
        while !ended.load(Ordering::Relaxed) {
            n += 1;
            let name = format!("load-{}-{}", self.id, self.random.random_range(0..NAMES));
            let before = self.written.get(&name).cloned();
            let after = match &before {
                Some(_) if self.random.random_bool(0.3) => None,
                _ => Some(format!("{}-{n}", self.id)),
            };
            let write = self.write(&name, before.as_deref(), after.as_deref());
            let now = match tokio::time::timeout(REQUEST, write).await {
                Ok(Ok(())) => {
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    after
                }
                Ok(Err(kube::Error::Api(status))) if [404, 409, 422].contains(&status.code) => {
                    panic!("{name}, {before:?} to {after:?}: {status:?}")
                }
                _ => {
                    let now = self.look(&name).await;
                    assert!(now == before || now == after, "{name}: {now:?}");
                    now
                }
            };
            match now {
                Some(value) => self.written.insert(name, value),
                None => self.written.remove(&name),
            };
            // A load, and no race: two cores are for the cluster.
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        self.written
    }

    async fn write(
        &self,
        name: &str,
        before: Option<&str>,
        after: Option<&str>,
    ) -> kube::Result<()> {
        match (before, after) {
            (None, Some(value)) => {
                let object = json!({
                    "metadata": {"name": name, "labels": {"load": "yes"}}, "data": {"v": value},
                });
                let object: ConfigMap = serde_json::from_value(object).expect("a ConfigMap");
                self.api.create(&PostParams::default(), &object).await.map(drop)
            }
            (_, Some(value)) => {
                let patch = Patch::Merge(json!({"data": {"v": value}}));
                self.api.patch(name, &PatchParams::default(), &patch).await.map(drop)
            }
            (_, None) => self.api.delete(name, &DeleteParams::default()).await.map(drop),
        }
    }

    /// What became of a write that was not answered.
    async fn look(&self, name: &str) -> Option<String> {
        loop {
            if let Ok(Ok(object)) = tokio::time::timeout(REQUEST, self.api.get_opt(name)).await {
                return object.and_then(|o| o.data?.get("v").cloned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn runs(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn revision(object: &Value) -> u64 {
    text(&object["metadata"]["resourceVersion"]).parse().unwrap()
}
