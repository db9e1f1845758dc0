//! A broker that is well; one broker, one server, a node of its own for each case.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use warren_api::{Revision, Shard};
use warren_broker::{
    Delivery, Fabric, Metrics, QueueDepth, ReplyTo, Subscriber, Subscription, topology,
};
use warren_process::{Number, Sample};
use warren_tests::RabbitMq;

use super::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_broker_that_is_well() {
    let _one = ONE.lock().await;
    let rabbit = RabbitMq::start().await.unwrap();
    let world = World::start(&rabbit);
    world.declared("first").await;
    in_order_to_whom_it_concerns(&rabbit, &world).await;
    what_people_put_on_a_nodes_queue_is_a_command(&rabbit, &world).await;
    a_forged_event_is_a_command(&rabbit, &world).await;
    poison_is_put_aside(&rabbit, &world).await;
    what_is_given_back_comes_again(&rabbit, &world).await;
    what_is_refused_is_a_dead_letter(&rabbit, &world).await;
    commands_to_the_server(&rabbit, &world).await;
    a_purge_is_noticed(&rabbit, &world).await;
    a_deleted_queue_is_healed(&rabbit, &world).await;
    a_closed_connection_is_mended(&rabbit, &world).await;
    an_overflow_is_noticed_and_no_dead_letter(&rabbit, &world).await;
    a_blocked_connection_is_a_pause(&rabbit, &world).await;
    a_floor_tells_readers_to_list(&rabbit, &world).await;
    confirms_are_timed(&world).await;
    a_look_at_the_queues(&rabbit, &world).await;
    a_deleted_exchange_is_healed(&rabbit, &world).await;
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Of a family by connections.
fn by_connection(metrics: &Metrics, family: &str, connection: &str) -> u64 {
    let families = metrics.families();
    let family = families.iter().find(|one| one.name == family).unwrap();
    let is = |one: &&Sample| one.labels.iter().any(|(_, value)| value == connection);
    let sample = family.samples.iter().find(is).unwrap();
    let Number::Count(count) = sample.number else { panic!("{sample:?}") };
    count
}

fn of(name: &str) -> Shard {
    Shard::Node(node(name))
}

async fn in_order_to_whom_it_concerns(rabbit: &RabbitMq, world: &World) {
    // Anybody's queue, bound by hand, and a controller.
    let put = async |path: &str, method, body: Value| {
        let (status, answer) = rabbit.http(method, path, Some(body)).await.unwrap();
        assert!(status.is_success(), "{path}: {status}: {answer}");
    };
    put("/api/queues/%2f/people", Method::PUT, json!({"durable": true})).await;
    let bind = "/api/bindings/%2f/e/warren.events/q/people";
    put(bind, Method::POST, json!({"routing_key": "core.pods.default.#"})).await;
    let fabric = world.fabric(rabbit, "server");
    let controller = Subscription::Controller {
        name: "replicaset".to_owned(),
        instance: "a".to_owned(),
        resources: vec![pods()],
    };
    let controller = world.record(fabric.subscribe(controller).await);
    controller.until("it lists", |all| !relists(all).is_empty()).await;
    let first = world.node(rabbit, "first").await;
    let second = world.node(rabbit, "second.example.org").await;
    let second_shard = of("second.example.org");
    for n in 0..50 {
        let name = format!("web-{n}");
        world.journal.write(&name, &[Shard::Unscheduled]);
        world.journal.write(&name, &[of("first"), Shard::Unscheduled]);
        world.journal.write(&name, &[second_shard.clone(), of("first")]);
    }
    let last = world.journal.write("service", &[Shard::All]);
    for (reader, shards) in [
        (&first, vec![of("first"), Shard::All]),
        (&second, vec![second_shard.clone(), Shard::All]),
        (&controller, vec![of("first"), second_shard, Shard::All, Shard::Unscheduled]),
    ] {
        let all =
            reader.until("the last event", |all| events(all).iter().any(|e| e.revision == last));
        let all = all.await;
        check(&world.journal, &all, &shards);
        assert_eq!(relists(&all), ["start"]);
    }
    assert_eq!(events(&first.all()).len(), 101);
    let taken = rabbit.take("people", 1_000).await.unwrap();
    assert_eq!(taken.len(), 151);
    let revision = |m: &Value| m["properties"]["headers"]["rv"].as_u64().unwrap();
    assert!(taken.windows(2).all(|pair| revision(&pair[0]) < revision(&pair[1])));
    let moved = &taken[2];
    assert_eq!(moved["routing_key"], "core.pods.default.node~second_example_org.modified");
    assert_eq!(moved["properties"]["user_id"], "server");
    assert_eq!(moved["properties"]["headers"]["prev"], json!([0, 2, 2]));
    let body: Value = serde_json::from_str(moved["payload"].as_str().unwrap()).unwrap();
    assert_eq!((&body["type"], &body["object"]["kind"]), (&json!("MODIFIED"), &json!("Pod")));
    rabbit.http(Method::DELETE, "/api/queues/%2f/people", None).await.unwrap();
    eventually("all is confirmed", async || {
        (world.server.status().cursor == world.journal.head()).then_some(())
    })
    .await;
    assert_eq!(world.server.status().backlog, Some(0));
}

async fn what_people_put_on_a_nodes_queue_is_a_command(rabbit: &RabbitMq, world: &World) {
    let reader = world.node(rabbit, "people").await;
    let pod = r#"{"action":"add","podspec":{}}"#;
    let by_hand = async |properties: Value| {
        rabbit.publish("amq.default", "node.people", pod, properties).await.unwrap()
    };
    assert!(by_hand(json!({})).await);
    assert!(by_hand(json!({})).await, "the same again");
    assert!(by_hand(json!({"user_id": "admin", "message_id": "one"})).await);
    assert!(by_hand(json!({"user_id": "admin", "message_id": "one"})).await, "the same id");
    assert!(by_hand(json!({"message_id": "last"})).await);
    let command = |id: Option<&str>, publisher: Option<&str>, repeated| Got::Command {
        body: pod.to_owned(),
        id: id.map(str::to_owned),
        publisher: publisher.map(str::to_owned),
        repeated,
        key: "node.people".to_owned(),
    };
    let all = reader.until("the last command", |all| all.len() == 5).await;
    let expected = [
        command(None, None, false),
        command(None, None, true),
        command(Some("one"), Some("admin"), false),
        command(Some("last"), None, false),
    ];
    assert_eq!(all[1..], expected);
}

async fn a_forged_event_is_a_command(rabbit: &RabbitMq, world: &World) {
    let reader = world.node(rabbit, "forged").await;
    world.journal.write("real", &[of("forged")]);
    let all = reader.until("the real one", |all| events(all).len() == 1).await;
    let real = events(&all)[0].clone();
    let headers = json!({
        "epoch": real.epoch, "rv": real.revision.0 + 1, "uid": "x", "group": "", "resource": "pods",
        "namespace": "default", "name": "forged", "shards": ["node~forged"], "prev": [real.revision.0],
    });
    let key = "core.pods.default.node~forged.modified";
    let body = r#"{"type":"MODIFIED","object":{"kind":"Pod"}}"#;
    let forge = async |exchange: &str, key: &str, user: Option<&str>| {
        let mut properties = json!({"headers": headers, "message_id": "forged"});
        if let Some(user) = user {
            properties["user_id"] = user.into();
        }
        rabbit.publish(exchange, key, body, properties).await
    };
    assert!(forge("warren.events", key, None).await.unwrap());
    assert!(forge("warren.events", key, Some("admin")).await.unwrap());
    assert!(!matches!(forge("warren.events", key, Some("server")).await, Ok(true)));
    let all = reader.until("both", |all| all.len() == 4).await;
    assert!(all[2..].iter().all(|got| matches!(got, Got::Command { .. })), "{all:?}");
    // A floor of somebody else's neither.
    let floor =
        json!({"type": "warren.floor", "headers": {"epoch": 9, "rv": 9}, "message_id": "f"});
    assert!(rabbit.publish("warren.events", topology::FLOOR_KEY, "{}", floor).await.unwrap());
    let all = reader.until("the floor", |all| all.len() == 5).await;
    assert!(matches!(all[4], Got::Command { .. }));
    // The chain goes on.
    let last = world.journal.write("real", &[of("forged")]);
    let all = reader.until("the next real one", |all| events(all).len() == 2).await;
    assert_eq!((events(&all)[1].revision, relists(&all)), (last, vec!["start"]));
}

/// Messages in `warren.dead` that came from a queue, with their reasons.
async fn dead(rabbit: &RabbitMq, origin: &str, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    eventually("the dead letters", async || {
        all.extend(rabbit.take("warren.dead", 100).await.unwrap());
        (all.len() >= count).then_some(())
    })
    .await;
    let from = |m: &Value| {
        let headers = &m["properties"]["headers"];
        headers["x-origin"] == origin && headers["x-reason"].as_str().is_some_and(|r| !r.is_empty())
    };
    assert!(all.iter().all(from), "{all:#?}");
    all
}

/// The letters of each reason so far.
fn dead_letters(metrics: &Metrics) -> Vec<u64> {
    metrics.dead_letters_by_reason().into_iter().map(|(_, count)| count).collect()
}

async fn poison_is_put_aside(rabbit: &RabbitMq, world: &World) {
    world.declared("poison").await;
    let fabric = world.fabric(rabbit, "server");
    let reader = world.record(fabric.subscribe(Subscription::Node(node("poison"))).await);
    reader.until("it lists", |all| !relists(all).is_empty()).await;
    // The server's own account says something that is no event.
    let path = "/api/exchanges/%2f/warren.events/publish";
    let key = "core.pods.default.node~poison.modified";
    let body = json!({
        "properties": {"user_id": "server", "headers": {"epoch": -1}}, "routing_key": key,
        "payload": "poison", "payload_encoding": "string",
    });
    let (status, answer) = rabbit.http_as("server", Method::POST, path, Some(body)).await.unwrap();
    assert_eq!((status, &answer["routed"]), (StatusCode::OK, &json!(true)));
    reader.until("a relist", |all| relists(all) == ["start", "unreadable event"]).await;
    let dead = dead(rabbit, "node.poison", 1).await;
    assert_eq!(dead[0]["payload"], "poison");
    assert_eq!(dead[0]["properties"]["headers"]["x-origin-key"], key);
    assert_eq!(dead_letters(fabric.metrics()), [0, 1, 0], "too large, unreadable, refused");
    let relisted = fabric.metrics().relists_by_reason();
    assert!(relisted.contains(&("unreadable event", 1)), "{relisted:?}");
    assert_eq!(get(&fabric.metrics().bare_dead_letters), 0);
    world.journal.write("web", &[of("poison")]);
    reader.until("the consumer goes on", |all| events(all).len() == 1).await;
}

async fn next_event(subscriber: &mut dyn Subscriber) -> (Revision, Box<dyn warren_broker::Ack>) {
    loop {
        let next = tokio::time::timeout(SOON, subscriber.next()).await.expect("an event");
        if let Delivery::Event(event, ack) = next {
            return (event.revision, ack);
        }
    }
}

async fn what_is_given_back_comes_again(rabbit: &RabbitMq, world: &World) {
    world.declared("again").await;
    let fabric = world.fabric(rabbit, "server");
    let mut subscriber = fabric.subscribe(Subscription::Node(node("again"))).await;
    let one = world.journal.write("one", &[of("again")]);
    let two = world.journal.write("two", &[of("again")]);
    let (first, ack) = next_event(&mut *subscriber).await;
    let (second, kept) = next_event(&mut *subscriber).await;
    assert_eq!((first, second), (one, two));
    drop(ack);
    let (again, ack) = next_event(&mut *subscriber).await;
    assert_eq!(again, one);
    ack.ack().await;
    kept.ack().await;
    eventually("nothing is left", async || {
        let queue = queue(rabbit, "node.again").await?;
        (queue["messages"] == 0).then_some(())
    })
    .await;
    assert_eq!(get(&fabric.metrics().returned), 1);
    assert_eq!(get(&fabric.metrics().redelivered), 1);
    // Neither what was given back nor what came again is in anybody's hands.
    eventually("all is settled", async || {
        (get(&fabric.metrics().open_deliveries) == 0).then_some(())
    })
    .await;
    assert_eq!(get(&fabric.metrics().prefetch), 256);
    drop(subscriber);
    eventually("nobody reads", async || (get(&fabric.metrics().prefetch) == 0).then_some(())).await;
}

async fn what_is_refused_is_a_dead_letter(rabbit: &RabbitMq, world: &World) {
    world.declared("refuse").await;
    let fabric = world.fabric(rabbit, "server");
    let mut subscriber = fabric.subscribe(Subscription::Node(node("refuse"))).await;
    rabbit.publish("amq.default", "node.refuse", "gibberish", json!({})).await.unwrap();
    loop {
        if let Delivery::Command { ack, .. } = subscriber.next().await {
            ack.reject("not a pod".to_owned()).await;
            break;
        }
    }
    let letters = dead(rabbit, "node.refuse", 1).await;
    assert_eq!(letters[0]["payload"], "gibberish");
    assert_eq!(letters[0]["properties"]["headers"]["x-reason"], "not a pod");
    assert_eq!(dead_letters(fabric.metrics()), [0, 0, 1], "too large, unreadable, refused");
    let oversize = "x".repeat(session_limit() + 1);
    rabbit.publish("amq.default", "node.refuse", &oversize, json!({})).await.unwrap();
    eventually("too large", async || (dead_letters(fabric.metrics()) == [1, 0, 1]).then_some(()))
        .await;
    let letters = dead(rabbit, "node.refuse", 1).await;
    assert!(letters[0]["payload_bytes"].as_u64() < Some(5_000), "enough to see what it is");
}

/// What a command may have.
fn session_limit() -> usize {
    3 << 20
}

async fn commands_to_the_server(rabbit: &RabbitMq, world: &World) {
    let put =
        rabbit.http(Method::PUT, "/api/queues/%2f/my-replies", Some(json!({"durable": true})));
    put.await.unwrap();
    let mut commands = world.server.commands().await;
    let properties = json!({
        "user_id": "admin", "message_id": "c1", "reply_to": "my-replies", "correlation_id": "7",
    });
    assert!(rabbit.publish("warren.commands", "rabbit-1", "{}", properties).await.unwrap());
    let Delivery::Command { body, publisher, routing_key, reply: Some(reply), ack, .. } =
        commands.next().await
    else {
        panic!("not a command with a reply")
    };
    assert_eq!(
        (&body[..], publisher.as_deref(), &*routing_key),
        (&b"{}"[..], Some("admin"), "rabbit-1")
    );
    world.server.reply(&reply, &json!({"kind": "Status"})).await.unwrap();
    let taken = rabbit.take("my-replies", 1).await.unwrap();
    assert_eq!(taken[0]["payload"], r#"{"kind":"Status"}"#);
    assert_eq!(taken[0]["properties"]["correlation_id"], "7");
    ack.ack().await;

    // Nobody makes the server speak to a node, and a reply that nobody waits for is an error, not a hang.
    let to = |queue: &str| ReplyTo { queue: queue.to_owned(), correlation_id: None };
    for bad in ["node.first", "warren.commands", "no-such-queue"] {
        assert!(world.server.reply(&to(bad), &json!({})).await.is_err(), "{bad}");
    }

    assert!(rabbit.publish("warren.commands", "apply", "poison", json!({})).await.unwrap());
    let mut tries = 0;
    loop {
        let Delivery::Command { ack, .. } = commands.next().await else { panic!("not a command") };
        tries += 1;
        if tries == 3 {
            ack.reject("not a manifest".to_owned()).await;
            break;
        }
    }
    let dead = dead(rabbit, "warren.commands", 1).await;
    let headers = &dead[0]["properties"]["headers"];
    assert_eq!(headers["x-reason"], "not a manifest");
    assert_eq!(headers["x-origin-key"], "apply");
    assert_eq!(headers["x-count"], 3);
    rabbit.http(Method::DELETE, "/api/queues/%2f/my-replies", None).await.unwrap();
}

async fn a_purge_is_noticed(rabbit: &RabbitMq, world: &World) {
    world.declared("purge").await;
    let reader = world.node(rabbit, "purge").await;
    world.journal.write("a", &[of("purge")]);
    reader.until("the first", |all| events(all).len() == 1).await;
    // A bound queue loses what comes while its binding is away: as a purge between two deliveries.
    let bindings = "/api/bindings/%2f/e/warren.events/q/node.purge";
    let (_, all) = rabbit.http(Method::GET, bindings, None).await.unwrap();
    let own = |b: &&Value| b["routing_key"] == "*.*.*.node~purge.*";
    let binding = all.as_array().unwrap().iter().find(own).unwrap();
    let key = binding["properties_key"].as_str().unwrap();
    let path = format!("{bindings}/{}", key.replace('%', "%25").replace('*', "%2A"));
    let (status, _) = rabbit.http(Method::DELETE, &path, None).await.unwrap();
    assert!(status.is_success(), "{path}: {status}");
    let lost = world.journal.write("b", &[of("purge")]);
    eventually("it is published", async || (world.server.status().cursor >= lost).then_some(()))
        .await;
    world.declared("purge").await;
    world.journal.write("c", &[of("purge")]);
    let all = reader.until("the one after the gap", |all| events(all).len() == 2).await;
    assert_eq!(relists(&all), ["start", "gap"]);
    check(&world.journal, &all, &[of("purge")]);
}

async fn a_deleted_queue_is_healed(rabbit: &RabbitMq, world: &World) {
    let reader = world.node(rabbit, "deleted").await;
    world.journal.write("a", &[of("deleted")]);
    reader.until("the first", |all| events(all).len() == 1).await;
    rabbit.http(Method::DELETE, "/api/queues/%2f/node.deleted", None).await.unwrap();
    reader.until("it is told", |all| all.iter().any(|got| matches!(got, Got::Down(_)))).await;
    world.journal.write("b", &[of("deleted")]);
    world.declared("deleted").await;
    let all = reader.until("it lists", |all| relists(all).len() == 2).await;
    check(&world.journal, &all, &[of("deleted")]);
    world.journal.write("c", &[of("deleted")]);
    reader.until("it goes on", |all| events(all).len() == 2).await;
    world.server.delete_node(&node("deleted")).await.unwrap();
    world.server.delete_node(&node("deleted")).await.unwrap();
    assert_eq!(queue(rabbit, "node.deleted").await, None);
}

async fn a_closed_connection_is_mended(rabbit: &RabbitMq, world: &World) {
    let reader = world.node(rabbit, "closed").await;
    let last = world.journal.write("a", &[of("closed")]);
    reader.until_knows(last).await;
    let connections = eventually("the connections are shown", async || {
        let (_, all) = rabbit.http(Method::GET, "/api/connections", None).await.ok()?;
        let all = all.as_array()?.clone();
        let named = |c: &Value, name| c["client_properties"]["connection_name"] == name;
        let all_there = all.iter().any(|c| named(c, "apiserver (publish)"))
            && all.iter().any(|c| named(c, "closed (consume)"));
        all_there.then_some(all)
    })
    .await;
    for connection in connections {
        let name = connection["name"].as_str().unwrap().replace(' ', "%20").replace('>', "%3E");
        let path = format!("/api/connections/{name}");
        let (status, answer) = rabbit.http(Method::DELETE, &path, None).await.unwrap();
        assert!(status.is_success(), "{path}: {status}: {answer}");
    }
    let last = world.journal.write("b", &[of("closed")]);
    let all = reader.until("it lists", |all| relists(all) == ["start", "reconnected"]).await;
    assert!(all.iter().any(|got| matches!(got, Got::Down(_))));
    let last = world.journal.write("c", &[of("closed")]).max(last);
    let all = reader.until_knows(last).await;
    check(&world.journal, &all, &[of("closed")]);
}

async fn an_overflow_is_noticed_and_no_dead_letter(rabbit: &RabbitMq, world: &World) {
    world.declared("away").await;
    let before = world.journal.head();
    let mut last = before;
    for n in 0..topology::NODE_QUEUE_MESSAGES + 500 {
        last = world.journal.write(&format!("pod-{n}"), &[of("away")]);
    }
    eventually("all is published", async || (world.server.status().cursor >= last).then_some(()))
        .await;
    let fabric = world.fabric(rabbit, "server");
    let reader = world.record_all(fabric.subscribe(Subscription::Node(node("away"))).await);
    let all =
        reader.until("the last one", |all| events(all).iter().any(|e| e.revision == last)).await;
    assert_eq!(events(&all).len(), topology::NODE_QUEUE_MESSAGES as usize);
    check(&world.journal, &all, &[of("away")]);
    let dead = queue(rabbit, "warren.dead").await.unwrap();
    assert_eq!(dead["messages"], 0, "what overflows is no dead letter");
}

async fn a_blocked_connection_is_a_pause(rabbit: &RabbitMq, world: &World) {
    let reader = world.node(rabbit, "blocked").await;
    rabbit.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await.unwrap();
    world.journal.write("a", &[of("blocked")]);
    eventually("it says so", async || world.server.status().blocked).await;
    assert_eq!(by_connection(world.server.metrics(), "fabric_connections_blocked", "publish"), 1);
    assert_eq!(by_connection(world.server.metrics(), "fabric_connections_blocked", "commands"), 0);
    let last = world.journal.write("b", &[of("blocked")]);
    assert!(world.server.status().connected);
    rabbit.ctl(&["set_vm_memory_high_watermark", "0.4"]).await.unwrap();
    let all =
        reader.until("the last one", |all| events(all).iter().any(|e| e.revision == last)).await;
    check(&world.journal, &all, &[of("blocked")]);
    assert_eq!(relists(&all), ["start"]);
    eventually("it says so", async || world.server.status().blocked.is_none().then_some(())).await;
    assert_eq!(by_connection(world.server.metrics(), "fabric_connections_blocked", "publish"), 0);
}

async fn a_floor_tells_readers_to_list(rabbit: &RabbitMq, world: &World) {
    let reader = world.node(rabbit, "floor").await;
    world.journal.write("a", &[of("floor")]);
    reader.until("the first", |all| events(all).len() == 1).await;
    // Compaction overtakes a relay that cannot publish.
    rabbit.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await.unwrap();
    world.journal.write("b", &[of("floor")]);
    eventually("it is blocked", async || world.server.status().blocked).await;
    for n in 0..3_000 {
        world.journal.write(&format!("c-{n}"), &[of("floor")]);
    }
    world.journal.compact();
    rabbit.ctl(&["set_vm_memory_high_watermark", "0.4"]).await.unwrap();
    let all = reader.until("it lists", |all| relists(all) == ["start", "floor"]).await;
    check(&world.journal, &all, &[of("floor")]);
    let last = world.journal.write("d", &[of("floor")]);
    let all =
        reader.until("it goes on", |all| events(all).iter().any(|e| e.revision == last)).await;
    check(&world.journal, &all, &[of("floor")]);
    assert_eq!(relists(&all), ["start", "floor"]);
    assert_eq!(get(&world.server.metrics().floors), 1);
}

/// Every confirm was timed, and nothing else.
async fn confirms_are_timed(world: &World) {
    eventually("all is confirmed", async || {
        (world.server.status().cursor == world.journal.head()).then_some(())
    })
    .await;
    let metrics = world.server.metrics();
    let (published, confirmed) = (get(&metrics.published), get(&metrics.confirmed));
    assert!(confirmed > 10_000 && published >= confirmed, "{published} {confirmed}");
    let families = metrics.families();
    let timed = families.iter().find(|one| one.name == "fabric_confirm_seconds").unwrap();
    let Number::Buckets { counts, sum, .. } = &timed.samples[0].number else { panic!("{timed:?}") };
    assert_eq!(counts.iter().sum::<u64>(), confirmed);
    assert!(*sum > 0.0 && counts.last() < counts.iter().max(), "{timed:?}");
}

/// What the broker says of the queues, in one look.
async fn a_look_at_the_queues(rabbit: &RabbitMq, world: &World) {
    world.declared("looked-at").await;
    let reader = world.node(rabbit, "read").await;
    reader.until("it lists", |all| !relists(all).is_empty()).await;
    let last = world.journal.write("a", &[of("looked-at")]);
    eventually("it is published", async || (world.server.status().cursor >= last).then_some(()))
        .await;
    rabbit.publish("amq.default", "warren.dead", "x", json!({})).await.unwrap();
    // Somebody deletes a queue that should be there: the others are told of all the same.
    rabbit.http(Method::DELETE, "/api/queues/%2f/node.first", None).await.unwrap();
    let depths = world.server.depths(&["nobody".to_owned()]).await.unwrap();
    let depth = |messages, consumers| Some(QueueDepth { messages, consumers });
    assert_eq!(depths.nodes[&node("looked-at")], depth(1, 0));
    assert_eq!(depths.nodes[&node("read")], depth(0, 1));
    assert_eq!(depths.nodes[&node("first")], None);
    assert_eq!(depths.dead_letters, depth(1, 0));
    assert_eq!(depths.leaders["nobody"], None);
    assert_eq!(depths.left_out, 0);
    rabbit.http(Method::DELETE, "/api/queues/%2f/warren.dead/contents", None).await.unwrap();
}

async fn a_deleted_exchange_is_healed(rabbit: &RabbitMq, world: &World) {
    let reader = world.node(rabbit, "exchange").await;
    rabbit.http(Method::DELETE, "/api/exchanges/%2f/warren.events", None).await.unwrap();
    // The next publish notices; the server declares all again, bindings too.
    world.journal.write("a", &[of("exchange")]);
    eventually("it is published", async || {
        (world.server.status().cursor == world.journal.head()).then_some(())
    })
    .await;
    world.declared("exchange").await;
    world.journal.write("b", &[of("exchange")]);
    let last = world.journal.write("c", &[of("exchange")]);
    let all =
        reader.until("the last one", |all| events(all).iter().any(|e| e.revision == last)).await;
    check(&world.journal, &all, &[of("exchange")]);
}
