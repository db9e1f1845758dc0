//! Events for readers in the server's own process, without queues of a broker.
//!
//! A controller process reads the tail of the cache. Nodes are many, and almost nothing that changes is of interest to
//! one of them: each has a mailbox, into which a committed batch is sorted once. So a change costs what its readers
//! cost, however many nodes there are.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

use ahash::AHashMap;
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use warren_api::{GroupResource, NodeName, Revision, Shard};
use warren_broker::{Ack, Delivery, Event, Fabric, Subscriber, Subscription};
use warren_store::{Batch, Change, Durability};

use super::event_of;
use crate::api::Api;

/// Changes that a reader takes from the tail at a time.
const CHUNK: usize = 128;
/// Changes that wait for a node: 24 KB, their bodies are the cache's. Policy: what does not fit is thrown away with the
/// rest, and the node lists again.
const MAILBOX: usize = 1024;

pub struct EmbeddedFabric {
    api: Arc<Api>,
}

impl EmbeddedFabric {
    pub(crate) fn new(api: Arc<Api>) -> Self {
        Self { api }
    }
}

#[async_trait]
impl Fabric for EmbeddedFabric {
    async fn subscribe(&self, subscription: Subscription) -> Box<dyn Subscriber> {
        let api = Arc::clone(&self.api);
        match subscription {
            Subscription::Node(node) => {
                let mailbox = api.node_streams.open(&node);
                // Later than the opening, so that nothing falls between the two.
                let from = api.cache.revision();
                Box::new(NodeReader { api, mailbox, from, relist: Some("subscribed") })
            }
            Subscription::Controller { resources, .. } => Box::new(Tail {
                cursor: api.cache.revision(),
                head: api.cache.subscribe(),
                api,
                wanted: resources.into_iter().collect(),
                ready: Vec::new(),
                relist: Some("subscribed"),
            }),
        }
    }
}

/// What waits for the nodes that read in this process.
#[derive(Debug, Default)]
pub(crate) struct NodeStreams {
    /// Several readers of one node are possible while one takes over from another.
    readers: RwLock<AHashMap<Arc<str>, Vec<Weak<Mailbox>>>>,
}

impl NodeStreams {
    fn open(&self, node: &NodeName) -> Arc<Mailbox> {
        let mailbox = Arc::new(Mailbox::default());
        let mut readers = self.readers.write();
        let of_node = readers.entry(Arc::clone(&node.0)).or_default();
        of_node.retain(|reader| reader.strong_count() > 0);
        of_node.push(Arc::downgrade(&mailbox));
        mailbox
    }

    /// Sorts a batch that the cache already has. Runs on the writer thread.
    pub(crate) fn deliver(&self, batch: &Batch) {
        let readers = self.readers.read();
        if readers.is_empty() {
            return;
        }
        let put = |of_node: &Vec<Weak<Mailbox>>, change: &Arc<Change>| {
            of_node.iter().filter_map(Weak::upgrade).for_each(|mailbox| mailbox.put(change));
        };
        for change in batch {
            if change.durability == Durability::Deferred {
                continue;
            }
            let shards = || change.streams.iter().map(|stream| &stream.shard);
            if shards().any(|shard| matches!(shard, Shard::All)) {
                readers.values().for_each(|of_node| put(of_node, change));
                continue;
            }
            for shard in shards() {
                if let Shard::Node(node) = shard
                    && let Some(of_node) = readers.get(&node.0)
                {
                    put(of_node, change);
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Mailbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Arc<Change>>,
    overflowed: bool,
}

impl Mailbox {
    fn put(&self, change: &Arc<Change>) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.overflowed {
                return;
            }
            if waiting.changes.len() == MAILBOX {
                *waiting = Waiting { changes: VecDeque::new(), overflowed: true };
            } else {
                waiting.changes.push_back(Arc::clone(change));
            }
        }
        self.filled.notify_one();
    }
}

struct NodeReader {
    api: Arc<Api>,
    mailbox: Arc<Mailbox>,
    /// What is not newer was in the list, or will be.
    from: Revision,
    relist: Option<&'static str>,
}

impl NodeReader {
    /// The next change, `None` where nothing waits, or that changes were thrown away.
    fn take(&self) -> Result<Option<Arc<Change>>, Overflowed> {
        let mut waiting = self.mailbox.waiting.lock();
        match std::mem::take(&mut waiting.overflowed) {
            true => Err(Overflowed),
            false => Ok(waiting.changes.pop_front()),
        }
    }
}

struct Overflowed;

#[async_trait]
impl Subscriber for NodeReader {
    async fn next(&mut self) -> Delivery {
        loop {
            if let Some(reason) = self.relist.take() {
                return Delivery::Relist { streams: Vec::new(), at_least: self.from, reason };
            }
            match self.take() {
                Err(Overflowed) => {
                    self.from = self.api.cache.revision();
                    self.relist = Some("fell behind");
                }
                Ok(None) => self.mailbox.filled.notified().await,
                Ok(Some(change)) if change.revision > self.from => {
                    if let Some(event) = event_of(&self.api, &change) {
                        return delivery(event);
                    }
                }
                Ok(Some(_)) => {}
            }
        }
    }
}

struct Tail {
    api: Arc<Api>,
    head: tokio::sync::watch::Receiver<Revision>,
    wanted: BTreeSet<GroupResource>,
    /// Everything up to here has been looked at.
    cursor: Revision,
    /// What is to be delivered, newest first.
    ready: Vec<Arc<Change>>,
    relist: Option<&'static str>,
}

#[async_trait]
impl Subscriber for Tail {
    async fn next(&mut self) -> Delivery {
        loop {
            if let Some(reason) = self.relist.take() {
                return Delivery::Relist { streams: Vec::new(), at_least: self.cursor, reason };
            }
            if let Some(change) = self.ready.pop() {
                if let Some(event) = event_of(&self.api, &change) {
                    return delivery(event);
                }
                continue;
            }
            match self.api.cache.tail(self.cursor, CHUNK) {
                Err(_) => {
                    self.cursor = self.api.cache.revision();
                    self.relist = Some("fell behind");
                }
                Ok(changes) if changes.is_empty() => {
                    // The sender lives as long as the cache.
                    let _ = self.head.changed().await;
                }
                Ok(changes) => {
                    if let Some(last) = changes.last() {
                        self.cursor = last.revision;
                    }
                    let wanted = |change: &Arc<Change>| self.wanted.contains(&change.key.resource);
                    self.ready = changes.into_iter().filter(wanted).collect();
                    self.ready.reverse();
                }
            }
        }
    }
}

fn delivery(event: Event) -> Delivery {
    Delivery::Event(event, Box::new(NoAck))
}

/// Nothing is redelivered within a process.
struct NoAck;

#[async_trait]
impl Ack for NoAck {
    async fn ack(self: Box<Self>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, shards: &[Shard], durability: Durability) -> Arc<Change> {
        let streams = shards
            .iter()
            .map(|shard| warren_store::StreamPosition { shard: shard.clone(), prev: Revision(0) });
        Arc::new(Change {
            revision: Revision(revision),
            prev: Revision(0),
            key: warren_api::ObjectKey::new(GroupResource::new("", "pods"), "default", "p"),
            uid: warren_api::Uid("u".into()),
            op: warren_store::Op::Added,
            durability,
            streams: streams.collect(),
            time_ms: 0,
            body: bytes::Bytes::new(),
        })
    }

    fn revisions(mailbox: &Mailbox) -> Vec<u64> {
        mailbox.waiting.lock().changes.iter().map(|change| change.revision.0).collect()
    }

    #[test]
    fn a_node_gets_its_own_shard_and_what_all_nodes_need() {
        let streams = NodeStreams::default();
        let [a, b] = ["a", "b"].map(|name| NodeName(name.into()));
        let [of_a, of_b] = [&a, &b].map(|node| streams.open(node));
        let gone = streams.open(&a);
        drop(gone);
        let durable = Durability::Durable;
        streams.deliver(&[
            change(1, &[Shard::Node(a.clone())], durable),
            change(2, &[Shard::Node(b.clone()), Shard::Node(a.clone())], durable),
            change(3, &[Shard::All], durable),
            change(4, &[Shard::None], durable),
            change(5, &[Shard::Unscheduled], durable),
            change(6, &[Shard::Node(a)], Durability::Deferred),
            change(7, &[Shard::Node(NodeName("c".into()))], durable),
        ]);
        assert_eq!(revisions(&of_a), [1, 2, 3]);
        assert_eq!(revisions(&of_b), [2, 3]);
    }

    #[test]
    fn a_mailbox_is_bounded() {
        let mailbox = Mailbox::default();
        for revision in 0..MAILBOX as u64 {
            mailbox.put(&change(revision, &[], Durability::Durable));
        }
        assert_eq!(revisions(&mailbox).len(), MAILBOX);
        mailbox.put(&change(MAILBOX as u64, &[], Durability::Durable));
        assert!(mailbox.waiting.lock().overflowed);
        mailbox.put(&change(MAILBOX as u64 + 1, &[], Durability::Durable));
        assert_eq!(revisions(&mailbox), [0_u64; 0], "what follows is in the list that follows");
    }
}
