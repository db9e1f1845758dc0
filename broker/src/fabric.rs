//! The contract between writers and readers of events.

use std::time::Duration;

use async_trait::async_trait;
use warren_api::{GroupResource, NodeName, Revision};

use crate::{BrokerError, Event, Heads, Present, Stream};

/// What a reader wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// A node's durable queue, which the server declared and bound: the node's own shards, the shard `all`, and what
    /// its pods refer to.
    Node(NodeName),
    /// A controller process: every event of these resources, all shards. `instance` is unique among the processes that
    /// run now; the queue goes with the process.
    Controller { name: String, instance: String, resources: Vec<GroupResource> },
}

/// Confirms a delivery. Dropped without [`Ack::ack`], the delivery comes again.
#[async_trait]
pub trait Ack: Send {
    /// Call it after the event is in the reader's own storage (or in memory, for readers that relist at start).
    async fn ack(self: Box<Self>);

    /// Nobody can use this one, now or later: it goes to `warren.dead` with the reason where the fabric has such a
    /// place, and never comes again.
    async fn reject(self: Box<Self>, reason: String) {
        tracing::warn!(%reason, "a delivery was refused");
        self.ack().await;
    }
}

/// Where a command's publisher waits for the Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub queue: String,
    pub correlation_id: Option<String>,
}

pub enum Delivery {
    Event(Event, Box<dyn Ack>),
    /// What the pod of an event that follows refers to, for nodes only, and where the fabric has queues; none may come.
    Present(Present, Box<dyn Ack>),
    /// Something on a node's queue that the server did not send: a person's or a program's command. `publisher` is the
    /// account that the broker vouched for, `None` where there is none.
    Command {
        body: bytes::Bytes,
        message_id: Option<String>,
        publisher: Option<String>,
        /// It has no id, and its content came before within ten minutes: whoever says what a name already says may say
        /// it again, but nothing is to be made twice.
        repeated: bool,
        /// As published: on `warren.commands` a node's name or `apply`; the queue's name where it was put on a queue
        /// by hand.
        routing_key: String,
        reply: Option<ReplyTo>,
        /// It is dressed as an event of the server's, and is none: a reader refuses it, whatever its body says.
        imitation: bool,
        ack: Box<dyn Ack>,
    },
    /// Events may be missing. List these streams (all of the subscription where empty), then go on; everything that is
    /// delivered after this is newer than `at_least`. The first delivery of a subscription is always a relist.
    Relist {
        streams: Vec<Stream>,
        at_least: Revision,
        reason: &'static str,
    },
    /// The fabric is there again after a [`Delivery::Down`], and remembers what the reader has seen. Ask the server for
    /// the heads and hand them to [`Subscriber::heads`]: what was lost is then listed, and nothing else.
    Reconnected {
        /// Which connection this is, counted.
        connection: u64,
    },
    /// The fabric is out of reach since now; events will follow a [`Delivery::Relist`] or a [`Delivery::Reconnected`].
    /// Readers may fall back to HTTP watch meanwhile.
    Down {
        reason: String,
        /// Nothing had come from the broker for so long.
        silent: Duration,
    },
}

#[async_trait]
pub trait Subscriber: Send {
    /// The next delivery. Cancellation safe. It never ends: outages are reported and mended inside.
    async fn next(&mut self) -> Delivery;

    /// The reader has listed these streams (all of the subscription where empty) as of a revision: what is older is
    /// dropped from now on, and a stream whose next event follows something newer than this is relisted. Not
    /// mandatory; without it, a loss between the listing and a stream's first event shows only by the heads.
    fn listed(&mut self, streams: &[Stream], at: Revision) {
        let _ = (streams, at);
    }

    /// Whether something can be lost here now that only the streams' heads show. Not within one process, not by HTTP watch,
    /// and not while there is no broker.
    fn wants_heads(&self) -> bool {
        false
    }

    /// What the server says of the streams' heads; `None` where it says nothing: after a [`Delivery::Reconnected`] all is
    /// listed then. Tell it every ten seconds or so while [`Subscriber::wants_heads`]: within 2 s of it a loss that no event
    /// shows becomes a [`Delivery::Relist`].
    fn heads(&mut self, heads: Option<Heads>) {
        let _ = heads;
    }
}

#[async_trait]
pub trait Fabric: Send + Sync {
    /// Events are buffered from the moment this answers; list after it, then read.
    async fn subscribe(&self, subscription: Subscription) -> Box<dyn Subscriber>;

    /// A node answers a command with a Status. It may write to nobody's queue itself, so the server hands the answer
    /// on. An error where it could not be sent, or where there are no commands; nothing is retried.
    async fn reply(&self, to: &ReplyTo, status: &serde_json::Value) -> Result<(), BrokerError> {
        let _ = status;
        Err(BrokerError::Disconnected(format!("no broker to answer {:?} by", to.queue)))
    }
}

/// Where the relay reads what it must publish: the server's journal. Implemented by the server.
#[async_trait]
pub trait Outbox: Send + Sync {
    fn epoch(&self) -> u64;
    /// Up to where everything is confirmed; persisted across restarts.
    fn cursor(&self) -> Revision;
    /// Moves the cursor; everything up to here is confirmed.
    fn confirmed(&self, up_to: Revision);
    /// Up to `limit` events after a revision, oldest first. `Err(floor)` where that history is gone: the relay then
    /// publishes the floor, so that readers who have seen less relist, and goes on from there.
    async fn read(&self, after: Revision, limit: usize) -> Result<Vec<Event>, Revision>;
    /// Waits until there is something after the revision. Cancellation safe.
    async fn wait(&self, after: Revision);
    /// How many events are not confirmed, for the status; `None` where nobody counts.
    fn backlog(&self) -> Option<u64> {
        None
    }
}
