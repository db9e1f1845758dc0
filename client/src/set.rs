//! All informers of a process, on one subscription.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use futures::{FutureExt, StreamExt};
use kube::core::ApiResource;
use warren_api::{GroupResource, Kind, Registry, Revision, Shard};
use warren_broker::heads::Asked;
use warren_broker::{
    Delivery, Event, EventType, Heads, Stream, Subscriber, Subscription, leaves_hops,
};
use warren_process::trace::{Step, Trace};
use warren_process::{Shutdown, Tasks};

use crate::informer::{Cached, Informer, Sink};
use crate::raw::{self, Collection, RawError, chain};
use crate::{Connection, MetaObject};

/// Waits between attempts to list: from the first to the last, doubled each time, with jitter.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Lists after an outage are spread over this time, so that the processes of a cluster do not list all at once.
const RELIST_JITTER: Duration = Duration::from_millis(500);
/// Lists that are read at the same time.
const LISTS: usize = 4;
/// How often the server is asked where the streams stand: with the 2 s that it takes to be sure, a loss that no event shows
/// lasts 13 s at most.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How often a list that is older than the relist asked for is read again before it is taken as it is.
const STALE_LISTS: u32 = 10;

struct Entry {
    collection: Collection,
    /// Events of this resource come without a body.
    metadata_only: bool,
    sinks: Vec<Arc<dyn Sink>>,
}

/// Declares what a process wants to know, and feeds it from one subscription. Declare everything, then [`run`](Self::run).
pub struct InformerSet {
    connection: Connection,
    name: String,
    instance: String,
    entries: BTreeMap<GroupResource, Entry>,
    trace: Option<Trace>,
}

impl InformerSet {
    /// `name` says what the process is (`controllers`), `instance` tells it from others that run now.
    pub fn new(
        connection: Connection,
        name: impl Into<String>,
        instance: impl Into<String>,
    ) -> Self {
        let (name, instance) = (name.into(), instance.into());
        Self { connection, name, instance, entries: BTreeMap::new(), trace: None }
    }

    /// Remembers there which events came, and when they were used.
    pub fn traced(&mut self, trace: Trace) {
        self.trace = Some(trace);
    }

    /// A cache of all objects of a type.
    pub fn informer<K>(&mut self) -> Informer<K>
    where
        K: Cached + kube::Resource<DynamicType = ()>,
    {
        self.add((), K::group(&()).as_ref(), K::version(&()).as_ref(), K::plural(&()).as_ref())
    }

    /// A cache of the metadata of all objects of a kind.
    pub fn metadata(&mut self, kind: &dyn Kind) -> Informer<MetaObject> {
        let resource = ApiResource {
            group: kind.group().to_owned(),
            version: kind.version().to_owned(),
            api_version: kind.api_version(),
            kind: kind.kind().to_owned(),
            plural: kind.plural().to_owned(),
        };
        self.add(resource, kind.group(), kind.version(), kind.plural())
    }

    fn add<K: Cached>(
        &mut self,
        resource: K::DynamicType,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Informer<K> {
        let (informer, sink) = Informer::new(resource);
        let key = GroupResource::new(group, plural);
        let metadata_only = Registry::builtin()
            .by_group_resource(&key)
            .is_some_and(|kind| kind.publishes_metadata_only());
        self.entries
            .entry(key)
            .or_insert_with(|| Entry {
                collection: Collection::of(group, version, plural),
                metadata_only,
                sinks: Vec::new(),
            })
            .sinks
            .push(sink);
        informer
    }

    /// Feeds the informers until shutdown.
    pub fn run(self, tasks: &Tasks) {
        let shutdown = tasks.shutdown().clone();
        tasks.spawn_critical("informers", async move {
            tokio::select! {
                () = shutdown.draining() => {}
                () = self.feed(&shutdown) => {}
            }
            Ok::<_, Infallible>(())
        });
    }

    async fn feed(&self, shutdown: &Shutdown) {
        let mut subscriber = self
            .connection
            .fabric
            .subscribe(Subscription::Controller {
                name: self.name.clone(),
                instance: self.instance.clone(),
                resources: self.entries.keys().cloned().collect(),
            })
            .await;
        let asked = Asked::Resources(self.entries.keys().cloned().collect());
        let mut asking = self.ask(&asked, ASK_EVERY);
        let mut listed_once = false;
        while !shutdown.is_draining() {
            let wanted = subscriber.wants_heads();
            let delivery = tokio::select! {
                delivery = subscriber.next() => delivery,
                heads = &mut asking, if wanted => {
                    subscriber.heads(heads);
                    asking = self.ask(&asked, ASK_EVERY.mul_f64(rand::random_range(0.8..1.0)));
                    continue;
                }
            };
            match delivery {
                Delivery::Event(event, ack) => {
                    self.hop(Step::Delivered, &event);
                    self.event(&event).await;
                    // Held in memory only: this process lists at its start.
                    ack.ack().await;
                    self.hop(Step::Acknowledged, &event);
                }
                Delivery::Relist { streams, at_least, reason } => {
                    if listed_once {
                        tracing::debug!(reason, streams = streams.len(), "listing again");
                        tokio::time::sleep(RELIST_JITTER.mul_f64(rand::random())).await;
                    }
                    self.relist(&mut *subscriber, streams, at_least).await;
                    listed_once = true;
                }
                Delivery::Reconnected { .. } => {
                    // What was asked before says nothing of what this connection missed.
                    asking = self.ask(&asked, RELIST_JITTER.mul_f64(rand::random()));
                }
                Delivery::Down { reason, .. } => {
                    tracing::warn!(%reason, "no events come by the fabric")
                }
                Delivery::Present(_, ack) => {
                    tracing::warn!(
                        "what a node needs came to a controllers' queue, where none belongs"
                    );
                    ack.ack().await;
                }
                Delivery::Command { ack, .. } => {
                    tracing::warn!("a command came to a controllers' queue, where none belongs");
                    ack.ack().await;
                }
            }
        }
    }

    fn hop(&self, step: Step, event: &Event) {
        if let Some(trace) = self.trace.as_ref().filter(|_| leaves_hops(&event.key)) {
            trace.push(step, event.about(), "");
        }
    }

    /// Where the streams stand, after a while; asked until there is an answer. `None` where the server does not know.
    fn ask<'a>(&'a self, asked: &'a Asked, after: Duration) -> BoxFuture<'a, Option<Heads>> {
        async move {
            tokio::time::sleep(after).await;
            let (mut wait, longest) = RETRY;
            loop {
                match raw::heads(&self.connection.client, asked).await {
                    Ok(heads) => return heads,
                    Err(error) => {
                        tracing::debug!(
                            error = chain(&error),
                            "nobody says where the streams stand"
                        );
                    }
                }
                tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
                wait = (wait * 2).min(longest);
            }
        }
        .boxed()
    }

    /// Lists the resources of these streams (all where empty), and tells what was listed.
    async fn relist(
        &self,
        subscriber: &mut dyn Subscriber,
        streams: Vec<Stream>,
        at_least: Revision,
    ) {
        let all = streams.is_empty();
        let mut resources: Vec<_> = streams.into_iter().map(|stream| stream.resource).collect();
        if all {
            resources.extend(self.entries.keys().cloned());
        }
        resources.sort();
        resources.dedup();
        let lists = resources.into_iter().map(|resource| async move {
            let at = self.list(&resource, at_least).await?;
            Some((Stream { resource, shard: Shard::Every }, at))
        });
        let listed: Vec<_> =
            futures::stream::iter(lists).buffer_unordered(LISTS).filter_map(ready).collect().await;
        if all && let Some(oldest) = listed.iter().map(|(_, at)| *at).min() {
            subscriber.listed(&[], oldest);
        }
        for (stream, at) in &listed {
            subscriber.listed(std::slice::from_ref(stream), *at);
        }
    }

    /// Lists until it succeeds; answers the list's revision.
    async fn list(&self, resource: &GroupResource, at_least: Revision) -> Option<Revision> {
        let entry = self.entries.get(resource)?;
        let (mut wait, longest) = RETRY;
        let mut stale = 0;
        loop {
            match raw::list(&self.connection.client, &entry.collection).await {
                Ok(list) if list.revision < at_least && stale < STALE_LISTS => stale += 1,
                Ok(list) => {
                    for sink in &entry.sinks {
                        sink.replace(list.revision, &list.items);
                    }
                    return Some(list.revision);
                }
                Err(error) => {
                    let error = chain(&error);
                    if wait == RETRY.0 {
                        tracing::warn!(%resource, error, "a list failed; trying until it works");
                    } else {
                        tracing::debug!(%resource, error, "a list failed again");
                    }
                }
            }
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
            wait = (wait * 2).min(longest);
        }
    }

    async fn event(&self, event: &Event) {
        let Some(entry) = self.entries.get(&event.key.resource) else { return };
        for sink in &entry.sinks {
            if event.event_type == EventType::Deleted {
                sink.delete(event.revision, &event.key.namespace, &event.key.name);
                continue;
            }
            if sink.is_old(event.revision) {
                continue;
            }
            let applied = if entry.metadata_only && sink.wants_body() {
                self.fetch(entry, event, &**sink).await
            } else {
                sink.upsert(event.revision, &event.object).map_err(RawError::from)
            };
            if let Err(error) = applied {
                let error = chain(&error);
                tracing::warn!(key = %event.key, error, "an event could not be used; listing");
                self.list(&event.key.resource, Revision(0)).await;
            }
        }
    }

    /// The body of an object whose event carried none. What is gone by now has its own event.
    async fn fetch(&self, entry: &Entry, event: &Event, sink: &dyn Sink) -> Result<(), RawError> {
        let path = object_path(&entry.collection.path, &event.key.namespace, &event.key.name);
        if let Some(text) = raw::get(&self.connection.client, &path).await? {
            sink.upsert(event.revision, text.as_bytes())?;
        }
        Ok(())
    }
}

/// `/api/v1/pods` → `/api/v1/namespaces/default/pods/web`
fn object_path(collection: &str, namespace: &str, name: &str) -> String {
    match collection.rsplit_once('/') {
        Some((base, plural)) if !namespace.is_empty() => {
            format!("{base}/namespaces/{namespace}/{plural}/{name}")
        }
        _ => format!("{collection}/{name}"),
    }
}
