//! The leader's queue, over RabbitMQ: what [`crate::election`] says and hears. It knows nothing of terms.
//!
//! On a connection of its own: one that publishes is not read by a broker that is short of memory, and the informers'
//! acknowledgements must not wait for that.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};
use tokio::sync::{mpsc, watch};
use warren_process::Tasks;

use crate::connection::{BrokerConfig, Link, Live, Purpose};
use crate::election::Word;
use crate::error::BrokerError;
use crate::status::{Metrics, StatusCell, add};
use crate::topology::QueueType;
use crate::{declare, replace, topology};

/// What waits for either side; pings are repeated, so what is more is dropped.
const WAITING: usize = 64;
/// A word is two names of at most 253 bytes and a number.
const MAX_WORD: usize = 2 << 10;
/// Between two attempts on a connection that is well.
const RETRY: Duration = Duration::from_millis(250);

/// What the queue says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is consumed from now on.
    Joined,
    Parted,
    /// To the active consumer only.
    Ping(Word),
    Pong(Word),
}

enum Say {
    Ping(Word),
    Pong(String, Word),
    Rejoin,
}

/// A place in the line for `controllers.<name>.leader`. Dropped, it leaves.
pub struct LeaderQueue {
    name: String,
    heard: mpsc::Receiver<Heard>,
    say: mpsc::Sender<Say>,
}

impl LeaderQueue {
    pub(crate) fn start(
        config: BrokerConfig,
        name: &str,
        me: &str,
        tasks: &Tasks,
        metrics: Arc<Metrics>,
    ) -> Self {
        let queues = config.queues;
        let purpose = Purpose { what: "leader", probe: true, replay: None };
        let link = Link::start(config, purpose, tasks, StatusCell::new(), Arc::clone(&metrics));
        let (out, heard) = mpsc::channel(WAITING);
        let (say, said) = mpsc::channel(WAITING);
        let mut place = Place {
            link,
            name: name.to_owned(),
            me: me.to_owned(),
            queues,
            out,
            said,
            metrics,
            connections: (0, Weak::new()),
        };
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("leader queue", async move {
            tokio::select! {
                () = Box::pin(place.run()) => {}
                () = shutdown.aborting() => {}
            }
        });
        Self { name: name.to_owned(), heard, say }
    }

    /// Of `controllers.<name>.leader`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Cancellation safe. It never ends.
    pub async fn next(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            // The process shuts down.
            None => std::future::pending().await,
        }
    }

    /// To the active consumer. Lost while the broker is away, or does not keep up.
    pub fn ping(&self, word: Word) {
        let _ = self.say.try_send(Say::Ping(word));
    }

    /// To whoever sent a ping.
    pub fn pong(&self, to: String, word: Word) {
        let _ = self.say.try_send(Say::Pong(to, word));
    }

    /// To the end of the line.
    pub fn rejoin(&self) {
        let _ = self.say.try_send(Say::Rejoin);
    }
}

struct Place {
    link: Link,
    name: String,
    me: String,
    queues: QueueType,
    out: mpsc::Sender<Heard>,
    said: mpsc::Receiver<Say>,
    metrics: Arc<Metrics>,
    /// How many there were, and the last: an exclusive queue of one that the broker has not given up yet is taken.
    connections: (u64, Weak<Live>),
}

enum End {
    /// Nobody listens any more.
    Gone,
    Rejoin,
    Lost(String),
}

impl From<BrokerError> for End {
    fn from(error: BrokerError) -> Self {
        End::Lost(error.report())
    }
}

impl Place {
    async fn run(&mut self) {
        let out = self.out.clone();
        loop {
            let live = tokio::select! {
                live = self.link.live() => live,
                () = out.closed() => return,
            };
            let mut blocked = live.blocked();
            tokio::select! {
                () = until(&mut blocked, false) => {}
                () = live.ended() => continue,
                () = out.closed() => return,
            }
            let channel = match live.channel().await {
                Ok(channel) => channel,
                Err(_) => continue,
            };
            let end = self.consume(&live, &channel).await;
            if !live.is_ended() {
                // Whoever is next in the line is the active consumer now.
                let close = channel.close(200, "".into());
                let _ = tokio::time::timeout(RETRY, close).await;
            }
            let reason = match end {
                End::Gone => return,
                End::Rejoin => continue,
                End::Lost(reason) => reason,
            };
            tracing::debug!(reason, "out of the line for the leader's queue");
            if self.out.send(Heard::Parted).await.is_err() {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn consume(&mut self, live: &Arc<Live>, channel: &Channel) -> End {
        match self.consume_on(live, channel).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn consume_on(&mut self, live: &Arc<Live>, channel: &Channel) -> Result<End, End> {
        if !self.connections.1.ptr_eq(&Arc::downgrade(live)) {
            self.connections = (self.connections.0 + 1, Arc::downgrade(live));
        }
        let line = topology::leader(&self.name, self.queues);
        replace::declare_yielding(live, &line).await?;
        let own = topology::leader_replies(&self.name, &self.me, self.connections.0);
        declare::declare_on(live, channel, &own).await?;
        let replies = own.queues.first().map(|queue| queue.name.clone()).unwrap_or_default();
        let mut replies = consumer(live, channel, &replies).await?;
        let mut pings = consumer(live, channel, &topology::leader_queue(&self.name)).await?;
        let mut blocked = live.blocked();
        self.tell(Heard::Joined).await?;
        loop {
            let (delivery, is_ping) = tokio::select! {
                () = live.ended() => return Err(End::Lost(live.reason())),
                () = until(&mut blocked, true) => {
                    // What is published now is not read: nobody hears us.
                    return Err(End::Lost("the broker takes no publishes".to_owned()));
                }
                said = self.said.recv() => {
                    match said {
                        None => return Err(End::Gone),
                        Some(Say::Rejoin) => return Ok(End::Rejoin),
                        Some(Say::Ping(word)) => {
                            let key = topology::leader_queue(&self.name);
                            publish(live, channel, &key, &word).await?;
                        }
                        Some(Say::Pong(to, word)) => {
                            let key = topology::leader_reply_key(&self.name, &to);
                            publish(live, channel, &key, &word).await?;
                        }
                    }
                    continue;
                }
                delivery = replies.next() => (delivery, false),
                delivery = pings.next() => (delivery, true),
            };
            live.heard();
            let message = match delivery {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(End::Lost(error.to_string())),
                None => return Err(End::Lost("a queue was deleted".to_owned())),
            };
            let Some(word) = read(&message.data) else {
                add(&self.metrics.dropped, 1);
                continue;
            };
            self.tell(if is_ping { Heard::Ping(word) } else { Heard::Pong(word) }).await?;
        }
    }

    async fn tell(&self, heard: Heard) -> Result<(), End> {
        self.out.send(heard).await.map_err(|_| End::Gone)
    }
}

/// Waits until the broker takes publishes, or takes none. Cancellation safe.
async fn until(blocked: &mut watch::Receiver<Option<String>>, wanted: bool) {
    let waited = blocked.wait_for(|reason| reason.is_some() == wanted).await.is_ok();
    if !waited {
        // The connection has ended, which is noticed elsewhere.
        std::future::pending().await
    }
}

/// Nothing is acknowledged: a word that is lost is said again.
async fn consumer(live: &Live, channel: &Channel, queue: &str) -> Result<Consumer, BrokerError> {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consume = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    live.call("consume", queue, consume).await
}

async fn publish(
    live: &Live,
    channel: &Channel,
    key: &str,
    word: &Word,
) -> Result<(), BrokerError> {
    let Ok(body) = serde_json::to_vec(word) else { return Ok(()) };
    let Ok(key_name) = ShortString::try_new(key) else { return Ok(()) };
    let properties = BasicProperties::default().with_content_type("application/json".into());
    let options = BasicPublishOptions::default();
    let publish =
        channel.basic_publish(topology::LEADER.into(), key_name, options, &body, properties);
    live.call("publish to", topology::LEADER, async { publish.await.map(|_| ()) }).await
}

fn read(body: &[u8]) -> Option<Word> {
    (body.len() <= MAX_WORD).then(|| serde_json::from_slice(body).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_word_is_dropped() {
        let word = Word { from: "a".to_owned(), holder: None, term: 3 };
        assert_eq!(read(&serde_json::to_vec(&word).unwrap()), Some(word));
        assert_eq!(read(b"{}"), None);
        assert_eq!(read(b"[]"), None);
        let long = format!(r#"{{"from":"{}","holder":null,"term":1}}"#, "a".repeat(MAX_WORD));
        assert_eq!(read(long.as_bytes()), None);
    }
}
