//! Readers of queues, each in a thread of its own, so that what reads does not wait for what writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};

use super::{DRAINS_WITHIN, PREFIX};
use crate::pod;

/// Pods of one run have numbers below it.
pub(super) const MAX_EVENTS: usize = 1 << 20;
/// After the management page answers, on a busy machine.
const CONNECTS_WITHIN: Duration = Duration::from_secs(90);

#[derive(Clone)]
pub(super) enum From {
    /// A queue of its own, bound to every change of pods.
    Everything { exchange: &'static str },
    /// The queues of nodes.
    Nodes(Vec<String>),
}

/// A consumer without acknowledgements; ends with [`Reading::end`].
pub(super) struct Reading {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Reading {
    /// `note` is told each delivery, in the reader's thread.
    pub(super) async fn start(
        url: String,
        from: From,
        mut note: impl FnMut(&Delivery) + Send + 'static,
    ) -> Result<Self> {
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let connection = connect(&url).await?;
                let channel = connection.create_channel().await?;
                let mut deliveries = consume(&channel, &from).await?;
                let _ = ready.send(());
                while !stopped.load(Ordering::Relaxed) {
                    let look = Duration::from_millis(100);
                    let Ok(next) = tokio::time::timeout(look, deliveries.next()).await else {
                        continue;
                    };
                    note(&next.context("the consumer ended")??);
                }
                connection.close(200, "".into()).await?;
                Ok(())
            })
        });
        let reading = Self { stop, thread };
        match is_ready.await {
            Ok(()) => Ok(reading),
            Err(_) => Err(reading.end().err().unwrap_or_else(|| anyhow!("no consumer"))),
        }
    }

    pub(super) fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the consumer's thread panicked"))?
    }
}

/// What arrived when. Times are nanoseconds since `base`, 0 for not yet.
pub(super) struct Arrivals {
    base: Instant,
    pub(super) at: Vec<AtomicU64>,
    pub(super) count: AtomicUsize,
}

impl Arrivals {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            at: (0..MAX_EVENTS).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicUsize::new(0),
        })
    }

    pub(super) fn now(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    fn arrived(&self, body: &[u8]) {
        let now = self.now();
        if let Some(at) = pod::number_in(body, PREFIX).and_then(|n| self.at.get(n)) {
            // The first delivery counts.
            if at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.count.fetch_add(1, Ordering::Release);
            }
        }
    }

    pub(super) async fn wait(&self, count: usize) -> Result<()> {
        let started = Instant::now();
        while self.count.load(Ordering::Acquire) < count {
            let there = self.count.load(Ordering::Acquire);
            ensure!(started.elapsed() < DRAINS_WITHIN, "{there} of {count} events arrived");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// A reader that notes when each pod's event came.
pub(super) struct Consumer {
    pub(super) arrivals: Arc<Arrivals>,
    reading: Reading,
}

impl Consumer {
    pub(super) async fn start(url: String, from: From) -> Result<Self> {
        let arrivals = Arrivals::new();
        let shared = Arc::clone(&arrivals);
        let reading =
            Reading::start(url, from, move |delivery| shared.arrived(&delivery.data)).await?;
        Ok(Self { arrivals, reading })
    }

    pub(super) fn end(self) -> Result<()> {
        self.reading.end()
    }
}

async fn consume(
    channel: &Channel,
    from: &From,
) -> Result<futures::stream::SelectAll<lapin::Consumer>> {
    let queues = match from {
        From::Nodes(queues) => queues.clone(),
        From::Everything { exchange } => {
            let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
            let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
            let name = queue.name().clone();
            let (exchange, options) = ((*exchange).into(), QueueBindOptions::default());
            let none = FieldTable::default();
            let key = "core.pods.#".into();
            channel.queue_bind(name.clone(), exchange, key, options, none).await?;
            vec![name.to_string()]
        }
    };
    let mut all = futures::stream::SelectAll::new();
    for queue in queues {
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let none = FieldTable::default();
        all.push(channel.basic_consume(queue.as_str().into(), "".into(), options, none).await?);
    }
    Ok(all)
}

/// RabbitMQ opens its port for AMQP after the one of its management page.
pub(super) async fn connect(url: &str) -> Result<Connection> {
    let started = Instant::now();
    loop {
        match Connection::connect(url, ConnectionProperties::default()).await {
            Ok(connection) => return Ok(connection),
            Err(error) if started.elapsed() > CONNECTS_WITHIN => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
