//! A reader's task: consumes one queue over whatever connection is up, judges what comes, and settles what was read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use lapin::Channel;
use lapin::message::Delivery as Message;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::mpsc;
use warren_api::{Revision, Shard};
use warren_process::Seldom;

use self::settle::Held;
pub(crate) use self::settle::Tell;
use crate::connection::{Link, Live, State, TOLD_EVERY, backoff};
use crate::consume::watch::{LOOK_EVERY, Watch};
use crate::consume::{Dropped, Interest, Reader, Relist, Verdict, reason};
use crate::dedup::{Deduplicator, Fingerprint, Said, fingerprint};
use crate::envelope::{Incoming, decode, is_imitation};
use crate::error::BrokerError;
use crate::letter::{DeadLetters, Letter};
use crate::replace::Empties;
use crate::status::{Dead, Metrics, add, sub};
use crate::topology::{self, EVENTS, QueueType, Topology};
use crate::{Ack, Delivery, Heads, ReplyTo, Stream, declare, replace};

mod deliver;
mod settle;
mod watch;

/// Deliveries in a reader's hands. A reader that commits 256 at once to its disk every 10 ms takes 25,000/s.
pub const PREFETCH: u16 = 256;
/// What people send is a manifest; the API takes 3 MiB.
pub const MAX_COMMAND_BYTES: usize = 3 << 20;
/// Deliveries that were given back come again after this: a reader that cannot store them must not spin.
const RETURN_AFTER: Duration = Duration::from_millis(250);
/// Deliveries that came back, and how often; beyond the bound the counts start again.
const MAX_COUNTED: usize = 1_000;
/// A queue of our own is declared and bound anew so often: that somebody deleted its bindings, or the exchange, nobody tells.
/// Where the exchange is missing, all is listed when it is back; else the next event of a stream shows the gap.
const REBIND_EVERY: Duration = Duration::from_secs(10);
/// Relists for gaps come at most so often; events wait meanwhile.
const RELIST_PAUSE: Duration = Duration::from_millis(200);

/// Where a session reads from.
pub(crate) enum Source {
    /// Declared by the server; it is waited for where it is missing.
    Node {
        queue: String,
    },
    Controller {
        name: String,
        instance: String,
        resources: Vec<warren_api::GroupResource>,
    },
    /// `warren.commands`: everything is a command. Declared by the replay of the link that is given, and
    /// replaced by whoever reads it.
    Commands(Link, QueueType),
    /// `warren.replies`: what nodes answer, read as commands are. Declared likewise.
    Answers(Link, QueueType),
}

impl Source {
    /// Which shared queue it is, and who declares it.
    fn shared(&self) -> Option<(Link, &'static str, QueueType)> {
        match self {
            Source::Commands(link, queues) => Some((link.clone(), topology::COMMANDS, *queues)),
            Source::Answers(link, queues) => Some((link.clone(), topology::REPLIES, *queues)),
            Source::Node { .. } | Source::Controller { .. } => None,
        }
    }

    fn interest(&self, node: Option<warren_api::NodeName>) -> Option<Interest> {
        match (self, node) {
            (Source::Controller { resources, .. }, _) => {
                Some(Interest::Resources(resources.clone()))
            }
            (Source::Node { .. }, Some(node)) => Some(Interest::Node(node)),
            _ => None,
        }
    }
}

pub(crate) struct Session {
    link: Link,
    source: Source,
    server_account: String,
    reader: Option<Reader>,
    out: mpsc::Sender<Delivery>,
    tell: mpsc::UnboundedSender<Tell>,
    told: mpsc::UnboundedReceiver<Tell>,
    dead_letters: Option<DeadLetters>,
    metrics: Arc<Metrics>,
    generation: u64,
    held: BTreeMap<u64, Held>,
    returning: Vec<u64>,
    seen: Deduplicator,
    counts: HashMap<Fingerprint, u32>,
    last_relist: Option<Instant>,
    /// Connections of which the reader was told, and may answer with heads.
    connection: u64,
    /// What the watch's times are since.
    began: Instant,
    watch: Watch,
    /// Something was lost: the bindings may be.
    rebinds: bool,
    /// The queue that this reader declares itself, and over which connection: it is gone with that.
    own: Option<Topology>,
    owned_by: Weak<Live>,
    /// Anybody who may write to the queue could fill the log.
    log: Seldom,
    /// What of the gauge of deliveries in readers' hands is this one's.
    told_open: u64,
}

/// The gauge of what readers may have in their hands, as long as this one reads.
struct Reads(Arc<Metrics>);

impl Reads {
    fn new(metrics: &Arc<Metrics>) -> Self {
        add(&metrics.prefetch, PREFETCH.into());
        Self(Arc::clone(metrics))
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        sub(&self.0.prefetch, PREFETCH.into());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.forget_held();
    }
}

/// The reader is gone.
struct Gone;

pub(crate) enum End {
    Gone,
    Lost(String),
    /// What is read is not declared (yet).
    Missing(String),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        End::Gone
    }
}

impl From<BrokerError> for End {
    fn from(error: BrokerError) -> Self {
        match error.is_missing() {
            true => End::Missing(error.report()),
            false => End::Lost(error.report()),
        }
    }
}

impl From<lapin::Error> for End {
    fn from(error: lapin::Error) -> Self {
        End::Lost(error.to_string())
    }
}

impl Session {
    #[expect(clippy::too_many_arguments, reason = "a constructor of plain fields")]
    pub(crate) fn new(
        link: Link,
        source: Source,
        node: Option<warren_api::NodeName>,
        server_account: String,
        out: mpsc::Sender<Delivery>,
        told: (mpsc::UnboundedSender<Tell>, mpsc::UnboundedReceiver<Tell>),
        dead_letters: Option<DeadLetters>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reader = source.interest(node).map(Reader::new);
        Self {
            link,
            source,
            server_account,
            reader,
            out,
            tell: told.0,
            told: told.1,
            dead_letters,
            metrics,
            generation: 0,
            held: BTreeMap::new(),
            returning: Vec::new(),
            seen: Deduplicator::default(),
            counts: HashMap::new(),
            last_relist: None,
            connection: 0,
            began: Instant::now(),
            watch: Watch::new(false, Duration::ZERO),
            rebinds: false,
            own: None,
            log: Seldom::default(),
            told_open: 0,
            owned_by: Weak::new(),
        }
    }

    /// Ends when the subscriber is dropped. `ready` is dropped when the queue is consumed for the first time.
    pub(crate) async fn run(mut self, ready: tokio::sync::oneshot::Sender<()>) {
        let mut ready = Some(ready);
        let mut attempt = 0;
        let mut told_down = false;
        loop {
            let link = self.link.clone();
            let next = async {
                tokio::select! {
                    live = link.live() => Ok(live),
                    reason = down(&link), if !told_down => Err(reason),
                }
            };
            let live = match self.away(next).await {
                None => return,
                Some(Ok(live)) => live,
                Some(Err(reason)) => {
                    told_down = true;
                    if self
                        .out
                        .send(Delivery::Down { reason, silent: Duration::ZERO })
                        .await
                        .is_err()
                    {
                        return;
                    }
                    continue;
                }
            };
            self.generation += 1;
            if !self.owned_by.ptr_eq(&Arc::downgrade(&live)) {
                (self.own, self.owned_by) = (None, Arc::downgrade(&live));
            }
            let end = self.consume(&live, &mut ready, &mut attempt, &mut told_down).await;
            self.forget_held();
            let (reason, missing) = match end {
                End::Gone => return,
                End::Lost(reason) => (reason, false),
                End::Missing(reason) => (reason, true),
            };
            let reason = if live.is_ended() { live.reason() } else { reason };
            if !std::mem::replace(&mut told_down, true) {
                // Where the queue alone is gone, the broker has just said so.
                let silent = if live.is_ended() { live.silent() } else { Duration::ZERO };
                let down = Delivery::Down { reason: reason.clone(), silent };
                if self.out.send(down).await.is_err() {
                    return;
                }
            }
            if !live.is_ended() {
                // The connection is well, the queue is not: missing, deleted, taken, or not allowed.
                let wait = backoff(attempt, rand::random());
                let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                if missing && attempt == 0 {
                    // As a cluster starts, readers are there before the server.
                    tracing::info!(%reason, "waiting for the server to declare what is read here");
                } else if missing && attempt % TOLD_EVERY != 0 {
                    tracing::debug!(%reason, retry_ms, "no queue to read from");
                } else {
                    tracing::warn!(%reason, retry_ms, "no queue to read from");
                }
                attempt += 1;
                if self.away(tokio::time::sleep(wait)).await.is_none() {
                    return;
                }
            }
        }
    }

    /// Until then nothing is read, but the reader may list by another way, and says so each time. `None`: it is gone.
    async fn away<T>(&mut self, until: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(until);
        let out = self.out.clone();
        loop {
            tokio::select! {
                biased;
                value = &mut until => return Some(value),
                Some(tell) = self.told.recv() => self.told_away(tell),
                () = out.closed() => return None,
            }
        }
    }

    async fn consume(
        &mut self,
        live: &Live,
        ready: &mut Option<tokio::sync::oneshot::Sender<()>>,
        attempt: &mut u32,
        told_down: &mut bool,
    ) -> End {
        let channel = match live.channel().await {
            Ok(channel) => channel,
            Err(error) => return error.into(),
        };
        let result = self.consume_on(live, &channel, ready, attempt, told_down).await;
        if live.is_ended() {
            return result.err().unwrap_or(End::Gone);
        }
        // Unacknowledged deliveries go back to the queue with their channel.
        let _ =
            tokio::time::timeout(Duration::from_millis(200), channel.close(200, "".into())).await;
        match result {
            Ok(()) => End::Gone,
            Err(end) => end,
        }
    }

    async fn consume_on(
        &mut self,
        live: &Live,
        channel: &Channel,
        ready: &mut Option<tokio::sync::oneshot::Sender<()>>,
        attempt: &mut u32,
        told_down: &mut bool,
    ) -> Result<(), End> {
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        live.call("set the prefetch", "", qos).await?;
        if let Some((declared, queue, queues)) = self.source.shared() {
            wait_for(live, &declared, &self.out).await?;
            let (wanted, out) = (topology::shared(queues).only(queue), self.out.clone());
            tokio::select! {
                replaced = replace::replace(live, &wanted, queues, self) => replaced?,
                () = out.closed() => return Err(End::Gone),
            }
        }
        let queue = match &self.source {
            Source::Node { queue } => queue.clone(),
            Source::Commands(..) => topology::COMMANDS.to_owned(),
            Source::Answers(..) => topology::REPLIES.to_owned(),
            Source::Controller { name, instance, resources } => {
                // Nobody reads it any more, and it would fill until the connection ends.
                for queue in self.own.iter().flat_map(|own| &own.queues) {
                    declare::delete(live, &queue.name).await?;
                }
                // The queue of a connection that the broker has not yet given up would be taken still.
                let instance = match self.generation {
                    1 => instance.clone(),
                    n => format!("{instance}~{n}"),
                };
                let queue = topology::controller_queue(name, &instance);
                let topology = topology::controller(queue.clone(), resources);
                // Also where not all of it can be declared.
                let own = self.own.insert(topology);
                declare::declare_on(live, channel, own).await?;
                queue
            }
        };
        let consume = channel.basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut consumer = live.call("consume", &queue, consume).await?;
        let _reads = Reads::new(&self.metrics);
        *attempt = 0;
        self.watch = self.watched();
        self.rebinds = false;
        match &mut self.reader {
            None => {}
            Some(reader) if ready.is_some() => {
                let relist = reader.connected(reason::START);
                self.relist(relist).await?;
            }
            Some(reader) => match reader.reconnected() {
                Some(relist) => self.relist(relist).await?,
                None => {
                    self.connection += 1;
                    self.watch.ask();
                    self.send(Delivery::Reconnected { connection: self.connection }).await?;
                }
            },
        }
        *told_down = false;
        drop(ready.take());
        let mut give_back = tokio::time::interval(RETURN_AFTER);
        give_back.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut rebind = tokio::time::interval(REBIND_EVERY);
        rebind.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        rebind.reset();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let out = self.out.clone();
        loop {
            if std::mem::take(&mut self.rebinds) {
                rebind.reset_immediately();
            }
            tokio::select! {
                // What is read goes first, so that the broker can forget it.
                biased;
                () = live.ended() => return Err(End::Lost(live.reason())),
                Some(tell) = self.told.recv() => self.told(channel, &queue, tell).await?,
                _ = look.tick(), if self.watch.waits() => self.look_at_heads().await?,
                delivery = consumer.next() => match delivery {
                    Some(Ok(message)) => {
                        live.heard();
                        self.watch.came(self.began.elapsed());
                        self.delivered(channel, &queue, message).await?;
                    }
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(End::Lost(format!("the queue {queue:?} was deleted"))),
                },
                _ = give_back.tick(), if !self.returning.is_empty() => {
                    self.returned(channel).await?;
                }
                _ = rebind.tick(), if self.own.is_some() => if let Some(topology) = &self.own {
                    declare::declare_on(live, channel, topology).await?;
                },
                () = out.closed() => return Ok(()),
            }
        }
    }

    async fn relist(&mut self, relist: Relist) -> Result<(), Gone> {
        if let Some(last) = self.last_relist {
            tokio::time::sleep(RELIST_PAUSE.saturating_sub(last.elapsed())).await;
        }
        self.last_relist = Some(Instant::now());
        let Relist { streams, at_least, reason } = relist;
        self.metrics.relisted(reason);
        tracing::info!(reason, streams = streams.len(), %at_least, "relist");
        self.send(Delivery::Relist { streams, at_least, reason }).await
    }

    async fn send(&mut self, delivery: Delivery) -> Result<(), Gone> {
        self.out.send(delivery).await.map_err(|_| Gone)
    }
}

impl Empties for Session {
    type Error = End;

    async fn empty(&mut self, live: &Live, channel: &Channel, queue: &str) -> Result<(), End> {
        while let Some(message) = replace::get(live, channel, queue).await? {
            self.delivered(channel, queue, message).await?;
            while !self.held.is_empty() {
                tokio::select! {
                    () = live.ended() => return Err(End::Lost(live.reason())),
                    Some(tell) = self.told.recv() => self.told(channel, queue, tell).await?,
                    () = tokio::time::sleep(RETURN_AFTER), if !self.returning.is_empty() => {
                        self.returned(channel).await?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Until the side that declares what is read has done so on this broker.
async fn wait_for(live: &Live, declared: &Link, out: &mpsc::Sender<Delivery>) -> Result<(), End> {
    tokio::select! {
        _ = declared.live() => Ok(()),
        () = live.ended() => Err(End::Lost(live.reason())),
        () = out.closed() => Err(End::Gone),
    }
}

/// Why the link is down, as soon as an attempt has failed.
async fn down(link: &Link) -> String {
    let mut state = link.state();
    loop {
        if let State::Down(reason) = &*state.borrow_and_update() {
            return reason.to_string();
        }
        if state.changed().await.is_err() {
            return "shutting down".to_owned();
        }
    }
}

#[cfg(test)]
mod tests;
