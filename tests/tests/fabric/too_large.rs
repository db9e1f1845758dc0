//! The broker closes the channel for a message that is larger than it takes, and does not say for which.

use std::sync::atomic::Ordering;
use std::time::Duration;

use warren_api::{Revision, Shard};
use warren_broker::consume::reason;
use warren_broker::{Fabric, Subscription};
use warren_tests::RabbitMq;

use super::world::*;

const TAKEN: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_the_broker_is_given_up_and_listed() {
    let _one = ONE.lock().await;
    let bound = format!("max_message_size = {TAKEN}\n");
    let rabbit = RabbitMq::start_configured(&bound).await.unwrap();
    let world = World::start(&rabbit);
    let shard = [Shard::Node(node("a"))];
    world.declared("a").await;
    let fabric = world.fabric(&rabbit, "server");
    let reader = fabric.subscribe(Subscription::Node(node("a"))).await;
    let reader = world.record_with_heads(reader, Some("a"));
    reader.until("it lists", |all| !relists(all).is_empty()).await;
    let abandoned = || world.server.metrics().abandoned.load(Ordering::Relaxed);
    let large = || world.journal.write_large("large", &shard, TAKEN);
    let write = |count| (0..count).fold(Revision(0), |_, _| world.journal.write("pod", &shard));

    // Among many; two in a row; and one that is a little smaller than those, and yet too large.
    write(700);
    let mut lost = vec![large()];
    write(20);
    lost.extend([large(), large()]);
    write(300);
    lost.push(world.journal.write_large("large", &shard, TAKEN - 100));
    let last = write(100);
    let all = reader.until("all is known", |all| knows(all, last)).await;
    check(&world.journal, &all, &shard);
    confirmed(&world).await;
    assert_eq!(abandoned(), 4);
    assert!(relists(&all).contains(&reason::GAP), "{:?}", relists(&all));
    let came = |all: &[Got]| events(all).iter().filter(|e| lost.contains(&e.revision)).count();
    assert_eq!(came(&all), 0);

    // Nothing follows it: the heads tell. Before, all that there was has come.
    eventually("events come again", async || {
        let next = write(1);
        let came =
            async || events(&reader.all()).iter().any(|event| event.revision == next).then_some(());
        let patience = Duration::from_secs(1);
        tokio::time::timeout(patience, eventually("it comes", came)).await.ok()
    })
    .await;
    let alone = large();
    let all = reader.until("what nobody was told is listed", |all| knows(all, alone)).await;
    assert!(!events(&all).iter().any(|event| event.revision == alone));
    assert!(relists(&all).contains(&reason::HEAD), "{:?}", relists(&all));
    confirmed(&world).await;
    assert_eq!(abandoned(), 5);

    // What is just not too large comes, and all else at full rate.
    world.journal.write_large("fits", &shard, TAKEN / 2);
    let last = write(2_000);
    let all = reader.until("they come", |all| events(all).iter().any(|e| e.revision == last)).await;
    check(&world.journal, &all, &shard);
    confirmed(&world).await;
    assert_eq!(abandoned(), 5);
    let lost = world.server.metrics().disconnects.load(Ordering::Relaxed);
    assert_eq!(lost, 0, "no connection is lost for it");
}

/// Whether it was delivered or listed.
fn knows(all: &[Got], revision: Revision) -> bool {
    all.iter().any(|got| match got {
        Got::Event(event) => event.revision >= revision,
        Got::Relist { listed, .. } => *listed >= revision,
        _ => false,
    })
}

async fn confirmed(world: &World) {
    eventually("all is confirmed or given up", async || {
        (world.server.status().cursor == world.journal.head()).then_some(())
    })
    .await;
}
