//! A RabbitMQ cluster of three with quorum queues, of which one is stopped, killed, hangs or is replaced while changes go on.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]
#![expect(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use hyper::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, Consumer};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_tests::cluster::{Role, SOON};
use warren_tests::{Cluster, Options, RabbitMqCluster, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_is_lost() {
    let quorum = || vec!["--broker-queues=quorum".to_owned()];
    let options = Options {
        nodes: 2,
        split: true,
        arguments: quorum(),
        controllers: quorum(),
        ..Options::default()
    };
    let mut cluster = Cluster::prepare(options);
    let rabbits = cluster.start_rabbitmq_cluster().await;
    cluster.start_all();
    cluster.wait_ready();
    cluster.wait_consumers(&rabbits.nodes[0]).await;
    let mut world = World { cluster, rabbits };
    world.queues_are_replicated().await;

    let (seen, stop) = (watch::channel(Seen::default()), CancellationToken::new());
    let consumer = tokio::spawn(consume(world.urls(), seen.0.clone(), stop.clone()));
    let written = watch::channel(0);
    let client = world.cluster.client().await;
    until("the consumer is there", SOON, || seen.0.borrow().connections > 0);
    let writer = tokio::spawn(write(client, written.0, stop.clone()));
    let changes = Changes { written: written.1, seen: seen.0 };

    world.goes_on("before", 1, &changes).await;
    world.rabbits.nodes[0].stop().await.unwrap();
    world.goes_on("stopped", 1, &changes).await;
    world.rabbits.nodes[0].restart().await.unwrap();
    world.all_there().await;
    changes.silence("stopped, and back");

    world.rabbits.nodes[1].kill9();
    world.goes_on("killed", 0, &changes).await;
    world.rabbits.nodes[1].restart().await.unwrap();
    world.all_there().await;
    changes.silence("killed, and back");

    // Until the others say that it is lost, hardly anything is done: declarations wait for it.
    world.rabbits.nodes[2].pause(true);
    world.pods_run("silent");
    world.lost_to_the_others(2).await;
    world.goes_on("lost", 0, &changes).await;
    // As docs/events.md advises; that it comes back by itself where it wakes up is not RabbitMQ's promise.
    world.rabbits.nodes[2].kill9();
    world.rabbits.nodes[2].restart().await.unwrap();
    world.all_there().await;
    world.goes_on("restarted", 2, &changes).await;
    changes.silence("hung, and restarted");

    world.rabbits.lose(0).await.unwrap();
    world.goes_on("forgotten", 1, &changes).await;
    world.rabbits.join(0).await.unwrap();
    world.all_there().await;
    world.queues_are_replicated().await;
    world.goes_on("replaced", 0, &changes).await;
    changes.silence("replaced");

    // The new one has its part: with it and one more, there is a majority.
    world.rabbits.nodes[1].kill9();
    world.goes_on("carried", 0, &changes).await;
    changes.silence("carried by the new one");

    stop.cancel();
    let last = writer.await.unwrap();
    until("the last one", SOON, || changes.seen.borrow().revisions.contains_key(&last));
    consumer.await.unwrap();
    // Nothing lost: the order and `prev` the consumer has looked at itself.
    let Seen { revisions, connections, .. } = changes.seen.borrow().clone();
    let missing: Vec<u64> = (1..=last).filter(|n| !revisions.contains_key(n)).collect();
    assert!(missing.is_empty(), "of {last} changes the consumer missed {missing:?}");
    let revisions: Vec<u64> = revisions.into_values().collect();
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "out of order");
    println!("{last} changes, all of them delivered, over {connections} connections");
    let log = world.cluster.log(&Role::Apiserver);
    println!("{} connections of the server", log.matches("connected to the broker").count());
    let given_up = log.matches("the broker refuses an event").count();
    assert_eq!(given_up, 0, "events that were given up");
}

/// What was written, and what came of it.
struct Changes {
    written: watch::Receiver<u64>,
    seen: watch::Sender<Seen>,
}

/// What the consumer has had.
#[derive(Clone, Default)]
struct Seen {
    connections: u32,
    /// By the number of the ConfigMap.
    revisions: BTreeMap<u64, u64>,
    /// The newest revision of all.
    position: u64,
    last: Option<Instant>,
    silence: Duration,
}

impl Changes {
    /// The longest time without a delivery since this was asked last.
    fn silence(&self, what: &str) {
        let mut silence = Duration::ZERO;
        self.seen.send_modify(|seen| silence = std::mem::take(&mut seen.silence));
        println!("{what}: the longest time without a delivery was {} ms", silence.as_millis());
    }
}

struct World {
    cluster: Cluster,
    rabbits: RabbitMqCluster,
}

impl World {
    fn urls(&self) -> Vec<String> {
        self.rabbits.nodes.iter().map(|node| node.amqp_url("admin")).collect()
    }

    /// All shared queues are quorum queues with a member on each node.
    async fn queues_are_replicated(&self) {
        let start = Instant::now();
        loop {
            let answer = self.rabbits.nodes[1].http(Method::GET, "/api/queues/%2f", None).await;
            let queues = answer.map(|(_, queues)| queues).unwrap_or_default();
            let queues = queues.as_array().map_or(&[][..], Vec::as_slice);
            let own = |queue: &&Value| {
                queue["exclusive"] == true || queue["owner_pid_details"]["name"].is_string()
            };
            let members = |queue: &Value| queue["members"].as_array().map_or(0, Vec::len);
            let shared: Vec<(&Value, &Value, usize)> = queues
                .iter()
                .filter(|queue| !own(queue))
                .map(|queue| (&queue["name"], &queue["type"], members(queue)))
                .collect();
            let whole =
                |(_, kind, members): &(&Value, &Value, usize)| **kind == "quorum" && *members == 3;
            // Commands, requests, answers, dead letters, the leader's, and two nodes'.
            if shared.len() >= 7 && shared.iter().all(whole) {
                return;
            }
            assert!(start.elapsed() < SOON, "{shared:#?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn nodes(&self, asked: usize) -> Vec<Value> {
        let answer = self.rabbits.nodes[asked].http(Method::GET, "/api/nodes", None).await;
        // Not answered while the node that is asked still waits for a silent one.
        let nodes = answer.map(|(_, nodes)| nodes).unwrap_or_default();
        nodes.as_array().cloned().unwrap_or_default()
    }

    /// All three run, and each knows it.
    async fn all_there(&self) {
        let start = Instant::now();
        for n in 0..3 {
            loop {
                let nodes = self.nodes(n).await;
                let running = |node: &&Value| {
                    node["running"] == true
                        && node["partitions"].as_array().is_some_and(Vec::is_empty)
                };
                if nodes.iter().filter(running).count() == 3 {
                    break;
                }
                assert!(start.elapsed() < SOON, "{n}: {nodes:#?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        println!("all are there after {} ms", start.elapsed().as_millis());
    }

    /// Both others have noticed that it is silent.
    async fn lost_to_the_others(&self, n: usize) {
        let (start, name) = (Instant::now(), self.rabbits.nodes[n].node_name());
        for other in (0..3).filter(|other| *other != n) {
            loop {
                let nodes = self.nodes(other).await;
                let lost = |node: &Value| node["name"] == name.as_str() && node["running"] == false;
                if nodes.iter().any(lost) {
                    println!("{name} is lost to {other} after {} ms", start.elapsed().as_millis());
                    break;
                }
                assert!(start.elapsed() < SOON, "{nodes:#?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Pods run, a change that is made now is delivered, and everybody reads from the broker, as `asked` of its nodes knows.
    async fn goes_on(&self, what: &str, asked: usize, changes: &Changes) {
        let start = Instant::now();
        let next = *changes.written.borrow() + 1;
        until(&format!("{what}: a change that is made now is delivered"), SOON, || {
            changes.seen.borrow().revisions.contains_key(&next)
        });
        println!("{what}: delivered after {} ms", start.elapsed().as_millis());
        self.pods_run(what);
        let start = Instant::now();
        self.cluster.wait_consumers(&self.rabbits.nodes[asked]).await;
        println!("{what}: all read from the broker after {} ms more", start.elapsed().as_millis());
    }

    /// Of a Deployment that is made now.
    fn pods_run(&self, what: &str) {
        let start = Instant::now();
        let deployment = ["create", "deployment", what, "--image=example/c:1", "--replicas=4"];
        self.cluster.kubectl(deployment).ok();
        until(&format!("{what}: the pods run"), SOON, || {
            let pods = self.cluster.objects("pods", "default");
            let ours = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == what);
            ours.filter(|pod| pod["status"]["phase"] == "Running").count() == 4
        });
        println!("{what}: its pods run after {} ms", start.elapsed().as_millis());
    }
}

/// Creates one ConfigMap after another; answers the last's number.
async fn write(client: kube::Client, written: watch::Sender<u64>, stop: CancellationToken) -> u64 {
    let maps = kube::Api::<ConfigMap>::default_namespaced(client);
    let mut n = 0;
    while !stop.is_cancelled() {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("n{}", n + 1)},
        });
        let map: ConfigMap = serde_json::from_value(map).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
        n += 1;
        written.send_replace(n);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    n
}

/// A program that knows nothing of Warren but docs/events.md, with a quorum queue of its own; goes to the next node where
/// one is lost.
async fn consume(urls: Vec<String>, seen: watch::Sender<Seen>, stop: CancellationToken) {
    for url in urls.iter().cycle() {
        tokio::select! {
            _ = read(url, &seen) => tokio::time::sleep(Duration::from_millis(200)).await,
            () = stop.cancelled() => return,
        }
    }
}

async fn read(url: &str, seen: &watch::Sender<Seen>) -> Result<(), lapin::Error> {
    let mut consumer = tokio::time::timeout(Duration::from_secs(5), subscribe(url))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    seen.send_modify(|seen| seen.connections += 1);
    while let Some(message) = consumer.1.next().await {
        let message = message?;
        seen.send_modify(|seen| seen.take(&message));
        message.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

async fn subscribe(url: &str) -> Result<(Connection, Consumer), lapin::Error> {
    // Of a node that is stopped where it stands, a heartbeat tells.
    let url = format!("{url}?heartbeat=2&connection_timeout=2000");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // Or what is left of this program on a node that was cut off would get messages too, for a moment, out of order.
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("mine".into(), options, arguments).await?;
    let bind = channel.queue_bind(
        "mine".into(),
        "warren.events".into(),
        "core.configmaps.default.#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bind.await?;
    let options = BasicConsumeOptions::default();
    let consume = channel.basic_consume("mine".into(), "".into(), options, FieldTable::default());
    Ok((connection, consume.await?))
}

impl Seen {
    /// By the rule of docs/events.md; there must be no gap.
    fn take(&mut self, message: &Delivery) {
        let headers = message.properties.headers().clone().unwrap_or_default();
        let number = |value: Option<&AMQPValue>| match value {
            Some(AMQPValue::LongLongInt(number)) => u64::try_from(*number).unwrap(),
            other => panic!("no number: {other:?}"),
        };
        let Some(AMQPValue::FieldArray(prev)) = headers.inner().get("prev") else {
            panic!("no prev: {headers:?}")
        };
        let revision = number(headers.inner().get("rv"));
        if revision <= self.position {
            return;
        }
        // The stream of all shards is the last.
        let prev = number(prev.as_slice().last());
        let known = self.position;
        assert!(prev <= known || known == 0, "{prev} was lost before {revision}, after {known}");
        self.position = revision;
        let body: Value = serde_json::from_slice(&message.data).unwrap();
        let name = body["object"]["metadata"]["name"].as_str().unwrap();
        if let Some(n) = name.strip_prefix('n').and_then(|n| n.parse().ok()) {
            self.revisions.insert(n, revision);
            let last = self.last.replace(Instant::now());
            self.silence = self.silence.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
        }
    }
}
