//! The fabric over RabbitMQ, as readers see it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::BasicProperties;
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use warren_api::{NodeName, Revision};
use warren_process::Tasks;

use crate::api::ApiLink;
use crate::connection::{BrokerConfig, Link, Purpose};
use crate::letter::DeadLetters;
use crate::publish::Publisher;
use crate::session::{PREFETCH, Session, Source, Tell};
use crate::status::{FabricStatus, Metrics, StatusCell};
use crate::{
    BrokerError, Delivery, Fabric, Heads, LeaderQueue, ReplyTo, Stream, Subscriber, Subscription,
    topology,
};

/// Subscriptions that share a connection, each with a channel of its own; RabbitMQ allows 2,047.
const SUBSCRIPTIONS_PER_CONNECTION: usize = 500;
/// How long a new subscription waits for its queue, so that a reader that lists next misses nothing. Without a broker
/// it goes on, and is told to list when the broker is there.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// How long a node's first dead letter or answer waits for the connection to publish on. The one to consume is up then,
/// so the broker is there.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Everything unacknowledged, and what the session itself says: a slow reader never holds up the acknowledgements.
const BUFFER: usize = PREFETCH as usize + 16;

/// Reads from RabbitMQ. Clones share connections.
#[derive(Clone)]
pub struct RabbitFabric(Arc<Inner>);

struct Inner {
    config: BrokerConfig,
    server_account: String,
    tasks: Tasks,
    status: StatusCell,
    metrics: Arc<Metrics>,
    links: Mutex<Vec<Shared>>,
    publisher: Arc<Publisher>,
}

struct Shared {
    link: Link,
    /// One more than the subscriptions that use it.
    users: Arc<()>,
}

impl RabbitFabric {
    /// Connects with the first subscription. `server_account` is the account whose messages are events:
    /// [`topology::SERVER_ACCOUNT`] unless an installation says otherwise.
    pub fn new(config: BrokerConfig, server_account: impl Into<String>, tasks: &Tasks) -> Self {
        let metrics: Arc<Metrics> = Arc::default();
        let start = {
            let (config, tasks, metrics) = (config.clone(), tasks.clone(), Arc::clone(&metrics));
            // The status is the readers'.
            let purpose = Purpose { what: "publish", probe: false, replay: None };
            move || Link::start(config, purpose, &tasks, StatusCell::new(), metrics)
        };
        Self(Arc::new(Inner {
            config,
            server_account: server_account.into(),
            tasks: tasks.clone(),
            status: StatusCell::new(),
            metrics,
            links: Mutex::default(),
            publisher: Arc::new(Publisher::lazy(start, CONNECT_WITHIN)),
        }))
    }

    pub fn status(&self) -> FabricStatus {
        self.0.status.get()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The account that it logs in as.
    pub fn account(&self) -> &str {
        self.0.config.url.account()
    }

    /// The way to the API by the same broker, with the same account; over a connection of its own.
    pub fn api(&self) -> ApiLink {
        let Inner { config, tasks, metrics, .. } = &*self.0;
        ApiLink::start(config.clone(), tasks, Arc::clone(metrics))
    }

    /// A place in the line of those who could lead; `me` is unique among them.
    pub fn leader_queue(&self, name: &str, me: &str) -> LeaderQueue {
        let Inner { config, tasks, metrics, .. } = &*self.0;
        LeaderQueue::start(config.clone(), name, me, tasks, Arc::clone(metrics))
    }

    fn link(&self) -> (Link, Arc<()>) {
        let mut links = self.0.links.lock();
        let room =
            |shared: &&Shared| Arc::strong_count(&shared.users) <= SUBSCRIPTIONS_PER_CONNECTION;
        if let Some(shared) = links.iter().find(room) {
            return (shared.link.clone(), Arc::clone(&shared.users));
        }
        let purpose = Purpose { what: "consume", probe: true, replay: None };
        let Inner { config, tasks, status, metrics, .. } = &*self.0;
        let link = Link::start(config.clone(), purpose, tasks, status.clone(), Arc::clone(metrics));
        let users = Arc::new(());
        links.push(Shared { link: link.clone(), users: Arc::clone(&users) });
        (link, users)
    }
}

#[async_trait]
impl Fabric for RabbitFabric {
    async fn subscribe(&self, subscription: Subscription) -> Box<dyn Subscriber> {
        let (source, node) = match subscription {
            Subscription::Node(node) => {
                (Source::Node { queue: topology::node_queue(&node) }, Some(node))
            }
            Subscription::Controller { name, instance, resources } => {
                (Source::Controller { name, instance, resources }, None)
            }
        };
        let (link, users) = self.link();
        let server = self.0.server_account.clone();
        let metrics = Arc::clone(&self.0.metrics);
        let account = self.0.config.url.account();
        let dead_letters = node.is_some().then(|| DeadLetters {
            publisher: Arc::clone(&self.0.publisher),
            exchange: topology::REPLIES,
            key: topology::reply_key(account, topology::REFUSED),
            account: account.to_owned(),
        });
        start(&self.0.tasks, link, source, node, server, dead_letters, metrics, users).await
    }

    async fn reply(&self, to: &ReplyTo, status: &serde_json::Value) -> Result<(), BrokerError> {
        let account = self.0.config.url.account();
        let key = topology::reply_key(account, topology::ANSWER);
        let short = |text: &str| {
            ShortString::try_new(text).map_err(|error| BrokerError::Publish {
                exchange: topology::REPLIES.to_owned(),
                key: key.clone(),
                reason: error.to_string(),
            })
        };
        // An id of its own: two answers may say the same.
        let id = format!("{:032x}", rand::random::<u128>());
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_user_id(short(account)?)
            .with_message_id(id.as_str().into())
            .with_reply_to(short(&to.queue)?);
        if let Some(id) = &to.correlation_id {
            properties = properties.with_correlation_id(short(id)?);
        }
        let body = status.to_string();
        self.0.publisher.publish(topology::REPLIES, &key, body.as_bytes(), properties).await
    }
}

/// Spawns a session and waits a moment for its queue.
#[expect(clippy::too_many_arguments, reason = "passes a session's parts through")]
pub(crate) async fn start(
    tasks: &Tasks,
    link: Link,
    source: Source,
    node: Option<NodeName>,
    server_account: String,
    dead_letters: Option<DeadLetters>,
    metrics: Arc<Metrics>,
    users: Arc<()>,
) -> Box<dyn Subscriber> {
    let (out, deliveries) = mpsc::channel(BUFFER);
    // What is delivered and not settled, which is the prefetch; and lists, of which the reader makes one after another while
    // the session takes them in, with a connection or without. A handle that is dropped cannot wait for room.
    let told = mpsc::unbounded_channel();
    let tell = told.0.clone();
    let session =
        Session::new(link, source, node, server_account, out, told, dead_letters, metrics);
    let (ready, wait) = oneshot::channel();
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("broker subscription", async move {
        tokio::select! {
            () = Box::pin(session.run(ready)) => {}
            () = shutdown.aborting() => {}
        }
        drop(users);
    });
    let _ = tokio::time::timeout(READY_WITHIN, wait).await;
    Box::new(RabbitSubscriber { deliveries, tell, connection: 0, up: false })
}

struct RabbitSubscriber {
    deliveries: mpsc::Receiver<Delivery>,
    tell: mpsc::UnboundedSender<Tell>,
    /// The last that the reader was told of: heads from before it say nothing of what was lost with the one before.
    connection: u64,
    up: bool,
}

#[async_trait]
impl Subscriber for RabbitSubscriber {
    async fn next(&mut self) -> Delivery {
        match self.deliveries.recv().await {
            Some(delivery) => {
                match &delivery {
                    Delivery::Reconnected { connection } => {
                        (self.connection, self.up) = (*connection, true);
                    }
                    Delivery::Relist { .. } => self.up = true,
                    Delivery::Down { .. } => self.up = false,
                    Delivery::Event(..) | Delivery::Present(..) | Delivery::Command { .. } => {}
                }
                delivery
            }
            // The process shuts down.
            None => std::future::pending().await,
        }
    }

    fn listed(&mut self, streams: &[Stream], at: Revision) {
        let _ = self.tell.send(Tell::Listed { streams: streams.to_vec(), at });
    }

    fn wants_heads(&self) -> bool {
        self.up
    }

    fn heads(&mut self, heads: Option<Heads>) {
        let _ = self.tell.send(Tell::Heads { connection: self.connection, heads });
    }
}
