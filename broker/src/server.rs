//! The server's side: declares the shared topology and the nodes' queues, publishes, reads commands and requests, replies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures::StreamExt;
use lapin::BasicProperties;
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use warren_api::NodeName;
use warren_process::{Seldom, Tasks};

use crate::api::ApiHandler;
use crate::api::serve::Service;
use crate::connection::{BrokerConfig, Link, Live, Purpose};
use crate::error::BrokerError;
use crate::letter::DeadLetters;
use crate::publish::Publisher;
use crate::relay::Relay;
use crate::session::Source;
use crate::status::{FabricStatus, Metrics, StatusCell};
use crate::topology::{QueueType, Topology};
use crate::{Delivery, ReplyTo, Subscriber, declare, rabbit, replace, topology};

/// How often the shared topology and all nodes' queues are declared anew, so that what somebody deleted is back; also
/// after every connect; of a node that says that its queue lost something at once. 1,000 nodes are 5,000 small calls.
const HEAL_INTERVAL: Duration = Duration::from_secs(60);
/// Readers that say that their queues lost something are collected for so long: where an exchange was deleted, all do.
const LOST_PAUSE: Duration = Duration::from_millis(250);
/// Nodes whose queues are declared at the same time.
const HEAL_CONCURRENCY: usize = 4;
/// A Status is small.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// The API server's connections to the broker: one to publish (and to declare), one to consume. Clones share them.
#[derive(Clone)]
pub struct ServerLink(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    account: String,
    queues: QueueType,
    tasks: Tasks,
    publish: Link,
    pub(crate) consume: Link,
    publisher: Arc<Publisher>,
    status: StatusCell,
    /// Of the connection that reads.
    reads: StatusCell,
    metrics: Arc<Metrics>,
    pub(crate) nodes: Mutex<BTreeSet<NodeName>>,
    /// With which of them the next look begins.
    pub(crate) looked: AtomicUsize,
    changed: Notify,
    /// Of `nodes`, those whose queues should be looked at soon.
    lost: Mutex<BTreeSet<NodeName>>,
    told: Notify,
}

impl ServerLink {
    /// Starts connecting; the account of the URL is the server's, whose messages are events.
    pub fn start(config: BrokerConfig, tasks: &Tasks) -> Self {
        let status = StatusCell::new();
        let metrics: Arc<Metrics> = Arc::default();
        let account = config.url.account().to_owned();
        let queues = config.queues;
        let replay =
            Arc::new(move |live: Arc<Live>| -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
                let shared = topology::shared(queues);
                Box::pin(async move { declare::declare_shared(&live, &shared).await })
            });
        let purpose = Purpose { what: "publish", probe: false, replay: Some(replay) };
        let publish =
            Link::start(config.clone(), purpose, tasks, status.clone(), Arc::clone(&metrics));
        // The status is the publishing side's: it is what the backlog waits for.
        let purpose = Purpose { what: "commands", probe: true, replay: None };
        let reads = StatusCell::new();
        let consume = Link::start(config, purpose, tasks, reads.clone(), Arc::clone(&metrics));
        let link = Self(Arc::new(Inner {
            account,
            queues,
            tasks: tasks.clone(),
            publisher: Arc::new(Publisher::new(publish.clone())),
            publish,
            consume,
            status,
            reads,
            metrics,
            nodes: Mutex::default(),
            looked: AtomicUsize::new(0),
            changed: Notify::new(),
            lost: Mutex::default(),
            told: Notify::new(),
        }));
        let (healer, shutdown) = (link.clone(), tasks.shutdown().clone());
        tasks.spawn("broker topology", async move {
            tokio::select! {
                () = healer.heal() => {}
                () = shutdown.draining() => {}
            }
        });
        link
    }

    pub fn status(&self) -> FabricStatus {
        self.0.status.get()
    }

    /// Of the connection by which commands and requests come; it finds out within two seconds that the broker hangs.
    pub fn reads_status(&self) -> FabricStatus {
        self.0.reads.get()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Publishes an outbox; run it as a critical task: `tasks.spawn_critical("relay", …)`.
    pub fn relay(&self) -> Relay {
        Relay {
            link: self.0.publish.clone(),
            account: self.0.account.clone(),
            status: self.0.status.clone(),
            metrics: Arc::clone(&self.0.metrics),
            trace: None,
            started: std::time::Instant::now(),
        }
    }

    /// Wants a node's queue and its bindings from now on, also after the broker has lost them; idempotent. An error says
    /// that they are not there yet.
    pub async fn declare_node(&self, node: &NodeName) -> Result<(), BrokerError> {
        self.0.nodes.lock().insert(node.clone());
        let live = self.0.publish.now()?;
        let declared = self.declare_on(&live, node).await;
        if declared.is_err() {
            self.0.changed.notify_one();
        }
        declared
    }

    async fn declare_on(&self, live: &Live, node: &NodeName) -> Result<(), BrokerError> {
        let topology = topology::node(node, self.0.queues);
        replace::declare_node(live, &topology, &self.0.account).await
    }

    /// Wants the queues of exactly these nodes from now on: what the server calls at its start. Declares in the
    /// background; the queues of other nodes are left alone (they may hold what an operator wants to see).
    pub fn set_nodes(&self, nodes: impl IntoIterator<Item = NodeName>) {
        *self.0.nodes.lock() = nodes.into_iter().collect();
        self.0.changed.notify_one();
    }

    /// The node says that its queue lost something: it and its bindings are declared anew soon. Nothing for a node that
    /// has no queue.
    pub fn look_at(&self, node: &NodeName) {
        if self.0.nodes.lock().contains(node) && self.0.lost.lock().insert(node.clone()) {
            self.0.told.notify_one();
        }
    }

    /// Deletes a node's queue with what is in it; idempotent.
    pub async fn delete_node(&self, node: &NodeName) -> Result<(), BrokerError> {
        self.0.nodes.lock().remove(node);
        let live = self.0.publish.now()?;
        declare::delete(&live, &topology::node_queue(node)).await
    }

    /// What comes to `warren.commands`: [`Delivery::Command`](crate::Delivery::Command)s, and
    /// [`Delivery::Down`](crate::Delivery::Down) while the broker is away.
    pub async fn commands(&self) -> Box<dyn Subscriber> {
        self.read(Source::Commands(self.0.publish.clone(), self.0.queues)).await
    }

    async fn read(&self, source: Source) -> Box<dyn Subscriber> {
        let Inner { tasks, consume, publisher, metrics, account, .. } = &*self.0;
        let dead_letters = Some(DeadLetters {
            publisher: Arc::clone(publisher),
            exchange: topology::DEAD,
            key: String::new(),
            account: account.clone(),
        });
        rabbit::start(
            tasks,
            consume.clone(),
            source,
            None,
            account.clone(),
            dead_letters,
            Arc::clone(metrics),
            Arc::new(()),
        )
        .await
    }

    /// Hands on what nodes answer to commands, to the queues that the commands' senders named: a node may write to
    /// nobody's. Never ends.
    pub async fn hand_on_answers(&self) {
        let mut answers = self.read(Source::Answers(self.0.publish.clone(), self.0.queues)).await;
        loop {
            let Delivery::Command { body, publisher, reply, ack, .. } = answers.next().await else {
                continue;
            };
            // Nothing but a Status: the server speaks for nobody.
            let status = serde_json::from_slice::<serde_json::Value>(&body).ok();
            let (Some(status), Some(to)) =
                (status.filter(|status| status["kind"] == "Status"), reply)
            else {
                ack.reject("an answer is a Status, with reply_to".to_owned()).await;
                continue;
            };
            if let Err(error) = self.reply(&to, &status).await {
                let error = error.report();
                tracing::debug!(publisher, %error, "nobody waits for the answer to a command");
            }
            ack.ack().await;
        }
    }

    /// Has requests over AMQP done, until draining starts.
    pub async fn serve_api(&self, handler: Arc<dyn ApiHandler>) {
        let Inner { account, queues, consume, publish, metrics, tasks, .. } = &*self.0;
        let service = Service {
            account: account.clone(),
            queues: *queues,
            consume: consume.clone(),
            publish: publish.clone(),
            metrics: Arc::clone(metrics),
            handler,
        };
        service.run(tasks.shutdown().clone()).await;
    }

    /// Answers a command with a Status, to the queue that its sender named. An error where nobody waits there; nothing
    /// is retried. Our own queues are refused: a sender could make the server speak to a node.
    pub async fn reply(&self, to: &ReplyTo, status: &serde_json::Value) -> Result<(), BrokerError> {
        if topology::is_reserved(&to.queue) {
            return Err(BrokerError::ReservedReply("reply", to.queue.clone()));
        }
        let body = status.to_string();
        if body.len() > MAX_REPLY_BYTES {
            return Err(BrokerError::Publish {
                exchange: String::new(),
                key: to.queue.clone(),
                reason: format!("{} bytes; a reply has at most {MAX_REPLY_BYTES}", body.len()),
            });
        }
        let mut properties =
            BasicProperties::default().with_content_type("application/json".into());
        if let Some(Ok(id)) = to.correlation_id.as_deref().map(ShortString::try_new) {
            properties = properties.with_correlation_id(id);
        }
        self.0.publisher.publish("", &to.queue, body.as_bytes(), properties).await
    }

    async fn heal(&self) {
        let mut last = None;
        // A node may say with every breath that it lost something.
        let log = Seldom::default();
        let mut everything = true;
        let mut next = Instant::now();
        loop {
            let live = self.0.publish.live().await;
            let now = Arc::downgrade(&live);
            let is_new = last.replace(now.clone()).is_none_or(|old| !old.ptr_eq(&now));
            everything |= is_new;
            let lost = std::mem::take(&mut *self.0.lost.lock());
            let queues = self.0.queues;
            let mut shared = topology::shared(queues);
            let nodes = match everything {
                true => self.0.nodes.lock().clone(),
                false => {
                    if let Some(left_out) = log.pass("looked at") {
                        let nodes = lost.len();
                        tracing::info!(nodes, left_out, "queues that lost something are looked at");
                    }
                    // What the nodes' queues are bound to.
                    shared = Topology { exchanges: shared.exchanges, ..Topology::default() };
                    lost
                }
            };
            // The replay has just declared what is shared.
            if !is_new && let Err(error) = declare::declare_shared(&live, &shared).await {
                tracing::warn!(error = %error.report(), "what is shared is not all there");
            }
            if everything {
                let dead = shared.only(topology::DEAD);
                if let Err(error) = replace::replace_letters(&live, &dead, queues).await {
                    tracing::warn!(error = %error.report(), "the queue of dead letters is not as it should be");
                }
            }
            futures::stream::iter(nodes)
                .for_each_concurrent(HEAL_CONCURRENCY, |node| {
                    let (live, log) = (&live, &log);
                    async move {
                        if let Err(error) = self.declare_on(live, &node).await
                            && let Some(left_out) = log.pass("not there")
                        {
                            let error = error.report();
                            tracing::warn!(%node, %error, left_out, "a node's queue is not there");
                        }
                    }
                })
                .await;
            if everything {
                next = Instant::now() + HEAL_INTERVAL;
            }
            everything = tokio::select! {
                () = tokio::time::sleep_until(next) => true,
                () = self.0.changed.notified() => true,
                () = live.ended() => true,
                () = self.0.told.notified() => false,
            };
            if !everything {
                tokio::time::sleep(LOST_PAUSE).await;
            }
        }
    }
}
