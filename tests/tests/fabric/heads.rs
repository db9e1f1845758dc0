//! Losses that no later event shows.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use warren_api::{Revision, Shard};
use warren_broker::consume::reason;
use warren_broker::{Ack, Delivery, Fabric, RabbitFabric, Subscriber, Subscription};
use warren_tests::cluster::Role;
use warren_tests::{Cluster, Options, RabbitMq, until};

use super::world::*;

/// The readers of the fabric's tests ask every second; real ones every ten, so that 15 s hold for these.
const HEALED: Duration = Duration::from_secs(6);
const HEALED_FOR_REAL: Duration = Duration::from_secs(15);

/// On a busy machine the healing may be quicker than what unbinds.
const TRIES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_event_is_lost() {
    let _one = ONE.lock().await;
    let rabbit = RabbitMq::start().await.unwrap();
    let world = World::start(&rabbit);
    world.declared("first").await;
    purged(&rabbit, &world).await;
    unbound(&rabbit, &world).await;
    queue_deleted(&rabbit, &world).await;
    exchange_deleted(&rabbit, &world).await;
    connection_closed(&rabbit, &world).await;
}

fn of(name: &str) -> Shard {
    Shard::Node(node(name))
}

fn controller(name: &str) -> Subscription {
    Subscription::Controller {
        name: name.to_owned(),
        instance: "a".to_owned(),
        resources: vec![pods()],
    }
}

/// A node and a controller, each with the fabric that it reads from.
async fn readers(
    rabbit: &RabbitMq,
    world: &World,
    name: &str,
) -> [(&'static str, RabbitFabric, Recorder); 2] {
    world.declared(name).await;
    let fabric = |what: &str| {
        let config = config(rabbit, "server", &format!("{name} {what}"));
        RabbitFabric::new(config, "server", &world.tasks)
    };
    let (of_node, of_controller) = (fabric("node"), fabric("controller"));
    let subscriber = of_node.subscribe(Subscription::Node(node(name))).await;
    let at_node = world.record_with_heads(subscriber, Some(name));
    let subscriber = of_controller.subscribe(controller(name)).await;
    let at_controller = world.record_with_heads(subscriber, None);
    for reader in [&at_node, &at_controller] {
        reader.until("it lists", |all| relists(all) == ["start"]).await;
        let first = world.journal.write("first", &[of(name)]);
        reader.until("the first", |all| events(all).iter().any(|e| e.revision == first)).await;
    }
    [("node", of_node, at_node), ("controller", of_controller, at_controller)]
}

/// It lists for the head's sake, and soon, and what comes after that comes as an event. `false`: it was delivered, as what
/// was to lose it was healed before.
async fn heals(world: &World, name: &str, what: &str, reader: &Recorder, lost: Revision) -> bool {
    let start = Instant::now();
    let all = reader.until("what was lost is known", |all| knows(all, lost)).await;
    let took = start.elapsed();
    let is_lost = !events(&all).iter().any(|event| event.revision == lost);
    if is_lost {
        println!("{name}, {what}: healed after {} ms", took.as_millis());
        assert!(took < HEALED, "{took:?}");
        let for_the_head = |got: &Got| matches!(got, Got::Relist { reason: reason::HEAD, listed, .. } if *listed >= lost);
        assert!(all.iter().any(for_the_head), "{all:?}");
    }
    // The cause is healed as well.
    eventually("events come again", async || {
        let next = world.journal.write("next", &[of(name)]);
        let came = async || {
            let all = reader.all();
            events(&all).iter().any(|event| event.revision == next).then_some(())
        };
        let patience = tokio::time::timeout(Duration::from_secs(1), eventually("it comes", came));
        patience.await.ok()
    })
    .await;
    check(&world.journal, &reader.all(), &[of(name)]);
    is_lost
}

async fn take(subscriber: &mut dyn Subscriber) -> (Revision, Box<dyn Ack>) {
    loop {
        match tokio::time::timeout(SOON, subscriber.next()).await.expect("a delivery") {
            Delivery::Event(event, ack) => return (event.revision, ack),
            Delivery::Relist { streams, .. } => subscriber.listed(&streams, Revision(0)),
            _ => {}
        }
    }
}

/// While as much is in a reader's hands as it may have, the rest stays in its queue.
async fn purged(rabbit: &RabbitMq, world: &World) {
    world.declared("purged").await;
    let fabric = world.fabric(rabbit, "server");
    for (name, subscription) in [
        ("node.purged", Subscription::Node(node("purged"))),
        ("controllers.purged.a", controller("purged")),
    ] {
        let mut subscriber = fabric.subscribe(subscription).await;
        let Delivery::Relist { streams, .. } = subscriber.next().await else { panic!("no list") };
        subscriber.listed(&streams, world.journal.head());
        let mut last = Revision(0);
        for _ in 0..300 {
            last = world.journal.write("pod", &[of("purged")]);
        }
        let published = async || (world.server.status().cursor >= last).then_some(());
        eventually("all is published", published).await;
        // What was given back is in its hands no more.
        let (_, given_back) = take(&mut *subscriber).await;
        drop(given_back);
        let mut held = Vec::new();
        for _ in 0..256 {
            held.push(take(&mut *subscriber).await);
        }
        rabbit.ctl(&["purge_queue", name]).await.unwrap();
        // With something in its hands it does not judge: it may be slow.
        subscriber.heads(Some(world.journal.heads()));
        for (_, ack) in held {
            ack.ack().await;
        }
        let start = Instant::now();
        let next = tokio::time::timeout(SOON, subscriber.next()).await.expect("a relist");
        let took = start.elapsed();
        let Delivery::Relist { streams, at_least, reason } = next else { panic!("no list") };
        println!("purged, {name}: noticed after {} ms", took.as_millis());
        assert!(took < HEALED && took > Duration::from_secs(1), "{took:?}");
        assert_eq!((streams.len(), at_least, reason), (1, last, reason::HEAD));
    }
}

async fn unbind(rabbit: &RabbitMq, queue: &str, key: &str) {
    let bindings = format!("/api/bindings/%2f/e/warren.events/q/{queue}");
    let (_, all) = rabbit.http(Method::GET, &bindings, None).await.unwrap();
    let own = |b: &&Value| b["routing_key"] == key;
    let binding = all.as_array().unwrap().iter().find(own).unwrap();
    let properties = binding["properties_key"].as_str().unwrap();
    let path = format!("{bindings}/{}", properties.replace('%', "%25").replace('*', "%2A"));
    let (status, _) = rabbit.http(Method::DELETE, &path, None).await.unwrap();
    assert!(status.is_success(), "{path}: {status}");
}

/// A queue that is exclusive to its connection is nothing for the management page, and its owner binds it again and again:
/// what is to be lost is published while it is kept unbound.
async fn lose<T>(rabbit: &RabbitMq, queue: &str, key: &str, publish: impl AsyncFnOnce() -> T) -> T {
    let of = |kind: &str, name: &str| format!("{{resource,<<\"/\">>,{kind},<<\"{name}\">>}}");
    let (source, to) = (of("exchange", "warren.events"), of("queue", queue));
    let unbind = format!(
        "[begin rabbit_binding:remove({{binding,{source},<<\"{key}\">>,{to},[]}}, <<\"test\">>), timer:sleep(5) end \
         || _ <- lists:seq(1, 1000)], ok."
    );
    let publish = async {
        let bindings = format!("/api/bindings/%2f/e/warren.events/q/{queue}");
        eventually("the binding is gone", async || {
            let (_, all) = rabbit.http(Method::GET, &bindings, None).await.ok()?;
            (!all.as_array()?.iter().any(|binding| binding["routing_key"] == key)).then_some(())
        })
        .await;
        publish().await
    };
    let arguments = ["eval", &unbind];
    let (unbound, published) = tokio::join!(rabbit.ctl(&arguments), publish);
    assert_eq!(unbound.unwrap().trim(), "ok");
    published
}

async fn unbound(rabbit: &RabbitMq, world: &World) {
    let all = readers(rabbit, world, "unbound").await;
    for _ in 0..TRIES {
        unbind(rabbit, "node.unbound", "*.*.*.node~unbound.*").await;
        let lost = lose(rabbit, "controllers.unbound.a", "core.pods.*.*.*", async || {
            let lost = world.journal.write("lost", &[of("unbound")]);
            let published = async || (world.server.status().cursor >= lost).then_some(());
            eventually("it is published", published).await;
            lost
        })
        .await;
        let mut is_lost = true;
        for (what, _, reader) in &all {
            is_lost &= heals(world, "unbound", what, reader, lost).await;
        }
        if is_lost {
            for (_, fabric, _) in &all {
                let by_reason = fabric.metrics().relists_by_reason();
                let heads = by_reason.iter().find(|(reason, _)| *reason == reason::HEAD);
                assert!(heads.is_some_and(|(_, count)| *count >= 1), "{by_reason:?}");
            }
            return;
        }
    }
    panic!("{TRIES} times the bindings were healed before the event came");
}

/// Whether it was delivered or listed.
fn knows(all: &[Got], revision: Revision) -> bool {
    all.iter().any(|got| match got {
        Got::Event(event) => event.revision == revision,
        Got::Relist { listed, .. } => *listed >= revision,
        _ => false,
    })
}

async fn queue_deleted(rabbit: &RabbitMq, world: &World) {
    let all = readers(rabbit, world, "gone").await;
    for queue in ["node.gone", "controllers.gone.a"] {
        let queue = format!("{{resource,<<\"/\">>,queue,<<\"{queue}\">>}}");
        let delete = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup({queue}), {{ok, _}} = rabbit_amqqueue:delete(Q, false, false, \
             <<\"test\">>), ok."
        );
        assert_eq!(rabbit.ctl(&["eval", &delete]).await.unwrap().trim(), "ok");
    }
    let lost = world.journal.write("lost", &[of("gone")]);
    for (what, _, reader) in &all {
        // Where the new queue was there in time, nothing was lost.
        let start = Instant::now();
        reader.until("what was lost is known", |all| knows(all, lost)).await;
        let took = start.elapsed();
        println!("gone, {what}: healed after {} ms", took.as_millis());
        assert!(took < HEALED, "{took:?}");
        let last = world.journal.write("last", &[of("gone")]);
        let all = reader.until("it goes on", |all| events(all).iter().any(|e| e.revision == last));
        check(&world.journal, &all.await, &[of("gone")]);
    }
}

async fn exchange_deleted(rabbit: &RabbitMq, world: &World) {
    let all = readers(rabbit, world, "exchange").await;
    let exchange = "/api/exchanges/%2f/warren.events";
    let (status, _) = rabbit.http(Method::DELETE, exchange, None).await.unwrap();
    assert!(status.is_success(), "{status}");
    let lost = world.journal.write("lost", &[of("exchange")]);
    for (what, _, reader) in &all {
        let start = Instant::now();
        reader.until("what was lost is known", |all| knows(all, lost)).await;
        let took = start.elapsed();
        println!("exchange, {what}: healed after {} ms", took.as_millis());
        assert!(took < HEALED + HEALED, "{took:?}");
        check(&world.journal, &reader.all(), &[of("exchange")]);
    }
}

/// Closes all connections whose names contain this.
async fn close(rabbit: &RabbitMq, name: &str) {
    let of_name = eventually("the connection is shown", async || {
        let (_, all) = rabbit.http(Method::GET, "/api/connections", None).await.ok()?;
        let named = |c: &&Value| {
            c["client_properties"]["connection_name"].as_str().is_some_and(|n| n.contains(name))
        };
        let found: Vec<Value> = all.as_array()?.iter().filter(named).cloned().collect();
        (!found.is_empty()).then_some(found)
    })
    .await;
    for connection in of_name {
        let name = connection["name"].as_str().unwrap().replace(' ', "%20").replace('>', "%3E");
        let path = format!("/api/connections/{name}");
        let (status, answer) = rabbit.http(Method::DELETE, &path, None).await.unwrap();
        assert!(status.is_success(), "{path}: {status}: {answer}");
    }
}

async fn connection_closed(rabbit: &RabbitMq, world: &World) {
    let all = readers(rabbit, world, "closed").await;
    close(rabbit, "closed ").await;
    for (_, fabric, reader) in &all {
        reader.until("it is back", |all| all.contains(&Got::Reconnected)).await;
        let skipped = async || {
            let skipped = fabric.metrics().relists_skipped.load(Ordering::Relaxed);
            (skipped >= 1).then_some(())
        };
        eventually("the list is skipped", skipped).await;
    }
    for (what, _, reader) in &all {
        let last = world.journal.write("last", &[of("closed")]);
        let all =
            reader.until("it goes on", |all| events(all).iter().any(|e| e.revision == last)).await;
        assert_eq!(relists(&all), ["start"], "{what}");
        check(&world.journal, &all, &[of("closed")]);
    }
}

/// With everything in a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_the_last_event() {
    let _one = ONE.lock().await;
    let (cluster, rabbit) = Cluster::on_rabbitmq(Options { nodes: 2, ..Options::default() }).await;
    cluster.wait_consumers(&rabbit).await;
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "node-2", "containers": [{"name": "c", "image": "example/c:1"}]},
        })
        .to_string()
    };
    let running = |what: &str, name: &str| {
        let start = Instant::now();
        until(&format!("{name} runs"), HEALED_FOR_REAL, || {
            let pod = cluster.object("pods", "default", name);
            pod.is_some_and(|pod| pod["status"]["phase"] == "Running")
        });
        println!("{what}: {name} runs after {} ms", start.elapsed().as_millis());
    };
    cluster.kubectl_with(["apply", "-f", "-"], &pod("before")).ok();
    running("as ever", "before");

    unbind(&rabbit, "node.node-2", "*.*.*.node~node-2.*").await;
    cluster.kubectl_with(["apply", "-f", "-"], &pod("unbound")).ok();
    running("the node's binding was deleted", "unbound");
    cluster.kubectl_with(["apply", "-f", "-"], &pod("bound")).ok();
    running("it is bound again", "bound");

    let queues = rabbit.http(Method::GET, "/api/queues/%2f", None).await.unwrap().1;
    let mut names = queues.as_array().unwrap().iter().filter_map(|queue| queue["name"].as_str());
    let of_controllers = names.find(|name| name.starts_with("controllers.controllers.")).unwrap();
    lose(&rabbit, of_controllers, "apps.deployments.*.*.*", async || {
        cluster.kubectl(["create", "deployment", "lost", "--image=example/c:1"]).ok();
    })
    .await;
    until("the deployment that the controllers were not told of", HEALED_FOR_REAL, || {
        cluster.objects("replicasets", "default").len() == 1
    });

    let exchange = "/api/exchanges/%2f/warren.events";
    rabbit.http(Method::DELETE, exchange, None).await.unwrap();
    cluster.kubectl_with(["apply", "-f", "-"], &pod("exchange")).ok();
    running("the exchange was deleted", "exchange");

    rabbit.http(Method::DELETE, "/api/queues/%2f/node.node-2", None).await.unwrap();
    cluster.kubectl_with(["apply", "-f", "-"], &pod("queue")).ok();
    running("the node's queue was deleted", "queue");
    cluster.wait_consumers(&rabbit).await;

    // Where nothing has changed nothing is listed. The cluster may still be busy with what was done before.
    let skipped = |role: &Role| cluster.log(role).matches("nothing was lost with the").count();
    let listed = |role: &Role| cluster.log(role).matches("relist reason=").count();
    let back = |role: &Role| cluster.log(role).matches("connection=\"consume\"").count();
    for (role, connection) in [
        (Role::Controllers, "controllers (consume)"),
        (Role::Agent("node-2".to_owned()), "agent node-2 (consume)"),
    ] {
        let quiet = (0..5).any(|_| {
            let before = (skipped(&role), listed(&role), back(&role));
            block_on(close(&rabbit, connection));
            until("it judges what the connection took with it", HEALED_FOR_REAL, || {
                back(&role) > before.2 && (skipped(&role), listed(&role)) != (before.0, before.1)
            });
            listed(&role) == before.1
        });
        assert!(quiet, "{role:?} lists after each reconnection");
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future));
}
