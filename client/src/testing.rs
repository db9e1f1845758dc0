//! A fabric without a broker and without a server, for tests.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use smallvec::smallvec;
use tokio::sync::mpsc;
use warren_api::{Object, ObjectKey, Registry, Revision, Shard, Uid};
use warren_broker::{Ack, Delivery, Event, EventType, Fabric, Subscriber, Subscription};

use crate::informer::{Cached, Informer, Shared, Sink as _};

/// Delivers what the test hands in to every subscriber. Unbounded, as tests are short. Clones share it.
#[derive(Clone, Default)]
pub struct FakeFabric {
    subscribers: Arc<Mutex<Vec<mpsc::UnboundedSender<Message>>>>,
}

#[derive(Clone)]
enum Message {
    Event(Box<Event>),
    Relist(Revision),
    Down,
}

impl FakeFabric {
    pub fn new() -> Self {
        Self::default()
    }

    /// A change of an object that says what it is: `apiVersion`, `kind` and metadata with a resourceVersion. Panics
    /// where it does not: the test is wrong.
    pub fn publish(&self, event_type: EventType, object: &Object) {
        let kind = Registry::builtin().by_kind(object.api_version(), object.kind());
        let kind = kind.expect("the object is of a known kind");
        let key = ObjectKey::new(kind.resource(), object.namespace(), object.name());
        self.send(&Message::Event(Box::new(Event {
            epoch: 1,
            revision: object.resource_version().expect("the object has a resourceVersion"),
            uid: object.uid().unwrap_or_else(|| Uid("".into())),
            key,
            event_type,
            shards: smallvec![(Shard::None, Revision(0))],
            object: Bytes::from(serde_json::to_vec(object).expect("JSON values are JSON")),
            brings: Vec::new(),
        })));
    }

    /// Tells all readers to list everything.
    pub fn relist(&self, at_least: Revision) {
        self.send(&Message::Relist(at_least));
    }

    pub fn down(&self) {
        self.send(&Message::Down);
    }

    fn send(&self, message: &Message) {
        self.subscribers.lock().retain(|subscriber| subscriber.send(message.clone()).is_ok());
    }
}

#[async_trait]
impl Fabric for FakeFabric {
    async fn subscribe(&self, _: Subscription) -> Box<dyn Subscriber> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // The first delivery of every subscription is a relist.
        let _ = sender.send(Message::Relist(Revision(0)));
        self.subscribers.lock().push(sender);
        Box::new(FakeSubscriber(receiver))
    }
}

struct FakeSubscriber(mpsc::UnboundedReceiver<Message>);

struct NoAck;

#[async_trait]
impl Ack for NoAck {
    async fn ack(self: Box<Self>) {}
}

#[async_trait]
impl Subscriber for FakeSubscriber {
    async fn next(&mut self) -> Delivery {
        match self.0.recv().await {
            Some(Message::Event(event)) => Delivery::Event(*event, Box::new(NoAck)),
            Some(Message::Relist(at_least)) => {
                Delivery::Relist { streams: Vec::new(), at_least, reason: "the test says so" }
            }
            Some(Message::Down) => Delivery::Down {
                reason: "the test says so".to_owned(),
                silent: std::time::Duration::ZERO,
            },
            None => std::future::pending().await,
        }
    }
}

/// An informer that the test feeds itself: what a process' informers do with events and lists, without the process.
pub struct Fed<K: Cached> {
    informer: Informer<K>,
    sink: Arc<Shared<K>>,
}

impl<K: Cached + kube::Resource<DynamicType = ()>> Default for Fed<K> {
    fn default() -> Self {
        let (informer, sink) = Informer::new(());
        Self { informer, sink }
    }
}

impl<K: Cached + kube::Resource<DynamicType = ()>> Fed<K> {
    pub fn informer(&self) -> &Informer<K> {
        &self.informer
    }

    /// As [`crate::InformerSet`] hands an event on.
    pub fn event(&self, event: &Event) -> Result<(), serde_json::Error> {
        match event.event_type {
            EventType::Deleted => {
                self.sink.delete(event.revision, &event.key.namespace, &event.key.name);
                Ok(())
            }
            _ if self.sink.is_old(event.revision) => Ok(()),
            _ => self.sink.upsert(event.revision, &event.object),
        }
    }

    pub fn listed(&self, revision: Revision, items: &[Box<RawValue>]) {
        self.sink.replace(revision, items);
    }
}
