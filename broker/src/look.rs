//! What the broker says of its queues, asked when somebody wants to know: an idle cluster asks nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::time::Instant;
use warren_api::NodeName;

use crate::connection::Live;
use crate::error::BrokerError;
use crate::server::ServerLink;
use crate::topology;

/// For all queues together. One takes well under a millisecond, so it does for some thousands; who was left out comes first
/// the next time.
const WITHIN: Duration = Duration::from_secs(1);

/// A queue, as the broker counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// Those that wait; not those in a reader's hands.
    pub messages: u32,
    pub consumers: u32,
}

/// What was found within a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Depths {
    /// `None` where the queue is not there.
    pub nodes: BTreeMap<NodeName, Option<QueueDepth>>,
    /// Nodes for which the time was too short.
    pub left_out: usize,
    pub dead_letters: Option<QueueDepth>,
    /// By the leader's queue's name, as given.
    pub leaders: BTreeMap<String, Option<QueueDepth>>,
}

/// Reopens the channel where a queue that is missing has closed it.
struct Look<'a> {
    live: &'a Live,
    channel: Channel,
}

impl Look<'_> {
    async fn at(&mut self, queue: &str) -> Result<Option<QueueDepth>, BrokerError> {
        let depth = look_at(self.live, &self.channel, queue).await?;
        if depth.is_none() {
            self.channel = self.live.channel().await?;
        }
        Ok(depth)
    }
}

/// `None` where there is no such queue; the broker has closed the channel then.
async fn look_at(
    live: &Live,
    channel: &Channel,
    queue: &str,
) -> Result<Option<QueueDepth>, BrokerError> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let declare = channel.queue_declare(queue.into(), passive, FieldTable::default());
    match live.call("look at the queue", queue, declare).await {
        Ok(queue) => {
            let (messages, consumers) = (queue.message_count(), queue.consumer_count());
            Ok(Some(QueueDepth { messages, consumers }))
        }
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Of one queue; `None` where there is none of this name.
pub(crate) async fn depth(live: &Live, queue: &str) -> Result<Option<QueueDepth>, BrokerError> {
    let channel = live.channel().await?;
    let depth = look_at(live, &channel, queue).await?;
    if depth.is_some() {
        let _ = channel.close(200, "".into()).await;
    }
    Ok(depth)
}

impl ServerLink {
    /// Looks at the queues of all nodes, at the dead letters and at the leaders' queues of these names. Over the connection
    /// that reads, since a broker that is short of memory does not listen to the one that publishes.
    pub async fn depths(&self, leaders: &[String]) -> Result<Depths, BrokerError> {
        let live = self.0.consume.now()?;
        let deadline = Instant::now() + WITHIN;
        let look = async {
            let channel = live.channel().await?;
            let mut look = Look { live: &live, channel };
            let mut depths =
                Depths { dead_letters: look.at(topology::DEAD).await?, ..Depths::default() };
            for name in leaders {
                let found = look.at(&topology::leader_queue(name)).await?;
                depths.leaders.insert(name.clone(), found);
            }
            let nodes: Vec<NodeName> = self.0.nodes.lock().iter().cloned().collect();
            let first = self.0.looked.load(Ordering::Relaxed) % nodes.len().max(1);
            let (before, after) = nodes.split_at(first);
            for (n, node) in after.iter().chain(before).enumerate() {
                if Instant::now() >= deadline {
                    depths.left_out = nodes.len() - n;
                    break;
                }
                let found = look.at(&topology::node_queue(node)).await?;
                depths.nodes.insert(node.clone(), found);
            }
            self.0.looked.store(first + depths.nodes.len(), Ordering::Relaxed);
            let close = look.channel.close(200, "".into());
            let _ = live.call("close a channel", "", close).await;
            Ok(depths)
        };
        // A broker that hangs is found out by others; nobody waits here for that.
        match tokio::time::timeout(WITHIN * 2, look).await {
            Ok(depths) => depths,
            Err(_) => {
                let seconds = (WITHIN * 2).as_secs();
                Err(BrokerError::Timeout { operation: "look at the queues", seconds })
            }
        }
    }
}
