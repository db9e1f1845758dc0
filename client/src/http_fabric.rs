//! The fabric's contract over plain HTTP watch, for processes without a broker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use serde::Deserialize;
use smallvec::smallvec;
use warren_api::{GroupResource, Kind, Object, ObjectKey, Registry, Revision, Shard, Uid};
use warren_broker::{
    Ack, Delivery, Event, EventType, Fabric, Stream as EventStream, Subscriber, Subscription,
};

use crate::raw::{self, Collection, Line, RawError, chain};

/// Waits between attempts to watch: from the first to the last, doubled each time, with jitter.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A watch that lasted this long was a good one; the next failure starts with a short wait again.
const GOOD: Duration = Duration::from_secs(10);

/// One HTTP watch per resource, as a [`Fabric`]. Outages are mended inside and resumed where they began; a history that
/// is gone becomes a [`Delivery::Relist`]. There is no acknowledgement and no epoch (events say 0).
///
/// A [`Subscription::Node`] gets its own pods and Node and all Services and EndpointSlices; ConfigMaps and Secrets that
/// its pods refer to cannot be selected by a watch, their reader must ask for them.
#[derive(Clone)]
pub struct HttpFabric {
    client: kube::Client,
    /// The API cannot be reached, and that was told: once, and not by each watch.
    away: Arc<AtomicBool>,
    /// These watches stand in for a broker that is away.
    stands_in: bool,
}

impl HttpFabric {
    pub fn new(client: kube::Client) -> Self {
        Self { client, away: Arc::default(), stands_in: false }
    }

    /// The same, which tells the server that it stands in for a broker.
    pub(crate) fn standing_in(self) -> Self {
        Self { stands_in: true, ..self }
    }

    pub(crate) fn watch(&self, subscription: &Subscription) -> HttpSubscriber {
        let watches = match subscription {
            Subscription::Controller { resources, .. } => {
                resources.iter().filter_map(|r| target(r, Shard::None, String::new())).collect()
            }
            Subscription::Node(node) => {
                let own = Shard::Node(node.clone());
                let select =
                    |field: &str| format!("fieldSelector={field}%3D{}", raw::encode(&node.0));
                let core = |plural: &str| GroupResource::new("", plural);
                let slices = GroupResource::new("discovery.k8s.io", "endpointslices");
                [
                    target(&core("pods"), own.clone(), select("spec.nodeName")),
                    target(&core("nodes"), own, select("metadata.name")),
                    target(&core("services"), Shard::All, String::new()),
                    target(&slices, Shard::All, String::new()),
                ]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
            }
        };
        let reader = self.stands_in.then(|| reader(subscription));
        let begin =
            |of| deliveries(self.client.clone(), of, reader.clone(), Arc::clone(&self.away));
        HttpSubscriber { streams: watches.into_iter().map(begin).collect() }
    }
}

#[async_trait]
impl Fabric for HttpFabric {
    async fn subscribe(&self, subscription: Subscription) -> Box<dyn Subscriber> {
        Box::new(self.watch(&subscription))
    }
}

/// What a reader is called that stands in.
fn reader(subscription: &Subscription) -> String {
    match subscription {
        Subscription::Node(node) => node.0.to_string(),
        Subscription::Controller { name, instance, .. } => format!("{name}.{instance}"),
    }
}

pub(crate) struct HttpSubscriber {
    streams: SelectAll<BoxStream<'static, Delivery>>,
}

#[async_trait]
impl Subscriber for HttpSubscriber {
    async fn next(&mut self) -> Delivery {
        match self.streams.next().await {
            Some(delivery) => delivery,
            // The streams never end; there is none where nothing was subscribed to.
            None => std::future::pending().await,
        }
    }
}

struct Target {
    kind: &'static dyn Kind,
    stream: EventStream,
    collection: Collection,
}

/// `None` for a resource that nobody serves.
fn target(resource: &GroupResource, shard: Shard, query: String) -> Option<Target> {
    let Some(kind) = Registry::builtin().by_group_resource(resource) else {
        tracing::error!(%resource, "an unknown resource cannot be watched");
        return None;
    };
    let collection = Collection::of(kind.group(), kind.version(), kind.plural());
    Some(Target {
        kind,
        stream: EventStream { resource: resource.clone(), shard },
        collection: Collection { query, ..collection },
    })
}

struct NoAck;

#[async_trait]
impl Ack for NoAck {
    async fn ack(self: Box<Self>) {}
}

type Lines = BoxStream<'static, Result<Bytes, RawError>>;

struct Watch {
    client: kube::Client,
    of: Target,
    /// Who reads, where the watch stands in for a broker.
    reader: Option<String>,
    /// Everything up to here was delivered; `None` where the reader must list.
    at: Option<Revision>,
    lines: Option<Lines>,
    since: std::time::Instant,
    wait: Duration,
    ready: VecDeque<Delivery>,
    reason: &'static str,
    away: Arc<AtomicBool>,
}

fn deliveries(
    client: kube::Client,
    of: Target,
    reader: Option<String>,
    away: Arc<AtomicBool>,
) -> BoxStream<'static, Delivery> {
    let watch = Watch {
        client,
        of,
        reader,
        at: None,
        lines: None,
        since: std::time::Instant::now(),
        wait: RETRY.0,
        ready: VecDeque::new(),
        reason: "the subscription begins",
        away,
    };
    futures::stream::unfold(watch, |mut watch| async move {
        loop {
            if let Some(delivery) = watch.ready.pop_front() {
                return Some((delivery, watch));
            }
            if let Err(error) = watch.step().await {
                watch.failed(&error).await;
            }
        }
    })
    .boxed()
}

impl Watch {
    async fn step(&mut self) -> Result<(), RawError> {
        let Some(at) = self.at else {
            // Watched from a revision that the reader's list cannot be older than: nothing falls between.
            let head = raw::head(&self.client, &self.of.collection).await?;
            self.lines = Some(self.watch(head).await?);
            self.opened();
            self.at = Some(head);
            self.ready.push_back(Delivery::Relist {
                streams: vec![self.of.stream.clone()],
                at_least: head,
                reason: self.reason,
            });
            return Ok(());
        };
        let Some(lines) = &mut self.lines else {
            self.lines = Some(self.watch(at).await?);
            self.opened();
            return Ok(());
        };
        match lines.next().await {
            Some(line) => self.line(&line?),
            None => {
                // The server ends watches after a while; the next one goes on where this one was.
                self.lines = None;
                if self.since.elapsed() < GOOD {
                    tokio::time::sleep(self.next_wait()).await;
                }
                Ok(())
            }
        }
    }

    async fn watch(&mut self, after: Revision) -> Result<Lines, RawError> {
        let reader = self.reader.as_deref();
        Ok(raw::watch(&self.client, &self.of.collection, after, reader).await?.boxed())
    }

    fn opened(&mut self) {
        self.since = std::time::Instant::now();
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the API answers again");
        }
    }

    fn line(&mut self, line: &Bytes) -> Result<(), RawError> {
        #[derive(Deserialize)]
        struct Status {
            #[serde(default)]
            code: u16,
            #[serde(default)]
            message: String,
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let Line { kind, object } = serde_json::from_slice(line)?;
        let event_type = match kind.as_str() {
            "ADDED" => EventType::Added,
            "MODIFIED" => EventType::Modified,
            "DELETED" => EventType::Deleted,
            "BOOKMARK" => {
                let bookmark: Object = serde_json::from_str(object.get())?;
                self.at = bookmark.resource_version().max(self.at);
                return Ok(());
            }
            _ => {
                let status: Status = serde_json::from_str(object.get())?;
                return Err(match status.code {
                    410 => RawError::Expired,
                    _ => RawError::Watch(status.message),
                });
            }
        };
        let parsed: Object = serde_json::from_str(object.get())?;
        let revision = parsed.resource_version().ok_or(RawError::NoRevision)?;
        let resource = self.of.stream.resource.clone();
        self.ready.push_back(Delivery::Event(
            Event {
                epoch: 0,
                revision,
                uid: parsed.uid().unwrap_or_else(|| Uid("".into())),
                key: ObjectKey::new(resource, parsed.namespace(), parsed.name()),
                event_type,
                shards: smallvec![(self.of.kind.shard(&parsed), Revision(0))],
                object: Bytes::copy_from_slice(object.get().as_bytes()),
                brings: Vec::new(),
            },
            Box::new(NoAck),
        ));
        self.at = Some(revision);
        Ok(())
    }

    async fn failed(&mut self, error: &RawError) {
        if self.since.elapsed() > GOOD {
            self.wait = RETRY.0;
        }
        self.lines = None;
        let gone = match error {
            RawError::Expired => true,
            RawError::Request(kube::Error::Api(status)) => status.code == 410,
            _ => false,
        };
        if gone {
            self.at = None;
            self.reason = "the history before this watch is gone";
        }
        let (resource, first) = (&self.of.stream.resource, self.wait == RETRY.0);
        let unreachable =
            matches!(error, RawError::Request(error) if !matches!(error, kube::Error::Api(_)));
        let error = chain(error);
        if unreachable && !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(error, "the API cannot be reached; trying until it answers");
        } else if first && !unreachable {
            tracing::warn!(%resource, error, "a watch failed; trying until it works");
        } else {
            tracing::debug!(%resource, error, "a watch failed again");
        }
        tokio::time::sleep(self.next_wait()).await;
    }

    fn next_wait(&mut self) -> Duration {
        let wait = self.wait.mul_f64(rand::random_range(0.5..1.0));
        self.wait = (self.wait * 2).min(RETRY.1);
        wait
    }
}
