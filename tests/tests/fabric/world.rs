//! A server's journal in memory, a relay, and readers that write down what they get.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use warren_api::{GroupResource, NodeName, ObjectKey, Revision, Shard, Uid};
use warren_broker::consume::reason;
use warren_broker::{
    BrokerConfig, Delivery, Event, EventType, Fabric, Heads, Outbox, QueueType, RabbitFabric,
    ServerLink, Stream, Subscriber, Subscription,
};
use warren_process::Tasks;
use warren_tests::RabbitMq;

/// Brokers are heavy; one at a time.
pub static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub const SOON: Duration = Duration::from_secs(20);

pub fn node(name: &str) -> NodeName {
    NodeName(name.into())
}

pub fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

#[derive(Default)]
struct Rows {
    events: Vec<Event>,
    heads: BTreeMap<Stream, Revision>,
    cursor: Revision,
    floor: Revision,
}

/// The server's journal.
#[derive(Default)]
pub struct Journal {
    rows: Mutex<Rows>,
    written: Notify,
}

impl Journal {
    /// One change of the pod `name`, in these shards.
    pub fn write(&self, name: &str, shards: &[Shard]) -> Revision {
        self.write_large(name, shards, 0)
    }

    /// The same of a pod that is so many bytes larger.
    pub fn write_large(&self, name: &str, shards: &[Shard], bytes: usize) -> Revision {
        let revision = {
            let mut rows = self.rows.lock();
            let revision = Revision(rows.events.len() as u64 + 1);
            let shards = shards.iter().chain([&Shard::Every]).map(|shard| {
                let stream = Stream { resource: pods(), shard: shard.clone() };
                (shard.clone(), rows.heads.insert(stream, revision).unwrap_or_default())
            });
            let shards = shards.collect();
            let object = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name, "resourceVersion": revision.to_string(),
                    "annotations": {"padding": "x".repeat(bytes)},
                },
            });
            rows.events.push(Event {
                epoch: 1,
                revision,
                uid: Uid(format!("uid-{name}").into()),
                key: ObjectKey::new(pods(), "default", name),
                event_type: EventType::Modified,
                shards,
                object: object.to_string().into(),
                brings: Vec::new(),
            });
            revision
        };
        self.written.notify_waiters();
        revision
    }

    pub fn head(&self) -> Revision {
        Revision(self.rows.lock().events.len() as u64)
    }

    /// What the server says of all streams.
    pub fn heads(&self) -> Heads {
        let rows = self.rows.lock();
        let streams = rows.heads.iter().map(|(stream, head)| (stream.clone(), *head)).collect();
        Heads { epoch: 1, published: rows.cursor, streams }
    }

    pub fn events(&self) -> Vec<Event> {
        self.rows.lock().events.clone()
    }

    pub fn compact(&self) {
        let mut rows = self.rows.lock();
        rows.floor = Revision(rows.events.len() as u64);
    }
}

#[async_trait]
impl Outbox for Journal {
    fn epoch(&self) -> u64 {
        1
    }

    fn cursor(&self) -> Revision {
        self.rows.lock().cursor
    }

    fn confirmed(&self, up_to: Revision) {
        let mut rows = self.rows.lock();
        assert!(up_to > rows.cursor, "the cursor goes back");
        rows.cursor = up_to;
    }

    async fn read(&self, after: Revision, limit: usize) -> Result<Vec<Event>, Revision> {
        let rows = self.rows.lock();
        if after < rows.floor {
            return Err(rows.floor);
        }
        Ok(rows.events.iter().skip(after.0 as usize).take(limit).cloned().collect())
    }

    async fn wait(&self, after: Revision) {
        let mut written = std::pin::pin!(self.written.notified());
        loop {
            written.as_mut().enable();
            if self.head() > after {
                return;
            }
            written.as_mut().await;
            written.set(self.written.notified());
        }
    }

    fn backlog(&self) -> Option<u64> {
        let rows = self.rows.lock();
        Some(rows.events.len() as u64 - rows.cursor.0)
    }
}

/// A server with its relay, on a broker.
pub struct World {
    pub tasks: Tasks,
    pub server: ServerLink,
    pub journal: Arc<Journal>,
}

pub fn config(rabbit: &RabbitMq, account: &str, name: &str) -> BrokerConfig {
    BrokerConfig {
        url: rabbit.amqp_url(account).parse().unwrap(),
        name: name.to_owned(),
        queues: QueueType::default(),
    }
}

impl World {
    pub fn start(rabbit: &RabbitMq) -> Self {
        Self::with(rabbit, Arc::default())
    }

    pub fn with(rabbit: &RabbitMq, journal: Arc<Journal>) -> Self {
        Self::of_type(rabbit, journal, QueueType::default())
    }

    pub fn of_type(rabbit: &RabbitMq, journal: Arc<Journal>, queues: QueueType) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let tasks = Tasks::new();
        let config = BrokerConfig { queues, ..config(rabbit, "server", "apiserver") };
        let server = ServerLink::start(config, &tasks);
        let relay = server.relay();
        let (outbox, shutdown) = (Arc::clone(&journal), tasks.shutdown().clone());
        tasks.spawn("relay", async move { relay.run(outbox, shutdown).await });
        Self { tasks, server, journal }
    }

    pub fn fabric(&self, rabbit: &RabbitMq, account: &str) -> RabbitFabric {
        RabbitFabric::new(config(rabbit, account, "test"), "server", &self.tasks)
    }

    pub async fn declared(&self, name: &str) {
        let node = node(name);
        eventually("the node's queue is declared", async || {
            self.server.declare_node(&node).await.is_ok().then_some(())
        })
        .await;
    }

    /// A node that acknowledges everything, its queue declared.
    pub async fn node(&self, rabbit: &RabbitMq, name: &str) -> Recorder {
        self.declared(name).await;
        let fabric = RabbitFabric::new(config(rabbit, "server", name), "server", &self.tasks);
        let subscriber = fabric.subscribe(Subscription::Node(node(name))).await;
        let recorder = self.record(subscriber);
        // What is written from now on is not in the first listing.
        recorder.until("it lists", |all| !relists(all).is_empty()).await;
        recorder
    }

    pub fn record(&self, subscriber: Box<dyn Subscriber>) -> Recorder {
        Recorder::start(self, subscriber, Tells::Lists)
    }

    /// One that compares the heads every second, and lets the server look at a node's queue that lost something.
    pub fn record_with_heads(&self, subscriber: Box<dyn Subscriber>, of: Option<&str>) -> Recorder {
        Recorder::start(self, subscriber, Tells::Heads(of.map(node)))
    }

    /// One that does not say what it has listed, and so gets what is in its queue already.
    pub fn record_all(&self, subscriber: Box<dyn Subscriber>) -> Recorder {
        Recorder::start(self, subscriber, Tells::Nothing)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.shutdown().trigger();
        self.tasks.shutdown().trigger();
    }
}

/// One thing that a reader was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Got {
    Event(Event),
    Command {
        body: String,
        id: Option<String>,
        publisher: Option<String>,
        repeated: bool,
        key: String,
    },
    /// With the revision that the reader then listed.
    Relist {
        streams: Vec<Stream>,
        reason: &'static str,
        listed: Revision,
    },
    Reconnected,
    Down(String),
}

/// What a reader says to its subscription.
enum Tells {
    Nothing,
    /// What it lists. Where a connection is back, nobody says what it missed.
    Lists,
    /// The heads as well; of a node's queue.
    Heads(Option<NodeName>),
}

/// Reads and acknowledges at once, and lists from the journal when it is told to.
pub struct Recorder {
    got: watch::Receiver<Vec<Got>>,
}

impl Recorder {
    fn start(world: &World, mut subscriber: Box<dyn Subscriber>, tells: Tells) -> Self {
        let (sender, got) = watch::channel(Vec::new());
        let journal = Arc::clone(&world.journal);
        let (shutdown, server) = (world.tasks.shutdown().clone(), world.server.clone());
        world.tasks.spawn("recorder", async move {
            let record = async {
                let mut tick = tokio::time::interval(Duration::from_secs(1));
                loop {
                    let asks = matches!(tells, Tells::Heads(_)) && subscriber.wants_heads();
                    let delivery = tokio::select! {
                        delivery = subscriber.next() => delivery,
                        _ = tick.tick(), if asks => {
                            subscriber.heads(Some(journal.heads()));
                            continue;
                        }
                    };
                    let got = match delivery {
                        Delivery::Event(event, ack) => {
                            ack.ack().await;
                            Got::Event(event)
                        }
                        Delivery::Present(_, ack) => {
                            ack.ack().await;
                            continue;
                        }
                        Delivery::Command {
                            body,
                            message_id,
                            publisher,
                            repeated,
                            routing_key,
                            ack,
                            ..
                        } => {
                            ack.ack().await;
                            Got::Command {
                                body: String::from_utf8_lossy(&body).into_owned(),
                                id: message_id,
                                publisher,
                                repeated,
                                key: routing_key,
                            }
                        }
                        Delivery::Relist { streams, reason, .. } => {
                            let listed = journal.head();
                            if !matches!(tells, Tells::Nothing) {
                                subscriber.listed(&streams, listed);
                            }
                            if let (reason::HEAD, Tells::Heads(Some(node))) = (reason, &tells) {
                                server.look_at(node);
                            }
                            Got::Relist { streams, reason, listed }
                        }
                        Delivery::Reconnected { .. } => {
                            let heads = matches!(tells, Tells::Heads(_)).then(|| journal.heads());
                            subscriber.heads(heads);
                            Got::Reconnected
                        }
                        Delivery::Down { reason, .. } => {
                            if let Tells::Heads(Some(node)) = &tells {
                                server.look_at(node);
                            }
                            Got::Down(reason)
                        }
                    };
                    sender.send_modify(|all| all.push(got));
                }
            };
            tokio::select! {
                () = record => {}
                () = shutdown.draining() => {}
            }
        });
        Self { got }
    }

    pub fn all(&self) -> Vec<Got> {
        self.got.borrow().clone()
    }

    pub async fn until(&self, what: &str, done: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        let mut got = self.got.clone();
        match tokio::time::timeout(SOON, got.wait_for(|all| done(all))).await {
            Ok(all) => all.unwrap().clone(),
            Err(_) => {
                let all = self.all();
                let tail = &all[all.len().saturating_sub(20)..];
                panic!("waited in vain: {what}; got {} things, the last: {tail:#?}", all.len())
            }
        }
    }

    /// Waits until this revision was delivered or listed.
    pub async fn until_knows(&self, revision: Revision) -> Vec<Got> {
        self.until(&format!("revision {revision}"), |all| {
            all.iter().any(|got| match got {
                Got::Event(event) => event.revision >= revision,
                Got::Relist { streams, listed, .. } => streams.is_empty() && *listed >= revision,
                _ => false,
            })
        })
        .await
    }
}

pub fn events(all: &[Got]) -> Vec<&Event> {
    all.iter()
        .filter_map(|got| if let Got::Event(event) = got { Some(event) } else { None })
        .collect()
}

pub fn relists(all: &[Got]) -> Vec<&'static str> {
    let relist =
        |got: &Got| if let Got::Relist { reason, .. } = got { Some(*reason) } else { None };
    all.iter().filter_map(relist).collect()
}

/// Nothing lost: each event of the streams was delivered, or listed after it was written. In order: what is new comes in
/// the order of revisions. Nothing invented: what was delivered is what was written.
pub fn check(journal: &Journal, all: &[Got], shards: &[Shard]) {
    let written = journal.events();
    let mut newest = Revision(0);
    let mut seen = BTreeSet::new();
    for event in events(all) {
        assert_eq!(written.get(event.revision.0 as usize - 1), Some(event), "invented");
        if seen.insert(event.revision) {
            assert!(event.revision > newest, "out of order: {} after {newest}", event.revision);
            newest = event.revision;
        }
    }
    for event in &written {
        for (shard, _) in &event.shards {
            let listed = all.iter().any(|got| {
                matches!(got, Got::Relist { streams, listed, .. } if *listed >= event.revision
                    && (streams.is_empty() || streams.iter().any(|s| [shard, &Shard::Every].contains(&&s.shard))))
            });
            let ours = shards.contains(shard);
            assert!(!ours || listed || seen.contains(&event.revision), "lost: {}", event.revision);
        }
    }
}

pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(SOON * 2, wait).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

pub async fn queue(rabbit: &RabbitMq, name: &str) -> Option<Value> {
    let path = format!("/api/queues/%2f/{name}");
    let (status, body) = rabbit.http(hyper::Method::GET, &path, None).await.ok()?;
    status.is_success().then_some(body)
}
