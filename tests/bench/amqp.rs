//! With RabbitMQ: what the relay carries, how far behind it is, and what bare lapin does beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use warren_tests::RabbitMq;

use crate::Scale;
use crate::api::{CONNECTIONS, IN_FLIGHT};
use crate::figure::{Figure, Sample, median};
use crate::load::Client;
use crate::pod;
use crate::server::Server;

const EVENTS: &str = "warren.events";
/// Pods of one run have numbers below it.
const MAX_EVENTS: usize = 1 << 20;
const PREFIX: &str = "q-";
const CONNECTS_WITHIN: Duration = Duration::from_secs(30);
const DRAINS_WITHIN: Duration = Duration::from_secs(120);
/// The backlog is flat where, at the end of the trial, no more waits than is written in this time.
const FLAT_SECONDS: f64 = 0.15;
/// Unconfirmed messages of the bare publisher; the relay's window is of this kind.
const WINDOW: usize = 1024;

/// What arrived when. Times are nanoseconds since `base`, 0 for not yet.
struct Arrivals {
    base: Instant,
    at: Vec<AtomicU64>,
    count: AtomicUsize,
    stop: AtomicBool,
}

impl Arrivals {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            at: (0..MAX_EVENTS).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        })
    }

    fn now(&self) -> u64 {
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

    async fn wait(&self, count: usize) -> Result<()> {
        let started = Instant::now();
        while self.count.load(Ordering::Acquire) < count {
            let there = self.count.load(Ordering::Acquire);
            ensure!(started.elapsed() < DRAINS_WITHIN, "{there} of {count} events arrived");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// A consumer in a thread of its own, which ends with it.
struct Consumer {
    arrivals: Arc<Arrivals>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

#[derive(Clone)]
enum From {
    /// A queue of its own, bound to every change of pods.
    Everything { exchange: &'static str },
    /// The queues of nodes.
    Nodes(Vec<String>),
}

impl Consumer {
    async fn start(url: String, from: From) -> Result<Self> {
        let arrivals = Arrivals::new();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(&arrivals);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let connection = connect(&url).await?;
                let channel = connection.create_channel().await?;
                let mut deliveries = consume(&channel, &from).await?;
                let _ = ready.send(());
                while !shared.stop.load(Ordering::Relaxed) {
                    let look = Duration::from_millis(100);
                    let Ok(next) = tokio::time::timeout(look, deliveries.next()).await else {
                        continue;
                    };
                    let delivery = next.context("the consumer ended")??;
                    shared.arrived(&delivery.data);
                }
                Ok(())
            })
        });
        let consumer = Self { arrivals, thread: Some(thread) };
        match is_ready.await {
            Ok(()) => Ok(consumer),
            Err(_) => Err(consumer.end().err().unwrap_or_else(|| anyhow::anyhow!("no consumer"))),
        }
    }

    fn end(mut self) -> Result<()> {
        self.arrivals.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow::anyhow!("the consumer's thread panicked"))?
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
async fn connect(url: &str) -> Result<Connection> {
    let started = Instant::now();
    loop {
        match Connection::connect(url, ConnectionProperties::default()).await {
            Ok(connection) => return Ok(connection),
            Err(error) if started.elapsed() > CONNECTS_WITHIN => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// A server on a broker, and a consumer.
struct World {
    server: Server,
    client: Client,
    consumer: Consumer,
    written: usize,
    nodes: usize,
}

impl World {
    async fn start(rabbit: &RabbitMq, nodes: usize) -> Result<Self> {
        let server = Server::start(&["apiserver", "--broker", &rabbit.amqp_url("server")]).await?;
        let client = server.client(CONNECTIONS).await?;
        let names: Vec<_> = (0..nodes).map(|n| format!("node-{n}")).collect();
        for name in &names {
            client.ok(client.post("/api/v1/nodes", pod::node(name))).await?;
        }
        relayed(&client).await?;
        let from = match nodes {
            0 => From::Everything { exchange: EVENTS },
            _ => {
                let queues: Vec<_> = names.iter().map(|name| format!("node.{name}")).collect();
                declared(rabbit, &queues).await?;
                From::Nodes(queues)
            }
        };
        let consumer = Consumer::start(rabbit.amqp_url("server"), from).await?;
        let mut world = Self { server, client, consumer, written: 0, nodes };
        world.write(500, None).await?;
        world.drained().await?;
        Ok(world)
    }

    /// Creates pods at a rate, or as fast as it goes; answers with when each was sent.
    async fn write(&mut self, count: usize, rate: Option<f64>) -> Result<(Sample, Vec<u64>)> {
        let (first, nodes) = (self.written, self.nodes);
        ensure!(first + count < MAX_EVENTS, "too many events for one run");
        let requests = (first..first + count)
            .map(|n| {
                let node = (nodes > 0).then(|| format!("node-{}", n % nodes));
                let body = pod::pod(&pod::name(PREFIX, n), node.as_deref());
                self.client.post("/api/v1/namespaces/default/pods", body)
            })
            .collect();
        self.written += count;
        let sent: Vec<_> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let arrivals = &self.consumer.arrivals;
        let note = |n: usize| sent[n].store(arrivals.now(), Ordering::Relaxed);
        let rate = rate.unwrap_or(f64::INFINITY);
        let sample = self.client.paced(requests, IN_FLIGHT, rate, note).await?;
        Ok((sample, sent.into_iter().map(AtomicU64::into_inner).collect()))
    }

    /// Until the last event is at the consumer; how long that took.
    async fn drained(&self) -> Result<Duration> {
        let started = Instant::now();
        self.consumer.arrivals.wait(self.written).await?;
        Ok(started.elapsed())
    }

    /// Of the last `sent` events: from the sending of the write to the delivery.
    fn latencies(&self, sent: &[u64]) -> Vec<Duration> {
        let first = self.written - sent.len();
        sent.iter()
            .zip(&self.consumer.arrivals.at[first..])
            .map(|(sent, at)| at.load(Ordering::Relaxed).saturating_sub(*sent))
            .map(Duration::from_nanos)
            .collect()
    }

    /// Changes that are committed and not confirmed by the broker.
    async fn backlog(&self) -> Result<f64> {
        let revision = self.client.metric("warren_revision").await?;
        Ok((revision - self.client.metric("warren_relay_cursor").await?).max(0.0))
    }

    /// The highest rate at which neither the relay nor the broker falls behind, within a tenth.
    async fn steady(&mut self, scale: &Scale, burst: f64) -> Result<(f64, Vec<Duration>)> {
        let (mut low, mut high) = (0.0, burst);
        let mut best = Vec::new();
        for _ in 0..scale.trials {
            let rate = f64::midpoint(low, high);
            let count = (rate * scale.trial_seconds) as usize;
            let (sample, sent) = self.write(count, Some(rate)).await?;
            let behind = self.backlog().await?;
            let undelivered = self.written - self.consumer.arrivals.count.load(Ordering::Acquire);
            self.drained().await?;
            let bound = rate * FLAT_SECONDS;
            let flat = behind <= bound && undelivered as f64 <= bound;
            if flat && sample.rate() >= 0.97 * rate {
                low = rate;
                best = self.latencies(&sent);
            } else {
                high = rate;
            }
        }
        Ok((low, best))
    }

    async fn end(mut self) -> Result<()> {
        self.consumer.end()?;
        drop(self.client);
        self.server.stop().await
    }
}

/// Until the relay has caught up with what the server made at its start.
async fn relayed(client: &Client) -> Result<()> {
    let started = Instant::now();
    while client.metric("warren_relay_cursor").await? < client.metric("warren_revision").await? {
        ensure!(started.elapsed() < DRAINS_WITHIN, "the relay publishes nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn declared(rabbit: &RabbitMq, queues: &[String]) -> Result<()> {
    let connection = connect(&rabbit.amqp_url("server")).await?;
    for queue in queues {
        let started = Instant::now();
        loop {
            let channel = connection.create_channel().await?;
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            let none = FieldTable::default();
            if channel.queue_declare(queue.as_str().into(), options, none).await.is_ok() {
                channel.close(200, "".into()).await?;
                break;
            }
            ensure!(started.elapsed() < DRAINS_WITHIN, "{queue} is not declared");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    connection.close(200, "".into()).await?;
    Ok(())
}

pub async fn rows(scale: &Scale) -> Result<Vec<Figure>> {
    if !std::path::Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").exists() {
        let why = "no rabbitmq-server (Debian: rabbitmq-server)";
        return Ok(vec![Figure::skipped("rabbitmq", why)]);
    }
    let rabbit = RabbitMq::start().await?;
    let mut figures = Vec::new();
    if scale.wants("lapin") {
        figures.extend(lapin_alone(scale, &rabbit).await?);
    }
    if scale.wants("rabbitmq") {
        let mut world = World::start(&rabbit, 0).await?;
        let (written, sent) = world.write(scale.writes, Some(scale.per_second)).await?;
        world.drained().await?;
        let what = format!("write → AMQP consumer, {:.0} writes/s", scale.per_second);
        let note = format!("{:.0}/s written", written.rate());
        let times = world.latencies(&sent);
        figures.push(Figure::of_times("rabbitmq", what, times).note(note));

        let (mut bursts, mut notes) = (Vec::new(), Vec::new());
        for _ in 0..scale.runs {
            bursts.push(world.write(scale.burst, None).await?.0);
            let behind = world.backlog().await?;
            let drained = world.drained().await?.as_secs_f64();
            notes.push((behind, drained));
        }
        let behind = median(&notes.iter().map(|note| note.0).collect::<Vec<_>>());
        let drained = median(&notes.iter().map(|note| note.1).collect::<Vec<_>>());
        let what = format!("create, durable, RabbitMQ, burst of {}", scale.burst);
        let note = format!("then {behind:.0} not yet published, drained in {drained:.1} s");
        let burst = Figure::of_rates("rabbitmq", what, "1/s", &bursts).note(note);
        let rate = burst.value;
        figures.push(burst);

        let (rate, times) = world.steady(scale, rate).await?;
        let what = "create, durable, RabbitMQ, backlog flat";
        let note = "latency: write → consumer at that rate";
        figures.push(Figure::new("rabbitmq", what, rate, "1/s").latency(times).note(note));
        world.end().await?;
    }
    if scale.wants("nodes") {
        let mut world = World::start(&rabbit, scale.queues).await?;
        let (burst, _) = world.write(scale.burst, None).await?;
        world.drained().await?;
        let (rate, times) = world.steady(scale, burst.rate()).await?;
        let what =
            format!("deliveries to {} node queues, backlog flat, server writing", scale.queues);
        let note = format!("burst {:.0}/s; latency: write → consumer", burst.rate());
        figures.push(Figure::new("nodes", what, rate, "1/s").latency(times).note(note));
        world.end().await?;
    }
    if scale.wants("amqp-api") {
        figures.extend(crate::amqp_api::rows(scale, &rabbit).await?);
    }
    Ok(figures)
}

/// A publisher with confirms and a consumer, without Warren.
async fn lapin_alone(scale: &Scale, rabbit: &RabbitMq) -> Result<Vec<Figure>> {
    const EXCHANGE: &str = "bench.events";
    let url = rabbit.amqp_url("server");
    let connection = connect(&url).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let none = FieldTable::default();
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, options, none).await?;
    let consumer = Consumer::start(url, From::Everything { exchange: EXCHANGE }).await?;
    let arrivals = Arc::clone(&consumer.arrivals);
    let bodies = |from: usize, count: usize| -> Vec<_> {
        let body = |n| [&pod::pod(&pod::name(PREFIX, n), None)[..], &[b' '; 1500]].concat();
        (from..from + count).map(body).collect()
    };
    let publish = async |body: Vec<u8>| -> Result<()> {
        let (key, options) = ("core.pods.default.-.added".into(), BasicPublishOptions::default());
        let properties = BasicProperties::default().with_delivery_mode(2);
        channel.basic_publish(EXCHANGE.into(), key, options, &body, properties).await?.await?;
        Ok(())
    };

    let mut sent = Vec::new();
    let started = Instant::now();
    let mut waiting = FuturesUnordered::new();
    for (n, body) in bodies(0, scale.writes).into_iter().enumerate() {
        let due = started + Duration::from_secs_f64(n as f64 / scale.per_second);
        let due = tokio::time::sleep_until(due.into());
        tokio::pin!(due);
        loop {
            tokio::select! {
                () = &mut due => break,
                Some(done) = waiting.next() => done?,
            }
        }
        sent.push(arrivals.now());
        waiting.push(publish(body));
    }
    while let Some(done) = waiting.next().await {
        done?;
    }
    arrivals.wait(scale.writes).await?;
    let times = sent
        .iter()
        .zip(&arrivals.at)
        .map(|(sent, at)| Duration::from_nanos(at.load(Ordering::Relaxed).saturating_sub(*sent)));
    let what = format!("bare lapin, publish → consume, {:.0}/s", scale.per_second);
    let latency = Figure::of_times("lapin", what, times.collect());

    let bodies = bodies(scale.writes, scale.burst);
    let started = Instant::now();
    for body in bodies {
        while waiting.len() >= WINDOW {
            waiting.next().await.context("a confirm")??;
        }
        waiting.push(publish(body));
    }
    while let Some(done) = waiting.next().await {
        done?;
    }
    arrivals.wait(scale.writes + scale.burst).await?;
    let rate = scale.burst as f64 / started.elapsed().as_secs_f64();
    drop(waiting);
    connection.close(200, "".into()).await?;
    consumer.end()?;
    let what = "bare lapin, publish (confirmed) and consume, one queue";
    Ok(vec![latency, Figure::new("lapin", what, rate, "1/s")])
}
