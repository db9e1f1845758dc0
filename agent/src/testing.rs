//! An API in memory, and a clock that goes with tokio's.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use warren_api::Revision;
use warren_broker::heads::Asked;
use warren_broker::{
    Ack, BrokerError, Delivery, EventType, Fabric, Heads, Present, ReplyTo, Subscriber,
    Subscription,
};
use warren_process::Clock;

use crate::api::{ApiError, Identity, NodeApi, PodList};

/// Time that tests may pause and advance.
pub(crate) struct TokioClock(tokio::time::Instant, Timestamp);

impl TokioClock {
    pub(crate) fn new() -> Self {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Self(tokio::time::Instant::now(), start)
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.1 + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

type Key = (String, String);
type OnPod = Box<dyn Fn(bool, &Value) + Send + Sync>;

#[derive(Default)]
struct State {
    down: bool,
    /// When it was asked last while it was down.
    refused: Option<Instant>,
    epoch: u64,
    revision: u64,
    pods: BTreeMap<Key, Value>,
    nodes: BTreeMap<String, Value>,
    leases: BTreeMap<String, Value>,
    events: Vec<Event>,
    config_maps: BTreeMap<Key, ConfigMap>,
    secrets: BTreeMap<Key, Secret>,
    /// Why pods are not created, and not deleted, for others than the node.
    refuses: (Option<String>, Option<String>),
    /// `verb namespace/name by identity`
    log: Vec<String>,
}

#[derive(Default)]
pub(crate) struct FakeApi {
    state: Mutex<State>,
    changed: Notify,
    /// Told of every change of a pod.
    pub(crate) on_pod: Mutex<Option<OnPod>>,
}

impl FakeApi {
    pub(crate) fn put_config_map(&self, namespace: &str, name: &str, data: &[(&str, &str)]) {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        self.state.lock().config_maps.insert((namespace.into(), name.into()), map);
    }

    pub(crate) fn put_secret(&self, namespace: &str, name: &str, data: &[(&str, &str)]) {
        let bytes = |v: &str| ByteString(v.as_bytes().to_vec());
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), bytes(v))).collect();
        let secret = Secret { data: Some(data), ..Secret::default() };
        self.state.lock().secrets.insert((namespace.into(), name.into()), secret);
    }

    pub(crate) fn refuse_creations(&self, why: &str) {
        self.state.lock().refuses.0 = Some(why.to_owned());
    }

    pub(crate) fn refuse_deletions(&self, why: &str) {
        self.state.lock().refuses.1 = Some(why.to_owned());
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().down = down;
    }

    pub(crate) fn asked_in_vain(&self) -> Option<Instant> {
        self.state.lock().refused
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn node_object(&self, name: &str) -> Option<Value> {
        self.state.lock().nodes.get(name).cloned()
    }

    pub(crate) fn set_node(&self, name: &str, node: Value) {
        self.state.lock().nodes.insert(name.to_owned(), node);
        self.changed.notify_waiters();
    }

    pub(crate) fn lease(&self, name: &str) -> Option<Value> {
        self.state.lock().leases.get(name).cloned()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.state.lock().log.clone()
    }

    /// Reason and message of each Event, in their order.
    pub(crate) fn told(&self) -> Vec<(String, String)> {
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        self.state.lock().events.iter().map(|e| (of(&e.reason), of(&e.message))).collect()
    }

    pub(crate) fn reasons(&self) -> Vec<String> {
        self.state.lock().events.iter().filter_map(|e| e.reason.clone()).collect()
    }

    /// Waits until something is so.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut check: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = check(self) {
                    return found;
                }
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
                }
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(600), wait).await {
            Ok(found) => found,
            Err(_) => panic!("{what}: {:#?}", self.state.lock().pods),
        }
    }

    /// As somebody else would do it.
    pub(crate) fn apply(&self, mut pod: Value) -> Value {
        let mut state = self.state.lock();
        state.revision += 1;
        if pod["metadata"]["name"].is_null() {
            let prefix = pod["metadata"]["generateName"].as_str().unwrap();
            pod["metadata"]["name"] = format!("{prefix}{}", state.revision).into();
        }
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        pod["metadata"]["namespace"] = namespace.clone().into();
        pod["metadata"]["resourceVersion"] = state.revision.to_string().into();
        if pod["metadata"]["uid"].is_null() {
            pod["metadata"]["uid"] = format!("uid-{}", state.revision).into();
        }
        if pod["metadata"]["generation"].is_null() {
            pod["metadata"]["generation"] = 1.into();
        }
        state.pods.insert((namespace, name), pod.clone());
        drop(state);
        self.tell(false, &pod);
        pod
    }

    pub(crate) fn delete_gracefully(&self, namespace: &str, name: &str, grace: i64) {
        let mut pod = self.get(namespace, name).unwrap();
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.apply(pod);
    }

    pub(crate) fn remove(&self, namespace: &str, name: &str) {
        let removed = self.state.lock().pods.remove(&(namespace.to_owned(), name.to_owned()));
        if let Some(pod) = removed {
            self.tell(true, &pod);
        }
    }

    /// Goes back to a database that knows the node by name only, and none of its pods. Where the one before it is lost,
    /// its revision does not depend on that one's.
    pub(crate) fn restore(&self) {
        self.restore_with(&[]);
    }

    /// The same, with these pods.
    pub(crate) fn restore_with(&self, pods: &[Value]) {
        let mut state = self.state.lock();
        let key = |pod: &Value| {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
            (text("namespace"), text("name"))
        };
        state.pods = pods.iter().map(|pod| (key(pod), pod.clone())).collect();
        state.epoch += 1;
        state.revision = 1_000_000_000;
        for (name, node) in &mut state.nodes {
            *node = json!({"metadata": {"name": name, "uid": "node-uid"}});
        }
    }

    fn tell(&self, deleted: bool, pod: &Value) {
        if let Some(on_pod) = &*self.on_pod.lock() {
            on_pod(deleted, pod);
        }
        self.changed.notify_waiters();
    }

    fn up(&self) -> Result<parking_lot::MutexGuard<'_, State>, ApiError> {
        let mut state = self.state.lock();
        if !state.down {
            return Ok(state);
        }
        state.refused = Some(Instant::now());
        Err(ApiError::Unreachable("down".into()))
    }
}

/// Enough of a strategic merge: lists of what has a `type` or a `name` merge, others are replaced.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(into), Value::Array(patch))
            if patch.iter().all(|p| p.get("type").is_some()) =>
        {
            for item in patch {
                match into.iter_mut().find(|i| i["type"] == item["type"]) {
                    Some(old) => merge(old, item),
                    None => {
                        let mut new = json!({});
                        merge(&mut new, item);
                        into.push(new);
                    }
                }
            }
        }
        (into, Value::Array(patch)) => {
            let items = patch.iter().filter(|p| p.get("$patch").is_none());
            *into = items
                .map(|item| {
                    let mut new = if item.is_object() { json!({}) } else { Value::Null };
                    merge(&mut new, item);
                    new
                })
                .collect();
        }
        (into, Value::Object(patch)) => {
            *into = json!({});
            merge(into, &Value::Object(patch.clone()));
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn missing(name: &str) -> ApiError {
    ApiError::NotFound(format!("{name:?} not found"))
}

#[async_trait]
impl NodeApi for FakeApi {
    async fn pods(&self, node: &str) -> Result<PodList, ApiError> {
        let state = self.up()?;
        let pods = state.pods.values().filter(|p| p["spec"]["nodeName"] == node).map(typed);
        let (at, epoch) = (Revision(state.revision), Some(state.epoch));
        Ok(PodList { pods: pods.collect(), at, epoch })
    }
    async fn pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        drop(self.up()?);
        self.get(namespace, name).map(|p| typed(&p)).ok_or_else(|| missing(name))
    }
    async fn create_pod(&self, pod: &Value, by: Option<&Identity>) -> Result<Pod, ApiError> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        {
            let mut state = self.up()?;
            let by = by.map_or("", String::as_str);
            state.log.push(format!("create {namespace}/{name} by {by}"));
            if let Some(why) = state.refuses.0.as_ref().filter(|_| !by.is_empty()) {
                return Err(ApiError::Refused(403, why.clone()));
            }
            if state.pods.contains_key(&(namespace.to_owned(), name.to_owned())) {
                return Err(ApiError::AlreadyExists(format!("pods {name:?} already exists")));
            }
        }
        Ok(typed(&self.apply(pod.clone())))
    }
    async fn patch_pod(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
        by: Option<&Identity>,
    ) -> Result<Pod, ApiError> {
        {
            let by = by.map_or("", String::as_str);
            self.up()?.log.push(format!("patch {namespace}/{name} by {by}"));
        }
        let mut pod = self.get(namespace, name).ok_or_else(|| missing(name))?;
        merge(&mut pod, patch);
        pod["metadata"]["generation"] =
            (pod["metadata"]["generation"].as_i64().unwrap() + 1).into();
        Ok(typed(&self.apply(pod)))
    }
    async fn patch_pod_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<(), ApiError> {
        drop(self.up()?);
        let mut pod = self.get(namespace, name).ok_or_else(|| missing(name))?;
        if patch["metadata"]["uid"] != pod["metadata"]["uid"] {
            return Err(ApiError::Conflict("uid".into()));
        }
        merge(&mut pod, patch);
        self.apply(pod);
        Ok(())
    }
    async fn delete_pod(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        grace_seconds: Option<u32>,
        by: Option<&Identity>,
    ) -> Result<(), ApiError> {
        {
            let by = by.map_or("", String::as_str);
            let mut state = self.up()?;
            state.log.push(format!("delete {namespace}/{name} {grace_seconds:?} by {by}"));
            if let Some(why) = state.refuses.1.as_ref().filter(|_| !by.is_empty()) {
                return Err(ApiError::Refused(403, why.clone()));
            }
        }
        let pod = self.get(namespace, name).ok_or_else(|| missing(name))?;
        if uid.is_some_and(|uid| pod["metadata"]["uid"] != uid) {
            return Err(ApiError::Conflict("uid".into()));
        }
        if grace_seconds == Some(0) {
            self.remove(namespace, name);
        } else {
            self.delete_gracefully(namespace, name, 30);
        }
        Ok(())
    }
    async fn create_namespace(&self, _name: &str) -> Result<(), ApiError> {
        self.up().map(drop)
    }
    async fn create_node(&self, node: &Node) -> Result<Node, ApiError> {
        let mut value = serde_json::to_value(node).unwrap();
        value["metadata"]["uid"] = "node-uid".into();
        let mut state = self.up()?;
        state.nodes.insert(node.metadata.name.clone().unwrap(), value.clone());
        self.changed.notify_waiters();
        Ok(typed(&value))
    }
    async fn node(&self, name: &str) -> Result<Node, ApiError> {
        self.up()?.nodes.get(name).map(typed).ok_or_else(|| missing(name))
    }
    async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, ApiError> {
        let mut state = self.up()?;
        let node = state.nodes.get_mut(name).ok_or_else(|| missing(name))?;
        merge(node, patch);
        self.changed.notify_waiters();
        Ok(typed(node))
    }
    async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, ApiError> {
        self.patch_node(name, patch).await
    }
    async fn node_lease(&self, name: &str) -> Result<Lease, ApiError> {
        let state = self.up()?;
        state.leases.get(name).map(typed).ok_or_else(|| missing(name))
    }
    async fn create_lease(&self, lease: &Lease) -> Result<(), ApiError> {
        let name = lease.metadata.name.clone().unwrap();
        self.up()?.leases.insert(name, serde_json::to_value(lease).unwrap());
        self.changed.notify_waiters();
        Ok(())
    }
    async fn patch_lease(
        &self,
        name: &str,
        patch: &Value,
        _asked: Option<&Asked>,
    ) -> Result<Option<Heads>, ApiError> {
        let mut state = self.up()?;
        merge(state.leases.get_mut(name).ok_or_else(|| missing(name))?, patch);
        Ok(None)
    }
    async fn create_event(&self, event: &Event) -> Result<(), ApiError> {
        self.up()?.events.push(event.clone());
        self.changed.notify_waiters();
        Ok(())
    }
    async fn patch_event(&self, _ns: &str, name: &str, patch: &Value) -> Result<(), ApiError> {
        let mut state = self.up()?;
        let mut events = state.events.iter_mut();
        let found = events.find(|e| e.metadata.name.as_deref() == Some(name));
        let event = found.ok_or_else(|| missing(name))?;
        event.count = patch["count"].as_i64().and_then(|c| i32::try_from(c).ok());
        Ok(())
    }
    async fn config_map(&self, namespace: &str, name: &str) -> Result<ConfigMap, ApiError> {
        let key = (namespace.to_owned(), name.to_owned());
        self.up()?.config_maps.get(&key).cloned().ok_or_else(|| missing(name))
    }
    async fn secret(&self, namespace: &str, name: &str) -> Result<Secret, ApiError> {
        let key = (namespace.to_owned(), name.to_owned());
        self.up()?.secrets.get(&key).cloned().ok_or_else(|| missing(name))
    }
}

/// A fabric whose deliveries are the test's. The first is a relist.
pub(crate) struct FakeFabric {
    send: tokio::sync::mpsc::UnboundedSender<Delivery>,
    receive: Mutex<Option<tokio::sync::mpsc::UnboundedReceiver<Delivery>>>,
    pub(crate) outcomes: Arc<Mutex<Vec<String>>>,
    /// Answers to commands, with the queue that they are for.
    pub(crate) replies: Mutex<Vec<(String, Value)>>,
    commands: Mutex<Vec<String>>,
}

impl FakeFabric {
    pub(crate) fn new() -> Arc<Self> {
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        let fabric = Arc::new(Self {
            send,
            receive: Mutex::new(Some(receive)),
            outcomes: Arc::default(),
            replies: Mutex::default(),
            commands: Mutex::default(),
        });
        fabric.relist();
        fabric
    }

    /// Events of an API's pods come from here on through this fabric.
    pub(crate) fn follow(&self, api: &FakeApi) {
        let (send, outcomes) = (self.send.clone(), Arc::clone(&self.outcomes));
        *api.on_pod.lock() = Some(Box::new(move |deleted, pod| {
            let event = changed("pods", deleted, pod);
            let _ = send.send(Delivery::Event(event, Box::new(FakeAck(Arc::clone(&outcomes)))));
        }));
    }

    pub(crate) fn brings(&self, resource: &str, object: &Value) {
        let ack = Box::new(FakeAck(Arc::clone(&self.outcomes)));
        let warren_broker::Event { revision, uid, key, object, .. } =
            changed(resource, false, object);
        let present = Present { revision, uid, key, object };
        let _ = self.send.send(Delivery::Present(present, ack));
    }

    pub(crate) fn node_changed(&self, node: &Value) {
        let ack = Box::new(FakeAck(Arc::clone(&self.outcomes)));
        let _ = self.send.send(Delivery::Event(changed("nodes", false, node), ack));
    }

    pub(crate) fn relist(&self) {
        self.relist_for("test");
    }

    pub(crate) fn relist_for(&self, reason: &'static str) {
        let relist = Delivery::Relist { streams: Vec::new(), at_least: Revision(0), reason };
        let _ = self.send.send(relist);
    }

    /// With `reply`, its sender waits on a queue of that name.
    pub(crate) fn command(&self, body: &str, publisher: Option<&str>, reply: Option<&str>) {
        self.said(body, publisher, reply, false);
    }

    /// Dressed as the server's.
    pub(crate) fn forged(&self, body: &str, publisher: Option<&str>) {
        self.said(body, publisher, None, true);
    }

    fn said(&self, body: &str, publisher: Option<&str>, reply: Option<&str>, imitation: bool) {
        let mut commands = self.commands.lock();
        let repeated = commands.iter().any(|said| said == body);
        commands.push(body.to_owned());
        let _ = self.send.send(Delivery::Command {
            imitation,
            body: body.to_owned().into(),
            message_id: None,
            repeated,
            publisher: publisher.map(str::to_owned),
            routing_key: "node.n1".into(),
            reply: reply.map(|queue| ReplyTo { queue: queue.to_owned(), correlation_id: None }),
            ack: Box::new(FakeAck(Arc::clone(&self.outcomes))),
        });
    }
}

fn changed(resource: &str, deleted: bool, object: &Value) -> warren_broker::Event {
    let text = |key: &str| Arc::<str>::from(object["metadata"][key].as_str().unwrap_or_default());
    let resource = warren_api::GroupResource::new("", resource);
    warren_broker::Event {
        epoch: 1,
        revision: text("resourceVersion").parse().unwrap_or_default(),
        uid: warren_api::Uid(text("uid")),
        key: warren_api::ObjectKey::new(resource, text("namespace"), text("name")),
        event_type: if deleted { EventType::Deleted } else { EventType::Modified },
        shards: Default::default(),
        object: object.to_string().into(),
        brings: Vec::new(),
    }
}

struct FakeAck(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Ack for FakeAck {
    async fn ack(self: Box<Self>) {
        self.0.lock().push("ack".into());
    }
    async fn reject(self: Box<Self>, reason: String) {
        self.0.lock().push(reason);
    }
}

struct FakeSubscriber(tokio::sync::mpsc::UnboundedReceiver<Delivery>);

#[async_trait]
impl Subscriber for FakeSubscriber {
    async fn next(&mut self) -> Delivery {
        match self.0.recv().await {
            Some(delivery) => delivery,
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Fabric for FakeFabric {
    async fn subscribe(&self, _subscription: Subscription) -> Box<dyn Subscriber> {
        Box::new(FakeSubscriber(self.receive.lock().take().unwrap()))
    }

    async fn reply(&self, to: &ReplyTo, status: &Value) -> Result<(), BrokerError> {
        self.replies.lock().push((to.queue.clone(), status.clone()));
        Ok(())
    }
}
