//! A queue that anybody binds to `warren.events`, compared with what the API's own watch says; and a cluster that is
//! left alone.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::{Value, json};
use warren_tests::cluster::SOON;
use warren_tests::running::Running;
use warren_tests::{Cluster, Options, RabbitMq, until, until_some};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_change_on_anybodys_queue() {
    let (cluster, rabbit) = Cluster::on_rabbitmq(Options { nodes: 2, ..Options::default() }).await;
    let world = World { cluster, rabbit };
    world.what_the_watch_says_the_queue_has().await;
    world.a_cluster_that_is_left_alone_is_silent().await;
}

/// The cluster goes before its broker.
struct World {
    cluster: Cluster,
    rabbit: RabbitMq,
}

/// One message, as far as it is compared.
struct Message {
    key: String,
    rv: u64,
    resource: String,
    body: Value,
    properties: Value,
}

/// What is watched, beside all the queue has.
const WATCHED: [(&str, &str); 7] = [
    ("pods", "/api/v1/pods"),
    ("secrets", "/api/v1/secrets"),
    ("configmaps", "/api/v1/configmaps"),
    ("events", "/api/v1/events"),
    ("services", "/api/v1/services"),
    ("deployments", "/apis/apps/v1/deployments"),
    ("replicasets", "/apis/apps/v1/replicasets"),
];

const OBJECTS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: example/web:1
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: web, key: password}}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Secret
metadata: {name: web, namespace: shop, labels: {which: one}}
stringData: {password: not-for-everybody}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web.with.dots, namespace: shop}
data: {a: b}
";

impl World {
    async fn queue(&self, name: &str, key: &str) {
        let put = async |method, path: String, body| {
            let (status, answer) = self.rabbit.http(method, &path, Some(body)).await.unwrap();
            assert!(status.is_success(), "{path}: {status}: {answer}");
        };
        put(Method::PUT, format!("/api/queues/%2f/{name}"), json!({"durable": true})).await;
        let bind = format!("/api/bindings/%2f/e/warren.events/q/{name}");
        put(Method::POST, bind, json!({"routing_key": key})).await;
    }

    async fn take(&self, queue: &str) -> Vec<Message> {
        let messages = self.rabbit.take(queue, 10_000).await.unwrap();
        messages.into_iter().map(read).collect()
    }

    fn watch(&self, path: &str, from: &str) -> Running {
        let path = format!("{path}?watch=1&resourceVersion={from}");
        self.cluster.kubectl_going_on(["get", "--raw", &path])
    }

    async fn what_the_watch_says_the_queue_has(&self) {
        self.cluster.kubectl(["create", "namespace", "shop"]).ok();
        self.queue("all", "#").await;
        self.queue("pods", "core.pods.#").await;
        self.queue("shop", "*.*.shop.*.*").await;
        self.queue("deletions", "#.deleted").await;
        self.queue("node-1", "core.pods.*.node~node-1.*").await;
        // What is written from here on is on the queues; what is seen before it is not compared.
        let from = self.mark("from").await;
        let watches =
            WATCHED.map(|(resource, path)| (resource, self.watch(path, &from.to_string())));

        let apply = |text: &str| {
            self.cluster.kubectl_with(["apply", "-f", "-"], text).ok();
        };
        let rolled_out = || {
            let wait = ["rollout", "status", "deploy/web", "-n", "shop", "--timeout=60s"];
            self.cluster.kubectl(wait).ok();
        };
        apply(OBJECTS);
        rolled_out();
        apply(&OBJECTS.replace("web:1", "web:2").replace("not-for-everybody", "nor-this"));
        rolled_out();
        self.cluster.kubectl(["delete", "configmap", "web.with.dots", "-n", "shop"]).ok();
        self.cluster.kubectl(["label", "pods", "--all", "-n", "shop", "x=y"]).ok();
        self.cluster.kubectl(["delete", "deploy,svc,secret", "web", "-n", "shop"]).ok();
        until("all pods are gone", SOON, || self.cluster.objects("pods", "shop").is_empty());
        let to = self.mark("to").await;

        let mut all: Vec<Message> = Vec::new();
        let start = std::time::Instant::now();
        while all.last().is_none_or(|message| message.rv < to) {
            assert!(start.elapsed() < SOON, "revision {to} is not published");
            all.extend(self.take("all").await);
        }
        let compared = |messages: &[Message], resource: &str| -> Vec<(u64, String, String)> {
            let ours =
                messages.iter().filter(|m| m.resource == resource && m.rv > from && m.rv < to);
            ours.map(|m| (m.rv, text(&m.body["type"]), name(&m.body["object"]))).collect()
        };
        for (resource, watch) in &watches {
            let published = compared(&all, resource);
            let watched = until_some(&format!("the watch of {resource} has all"), SOON, || {
                let seen = watched(&watch.output(), from, to);
                (seen.len() >= published.len()).then_some(seen)
            });
            assert_eq!(published, watched, "{resource}");
            assert!(!watched.is_empty(), "{resource}: nothing happened");
        }
        in_order_and_unbroken(&all);
        secrets_are_metadata(&all);
        bound_pods_are_one_message(&all);

        // Each binding has its part of the same, no more and no less.
        let part = |wants: &dyn Fn(&Message) -> bool| -> Vec<u64> {
            all.iter().filter(|m| m.rv > from && m.rv < to && wants(m)).map(|m| m.rv).collect()
        };
        let is_pod = |m: &Message| m.key.starts_with("core.pods.");
        let words = |key: &str, n: usize| key.split('.').nth(n).map(str::to_owned);
        let on_node_1 = |key: &str| words(key, 3).as_deref() == Some("node~node-1");
        for (queue, wanted) in [
            ("pods", part(&is_pod)),
            ("shop", part(&|m| words(&m.key, 2).as_deref() == Some("shop"))),
            ("deletions", part(&|m| m.key.ends_with(".deleted"))),
            ("node-1", part(&|m| is_pod(m) && keys(m).iter().any(|key| on_node_1(key)))),
        ] {
            let got = self.take(queue).await;
            let got: Vec<u64> =
                got.iter().map(|m| m.rv).filter(|rv| *rv > from && *rv < to).collect();
            assert_eq!(got, wanted, "{queue}");
            assert!(!got.is_empty(), "{queue}");
        }
        for queue in ["all", "pods", "shop", "deletions", "node-1"] {
            let path = format!("/api/queues/%2f/{queue}");
            self.rabbit.http(Method::DELETE, &path, None).await.unwrap();
        }
    }

    /// A change whose revision orders others before or after it.
    async fn mark(&self, name: &str) -> u64 {
        self.cluster.kubectl(["create", "configmap", name]).ok();
        let object = self.cluster.object("configmap", "default", name).unwrap();
        revision(&object)
    }

    /// Between two renewals of both nodes' leases nothing else happens.
    async fn a_cluster_that_is_left_alone_is_silent(&self) {
        let renewed = || {
            let leases = self.cluster.objects("leases", "kube-node-lease");
            let times = leases.iter().map(|lease| (name(lease), text(&lease["spec"]["renewTime"])));
            times.collect::<BTreeMap<_, _>>()
        };
        let all_renewed = || {
            let before = renewed();
            assert_eq!(before.len(), 2);
            until("the nodes' leases are renewed", SOON, || {
                renewed().iter().all(|(node, at)| before.get(node) != Some(at))
            });
        };
        // The management page tells what it counted a moment ago, so it is asked until it has settled.
        self.queue("quiet", "#").await;
        let quiet = async || {
            let all = self.take("quiet").await;
            all.iter().map(|m| (m.rv, m.key.clone())).collect::<Vec<_>>()
        };
        all_renewed();
        quiet().await;
        let before = self.rows();
        all_renewed();
        all_renewed();
        assert_eq!(quiet().await, [], "an idle cluster publishes nothing");
        assert_eq!(self.rows(), before, "an idle cluster writes no row");
    }

    /// The newest revision of each resource but of heartbeats.
    fn rows(&self) -> Vec<(String, u64)> {
        let resources = self.cluster.kubectl(["api-resources", "--verbs=list", "-o", "name"]);
        let mut rows = Vec::new();
        for resource in resources.ok().lines() {
            let list = self.cluster.kubectl(["get", resource, "-A", "-o", "json"]).json();
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let durable =
                items.iter().filter(|item| item["metadata"]["namespace"] != "kube-node-lease");
            rows.push((resource.to_owned(), durable.map(revision).max().unwrap_or_default()));
        }
        rows
    }
}

fn read(message: Value) -> Message {
    let body = serde_json::from_str(message["payload"].as_str().unwrap()).unwrap();
    let headers = &message["properties"]["headers"];
    Message {
        key: text(&message["routing_key"]),
        rv: headers["rv"].as_u64().unwrap(),
        resource: text(&headers["resource"]),
        body,
        properties: message["properties"].clone(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn name(object: &Value) -> String {
    text(&object["metadata"]["name"])
}

fn revision(object: &Value) -> u64 {
    text(&object["metadata"]["resourceVersion"]).parse().unwrap_or_default()
}

/// Revision, type and name of what a raw watch has said so far, bookmarks apart.
fn watched(output: &str, from: u64, to: u64) -> Vec<(u64, String, String)> {
    let events = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let changes = events.filter(|event| event["type"] != "BOOKMARK");
    let all = changes.map(|event| {
        let object = &event["object"];
        (revision(object), text(&event["type"]), name(object))
    });
    all.filter(|(rv, ..)| *rv > from && *rv < to).collect()
}

fn keys(message: &Message) -> Vec<String> {
    let copies = message.properties["headers"]["CC"].as_array().cloned().unwrap_or_default();
    std::iter::once(message.key.clone()).chain(copies.iter().map(text)).collect()
}

/// Revisions grow, each comes once, and in every stream each message names the one before it.
fn in_order_and_unbroken(all: &[Message]) {
    let mut streams: BTreeMap<(String, String), u64> = BTreeMap::new();
    for pair in all.windows(2) {
        assert!(pair[0].rv < pair[1].rv, "{} after {}", pair[1].rv, pair[0].rv);
    }
    for message in all {
        let headers = &message.properties["headers"];
        assert_eq!(message.properties["user_id"], "server");
        assert_eq!(
            message.properties["message_id"],
            format!("{}:{}", headers["epoch"], message.rv)
        );
        assert_eq!(revision(&message.body["object"]), message.rv, "header and body");
        assert_eq!(headers["uid"], message.body["object"]["metadata"]["uid"]);
        let shards = headers["shards"].as_array().unwrap();
        let prevs = headers["prev"].as_array().unwrap();
        assert_eq!(shards.len(), prevs.len());
        // The stream of all shards is the last, and no key of its own.
        assert_eq!(shards.last().map(text).as_deref(), Some("*"));
        assert_eq!(shards.len(), keys(message).len() + 1);
        for (shard, prev) in shards.iter().zip(prevs) {
            let group = text(&headers["group"]);
            let stream = (format!("{group}/{}", message.resource), text(shard));
            if let Some(last) = streams.insert(stream.clone(), message.rv) {
                assert_eq!(prev.as_u64(), Some(last), "{stream:?} at {}", message.rv);
            }
        }
    }
}

fn secrets_are_metadata(all: &[Message]) {
    let secrets: Vec<_> = all.iter().filter(|m| m.resource == "secrets").collect();
    assert!(secrets.len() >= 3, "made, changed, deleted");
    for message in &secrets {
        let object = message.body["object"].as_object().unwrap();
        let fields: Vec<&str> = object.keys().map(String::as_str).collect();
        assert!(
            fields.iter().all(|field| ["apiVersion", "kind", "metadata"].contains(field)),
            "{fields:?}"
        );
        assert_eq!(object["metadata"]["labels"]["which"], "one");
    }
    let secret = |message: &&Message| {
        let text = message.body.to_string();
        // As given, and as base64.
        ["not-for-everybody", "bm90LWZvci1ldmVyeWJvZHk", "nor-this", "bm9yLXRoaXM"]
            .iter()
            .any(|word| text.contains(word))
    };
    let told = all.iter().find(secret);
    assert!(told.is_none(), "{:?}", told.map(|m| &m.key));
}

fn bound_pods_are_one_message(all: &[Message]) {
    let bound: Vec<_> = all
        .iter()
        .filter(|m| keys(m).len() == 2 && m.resource == "pods" && m.key.ends_with("modified"))
        .collect();
    assert!(bound.len() >= 8, "four pods, twice; not {}", bound.len());
    for message in bound {
        let node = text(&message.body["object"]["spec"]["nodeName"]);
        assert!(!node.is_empty());
        let wanted = [
            format!("core.pods.shop.node~{node}.modified"),
            "core.pods.shop.unscheduled.modified".to_owned(),
        ];
        assert_eq!(keys(message), wanted);
    }
}
