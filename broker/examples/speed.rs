//! How fast the fabric is beside bare lapin, in one run: `speed amqp://server:…@127.0.0.1:5672/%2f`. Latency at 500/s from
//! the write to the reader, and the rate at which a backlog drains with confirms.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use parking_lot::Mutex;
use tokio::sync::Notify;
use warren_api::{GroupResource, NodeName, ObjectKey, Revision, Shard, Uid};
use warren_broker::{
    BrokerConfig, Delivery, Event, EventType, Fabric, Outbox, QueueType, RabbitFabric, ServerLink,
    Subscription,
};
use warren_process::Tasks;

const BODY_BYTES: usize = 2_800;
const PACED: usize = 5_000;
const PACE: Duration = Duration::from_millis(2);
const BACKLOG: usize = 30_000;

#[derive(Default)]
struct Journal {
    rows: Mutex<(Vec<(Event, Instant)>, Revision)>,
    written: Notify,
    confirmed: Notify,
}

impl Journal {
    fn write(&self, node: &str, notify: bool) {
        let mut rows = self.rows.lock();
        let rv = rows.0.len() as u64 + 1;
        let event = Event {
            epoch: std::process::id().into(),
            revision: Revision(rv),
            uid: Uid("u".into()),
            key: ObjectKey::new(GroupResource::new("", "pods"), "default", format!("p-{rv}")),
            event_type: EventType::Modified,
            shards: [(Shard::Node(NodeName(node.into())), Revision(rv - 1))].into_iter().collect(),
            object: format!("{{\"a\":\"{}\"}}", "x".repeat(BODY_BYTES)).into(),
            brings: Vec::new(),
        };
        rows.0.push((event, Instant::now()));
        drop(rows);
        if notify {
            self.written.notify_waiters();
        }
    }
}

#[async_trait]
impl Outbox for Journal {
    fn epoch(&self) -> u64 {
        std::process::id().into()
    }
    fn cursor(&self) -> Revision {
        self.rows.lock().1
    }
    fn confirmed(&self, up_to: Revision) {
        self.rows.lock().1 = up_to;
        self.confirmed.notify_one();
    }
    async fn read(&self, after: Revision, limit: usize) -> Result<Vec<Event>, Revision> {
        let rows = self.rows.lock();
        Ok(rows.0.iter().skip(after.0 as usize).take(limit).map(|(e, _)| e.clone()).collect())
    }
    async fn wait(&self, after: Revision) {
        let mut written = std::pin::pin!(self.written.notified());
        loop {
            written.as_mut().enable();
            if self.rows.lock().0.len() as u64 > after.0 {
                return;
            }
            written.as_mut().await;
            written.set(self.written.notified());
        }
    }
}

fn report(what: &str, mut latencies: Vec<Duration>) {
    latencies.sort();
    let at = |p: usize| latencies[latencies.len() * p / 1000];
    eprintln!("{what}: p50 {:?}, p99 {:?}, max {:?}", at(500), at(990), at(999));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("the broker's URL is missing")?;
    let queue = format!("speed-{}", std::process::id());
    bare(&url, &queue).await?;

    let tasks = Tasks::new();
    let config =
        BrokerConfig { url: url.parse()?, name: "speed".to_owned(), queues: QueueType::default() };
    let account = config.url.account().to_owned();
    let server = ServerLink::start(config.clone(), &tasks);
    let node = NodeName(queue.as_str().into());
    while server.declare_node(&node).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let journal = Arc::new(Journal::default());
    let (relay, outbox, shutdown) =
        (server.relay(), Arc::clone(&journal), tasks.shutdown().clone());
    tasks.spawn("relay", async move { relay.run(outbox, shutdown).await });
    let fabric = RabbitFabric::new(config, account, &tasks);
    let mut subscriber = fabric.subscribe(Subscription::Node(node.clone())).await;
    let writer = {
        let (journal, queue) = (Arc::clone(&journal), queue.clone());
        async move {
            let mut tick = tokio::time::interval(PACE);
            for _ in 0..PACED {
                tick.tick().await;
                journal.write(&queue, true);
            }
        }
    };
    tasks.spawn("writer", writer);
    let mut latencies = Vec::new();
    while latencies.len() < PACED {
        if let Delivery::Event(event, ack) = subscriber.next().await {
            latencies.push(journal.rows.lock().0[event.revision.0 as usize - 1].1.elapsed());
            ack.ack().await;
        }
    }
    report("write → reader at 500/s", latencies);

    // A backlog drains, with a reader that acknowledges.
    for _ in 0..BACKLOG {
        journal.write(&queue, false);
    }
    let start = Instant::now();
    journal.written.notify_waiters();
    let read = async {
        let mut count = 0;
        while count < BACKLOG {
            if let Delivery::Event(_, ack) = subscriber.next().await {
                ack.ack().await;
                count += 1;
            }
        }
        start.elapsed()
    };
    let confirm = async {
        while journal.cursor().0 < (PACED + BACKLOG) as u64 {
            journal.confirmed.notified().await;
        }
        start.elapsed()
    };
    let (read, confirm) = tokio::join!(read, confirm);
    let rate = |took: Duration| (BACKLOG as f64 / took.as_secs_f64()).round();
    eprintln!("backlog of {BACKLOG}: confirmed {}/s, read {}/s", rate(confirm), rate(read));

    // The same to a node that is away: nobody reads.
    drop(subscriber);
    let nobody = "speed-nobody";
    let from = journal.rows.lock().0.len();
    for _ in 0..BACKLOG {
        journal.write(nobody, false);
    }
    let start = Instant::now();
    journal.written.notify_waiters();
    while journal.cursor().0 < (from + BACKLOG) as u64 {
        journal.confirmed.notified().await;
    }
    eprintln!("to nobody: confirmed {}/s", rate(start.elapsed()));
    server.delete_node(&node).await?;
    tasks.shutdown().trigger();
    Ok(())
}

async fn bare(url: &str, queue: &str) -> Result<(), lapin::Error> {
    let connect = || Connection::connect(url, ConnectionProperties::default());
    let (publisher, reader) = (connect().await?, connect().await?);
    let (channel, reading) = (publisher.create_channel().await?, reader.create_channel().await?);
    channel.confirm_select(Default::default()).await?;
    reading.basic_qos(256, Default::default()).await?;
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    reading.queue_declare(queue.into(), options, FieldTable::default()).await?;
    let mut consumer = reading
        .basic_consume(queue.into(), "".into(), Default::default(), FieldTable::default())
        .await?;
    let body = vec![b'x'; BODY_BYTES];
    let start = Instant::now();
    let publish = |n: usize| {
        let (channel, body) = (channel.clone(), body.clone());
        let mut headers = FieldTable::default();
        headers.insert("n".into(), (n as i64).into());
        async move {
            let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), queue.into(), options, &body, properties).await?.await
        }
    };
    let sent: Mutex<Vec<Instant>> = Mutex::default();
    let write = async {
        let mut tick = tokio::time::interval(PACE);
        for n in 0..PACED {
            tick.tick().await;
            sent.lock().push(Instant::now());
            publish(n).await?;
        }
        Ok::<_, lapin::Error>(())
    };
    let mut latencies = Vec::new();
    let read = async {
        while latencies.len() < PACED {
            let Some(delivery) = consumer.next().await else { break };
            let at = latencies.len();
            latencies.push(sent.lock()[at].elapsed());
            delivery?.acker.ack(Default::default()).await?;
        }
        Ok::<_, lapin::Error>(())
    };
    let (wrote, read) = tokio::join!(write, read);
    wrote?;
    read?;
    let _ = start;
    report("bare lapin at 500/s", latencies);

    let start = Instant::now();
    let write = async {
        let mut window = FuturesUnordered::new();
        for n in 0..BACKLOG {
            let mut one = publish(n).boxed();
            if futures::poll!(&mut one).is_pending() {
                window.push(one);
            }
            if window.len() >= 1_024 {
                let _ = window.next().await;
            }
        }
        while window.next().await.is_some() {}
        start.elapsed()
    };
    let read = async {
        for _ in 0..BACKLOG {
            if let Some(Ok(delivery)) = consumer.next().await {
                let _ = delivery.acker.ack(Default::default()).await;
            }
        }
        start.elapsed()
    };
    let (write, read) = tokio::join!(write, read);
    let rate = |took: Duration| (BACKLOG as f64 / took.as_secs_f64()).round();
    eprintln!("bare lapin, {BACKLOG}: confirmed {}/s, read {}/s", rate(write), rate(read));
    Ok(())
}
