//! kube-rs: its client, its watcher and its Controller, also over a server that is killed.
#![expect(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{
    AttachParams, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::runtime::controller::Action;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use kube::runtime::{Controller, reflector, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::io::AsyncReadExt;
use warren_tests::cluster::{Options, Role, SOON};
use warren_tests::{Cluster, document};

async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn config_map(name: &str, labels: &[(&str, &str)], data: &[(&str, &str)]) -> ConfigMap {
    let owned = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let mut map = ConfigMap { data: Some(owned(data)), ..ConfigMap::default() };
    map.metadata.name = Some(name.to_owned());
    map.metadata.labels = Some(owned(labels));
    map
}

fn reason<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason),
        other => panic!("a refusal was expected: {other:?}"),
    }
}

/// What each test went through; the last one compares it with the page.
fn verified(features: &[&str]) {
    const TESTS: usize = 4;
    static SEEN: Mutex<(usize, BTreeSet<String>)> = Mutex::new((0, BTreeSet::new()));
    let mut seen = SEEN.lock().unwrap();
    seen.0 += 1;
    seen.1.extend(features.iter().map(|feature| (*feature).to_owned()));
    if seen.0 == TESTS {
        document::client("kube-rs", &seen.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_client() {
    let cluster = Cluster::up(Options::default());
    let client = cluster.client().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let post = PostParams::default();
    let made = maps.create(&post, &config_map("one", &[], &[("a", "1")])).await.unwrap();
    // Of a revision that it should not have: Kubernetes gives no reason.
    assert_eq!(reason(maps.create(&post, &made).await), (500, String::new()));
    let again = maps.create(&post, &config_map("one", &[], &[])).await;
    assert_eq!(reason(again), (409, "AlreadyExists".to_owned()));
    let apply = PatchParams::apply("kube-rs");
    let mine = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "2"}});
    let applied = maps.patch("one", &apply, &Patch::Apply(&mine)).await.unwrap();
    assert_eq!(applied.data.unwrap().len(), 2);
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "3"}});
    let other = PatchParams::apply("other");
    let refused = maps.patch("one", &other, &Patch::Apply(&theirs)).await;
    assert_eq!(reason(refused), (409, "Conflict".to_owned()));
    let forced = maps.patch("one", &other.force(), &Patch::Apply(&theirs)).await.unwrap();
    assert_eq!(forced.data.unwrap()["b"], "3");
    assert_eq!(reason(maps.replace("one", &post, &made).await), (409, "Conflict".to_owned()));
    assert!(maps.get_opt("none").await.unwrap().is_none());
    let metadata = maps.list_metadata(&ListParams::default().fields("metadata.name=one")).await;
    assert_eq!(metadata.unwrap().items[0].uid(), made.uid());
    let with_uid = DeleteParams::default().preconditions(kube::api::Preconditions {
        uid: Some("another".into()),
        ..Default::default()
    });
    assert_eq!(reason(maps.delete("one", &with_uid).await), (409, "Conflict".to_owned()));
    maps.delete("one", &DeleteParams::default()).await.unwrap();

    let pods: Api<Pod> = Api::default_namespaced(client);
    let container = json!({"name": "c", "image": "any", "command": ["sleep", "3600"]});
    let pod = json!({"metadata": {"name": "talks"}, "spec": {"containers": [container]}});
    pods.create(&post, &serde_json::from_value(pod).unwrap()).await.unwrap();
    let running = kube::runtime::conditions::is_pod_running();
    kube::runtime::wait::await_condition(pods.clone(), "talks", running).await.unwrap();
    let attach = AttachParams::default().stderr(false);
    let mut session = pods.exec("talks", ["echo", "from inside"], &attach).await.unwrap();
    let mut said = String::new();
    session.stdout().unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "from inside\n");
    pods.evict("talks", &EvictParams::default()).await.unwrap();
    until("it is evicted", async || pods.get_opt("talks").await.unwrap().is_none().then_some(()))
        .await;
    verified(&[
        "objects: create, get, update, delete",
        "refusals with reason and causes",
        "server-side apply",
        "preconditions",
        "metadata lists",
        "exec",
        "eviction, drain",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_raw_watch_has_bookmarks() {
    let cluster = Cluster::up(Options::default());
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client().await);
    maps.create(&PostParams::default(), &config_map("there", &[], &[])).await.unwrap();
    let params = WatchParams::default().initial_events();
    let events = maps.watch(&params, "0").await.unwrap();
    let mut events = std::pin::pin!(events);
    let mut names = Vec::new();
    let end = loop {
        match events.try_next().await.unwrap().expect("the end of the initial events") {
            WatchEvent::Added(map) => names.push(map.name_any()),
            WatchEvent::Bookmark(bookmark) => break bookmark,
            other => panic!("{other:?}"),
        }
    };
    assert!(names.contains(&"there".to_owned()), "{names:?}");
    assert_eq!(end.metadata.annotations["k8s.io/initial-events-end"], "true");
    verified(&["watch", "streaming list"]);
}

/// What a watcher is told and what there is are the same, though the server dies in between.
#[tokio::test(flavor = "multi_thread")]
async fn its_watchers_follow_over_a_death_of_the_server() {
    let mut cluster = Cluster::up(Options::default());
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client().await);
    let strategies = [InitialListStrategy::ListWatch, InitialListStrategy::StreamingList];
    let mut stores = Vec::new();
    for strategy in strategies {
        let config = watcher::Config {
            initial_list_strategy: strategy,
            ..watcher::Config::default().labels("seen=yes")
        };
        let (store, writer) = reflector::store::<ConfigMap>();
        let mut stream = reflector(writer, watch(maps.clone(), config)).boxed();
        tokio::spawn(async move {
            while let Some(event) = stream.next().await {
                // The server is away for a moment: the watcher tries again by itself.
                let Ok(
                    Event::Apply(_)
                    | Event::Delete(_)
                    | Event::Init
                    | Event::InitApply(_)
                    | Event::InitDone,
                ) = event
                else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
            }
        });
        stores.push(store);
    }
    let post = PostParams::default();
    for round in 0..6 {
        for n in 0..20 {
            let name = format!("m-{round}-{n}");
            maps.create(&post, &config_map(&name, &[("seen", "yes")], &[])).await.unwrap();
        }
        if round > 0 {
            let before = format!("m-{}-", round - 1);
            let steps = json!({"metadata": {"labels": {"seen": null}}});
            maps.patch(&format!("{before}0"), &PatchParams::default(), &Patch::Merge(steps))
                .await
                .unwrap();
            maps.delete(&format!("{before}1"), &DeleteParams::default()).await.unwrap();
        }
        if round % 2 == 1 {
            cluster.kill9(&Role::Up);
            cluster.start(&Role::Up);
            cluster.wait_ready();
        }
    }
    let selected = ListParams::default().labels("seen=yes");
    let state = |items: &mut dyn Iterator<Item = (String, Option<String>)>| -> BTreeMap<_, _> {
        items.collect()
    };
    let listed = maps.list(&selected).await.unwrap();
    let wanted = state(&mut listed.iter().map(|m| (m.name_any(), m.resource_version())));
    assert_eq!(wanted.len(), 6 * 20 - 5 * 2);
    for store in &stores {
        until("the watcher has the same", async || {
            let has =
                state(&mut store.state().iter().map(|m| (m.name_any(), m.resource_version())));
            (has == wanted).then_some(())
        })
        .await;
    }
    verified(&[
        "informer, controller",
        "streaming list",
        "merge patch",
        "label and field selectors",
    ]);
}

/// Every ConfigMap that is labelled gets a Secret of its own with the same data.
async fn reconcile(map: Arc<ConfigMap>, client: Arc<Client>) -> kube::Result<Action> {
    let secrets: Api<Secret> = Api::default_namespaced(Client::clone(&client));
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": map.name_any(), "ownerReferences": [map.controller_owner_ref(&()).unwrap()]},
        "stringData": map.data,
    });
    let params = PatchParams::apply("mirrors").force();
    secrets.patch(&map.name_any(), &params, &Patch::Apply(&secret)).await?;
    Ok(Action::await_change())
}

#[tokio::test(flavor = "multi_thread")]
async fn its_controller() {
    let mut cluster = Cluster::up(Options::default());
    let client = cluster.client().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let controller = Controller::new(maps.clone(), watcher::Config::default().labels("mirrored"))
        .owns(secrets.clone(), watcher::Config::default());
    let again = |_: Arc<ConfigMap>, _: &kube::Error, _: Arc<Client>| {
        Action::requeue(Duration::from_millis(100))
    };
    tokio::spawn(controller.run(reconcile, again, Arc::new(client)).for_each(|_| async {}));

    let has = async |name: &str, value: &str| {
        until("the secret is as the map", async || {
            let secret = secrets.get_opt(name).await.ok()??;
            let found = &secret.data?.remove("v")?;
            (found.0 == value.as_bytes()).then_some(())
        })
        .await;
    };
    let post = PostParams::default();
    for n in 0..10 {
        let labels = [("mirrored", "yes")];
        maps.create(&post, &config_map(&format!("m{n}"), &labels, &[("v", "1")])).await.unwrap();
    }
    has("m9", "1").await;
    let two = json!({"data": {"v": "2"}});
    maps.patch("m0", &PatchParams::default(), &Patch::Merge(&two)).await.unwrap();
    has("m0", "2").await;
    secrets.delete("m1", &DeleteParams::default()).await.unwrap();
    has("m1", "1").await;
    cluster.kill9(&Role::Up);
    cluster.start(&Role::Up);
    cluster.wait_ready();
    maps.patch("m2", &PatchParams::default(), &Patch::Merge(&two)).await.unwrap();
    has("m2", "2").await;
    maps.delete("m3", &DeleteParams::default()).await.unwrap();
    until("its secret goes with it", async || {
        secrets.get_opt("m3").await.ok()?.is_none().then_some(())
    })
    .await;
    verified(&["informer, controller", "finalizers, owners"]);
}
