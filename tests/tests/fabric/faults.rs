//! A broker that is killed, stopped, emptied, or not there.

use std::time::{Duration, Instant};

use warren_api::Shard;
use warren_broker::{Fabric, Subscription};
use warren_tests::RabbitMq;

use super::world::*;

fn is_down(got: &Got) -> bool {
    matches!(got, Got::Down(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_fails() {
    let _one = ONE.lock().await;
    let mut rabbit = RabbitMq::start().await.unwrap();
    rabbit.kill9();
    let world = World::start(&rabbit);
    not_there_at_the_start(&mut rabbit, &world).await;
    killed_under_load(&mut rabbit, &world).await;
    hanging(&rabbit, &world).await;
    emptied(&mut rabbit, &world).await;
    without_bindings(&rabbit, &world).await;
}

async fn not_there_at_the_start(rabbit: &mut RabbitMq, world: &World) {
    let fabric = world.fabric(rabbit, "server");
    let before = Instant::now();
    let reader = world.record(fabric.subscribe(Subscription::Node(node("late"))).await);
    reader.until("it is told", |all| all.iter().any(is_down)).await;
    assert!(before.elapsed() < Duration::from_secs(4));
    world.journal.write("a", &[Shard::Node(node("late"))]);
    let status = world.server.status();
    assert!(!status.connected && status.last_error.is_some(), "{status}");
    assert!(world.server.declare_node(&node("late")).await.is_err());
    rabbit.restart().await.unwrap();
    // The queue that could not be declared is, without being asked again.
    let all = reader.until("it lists", |all| relists(all) == ["start"]).await;
    check(&world.journal, &all, &[Shard::Node(node("late"))]);
    // A queue is there before it is bound, and what comes in between only the heads show, of which this reader hears nothing.
    world.declared("late").await;
    let last = world.journal.write("b", &[Shard::Node(node("late"))]);
    reader.until("it goes on", |all| events(all).iter().any(|e| e.revision == last)).await;
    assert!(world.server.status().connected);
}

async fn killed_under_load(rabbit: &mut RabbitMq, world: &World) {
    let shard = Shard::Node(node("load"));
    let reader = world.node(rabbit, "load").await;
    let fabric = world.fabric(rabbit, "server");
    let controller = Subscription::Controller {
        name: "job".to_owned(),
        instance: "a".to_owned(),
        resources: vec![pods()],
    };
    let controller = world.record(fabric.subscribe(controller).await);
    controller.until("it lists", |all| !relists(all).is_empty()).await;
    for round in 0..3 {
        let write = async {
            for n in 0..1_000 {
                world.journal.write(&format!("pod-{round}-{n}"), std::slice::from_ref(&shard));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let kill = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            rabbit.kill9();
            rabbit.restart().await.unwrap();
        };
        tokio::join!(write, kill);
        for reader in [&reader, &controller] {
            let downs = reader.until("it lists", |all| {
                relists(all).iter().filter(|why| **why == "reconnected").count() > round
            });
            downs.await;
        }
    }
    let last = world.journal.write("last", std::slice::from_ref(&shard));
    for reader in [&reader, &controller] {
        let all = reader
            .until("the last one", |all| events(all).iter().any(|e| e.revision == last))
            .await;
        check(&world.journal, &all, std::slice::from_ref(&shard));
        assert!(all.iter().filter(|got| is_down(got)).count() >= 3);
    }
    eventually("all is confirmed", async || {
        (world.server.status().cursor == world.journal.head()).then_some(())
    })
    .await;
}

async fn hanging(rabbit: &RabbitMq, world: &World) {
    let reader = world.node(rabbit, "hang").await;
    reader.until("it lists", |all| relists(all) == ["start"]).await;
    let before = Instant::now();
    rabbit.pause(true);
    reader.until("it is told", |all| all.iter().any(is_down)).await;
    let took = before.elapsed();
    assert!(took < Duration::from_millis(2_200), "{took:?}");
    world.journal.write("a", &[Shard::Node(node("hang"))]);
    rabbit.pause(false);
    let last = world.journal.write("b", &[Shard::Node(node("hang"))]);
    let all = reader.until("it lists", |all| relists(all) == ["start", "reconnected"]).await;
    check(&world.journal, &all, &[]);
    let all = reader.until_knows(last).await;
    check(&world.journal, &all, &[Shard::Node(node("hang"))]);
}

async fn emptied(rabbit: &mut RabbitMq, world: &World) {
    let shard = Shard::Node(node("emptied"));
    let reader = world.node(rabbit, "emptied").await;
    let last = world.journal.write("a", std::slice::from_ref(&shard));
    reader.until_knows(last).await;
    rabbit.kill9_and_wipe().unwrap();
    world.journal.write("b", std::slice::from_ref(&shard));
    rabbit.restart().await.unwrap();
    reader.until("it lists", |all| relists(all) == ["start", "reconnected"]).await;
    world.declared("emptied").await;
    let last = world.journal.write("c", std::slice::from_ref(&shard));
    let all =
        reader.until("it goes on", |all| events(all).iter().any(|e| e.revision == last)).await;
    check(&world.journal, &all, &[shard]);
}

/// Nobody tells a reader that its queue is bound to nothing any more.
async fn without_bindings(rabbit: &RabbitMq, world: &World) {
    let shard = [Shard::Node(node("unbound"))];
    let controller = Subscription::Controller {
        name: "unbound".to_owned(),
        instance: "a".to_owned(),
        resources: vec![pods()],
    };
    let fabric = world.fabric(rabbit, "server");
    let reader = world.record(fabric.subscribe(controller).await);
    reader.until("it lists", |all| relists(all) == ["start"]).await;
    let exchange = "/api/exchanges/%2f/warren.events";
    rabbit.http(hyper::Method::DELETE, exchange, None).await.unwrap();
    let lost = world.journal.write("lost", &shard);
    // Whoever listens again sees what it missed.
    eventually("it goes on", async || {
        world.journal.write("again", &shard);
        events(&reader.all()).iter().any(|e| e.revision > lost).then_some(())
    })
    .await;
    let last = world.journal.write("after", &shard);
    let all =
        reader.until("the last one", |all| events(all).iter().any(|e| e.revision == last)).await;
    check(&world.journal, &all, &shard);
}
