//! The fabric's side of the journal: what a relay publishes; [`embedded`] has the same events for readers in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use smallvec::SmallVec;
use warren_api::{GroupResource, NodeName, ObjectKey, Revision, Shard};
use warren_broker::{Event, EventType, Outbox, Present};
use warren_store::{Change, Durability, HistoryError, Op};

use crate::api::Api;
use crate::commit::INTERNAL_GROUP;

mod backlog;
mod embedded;

pub(crate) use backlog::{Backlog, Waiting};
pub(crate) use embedded::{EmbeddedFabric, NodeStreams};

type Shards = SmallVec<[(Shard, Revision); 2]>;

/// What a pod brings to its node's queue, which has room for 10,000 messages and 32 MiB.
const MAX_BROUGHT: usize = 32;
const MAX_BROUGHT_BYTES: usize = 1 << 20;
/// Of events that a relay gets at once: as much as it has on its way.
const PAGE_BYTES: usize = 8 << 20;
/// After the disk could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// Heartbeats and the server's own records are not.
pub(crate) fn is_published(change: &Change) -> bool {
    change.durability != Durability::Deferred && is_published_resource(&change.key.resource)
}

pub(crate) fn is_published_resource(resource: &GroupResource) -> bool {
    &*resource.group != INTERNAL_GROUP
}

/// What of a change is published.
fn event_of(api: &Api, change: &Change) -> Option<Event> {
    if !is_published(change) {
        return None;
    }
    let kind = api.registry.by_group_resource(&change.key.resource)?;
    let object = match kind.publishes_metadata_only() {
        false => change.body.clone(),
        true => metadata_only(&change.body),
    };
    Some(Event {
        epoch: api.journal.epoch(),
        revision: change.revision,
        uid: change.uid.clone(),
        key: change.key.clone(),
        event_type: match change.op {
            Op::Added => EventType::Added,
            Op::Modified => EventType::Modified,
            Op::Deleted => EventType::Deleted,
        },
        shards: with_late_readers(
            change.streams.iter().map(|s| (s.shard.clone(), s.prev)).collect(),
            api.nodes_that_refer_to(&change.key),
        ),
        object,
        brings: Vec::new(),
    })
}

/// The present state of what a pod refers to and no other pod of its node does, so that its queue is all that the node needs.
/// Not of Secrets, whose contents are not for the broker, and no more than a node's queue should take for one pod: what
/// is lacking is asked for.
fn brings(api: &Api, change: &Change) -> Vec<Present> {
    let ObjectKey { resource, namespace, name } = &change.key;
    if *resource != api.pods() || change.op == Op::Deleted {
        return Vec::new();
    }
    let brought = api.cache.refs().brought(namespace, name, change.revision);
    let present = |reference: &Arc<str>| {
        let (resource, name) = reference.split_once('/')?;
        let resource = GroupResource::new("", resource);
        let whole = !api.registry.by_group_resource(&resource)?.publishes_metadata_only();
        let entry = api.cache.get(&resource, namespace, name).filter(|_| whole)?;
        Some(Present {
            revision: entry.revision(),
            uid: entry.change.uid.clone(),
            key: entry.change.key.clone(),
            object: entry.body().clone(),
        })
    };
    let mut bytes = 0;
    let fits = |present: &Present| {
        bytes += present.object.len();
        bytes <= MAX_BROUGHT_BYTES
    };
    brought.iter().filter_map(present).take_while(fits).take(MAX_BROUGHT).collect()
}

/// A pod that refers to the object may have come to a node while the change was on its way to the journal. Such a node gets it
/// as well, though it does not count in its stream's heads; after nothing, so that no reader misses what was before it.
fn with_late_readers(mut shards: Shards, nodes: Vec<Arc<str>>) -> Shards {
    for node in nodes {
        let shard = Shard::Node(NodeName(node));
        if shards.iter().all(|(known, _)| *known != shard) {
            // The stream of all shards stays the last.
            let last = shards.iter().position(|(known, _)| *known == Shard::Every);
            shards.insert(last.unwrap_or(shards.len()), (shard, Revision(0)));
        }
    }
    shards
}

/// Broker permissions are not RBAC: no contents, also not those that a client wrote into an annotation.
fn metadata_only(body: &[u8]) -> bytes::Bytes {
    let mut object: warren_api::Object = serde_json::from_slice(body).unwrap_or_default();
    object.retain(|key, _| matches!(key.as_str(), "kind" | "apiVersion" | "metadata"));
    object.remove_at(&[
        "metadata",
        "annotations",
        "kubectl.kubernetes.io/last-applied-configuration",
    ]);
    object.remove_at(&["metadata", "managedFields"]);
    crate::codec::bytes(&object.into())
}

/// The journal as a relay reads it.
pub(crate) struct JournalOutbox {
    api: Arc<Api>,
    /// Up to here nothing is left to publish: what followed the last event was of no interest to the broker.
    nothing_until: AtomicU64,
}

impl JournalOutbox {
    pub(crate) fn new(api: Arc<Api>) -> Self {
        Self { api, nothing_until: AtomicU64::new(0) }
    }

    /// (events, the last revision that was looked at), for at most one pod's more than `limit` messages.
    fn events<'a>(
        &self,
        changes: impl Iterator<Item = &'a Change>,
        limit: usize,
    ) -> (Vec<Event>, Option<Revision>) {
        let (mut events, mut last) = (Vec::new(), None);
        let (mut messages, mut bytes) = (0, 0);
        for change in changes {
            last = Some(change.revision);
            let Some(mut event) = event_of(&self.api, change) else { continue };
            event.brings = brings(&self.api, change);
            bytes += event.object.len();
            bytes += event.brings.iter().map(|present| present.object.len()).sum::<usize>();
            messages += 1 + event.brings.len();
            events.push(event);
            if messages >= limit || bytes >= PAGE_BYTES {
                break;
            }
        }
        (events, last)
    }

    async fn page(
        &self,
        after: Revision,
        limit: usize,
    ) -> Result<(Vec<Event>, Option<Revision>), Revision> {
        // What is recent is in memory; a backlog comes from the disk.
        if let Ok(changes) = self.api.cache.tail(after, limit) {
            return Ok(self.events(changes.iter().map(|change| &**change), limit));
        }
        let journal = self.api.journal.clone();
        let read = tokio::task::spawn_blocking(move || journal.history(after, None, limit)).await;
        match read {
            Ok(Ok(changes)) => {
                let (events, last) = self.events(changes.iter(), limit);
                // Heartbeats alone may have filled the tail: they are in no history.
                Ok((events, last.or_else(|| Some(self.api.cache.revision()))))
            }
            Ok(Err(HistoryError::Compacted { floor, .. })) => Err(floor),
            Ok(Err(error)) => {
                tracing::error!(%error, "the relay cannot read the journal");
                tokio::time::sleep(RETRY).await;
                Ok((Vec::new(), None))
            }
            Err(_) => Ok((Vec::new(), None)),
        }
    }
}

#[async_trait]
impl Outbox for JournalOutbox {
    fn epoch(&self) -> u64 {
        self.api.journal.epoch()
    }

    fn cursor(&self) -> Revision {
        self.api.journal.relay_cursor()
    }

    fn confirmed(&self, up_to: Revision) {
        self.api.journal.set_relay_cursor(up_to);
    }

    fn backlog(&self) -> Option<u64> {
        Some(self.api.waiting().events)
    }

    async fn read(&self, after: Revision, limit: usize) -> Result<Vec<Event>, Revision> {
        let mut at = after;
        loop {
            let (events, last) = self.page(at, limit).await?;
            match last {
                Some(last) if events.is_empty() && last > at => at = last,
                _ => {
                    if events.is_empty() {
                        self.nothing_until.fetch_max(at.0, Ordering::Relaxed);
                    }
                    return Ok(events);
                }
            }
        }
    }

    async fn wait(&self, after: Revision) {
        let seen = after.0.max(self.nothing_until.load(Ordering::Relaxed));
        let mut head = self.api.cache.subscribe();
        // The sender lives as long as the cache, which lives as long as this.
        let _ = head.wait_for(|revision| revision.0 > seen).await;
    }
}

/// Without a relay everything counts as published, or the journal would keep it for one.
pub(crate) async fn without_relay(api: Arc<Api>) {
    let mut head = api.cache.subscribe();
    loop {
        api.journal.set_relay_cursor(api.cache.revision());
        // Not with every batch.
        let next = async {
            let changed = head.changed().await;
            tokio::time::sleep(RETRY).await;
            changed
        };
        tokio::select! {
            changed = next => if changed.is_err() { return },
            () = api.shutdown.draining() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_came_late_gets_the_change_too() {
        let node = |name: &str| Shard::Node(NodeName(name.into()));
        let nodes = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<_>>();
        let at = Revision;
        let shards: Shards =
            [(Shard::None, at(7)), (node("a"), at(5)), (Shard::Every, at(9))].into_iter().collect();
        for (refer, expected) in [
            (&[][..], vec![(Shard::None, at(7)), (node("a"), at(5)), (Shard::Every, at(9))]),
            (&["a"], vec![(Shard::None, at(7)), (node("a"), at(5)), (Shard::Every, at(9))]),
            (
                &["a", "b"],
                vec![
                    (Shard::None, at(7)),
                    (node("a"), at(5)),
                    (node("b"), at(0)),
                    (Shard::Every, at(9)),
                ],
            ),
        ] {
            let all = with_late_readers(shards.clone(), nodes(refer));
            assert_eq!(all.to_vec(), expected, "{refer:?}");
        }
    }
}
