use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use warren_api::{Object, Revision};
use warren_broker::EventType;
use warren_process::Tasks;

use crate::testing::FakeFabric;
use crate::{Connection, Fallback, HttpFabric, Informer, InformerSet, in_process};

type Body = http_body_util::combinators::BoxBody<bytes::Bytes, Infallible>;

/// ConfigMaps that can be listed and watched, as little as an informer needs.
#[derive(Clone)]
struct FakeApi {
    state: Arc<Mutex<(u64, Vec<Value>)>>,
    changes: broadcast::Sender<String>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeApi {
    fn new() -> Self {
        let changes = broadcast::Sender::new(64);
        Self { state: Arc::default(), changes, requests: Arc::default() }
    }

    fn client(&self) -> kube::Client {
        let api = self.clone();
        in_process(tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let response = api.answer(&request.uri().to_string());
            async move { Ok::<_, Infallible>(response) }
        }))
    }

    fn answer(&self, uri: &str) -> http::Response<Body> {
        self.requests.lock().push(uri.to_owned());
        let body = if uri.contains("watch=true") {
            let receiver = self.changes.subscribe();
            let lines = futures::stream::unfold(receiver, |mut receiver| async move {
                let line = receiver.recv().await.ok()?;
                Some((Ok(http_body::Frame::data(bytes::Bytes::from(line))), receiver))
            });
            StreamBody::new(lines).boxed()
        } else {
            let (revision, items) = self.state.lock().clone();
            let list =
                json!({"metadata": {"resourceVersion": revision.to_string()}, "items": items});
            http_body_util::Full::from(list.to_string()).boxed()
        };
        http::Response::new(body)
    }

    /// Stores an object; the answer is what an event carries.
    fn put(&self, name: &str, revision: u64) -> Object {
        let mut state = self.state.lock();
        state.0 = revision;
        state.1.retain(|item| item["metadata"]["name"] != name);
        let object = config_map(name, revision);
        state.1.push(object.clone());
        let line = json!({"type": "MODIFIED", "object": object}).to_string();
        let _ = self.changes.send(line + "\n");
        object.try_into().unwrap()
    }

    fn remove(&self, name: &str, revision: u64) -> Object {
        let mut state = self.state.lock();
        state.0 = revision;
        state.1.retain(|item| item["metadata"]["name"] != name);
        config_map(name, revision).try_into().unwrap()
    }
}

fn config_map(name: &str, revision: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "default",
        "name": name, "uid": format!("uid-{name}"), "resourceVersion": revision.to_string(),
        "managedFields": [{"manager": "test"}]}})
}

struct Reader {
    maps: Informer<ConfigMap>,
    changes: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl Reader {
    fn start(connection: Connection) -> Self {
        let mut set = InformerSet::new(connection, "test", "1");
        let maps = set.informer::<ConfigMap>();
        let changes: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&changes);
        maps.on_change(move |change| {
            let text = |map: &Option<Arc<ConfigMap>>| {
                map.as_ref().map_or("-".to_owned(), |map| {
                    assert_eq!(map.metadata.managed_fields, None);
                    let meta = &map.metadata;
                    format!(
                        "{}@{}",
                        meta.name.as_deref().unwrap(),
                        meta.resource_version.as_deref().unwrap()
                    )
                })
            };
            log.lock().push(format!("{} → {}", text(&change.old), text(&change.new)));
        });
        let tasks = Tasks::new();
        set.run(&tasks);
        Self { maps, changes, tasks }
    }

    async fn seen(&self, revision: u64) {
        let waited = self.maps.wait_for(Revision(revision));
        tokio::time::timeout(Duration::from_secs(20), waited).await.expect("the cache catches up");
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.changes.lock())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tasks.shutdown().trigger();
    }
}

#[tokio::test]
async fn a_list_then_events_and_nothing_twice() {
    let (api, fabric) = (FakeApi::new(), FakeFabric::new());
    let a = api.put("a", 5);
    let reader = Reader::start(Connection::new(api.client(), Arc::new(fabric.clone())));
    reader.seen(5).await;
    assert_eq!(reader.take(), ["- → a@5"]);

    fabric.publish(EventType::Modified, &a);
    fabric.publish(EventType::Modified, &api.put("a", 7));
    fabric.publish(EventType::Added, &config_map("old", 4).try_into().unwrap());
    fabric.publish(EventType::Added, &api.put("b", 8));
    fabric.publish(EventType::Modified, &config_map("b", 6).try_into().unwrap());
    fabric.publish(EventType::Deleted, &api.remove("a", 9));
    reader.seen(9).await;
    assert_eq!(reader.take(), ["a@5 → a@7", "- → b@8", "a@7 → -"]);
    assert!(reader.maps.get("default", "b").is_some());
}

#[tokio::test]
async fn a_relist_feeds_differences() {
    let (api, fabric) = (FakeApi::new(), FakeFabric::new());
    api.put("same", 1);
    api.put("changes", 2);
    api.put("goes", 3);
    let reader = Reader::start(Connection::new(api.client(), Arc::new(fabric.clone())));
    reader.seen(3).await;
    reader.take();

    api.put("changes", 4);
    api.put("comes", 5);
    api.remove("goes", 6);
    fabric.relist(Revision(6));
    reader.seen(6).await;
    let mut changes = reader.take();
    changes.sort();
    assert_eq!(changes, ["- → comes@5", "changes@2 → changes@4", "goes@3 → -"]);
}

#[tokio::test]
async fn without_a_broker_http_watch_feeds_the_same_informers() {
    let api = FakeApi::new();
    api.put("a", 1);
    let reader = Reader::start(Connection::over_http(api.client()));
    reader.seen(1).await;
    api.put("a", 2);
    reader.seen(2).await;
    assert_eq!(reader.take(), ["- → a@1", "a@1 → a@2"]);
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_down_http_watch_takes_over_and_yields_again() {
    let (api, broker) = (FakeApi::new(), FakeFabric::new());
    api.put("a", 1);
    let http = HttpFabric::new(api.client());
    let fabric = Arc::new(Fallback::new(Arc::new(broker.clone()), http));
    let reader = Reader::start(Connection::new(api.client(), fabric));
    reader.seen(1).await;

    let start = tokio::time::Instant::now();
    broker.down();
    api.put("a", 2);
    reader.seen(2).await;
    assert!(start.elapsed() <= Duration::from_secs(2), "{:?}", start.elapsed());
    api.put("a", 3);
    reader.seen(3).await;

    broker.relist(Revision(3));
    broker.publish(EventType::Modified, &config_map("a", 4).try_into().unwrap());
    reader.seen(4).await;
    assert!(api.changes.receiver_count() == 0, "the watch has ended");
    assert_eq!(reader.take(), ["- → a@1", "a@1 → a@2", "a@2 → a@3", "a@3 → a@4"]);
}

#[tokio::test]
async fn an_index_follows_changes() {
    let (api, fabric) = (FakeApi::new(), FakeFabric::new());
    let mut set =
        InformerSet::new(Connection::new(api.client(), Arc::new(fabric.clone())), "test", "1");
    let maps = set.informer::<ConfigMap>();
    let index = maps.index(|map| vec![map.metadata.name.clone().unwrap_or_default()]);
    let tasks = Tasks::new();
    set.run(&tasks);
    maps.synced().await;
    fabric.publish(EventType::Added, &api.put("a", 1));
    maps.wait_for(Revision(1)).await;
    assert_eq!(index.get("a").len(), 1);
    fabric.publish(EventType::Deleted, &api.remove("a", 2));
    maps.wait_for(Revision(2)).await;
    assert!(!index.contains("a"));
    tasks.shutdown().trigger();
}

#[test]
fn another_object_of_the_name_is_not_a_change_of_the_old_one() {
    let fed = crate::testing::Fed::<ConfigMap>::default();
    let told = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&told);
    fed.informer().on_change(move |change| {
        let uid = |object: &Option<Arc<ConfigMap>>| {
            object.as_ref().and_then(|object| object.metadata.uid.clone()).unwrap_or_default()
        };
        to.lock().push(format!("{}>{}", uid(&change.old), uid(&change.new)));
    });
    for (uid, revision) in [("a", 1), ("a", 2), ("b", 5)] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata":
            {"name": "x", "namespace": "n", "uid": uid, "resourceVersion": revision.to_string()}});
        let raw = serde_json::value::to_raw_value(&object).unwrap();
        fed.listed(Revision(revision), &[raw]);
    }
    assert_eq!(*told.lock(), [">a", "a>a", "a>", ">b"]);
}
