//! What a node's account can do, call by call.

use std::sync::Arc;

use lapin::options::*;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::json;
use warren_api::Shard;
use warren_broker::accounts::{self, Account};
use warren_broker::api::{ApiAnswer, ApiHandler, ApiRequest, Asked};
use warren_broker::{Delivery, Fabric, ReplyTo, Subscription};
use warren_tests::RabbitMq;

use super::world::*;

/// `Ok`, or the broker's reply code.
fn code<T>(result: lapin::Result<T>) -> Result<T, u16> {
    result.map_err(|error| match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_id(),
        other => panic!("{other:?}"),
    })
}

const REFUSED: u16 = 403;

/// Says who asked for what.
struct Echo;

#[async_trait::async_trait]
impl ApiHandler for Echo {
    async fn answer(&self, asked: Asked) -> ApiAnswer {
        let account = asked.account.unwrap_or_default();
        let headers = vec![("warren-account".to_owned(), account)];
        ApiAnswer { code: 200, headers, body: asked.request.body }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_can_do_what_it_must_and_nothing_more() {
    let _one = ONE.lock().await;
    let all = [
        Account::Server,
        Account::Controllers,
        Account::Admin,
        Account::Node(node("a.b")),
        Account::Node(node("other")),
    ];
    let all = all.map(|account| {
        let password = format!("secret of {}", account.name()).replace(' ', "-");
        (account, password)
    });
    let definitions = accounts::definitions(&all);
    let passwords = all.iter().map(|(account, password)| (account.name(), password.clone()));
    let rabbit = RabbitMq::start_with(&definitions, passwords).await.unwrap();

    let world = World::start(&rabbit);
    world.declared("a.b").await;
    world.declared("other").await;
    let own = world.fabric(&rabbit, "node-a.b");
    let reader = world.record(own.subscribe(Subscription::Node(node("a.b"))).await);
    reader.until("it lists", |all| !relists(all).is_empty()).await;
    let last = world.journal.write("web", &[Shard::Node(node("a.b"))]);
    reader.until("its event", |all| events(all).iter().any(|e| e.revision == last)).await;
    let controllers = world.fabric(&rabbit, "controllers");
    let subscription = Subscription::Controller {
        name: "c".to_owned(),
        instance: "1".to_owned(),
        resources: vec![pods()],
    };
    let controller = world.record(controllers.subscribe(subscription).await);
    controller.until("it lists", |all| !relists(all).is_empty()).await;
    let last = world.journal.write("web", &[Shard::Node(node("a.b"))]);
    controller.until("its event", |all| events(all).iter().any(|e| e.revision == last)).await;

    // What it refuses is a dead letter, though it may not write there.
    let other = world.fabric(&rabbit, "node-other");
    let mut subscriber = other.subscribe(Subscription::Node(node("other"))).await;
    rabbit.publish("amq.default", "node.other", "gibberish", json!({})).await.unwrap();
    loop {
        if let Delivery::Command { ack, .. } = subscriber.next().await {
            ack.reject("not a pod".to_owned()).await;
            break;
        }
    }
    let letter =
        eventually("the dead letter", async || rabbit.take("warren.dead", 1).await.unwrap().pop())
            .await;
    let (headers, user) =
        (&letter["properties"]["headers"], letter["properties"]["user_id"].as_str());
    assert_eq!(
        (&headers["x-reason"], &headers["x-origin"]),
        (&"not a pod".into(), &"node.other".into())
    );
    assert_eq!((&headers["x-count"], user), (&1.into(), Some("node-other")));
    // What it answers arrives by way of the server, which speaks to nobody's reserved queue for it.
    let answers = world.server.clone();
    world.tasks.spawn("answers", async move { answers.hand_on_answers().await });
    let durable = json!({"durable": true});
    rabbit.http(hyper::Method::PUT, "/api/queues/%2f/mine", Some(durable)).await.unwrap();
    for queue in ["node.a.b", "mine"] {
        let to = ReplyTo { queue: queue.to_owned(), correlation_id: Some("7".to_owned()) };
        other.reply(&to, &json!({"kind": "Status", "code": 201})).await.unwrap();
    }
    let answer =
        eventually("the answer", async || rabbit.take("mine", 1).await.unwrap().pop()).await;
    assert_eq!(answer["properties"]["correlation_id"], "7");
    assert_eq!(answer["payload"], r#"{"code":201,"kind":"Status"}"#);

    // It asks and is answered, with no right but to write to warren.api.
    let server = world.server.clone();
    world.tasks.spawn("requests", async move { server.serve_api(Arc::new(Echo)).await });
    let request = ApiRequest {
        method: "POST".to_owned(),
        path: "/x".to_owned(),
        body: "hello".into(),
        ..ApiRequest::default()
    };
    for account in ["node-other", "controllers"] {
        let api = world.fabric(&rabbit, account).api();
        let answer = api.ask(&request, SOON).await.unwrap();
        assert_eq!((answer.code, &answer.body[..]), (200, &b"hello"[..]));
        assert_eq!(answer.header("warren-account"), Some(account));
    }

    let guest = format!("amqp://guest:guest@127.0.0.1:{}/%2f", rabbit.amqp_port());
    assert!(Connection::connect(&guest, ConnectionProperties::default()).await.is_err());

    let url = rabbit.amqp_url("node-a.b");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = async || -> Channel {
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(Default::default()).await.unwrap();
        channel
    };
    let publish = async |exchange: &str, key: &str, user: Option<&str>| {
        let mut properties = BasicProperties::default();
        if let Some(user) = user {
            properties = properties.with_user_id(user.into());
        }
        let options = BasicPublishOptions::default();
        let channel = channel().await;
        let sent = channel.basic_publish(exchange.into(), key.into(), options, b"x", properties);
        code(async { sent.await?.await }.await).map(|c| c.is_ack())
    };
    let consume = async |queue: &str| {
        let options = BasicConsumeOptions::default();
        let channel = channel().await;
        code(channel.basic_consume(queue.into(), "".into(), options, Default::default()).await)
            .map(drop)
    };
    let get = async |queue: &str| {
        let channel = channel().await;
        code(channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await).map(drop)
    };

    // Allowed.
    assert_eq!(publish("warren.api", "", Some("node-a.b")).await, Ok(true));
    let own_reply = format!("{}.7", accounts::reply_word(&node("a.b")));
    assert_eq!(publish("warren.replies", &own_reply, None).await, Ok(true));
    assert_eq!(consume("node.a.b").await, Ok(()));

    // Writing.
    assert_eq!(publish("warren.api", "", Some("server")).await, Err(406));
    for (exchange, key) in [
        ("warren.events", "core.pods.default.node~other.modified"),
        ("warren.commands", "apply"),
        ("warren.dead", ""),
        ("warren.replies", "node-other.7"),
        ("", "node.other"),
        ("", "node.a.b"),
        ("", "warren.commands"),
        ("amq.topic", "x"),
    ] {
        assert_eq!(publish(exchange, key, None).await, Err(REFUSED), "{exchange} {key}");
    }
    // Reading.
    for queue in ["node.other", "warren.commands", "warren.api", "warren.dead"] {
        assert_eq!(consume(queue).await, Err(REFUSED), "{queue}");
        assert_eq!(get(queue).await, Err(REFUSED), "{queue}");
    }
    // Configuring.
    let table = Default::default;
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    for name in ["node.a.b", "node.new", "mine", "", "warren.api"] {
        let declare = channel().await.queue_declare(name.into(), exclusive, table()).await;
        assert!(matches!(code(declare), Err(REFUSED | 405)), "{name}");
    }
    let declare = channel()
        .await
        .exchange_declare("mine".into(), ExchangeKind::Fanout, Default::default(), table())
        .await;
    assert_eq!(code(declare), Err(REFUSED));
    for (exchange, key) in
        [("warren.events", "#"), ("warren.replies", "#"), ("warren.commands", "#")]
    {
        let channel = channel().await;
        let options = QueueBindOptions::default();
        let bind =
            channel.queue_bind("node.a.b".into(), exchange.into(), key.into(), options, table());
        assert_eq!(code(bind.await), Err(REFUSED), "{exchange}");
        let unbind = connection.create_channel().await.unwrap();
        let unbind =
            unbind.queue_unbind("node.a.b".into(), exchange.into(), key.into(), table()).await;
        assert_eq!(code(unbind), Err(REFUSED), "{exchange}");
    }
    for queue in ["node.a.b", "node.other", "warren.commands"] {
        let delete =
            channel().await.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
        assert_eq!(code(delete).map(drop), Err(REFUSED), "{queue}");
    }
    for exchange in ["warren.events", "warren.api"] {
        let delete = channel().await.exchange_delete(exchange.into(), Default::default()).await;
        assert_eq!(code(delete), Err(REFUSED), "{exchange}");
    }
    for queue in ["node.other", "warren.commands"] {
        let purge = channel().await.queue_purge(queue.into(), QueuePurgeOptions::default()).await;
        assert_eq!(code(purge).map(drop), Err(REFUSED), "{queue}");
    }
    // The management page is for people.
    let get = rabbit.http_as("node-a.b", hyper::Method::GET, "/api/overview", None).await.unwrap();
    assert_eq!(get.0, hyper::StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_read_events_and_touch_nothing_else() {
    let _one = ONE.lock().await;
    let all = [Account::Server, Account::Controllers, Account::Admin, Account::Node(node("n"))];
    let all = all.map(|account| (account, "secret".to_owned()));
    let definitions = accounts::definitions(&all);
    let passwords = all.iter().map(|(account, password)| (account.name(), password.clone()));
    let rabbit = RabbitMq::start_with(&definitions, passwords).await.unwrap();
    let world = World::start(&rabbit);
    world.declared("n").await;

    let url = rabbit.amqp_url("controllers");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let table = Default::default;
    let channel = async || -> Channel {
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(Default::default()).await.unwrap();
        channel
    };
    let declare = async |name: &str| {
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        code(channel().await.queue_declare(name.into(), exclusive, table()).await).map(drop)
    };
    let bind = async |queue: &str, exchange: &str| {
        let (queue, exchange) = (queue.into(), exchange.into());
        let options = QueueBindOptions::default();
        code(channel().await.queue_bind(queue, exchange, "#".into(), options, table()).await)
    };
    let consume = async |queue: &str| {
        let options = BasicConsumeOptions::default();
        code(channel().await.basic_consume(queue.into(), "".into(), options, table()).await)
            .map(drop)
    };
    let publish = async |exchange: &str, key: &str| {
        let channel = channel().await;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = channel.basic_publish(exchange.into(), key.into(), options, b"x", properties);
        code(async { sent.await?.await }.await).map(|c| c.is_ack())
    };

    assert_eq!(declare("controllers.mine.1").await, Ok(()));
    assert_eq!(bind("controllers.mine.1", "warren.events").await, Ok(()));
    assert_eq!(consume("controllers.mine.1").await, Ok(()));
    assert_eq!(publish("warren.api", "").await, Ok(true));

    for queue in ["node.n", "node.new", "mine", "warren.commands", "warren.api", "warren.dead"] {
        assert!(matches!(declare(queue).await, Err(REFUSED | 405)), "{queue}");
        assert!(matches!(consume(queue).await, Err(REFUSED | 404)), "{queue}");
    }
    for exchange in ["warren.commands", "warren.replies", "warren.dead"] {
        assert_eq!(bind("controllers.mine.1", exchange).await, Err(REFUSED), "{exchange}");
    }
    for (exchange, key) in [
        ("warren.events", "core.pods.default.node~n.modified"),
        ("warren.commands", "apply"),
        ("warren.dead", ""),
        ("", "node.n"),
        ("", "warren.commands"),
    ] {
        assert_eq!(publish(exchange, key).await, Err(REFUSED), "{exchange} {key}");
    }
    for queue in ["node.n", "warren.commands"] {
        let channel = channel().await;
        let purge = channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await;
        assert_eq!(code(purge).map(drop), Err(REFUSED), "{queue}");
    }
    let delete = channel().await.exchange_delete("warren.events".into(), Default::default()).await;
    assert_eq!(code(delete), Err(REFUSED));
    let overview = "/api/overview";
    let get = rabbit.http_as("controllers", hyper::Method::GET, overview, None).await.unwrap();
    assert_eq!(get.0, hyper::StatusCode::UNAUTHORIZED);
}
