//! Queues that become of another type, with what is in them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use hyper::Method;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use parking_lot::Mutex;
use serde_json::json;
use warren_api::Shard;
use warren_broker::api::{ApiAnswer, ApiHandler, Asked};
use warren_broker::{Delivery, Fabric, QueueType, RabbitFabric, Subscription};
use warren_process::Tasks;
use warren_tests::RabbitMq;

use super::world::*;

/// Of each kind, while nobody reads.
const WAITING: usize = 40;
/// Commands while the queues are being replaced.
const MEANWHILE: usize = 400;
const SHARED: [&str; 4] = ["warren.commands", "warren.replies", "warren.api", "warren.dead"];

/// Answers nobody, and knows who asked for what.
#[derive(Default)]
struct Api(Mutex<BTreeSet<String>>);

#[async_trait]
impl ApiHandler for Api {
    async fn answer(&self, asked: Asked) -> ApiAnswer {
        let account = asked.account.unwrap_or_default();
        self.0.lock().insert(format!("{account} {}", asked.request.path));
        ApiAnswer { code: 200, ..ApiAnswer::default() }
    }
}

/// A broker whose queues are classic ones, left by those who declared them.
async fn left_classic() -> (RabbitMq, Arc<Journal>) {
    let rabbit = RabbitMq::start().await.unwrap();
    let journal: Arc<Journal> = Arc::default();
    let world = World::of_type(&rabbit, Arc::clone(&journal), QueueType::Classic);
    all_are(&rabbit, &world, "classic").await;
    drop(world);
    (rabbit, journal)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_become_of_another_type() {
    let _one = ONE.lock().await;
    let (rabbit, journal) = left_classic().await;
    let mut said = Said::default();
    for (round, (queues, killed)) in [
        (QueueType::Quorum, false),
        (QueueType::Classic, false),
        (QueueType::Quorum, true),
        (QueueType::Classic, true),
    ]
    .into_iter()
    .enumerate()
    {
        nobody_reads(&rabbit).await;
        said.waits(&rabbit, round).await;
        for n in 0..WAITING {
            journal.write(&format!("pod-{round}-{n}"), &[Shard::Node(node("moved"))]);
        }
        if killed {
            left_in_the_middle(&rabbit, &journal, queues).await;
        }
        becomes(&rabbit, &journal, queues, &mut said).await;
    }
}

/// Somebody looks at a queue that is to be replaced, and may have a message in hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_somebody_else_reads_is_replaced_when_that_ends() {
    let _one = ONE.lock().await;
    let (rabbit, journal) = left_classic().await;
    nobody_reads(&rabbit).await;
    let url = rabbit.amqp_url("admin");
    let other = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let looks = other.create_channel().await.unwrap();
    let queue = "warren.commands".into();
    let _consumer = looks
        .basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .unwrap();
    let world = World::of_type(&rabbit, Arc::clone(&journal), QueueType::Quorum);
    let commands = world.record_all(world.server.commands().await);
    let refused =
        |got: &Got| matches!(got, Got::Down(why) if why.contains("read by somebody else"));
    eventually("it says why nothing is read", async || {
        commands.all().iter().any(refused).then_some(())
    })
    .await;
    other.close(200, "".into()).await.unwrap();
    let by = json!({"user_id": "admin", "message_id": "last"});
    assert!(rabbit.publish("warren.commands", "apply", "last", by).await.unwrap());
    let wanted = BTreeSet::from(["last".to_owned()]);
    commands.until("the command", |all| commands_of(all) == wanted).await;
    eventually("it is replaced", async || {
        let found = self::queue(&rabbit, "warren.commands").await?;
        (found["type"] == "quorum").then_some(())
    })
    .await;
}

/// Nobody would read those that are left, and the broker would keep what comes for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_tries_again_leaves_no_queue_behind() {
    let _one = ONE.lock().await;
    let rabbit = RabbitMq::start().await.unwrap();
    let tasks = Tasks::new();
    let fabric = RabbitFabric::new(config(&rabbit, "server", "test"), "server", &tasks);
    let subscription = Subscription::Controller {
        name: "early".to_owned(),
        instance: "a".to_owned(),
        resources: vec![pods()],
    };
    let names = async || {
        let (_, found) = rabbit.http(Method::GET, "/api/queues/%2f", None).await.unwrap();
        let names = found.as_array().unwrap().iter().filter_map(|q| q["name"].as_str());
        let mine = names.filter(|name| name.starts_with("controllers.early."));
        mine.map(str::to_owned).collect::<Vec<_>>()
    };
    let attempt = |name: &str| name.rsplit_once('~').map_or(1, |(_, n)| n.parse().unwrap());
    // The server has not declared yet what is to be bound.
    let subscriber = fabric.subscribe(subscription).await;
    let tried = eventually("it has tried five times", async || {
        let names = names().await;
        names.iter().any(|name| attempt(name) >= 5).then_some(names)
    });
    let tried = tried.await;
    assert_eq!(tried.len(), 1, "{tried:?}");
    let world = World::start(&rabbit);
    let reader = world.record(subscriber);
    reader.until("it lists", |all| relists(all) == ["start"]).await;
    let last = world.journal.write("a", &[Shard::Unscheduled]);
    reader.until("it reads", |all| events(all).iter().any(|e| e.revision == last)).await;
    let left = names().await;
    assert_eq!(left.len(), 1, "{left:?}");
}

/// What was accepted: ids of commands, paths of requests, reasons of letters.
#[derive(Default)]
struct Said {
    commands: BTreeSet<String>,
    requests: BTreeSet<String>,
    letters: BTreeSet<String>,
    by_hand: usize,
}

impl Said {
    async fn waits(&mut self, rabbit: &RabbitMq, round: usize) {
        for n in 0..WAITING {
            let id = format!("waits-{round}-{n}");
            let by = json!({"user_id": "admin", "message_id": id});
            assert!(rabbit.publish("warren.commands", "apply", &id, by).await.unwrap());
            self.commands.insert(id);

            let path = format!("/api/{round}/{n}");
            let asks = json!({"user_id": "admin", "headers": {"method": "GET", "path": path}});
            assert!(rabbit.publish("warren.api", "", "", asks).await.unwrap());
            self.requests.insert(format!("admin {path}"));

            let letter = format!("letter-{round}-{n}");
            let reason = json!({"headers": {"x-reason": letter, "x-user-id": "somebody"}});
            assert!(
                rabbit.publish("warren.replies", "node.refused", &letter, reason).await.unwrap()
            );
            self.letters.insert(letter);
        }
        let by_hand = format!("by-hand-{round}");
        let by = json!({"user_id": "admin", "headers": {"x-user-id": "somebody"}});
        assert!(rabbit.publish("amq.default", "node.moved", &by_hand, by).await.unwrap());
        self.letters.insert(by_hand);
        self.by_hand += 1;
    }
}

async fn all_are(rabbit: &RabbitMq, world: &World, queues: &str) {
    world.declared("moved").await;
    for name in SHARED.into_iter().chain(["node.moved"]) {
        eventually(&format!("{name} is {queues}"), async || {
            let found = queue(rabbit, name).await?;
            (found["type"] == queues).then_some(())
        })
        .await;
        let rest = format!("{name}.moving");
        eventually(&format!("{rest} is gone"), async || {
            queue(rabbit, &rest).await.is_none().then_some(())
        })
        .await;
    }
}

async fn nobody_reads(rabbit: &RabbitMq) {
    eventually("the last server is gone", async || {
        let (_, all) = rabbit.http(Method::GET, "/api/connections", None).await.ok()?;
        all.as_array()?.is_empty().then_some(())
    })
    .await;
}

/// A server that ends while it empties a queue, with a command in its hands and one that came meanwhile.
async fn left_in_the_middle(rabbit: &RabbitMq, journal: &Arc<Journal>, queues: QueueType) {
    let world = World::of_type(rabbit, Arc::clone(journal), queues);
    let mut reader = world.server.commands().await;
    let held = loop {
        match tokio::time::timeout(SOON, reader.next()).await.expect("a command") {
            Delivery::Command { ack, .. } => break ack,
            _ => continue,
        }
    };
    assert!(queue(rabbit, "warren.commands.moving").await.is_some());
    world.tasks.shutdown().trigger();
    world.tasks.shutdown().trigger();
    drop((held, reader, world));
    nobody_reads(rabbit).await;
    assert!(queue(rabbit, "warren.commands.moving").await.is_some());
}

async fn channel(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

async fn becomes(rabbit: &RabbitMq, journal: &Arc<Journal>, queues: QueueType, said: &mut Said) {
    let url = rabbit.amqp_url("admin");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let publisher = channel(&connection).await;
    let world = World::of_type(rabbit, Arc::clone(journal), queues);
    let api = Arc::new(Api::default());
    let (server, handler) = (world.server.clone(), Arc::clone(&api));
    world.tasks.spawn("requests", async move { server.serve_api(handler).await });
    let (server, shutdown) = (world.server.clone(), world.tasks.shutdown().clone());
    world.tasks.spawn("answers", async move {
        tokio::select! {
            () = server.hand_on_answers() => {}
            () = shutdown.draining() => {}
        }
    });
    let commands = async {
        let commands = world.server.commands().await;
        world.record_all(commands)
    };
    let publish = async {
        let mut accepted = BTreeSet::new();
        for n in 0..MEANWHILE {
            let id = format!("meanwhile-{}-{n}", queues.name());
            let id = format!("{id}-{}", said.by_hand);
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let properties = BasicProperties::default()
                .with_user_id("admin".into())
                .with_message_id(id.as_str().into());
            let (exchange, key) = ("warren.commands".into(), "apply".into());
            let sent = publisher.basic_publish(exchange, key, options, id.as_bytes(), properties);
            match sent.await.unwrap().await.unwrap() {
                Confirmation::Ack(None) => drop(accepted.insert(id)),
                other => panic!("{id} was not accepted: {other:?}"),
            }
        }
        accepted
    };
    let (commands, meanwhile) = tokio::join!(commands, publish);
    said.commands.extend(meanwhile);
    let all =
        commands.until("all commands", |all| commands_of(all).len() >= said.commands.len()).await;
    assert_eq!(commands_of(&all), said.commands);
    said.commands.clear();
    eventually("all requests", async || (*api.0.lock() == said.requests).then_some(())).await;
    said.requests.clear();
    all_are(rabbit, &world, queues.name()).await;
    let replaced = world.server.metrics().queues_replaced.load(Ordering::Relaxed);
    // Some by the server that was stopped in the middle, but for the one that it was emptying.
    assert!((1..=SHARED.len() as u64 + 1).contains(&replaced), "{replaced}");

    let letters = rabbit.take("warren.dead", 10_000).await.unwrap();
    let got: BTreeSet<String> =
        letters.iter().map(|letter| letter["payload"].as_str().unwrap().to_owned()).collect();
    assert_eq!((letters.len(), &got), (said.letters.len(), &said.letters));
    for letter in &letters {
        let headers = &letter["properties"]["headers"];
        let by_hand = letter["payload"].as_str().unwrap().starts_with("by-hand");
        let (user, key) = if by_hand { ("admin", "x-origin") } else { ("somebody", "x-reason") };
        assert_eq!(headers["x-user-id"], user, "{letter}");
        assert!(headers[key].is_string(), "{letter}");
    }
    said.letters.clear();

    // The node lists, and goes on.
    let fabric = world.fabric(rabbit, "server");
    let reader = world.record(fabric.subscribe(Subscription::Node(node("moved"))).await);
    reader.until("it lists", |all| relists(all) == ["start"]).await;
    let last = journal.write("last", &[Shard::Node(node("moved"))]);
    let all =
        reader.until("it goes on", |all| events(all).iter().any(|e| e.revision == last)).await;
    check(journal, &all, &[Shard::Node(node("moved"))]);
    assert!(!all.iter().any(|got| matches!(got, Got::Command { .. })), "{all:?}");
    let (_, found) = rabbit.http(Method::GET, "/api/queues/%2f", None).await.unwrap();
    let names: Vec<&str> =
        found.as_array().unwrap().iter().filter_map(|q| q["name"].as_str()).collect();
    assert!(!names.iter().any(|name| name.ends_with(".moving")), "{names:?}");
}

/// Ids; each by the account that said so, and once.
fn commands_of(all: &[Got]) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for got in all {
        if let Got::Command { id, publisher, .. } = got {
            assert_eq!(publisher.as_deref(), Some("admin"));
            let id = id.clone().unwrap();
            assert!(ids.insert(id.clone()), "{id} came twice");
        }
    }
    ids
}
