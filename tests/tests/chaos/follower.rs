//! A program that follows `warren.events` with a queue of its own, as docs/events.md tells it to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use http::Method;
use kube::Client;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use parking_lot::Mutex;
use serde_json::Value;
use warren_tests::chaos::State;
use warren_tests::chaos::reader::{Heard, Reader, Verdict};

use super::clients::{KINDS, Kind, NAMESPACE, call, revision, state};

pub const QUEUE: &str = "follower";
const PREFETCH: u16 = 50;
const AGAIN: Duration = Duration::from_millis(200);
/// Its bindings go with the exchange, and nobody tells it.
const BINDS_AGAIN: Duration = Duration::from_secs(3);

/// What it has heard and what it takes to be so.
#[derive(Default)]
pub struct Followed {
    pub reader: Reader,
    /// By key.
    pub objects: BTreeMap<String, State>,
    /// Key and token of every event about the clients' objects.
    pub events: Vec<(String, String)>,
    pub strange: Vec<String>,
    pub connections: usize,
}

pub struct Follower {
    url: String,
    client: Client,
    pub told: Arc<Mutex<Followed>>,
}

impl Follower {
    /// Its queue is there and everything is listed when this returns.
    pub async fn start(url: String, client: Client) -> Self {
        let this = Self { url, client, told: Arc::default() };
        let connection = this.declare().await.expect("the queue can be declared");
        for kind in KINDS {
            this.list(kind).await;
        }
        drop(connection);
        this
    }

    pub async fn run(self) {
        loop {
            // It ends with every fault of the broker, and comes again.
            let _ = self.consume().await;
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn declare(&self) -> Result<Connection> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        Self::bind(&connection.create_channel().await?).await?;
        Ok(connection)
    }

    async fn bind(channel: &Channel) -> Result<()> {
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await?;
        for key in KINDS.map(Kind::binding).into_iter().chain(["warren.floor.#"]) {
            let (exchange, options) = ("warren.events".into(), QueueBindOptions::default());
            let arguments = FieldTable::default();
            channel.queue_bind(QUEUE.into(), exchange, key.into(), options, arguments).await?;
        }
        Ok(())
    }

    async fn consume(&self) -> Result<()> {
        let connection = self.declare().await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut deliveries =
            channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await?;
        self.told.lock().connections += 1;
        let binds = connection.create_channel().await?;
        let mut bind = tokio::time::interval(BINDS_AGAIN);
        loop {
            let delivery = tokio::select! {
                _ = bind.tick() => {
                    // An exchange that is not there yet ends the channel, and this with it.
                    Self::bind(&binds).await?;
                    continue;
                }
                delivery = deliveries.next() => delivery,
            };
            let Some(delivery) = delivery else { return Ok(()) };
            let delivery = delivery?;
            self.message(&delivery).await;
            delivery.ack(BasicAckOptions::default()).await?;
        }
    }

    async fn message(&self, delivery: &Delivery) {
        let by = delivery.properties.user_id().as_ref().map(|user| user.as_str().to_owned());
        if by.as_deref() != Some("server") {
            // Not an event, whatever it says.
            self.told.lock().strange.push(format!("a message of {by:?}"));
            return;
        }
        let Some(heard) = heard(delivery) else {
            let what = format!("headers: {:?}", delivery.properties.headers());
            self.told.lock().strange.push(what);
            return;
        };
        let mut verdict = self.told.lock().reader.hears(&heard);
        while let Verdict::Relist(resource) = verdict {
            for kind in KINDS {
                if resource.as_deref().is_none_or(|resource| resource == kind.resource()) {
                    self.list(kind).await;
                }
            }
            verdict = self.told.lock().reader.again(&heard);
        }
        self.event(delivery, &heard, verdict == Verdict::Apply);
    }

    fn event(&self, delivery: &Delivery, heard: &Heard, apply: bool) {
        if heard.floor {
            return;
        }
        let event: Value = serde_json::from_slice(&delivery.data).unwrap_or_default();
        let object = &event["object"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&object["metadata"]["name"]);
        if object["metadata"]["namespace"] != NAMESPACE {
            return;
        }
        let mut told = self.told.lock();
        if revision(object) != Some(heard.revision) {
            told.strange.push(format!("{heard:?} carries {:?}", revision(object)));
        }
        let key = format!("{}/{name}", heard.resource);
        let state = state(object);
        if let Some(state) = &state {
            told.events.push((key.clone(), state.token.clone()));
        }
        if apply {
            match state.filter(|_| event["type"] != "DELETED") {
                Some(state) => told.objects.insert(key, state),
                None => told.objects.remove(&key),
            };
        }
    }

    /// Until it is answered.
    async fn list(&self, kind: Kind) {
        loop {
            let answer = call(&self.client, Method::GET, &kind.path(), &Value::Null).await;
            if let Some((200, list)) = answer
                && let Some(revision) = revision(&list)
            {
                let mut told = self.told.lock();
                let prefix = format!("{}/", kind.resource());
                told.objects.retain(|key, _| !key.starts_with(&prefix));
                told.objects.extend(states(kind, &list));
                told.reader.listed(kind.resource(), revision);
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// The clients' objects of a list, by key.
pub fn states(kind: Kind, list: &Value) -> BTreeMap<String, State> {
    let items = list["items"].as_array().into_iter().flatten();
    let states = items.filter_map(|object| {
        let name = object["metadata"]["name"].as_str()?;
        Some((format!("{}/{name}", kind.resource()), state(object)?))
    });
    states.collect()
}

fn heard(delivery: &Delivery) -> Option<Heard> {
    let headers = delivery.properties.headers().as_ref()?.inner();
    let number = |name: &str| number(headers.get(name)?);
    let list = |name: &str| match headers.get(name) {
        Some(AMQPValue::FieldArray(array)) => array.as_slice().to_vec(),
        _ => vec![],
    };
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    };
    let floor = delivery.routing_key.as_str().starts_with("warren.floor");
    let shards = list("shards").iter().map(text).collect::<Option<Vec<_>>>()?;
    let prevs = list("prev").iter().map(self::number).collect::<Option<Vec<_>>>()?;
    Some(Heard {
        epoch: number("epoch")?,
        revision: number("rv")?,
        resource: headers.get("resource").and_then(text).unwrap_or_default(),
        shards: shards.into_iter().zip(prevs).collect(),
        floor,
    })
}

fn number(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some(u64::from(*number)),
        _ => None,
    }
}
