//! What waits while somebody is away: the journal while the server has no broker, a node's queue while its agent is down.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{FutureExt, StreamExt};
use http::Method;
use lapin::BasicProperties;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use warren_tests::RabbitMq;

use super::bare::{EXCHANGE, Message, Publisher};
use super::consumer::{From, Reading, connect};
use super::ledger::{Ledger, Position, Span};
use super::{DRAINS_WITHIN, EVENTS, PREFIX, behind, declared, node_queue, relayed};
use crate::Scale;
use crate::api::{CONNECTIONS, IN_FLIGHT, creates};
use crate::figure::{Figure, Sample};
use crate::load::Client;
use crate::pod;
use crate::process::Sampler;
use crate::server::{Server, target_dir};

const ROW: &str = "backlog";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// They are changed in turn, so that a backlog is many events and not many objects.
const PODS_CHANGED: usize = 500;
/// Events before memory is measured first: more than what the server keeps of recent changes (8,192), which is not the
/// backlog's.
const WARM: usize = 9_000;
/// Requests that are made at once, so that the load generator stays small.
const CHUNK: usize = 10_000;
const CONFIRMED: &str = "warren_fabric_confirmed_total";
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of the objects in backlogs of several sizes: so small that the largest stays below the outbox's bound, 512 MiB.
const SMALL: &str = "small-";
/// Of fewer than these the draining is too short to be watched.
const SMALLEST: usize = 10_000;
/// Memory is flat where its peak with the largest backlog is below this many times the peak with the smallest.
const FLAT: f64 = 1.1;
/// A node's queue's bound, as docs/events.md has it.
const NODE_QUEUE_MESSAGES: usize = 10_000;
/// As agents read.
const PREFETCH: u16 = 256;
const NODE: &str = "away";

pub(super) async fn rows(scale: &Scale, rabbit: &RabbitMq) -> Result<Vec<Figure>> {
    let away = broker_away(rabbit, PREFIX, scale.backlog).await?;
    let (bare, beside) = bare(scale, rabbit, &away.example).await?;
    let mut figures = away.figures(bare);
    figures.extend(beside);
    let mut peaks = Vec::new();
    for count in [scale.backlog / 10, scale.backlog, 3 * scale.backlog] {
        if count < SMALLEST {
            continue;
        }
        peaks.push(broker_away(rabbit, SMALL, count).await?);
    }
    figures.extend(memory(&peaks));
    figures.extend(agent_away(scale, rabbit, &away.example).await?);
    Ok(figures)
}

/// Of one backlog that was drained.
struct Away {
    count: usize,
    written: Sample,
    /// From when the broker could be reached again until something was confirmed.
    back: Duration,
    /// Confirmed, and received, a second.
    published: f64,
    received: f64,
    repeated: usize,
    /// The server's, in MB: before there was a backlog, with all of it, and the highest while it was drained.
    before: f64,
    height: f64,
    highest: f64,
    /// One of the events.
    example: Message,
}

impl Away {
    fn figures(&self, bare: f64) -> Vec<Figure> {
        let Self { count, published, repeated, .. } = self;
        let back = self.back.as_secs_f64();
        let (what, share) =
            (format!("backlog of {count}: published and confirmed"), published / bare);
        let note = format!(
            "in order, {repeated} came twice; first {back:.1} s after; {share:.2} of bare lapin's"
        );
        let first = Figure::new(ROW, what, *published, "1/s").note(note);
        let what = format!("backlog of {count}: received by one consumer");
        let received = Figure::new(ROW, what, self.received, "1/s");
        let what = "writes while the broker is away";
        let writes = Figure::of_rates(ROW, what, "1/s", std::slice::from_ref(&self.written));
        vec![first, received, writes, self.memory()]
    }

    fn memory(&self) -> Figure {
        let Self { count, before, height, highest, .. } = self;
        let bytes = self.example.body.len();
        let what = format!("server, highest while {count} events of {bytes} B were drained");
        let note = format!("before the backlog {before:.0}, with all of it {height:.0}");
        Figure::new(ROW, what, *highest, "MB PSS")
            .note(note)
            .also("before_mb", *before)
            .also("height_mb", *height)
    }
}

/// Backlogs in growing order.
fn memory(all: &[Away]) -> Vec<Figure> {
    let mut figures: Vec<Figure> = all.iter().map(Away::memory).collect();
    if let ([first, .., last], Some(figure)) = (all, figures.last_mut()) {
        let (times, more) = (last.count / first.count, last.highest / first.highest - 1.0);
        let flat = if more < FLAT - 1.0 { "flat" } else { "NOT flat: the goal is missed" };
        let verdict =
            format!("; {times} times the backlog, {:+.0} % at the peak: {flat}", 100.0 * more);
        figure.note.push_str(&verdict);
    }
    figures
}

/// What the reader's thread shares.
struct Seen {
    ledger: Ledger,
    /// Of the backlog.
    span: Span,
    /// One of the backlog's events, which bare lapin sends as well.
    example: Option<Message>,
}

/// `prefix` tells which pods are changed.
async fn broker_away(rabbit: &RabbitMq, prefix: &str, count: usize) -> Result<Away> {
    let server = Server::start(&["apiserver", "--broker", &rabbit.amqp_url("server")]).await?;
    let client = server.client(CONNECTIONS).await?;
    relayed(&client).await?;
    let numbers = WARM + count;
    let seen = Arc::new(Mutex::new(Seen {
        ledger: Ledger::new(numbers),
        span: Span::default(),
        example: None,
    }));
    let shared = Arc::clone(&seen);
    // Under another account than the server's, which is cut off.
    let from = From::Everything { exchange: EVENTS };
    let reading = Reading::start(rabbit.amqp_url("admin"), from, move |delivery| {
        let (now, number) = (Instant::now(), pod::number_of(&delivery.data));
        let Some(at) = Position::of(&delivery.properties) else { return };
        let Ok(mut seen) = shared.lock() else { return };
        seen.ledger.note(at, number);
        if number.is_some_and(|number| number >= WARM) {
            seen.span.note(now);
            seen.example.get_or_insert_with(|| Message {
                exchange: EXCHANGE,
                key: delivery.routing_key.to_string(),
                body: delivery.data.clone().into(),
                properties: delivery.properties.clone(),
            });
        }
    })
    .await?;
    let distinct = || seen.lock().map_or(0, |seen| seen.ledger.distinct);

    let creates = match prefix {
        SMALL => (0..PODS_CHANGED)
            .map(|n| client.post(PODS, pod::small(&pod::name(prefix, n), "example/small")))
            .collect(),
        _ => creates(&client, prefix, PODS_CHANGED, |_| None),
    };
    client.closed_loop(creates, IN_FLIGHT).await?;
    change(&client, prefix, 0, WARM).await?;
    until("the events before the backlog arrive", async || Ok(distinct() >= WARM)).await?;
    let before = server.memory()?.1;

    cut(rabbit, &client).await?;
    let cursor = client.metric("warren_relay_cursor").await?;
    let confirmed = client.metric(CONFIRMED).await?;
    let written = change(&client, prefix, WARM, count).await?;
    let height = server.memory()?.1;
    let waiting = behind(&client).await?;
    ensure!(waiting >= count as f64, "only {waiting} events wait: the broker was not away");
    let floor = client.metric("warren_journal_floor").await?;
    ensure!(floor <= cursor, "the journal's bound does not hold {waiting} events");
    ensure!(distinct() == WARM, "events arrive without a broker");

    let sampler = Sampler::start(server.pid()?, SAMPLE_EVERY);
    let asked = Instant::now();
    rabbit.ctl(&["resume_listeners"]).await?;
    let (reconnected, published) = drain(&client, confirmed, count).await?;
    until("the backlog arrives", async || Ok(distinct() >= numbers)).await?;
    let samples = sampler.end()?;
    reading.end()?;
    drop(client);
    let mut server = server;
    server.stop().await?;

    let seen = seen.lock().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    seen.ledger.in_order().context("the backlog")?;
    Ok(Away {
        count,
        written,
        back: reconnected - asked,
        published,
        received: seen.span.rate(),
        repeated: seen.ledger.repeated,
        before,
        height,
        highest: samples.iter().copied().fold(height, f64::max),
        example: seen.example.clone().context("no event of the backlog")?,
    })
}

/// Changes pods, each change with its number.
async fn change(client: &Client, prefix: &str, first: usize, count: usize) -> Result<Sample> {
    let mut all = Sample::default();
    let started = Instant::now();
    for from in (first..first + count).step_by(CHUNK) {
        let requests = (from..(from + CHUNK).min(first + count))
            .map(|n| {
                let path = format!("{PODS}/{}", pod::name(prefix, n % PODS_CHANGED));
                let kind = "application/merge-patch+json";
                client.request(Method::PATCH, &path, kind, pod::numbered(n))
            })
            .collect();
        let sample = client.closed_loop(requests, IN_FLIGHT).await?;
        all.count += sample.count;
        all.latencies.extend(sample.latencies);
    }
    Ok(Sample { took: started.elapsed(), ..all })
}

/// The broker takes no connections any more, and has none of the server's.
async fn cut(rabbit: &RabbitMq, client: &Client) -> Result<()> {
    let lost = "warren_fabric_disconnects_total";
    let before = client.metric(lost).await?;
    rabbit.ctl(&["suspend_listeners"]).await?;
    rabbit.ctl(&["close_all_user_connections", "server", "the benchmark cuts it off"]).await?;
    // Both of them: to publish, and to consume.
    until("the server loses the broker", async || Ok(client.metric(lost).await? >= before + 2.0))
        .await
}

/// Until the broker has confirmed `count` more than `from`: when the first was, and how many a second after it.
async fn drain(client: &Client, from: f64, count: usize) -> Result<(Instant, f64)> {
    let mut first = None;
    let started = Instant::now();
    loop {
        let now = Instant::now();
        let done = client.metric(CONFIRMED).await? - from;
        match first {
            Some((since, start)) if done >= count as f64 => {
                return Ok((since, (done - start) / (now - since).as_secs_f64()));
            }
            None if done > 0.0 => {
                ensure!(done < count as f64, "drained at once: too small a backlog to measure");
                first = Some((now, done));
            }
            _ => {}
        }
        ensure!(started.elapsed() < DRAINS_WITHIN, "only {done} of {count} events are confirmed");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is_so().await? {
        ensure!(started.elapsed() < DRAINS_WITHIN, "not in {DRAINS_WITHIN:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The same bodies, properties and headers.
async fn bare(scale: &Scale, rabbit: &RabbitMq, example: &Message) -> Result<(f64, Vec<Figure>)> {
    let url = rabbit.amqp_url("server");
    let publisher = Publisher::connect(&url).await?;
    let span = Arc::new(Mutex::new(Span::default()));
    let shared = Arc::clone(&span);
    let reading = Reading::start(url, From::Everything { exchange: EXCHANGE }, move |_| {
        if let Ok(mut span) = shared.lock() {
            span.note(Instant::now());
        }
    })
    .await?;
    let started = Instant::now();
    publisher.send(scale.backlog, f64::INFINITY, |_| example.clone()).await?;
    let published = scale.backlog as f64 / started.elapsed().as_secs_f64();
    let arrived = || span.lock().map_or(0, |span| span.count());
    until("bare messages arrive", async || Ok(arrived() >= scale.backlog)).await?;
    publisher.end().await?;
    reading.end()?;
    let received = span.lock().map_or(0.0, |span| span.rate());
    let bytes = example.body.len();
    let figure = |what: &str, value| {
        let what = format!("bare lapin, {} of the same ({bytes} B): {what}", scale.backlog);
        Figure::new(ROW, what, value, "1/s")
    };
    let figures = vec![figure("confirmed", published), figure("received by one", received)];
    Ok((published, figures))
}

/// A node's queue that holds all it may, and what reads it when the node is back.
async fn agent_away(scale: &Scale, rabbit: &RabbitMq, example: &Message) -> Result<Vec<Figure>> {
    let mut server = Server::start(&["apiserver", "--broker", &rabbit.amqp_url("server")]).await?;
    let client = server.client(CONNECTIONS).await?;
    client.ok(client.post("/api/v1/nodes", pod::node(NODE))).await?;
    let queue = format!("node.{NODE}");
    declared(rabbit, std::slice::from_ref(&queue)).await?;
    let on = |_| Some(NODE.to_owned());
    client.closed_loop(creates(&client, PREFIX, PODS_CHANGED, on), IN_FLIGHT).await?;
    change(&client, PREFIX, 0, scale.node_backlog).await?;
    relayed(&client).await?;
    let held = held(rabbit, &queue).await?;
    let all = scale.node_backlog >= NODE_QUEUE_MESSAGES;
    let expected = if all { NODE_QUEUE_MESSAGES } else { scale.node_backlog + PODS_CHANGED };
    ensure!(held == expected, "{queue} holds {held} messages, not {expected}");
    let warren = read_as_agent(rabbit, &queue, held).await?;
    drop(client);
    server.stop().await?;

    let publisher = Publisher::connect(&rabbit.amqp_url("server")).await?;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let bare = "bench.away";
    publisher.channel.queue_declare(bare.into(), options, node_queue("classic")).await?;
    let message = Message { exchange: "", key: bare.to_owned(), ..example.clone() };
    publisher.send(held, f64::INFINITY, |_| message.clone()).await?;
    let beside = read_as_agent(rabbit, bare, held).await?;
    publisher.channel.queue_delete(bare.into(), QueueDeleteOptions::default()).await?;
    publisher.end().await?;
    let what = format!("a node's queue of {held} read as an agent does");
    let note = format!("in order; prefetch {PREFETCH}, on disk before it is acknowledged");
    let what_bare = format!("{held} of bare lapin, read likewise");
    Ok(vec![
        Figure::new(ROW, what, warren, "1/s").note(note),
        Figure::new(ROW, what_bare, beside, "1/s"),
    ])
}

/// Messages that wait in a queue.
async fn held(rabbit: &RabbitMq, queue: &str) -> Result<usize> {
    let connection = connect(&rabbit.amqp_url("admin")).await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    connection.close(200, "".into()).await?;
    Ok(found.message_count() as usize)
}

/// Reads all with a prefetch, and acknowledges what has come when it is on the disk. A second.
async fn read_as_agent(rabbit: &RabbitMq, queue: &str, count: usize) -> Result<f64> {
    let folder = tempfile::Builder::new().prefix("warren-bench-").tempdir_in(target_dir()?)?;
    let mut file = File::create(folder.path().join("events"))?;
    let connection = connect(&rabbit.amqp_url("admin")).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let started = Instant::now();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries = channel.basic_consume(queue.into(), "".into(), options, none).await?;
    let mut ledger = Ledger::default();
    let mut read = 0;
    while read < count {
        let next = tokio::time::timeout(DRAINS_WITHIN, deliveries.next()).await;
        let mut last = next.context("no delivery")?.context("the consumer ended")??;
        loop {
            note(&mut ledger, &last.properties);
            file.write_all(&last.data)?;
            read += 1;
            match deliveries.next().now_or_never().flatten() {
                Some(next) => last = next?,
                None => break,
            }
        }
        file.sync_data()?;
        channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true }).await?;
    }
    let took = started.elapsed();
    connection.close(200, "".into()).await?;
    ledger.in_order().context(queue.to_owned())?;
    Ok(count as f64 / took.as_secs_f64())
}

/// A node's queue has its own shard's events and others': only that none is older than the one before is judged.
fn note(ledger: &mut Ledger, properties: &BasicProperties) {
    if let Some(at) = Position::of(properties) {
        ledger.note(Position { prev: 0, ..at }, None);
    }
}
