//! With RabbitMQ: what the relay carries, how far behind it is, and what bare lapin does beside it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use warren_tests::RabbitMq;

use self::consumer::{Consumer, From, MAX_EVENTS, connect};
use crate::Scale;
use crate::api::{CONNECTIONS, IN_FLIGHT};
use crate::figure::{Figure, Sample, median};
use crate::load::Client;
use crate::pod;
use crate::server::Server;

mod backlog;
mod bare;
mod consumer;
mod ledger;
mod queues;

const EVENTS: &str = "warren.events";
const PREFIX: &str = "q-";
const DRAINS_WITHIN: Duration = Duration::from_secs(120);
/// The backlog is flat where, at the end of the trial, no more waits than is written in this time.
const FLAT_SECONDS: f64 = 0.15;
/// The goal of the row `nodes`.
const NODES_GOAL: f64 = 2500.0;

/// What a trial at a rate came to.
struct Trial {
    /// Written, a second.
    rate: f64,
    /// Events that were not published, and not delivered, when the last was written.
    behind: f64,
    undelivered: usize,
    flat: bool,
    latencies: Vec<Duration>,
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

    /// Writes at a rate for some time.
    async fn trial(&mut self, rate: f64, seconds: f64) -> Result<Trial> {
        let count = (rate * seconds) as usize;
        let (sample, sent) = self.write(count, Some(rate)).await?;
        let behind = behind(&self.client).await?;
        let undelivered = self.written - self.consumer.arrivals.count.load(Ordering::Acquire);
        self.drained().await?;
        let bound = rate * FLAT_SECONDS;
        let flat = behind <= bound && undelivered as f64 <= bound && sample.rate() >= 0.97 * rate;
        let (rate, latencies) = (sample.rate(), self.latencies(&sent));
        Ok(Trial { rate, behind, undelivered, flat, latencies })
    }

    /// The highest rate at which neither the relay nor the broker falls behind, within a tenth.
    async fn steady(&mut self, scale: &Scale, burst: f64) -> Result<(f64, Vec<Duration>)> {
        let (mut low, mut high) = (0.0, burst);
        let mut best = Vec::new();
        for _ in 0..scale.trials {
            let rate = f64::midpoint(low, high);
            let trial = self.trial(rate, scale.trial_seconds).await?;
            if trial.flat {
                (low, best) = (rate, trial.latencies);
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

/// Changes that are committed and not confirmed by the broker.
async fn behind(client: &Client) -> Result<f64> {
    let revision = client.metric("warren_revision").await?;
    Ok((revision - client.metric("warren_relay_cursor").await?).max(0.0))
}

/// The arguments of a node's queue (docs/events.md), of one type or the other.
fn node_queue(kind: &'static str) -> FieldTable {
    let mut arguments = FieldTable::default();
    let text = |text: &'static str| AMQPValue::LongString(text.into());
    arguments.insert("x-queue-type".into(), text(kind));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(10_000));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(32 << 20));
    arguments.insert("x-overflow".into(), text("drop-head"));
    arguments.insert("x-dead-letter-exchange".into(), text("warren.dead"));
    arguments
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
    let mut figures = Vec::new();
    if scale.wants("queues") {
        figures.extend(queues::rows(scale).await?);
    }
    if !scale.wants_any(&["lapin", "rabbitmq", "nodes", "backlog", "amqp-api"]) {
        return Ok(figures);
    }
    let rabbit = RabbitMq::start().await?;
    if scale.wants("lapin") {
        figures.extend(bare::rows(scale, &rabbit).await?);
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
            let behind = behind(&world.client).await?;
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
        let trial = world.trial(NODES_GOAL, scale.trial_seconds).await?;
        let what = format!("deliveries to {} node queues, asked {NODES_GOAL:.0}/s", scale.queues);
        let Trial { behind, undelivered, .. } = trial;
        let flat = if trial.flat { "flat" } else { "NOT flat: the goal is missed" };
        let note = format!("at the end {behind:.0} unpublished, {undelivered} undelivered: {flat}");
        let figure = Figure::new("nodes", what, trial.rate, "1/s").latency(trial.latencies);
        figures.push(figure.note(note));
        let (rate, times) = world.steady(scale, burst.rate()).await?;
        let what =
            format!("deliveries to {} node queues, backlog flat, server writing", scale.queues);
        let note = format!("burst {:.0}/s; latency: write → consumer", burst.rate());
        figures.push(Figure::new("nodes", what, rate, "1/s").latency(times).note(note));
        world.end().await?;
    }
    if scale.wants("backlog") {
        figures.extend(backlog::rows(scale, &rabbit).await?);
    }
    if scale.wants("amqp-api") {
        figures.extend(crate::amqp_api::rows(scale, &rabbit).await?);
    }
    Ok(figures)
}
