//! Which node's queue gets what: its pods, and the ConfigMaps and Secrets that they refer to.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use serde_json::{Value, json};
use warren_tests::cluster::{Role, Route, SOON};
use warren_tests::proxy::{Mode, Proxy};
use warren_tests::{Cluster, Options, RabbitMq, until};

/// The cluster goes before its broker.
struct World {
    cluster: Cluster,
    rabbit: RabbitMq,
    mark: u32,
}

fn pod(name: &str, spec: &Value) -> String {
    let mut spec = spec.clone();
    spec["containers"][0]["name"] = "c".into();
    spec["containers"][0]["image"] = "example/web:1".into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

impl World {
    /// A queue of somebody's own.
    async fn bind(&self, queue: &str, key: &str) {
        let put = hyper::Method::PUT;
        let path = format!("/api/queues/%2f/{queue}");
        self.rabbit.http(put, &path, Some(json!({"durable": true}))).await.unwrap();
        let path = format!("/api/bindings/%2f/e/warren.events/q/{queue}");
        let key = json!({"routing_key": key});
        self.rabbit.http(hyper::Method::POST, &path, Some(key)).await.unwrap();
    }

    /// All that came to the nodes' queues until now: each node is told a mark, which comes last.
    async fn came(&mut self) -> [Vec<Value>; 2] {
        self.mark += 1;
        let number = self.mark.to_string();
        let mark = format!("mark={number}");
        let mut all = [Vec::new(), Vec::new()];
        for (n, came) in all.iter_mut().enumerate() {
            let node = format!("node-{}", n + 1);
            self.cluster.kubectl(["label", "--overwrite", "node", &node, &mark]).ok();
            let start = std::time::Instant::now();
            loop {
                assert!(start.elapsed() < SOON, "{node} was not told {mark}: {came:#?}");
                for message in self.rabbit.take(&format!("of-{node}"), 100).await.unwrap() {
                    let mut event: Value =
                        serde_json::from_str(message["payload"].as_str().unwrap()).unwrap();
                    event["key"] = message["routing_key"].clone();
                    came.push(event);
                }
                let marked =
                    |event: &Value| event["object"]["metadata"]["labels"]["mark"] == number;
                if came.iter().any(marked) {
                    break;
                }
            }
        }
        all
    }

    /// The events about an object that came to each node's queue since it was last asked.
    async fn about(&mut self, kind: &str, name: &str) -> [Vec<Value>; 2] {
        let mut all = self.came().await;
        for came in &mut all {
            came.retain(|e| e["object"]["kind"] == kind && e["object"]["metadata"]["name"] == name);
        }
        all
    }

    /// What came to a node with its pods since this was asked last.
    async fn brought(&self, node: &str) -> Vec<String> {
        let mut brought = Vec::new();
        for message in self.rabbit.take(&format!("brought-to-{node}"), 100).await.unwrap() {
            let key = message["routing_key"].as_str().unwrap();
            assert_eq!(key, format!("warren.present.default.ref~{node}.configmaps"));
            assert_eq!(message["properties"]["type"], "warren.present");
            let body: Value = serde_json::from_str(message["payload"].as_str().unwrap()).unwrap();
            assert_eq!(body["type"], "ADDED");
            let (name, data) = (&body["object"]["metadata"]["name"], &body["object"]["data"]["k"]);
            brought.push(format!("{}={}", name.as_str().unwrap(), data.as_str().unwrap()));
        }
        brought
    }

    fn set(&self, kind: &str, name: &str, value: &str) {
        let field = if kind == "secret" { "stringData" } else { "data" };
        let patch = json!({field: {"k": value}}).to_string();
        self.cluster.kubectl(["patch", kind, name, "-p", &patch]).ok();
    }

    fn apply(&self, manifest: &str) {
        self.cluster.kubectl_with(["apply", "-f", "-"], manifest).ok();
    }

    fn run(&self, name: &str, spec: &Value) {
        self.apply(&pod(name, spec));
        let running = |pod: &Value| pod["status"]["phase"] == "Running";
        self.cluster.wait_object("pod", "default", name, running);
    }

    fn end(&self, name: &str) {
        self.cluster.kubectl(["delete", "pod", name, "--now"]).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_nodes_pods_refer_to_comes_to_its_queue() {
    let (cluster, rabbit) = Cluster::on_rabbitmq(Options { nodes: 2, ..Options::default() }).await;
    let mut world = World { cluster, rabbit, mark: 0 };
    for node in ["node-1", "node-2"] {
        world.bind(&format!("of-{node}"), &format!("*.*.*.node~{node}.*")).await;
        world.bind(&format!("brought-to-{node}"), &format!("*.*.*.ref~{node}.*")).await;
    }
    for n in ["one", "two", "env"] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": n}, "data": {"k": "1"}});
        world.apply(&map.to_string());
    }
    world.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hush"}, "stringData": {"k": "s3cret"}})
            .to_string(),
    );
    world.set("configmap", "one", "nobody");
    assert_eq!(
        world.about("ConfigMap", "one").await,
        [Vec::<Value>::new(), vec![]],
        "nobody refers to it"
    );

    let projected = json!({"nodeName": "node-1", "containers": [{}], "volumes": [
        {"name": "v", "projected": {"sources": [{"configMap": {"name": "one"}}, {"secret": {"name": "hush"}}]}}]});
    world.run("a", &projected);
    world.came().await;
    // As it is, and nothing of the Secret.
    assert_eq!(world.brought("node-1").await, ["one=nobody"]);
    world.set("configmap", "one", "2");
    let [first, second] = world.about("ConfigMap", "one").await;
    assert_eq!((first.len(), second.len()), (1, 0), "{first:#?} {second:#?}");
    assert_eq!(first[0]["object"]["data"]["k"], "2");
    world.set("configmap", "two", "2");
    assert_eq!(world.about("ConfigMap", "two").await, [Vec::<Value>::new(), vec![]], "another map");

    // Secrets: that they changed, and nothing of what is in them.
    world.set("secret", "hush", "s3cret-2");
    let [first, second] = world.about("Secret", "hush").await;
    assert_eq!((first.len(), second.len()), (1, 0), "{first:#?} {second:#?}");
    let text = first[0].to_string();
    assert!(first[0]["object"]["data"].is_null() && !text.contains("last-applied"), "{text}");

    // Two nodes, one map; two pods of a node hear of it once.
    let from = json!({"nodeName": "node-2", "containers": [{"envFrom": [{"configMapRef": {"name": "one"}}]}]});
    world.run("b", &from);
    world.run("c", &from);
    world.came().await;
    assert_eq!(world.brought("node-2").await, ["one=2"], "with the first of them");
    world.set("configmap", "one", "3");
    let [first, second] = world.about("ConfigMap", "one").await;
    assert_eq!((first.len(), second.len()), (1, 1), "{first:#?} {second:#?}");
    assert!(first[0]["key"].as_str() == second[0]["key"].as_str(), "one message for both");

    // A debug container refers to a map of its own.
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "example/debug:1",
        "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "env", "key": "k"}}}]}]}});
    let debug = debug.to_string();
    world
        .cluster
        .kubectl(["patch", "pod", "b", "--subresource", "ephemeralcontainers", "-p", &debug])
        .ok();
    world.came().await;
    assert_eq!(world.brought("node-2").await, ["env=1"]);
    world.set("configmap", "env", "2");
    let [first, second] = world.about("ConfigMap", "env").await;
    assert_eq!((first.len(), second.len()), (0, 1), "{first:#?} {second:#?}");

    // Deleted with the last pod that refers to it; the map itself, too, while somebody does.
    world.end("a");
    world.end("b");
    world.came().await;
    world.set("configmap", "one", "4");
    let [first, second] = world.about("ConfigMap", "one").await;
    assert_eq!((first.len(), second.len()), (0, 1), "{first:#?} {second:#?}");
    world.cluster.kubectl(["delete", "configmap", "one"]).ok();
    let [first, second] = world.about("ConfigMap", "one").await;
    assert_eq!((first.len(), second.len()), (0, 1), "{first:#?} {second:#?}");
    assert_eq!(second[0]["type"], "DELETED");
}

/// Its queue is all that a node needs to start a pod: of the way to the API nothing is left when the pod comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_pod_refers_to_comes_with_it() {
    let mut cluster = Cluster::prepare(Options { nodes: 1, split: true, ..Options::default() });
    let rabbit = cluster.start_rabbitmq().await;
    let to_the_api = Proxy::to(cluster.port()).await;
    let route = Route { server: Some(to_the_api.port()), ..Route::default() };
    cluster.route(Role::Agent("node-1".to_owned()), route);
    cluster.start_all();
    cluster.wait_ready();
    cluster.wait_consumers(&rabbit).await;
    cluster.kubectl(["create", "configmap", "settings", "--from-literal=colour=red"]).ok();
    cluster.kubectl(["create", "secret", "generic", "hush", "--from-literal=colour=red"]).ok();

    to_the_api.set(Mode::Refuses);
    let from = |source: Value| json!({"nodeName": "node-1", "containers": [{"env": [{"name": "C", "valueFrom": source}]}]});
    let key = |name: &str| json!({"name": name, "key": "colour"});
    for (name, source) in [
        ("with-a-map", json!({"configMapKeyRef": key("settings")})),
        ("with-a-secret", json!({"secretKeyRef": key("hush")})),
    ] {
        cluster.kubectl_with(["apply", "-f", "-"], &pod(name, &from(source))).ok();
    }
    let runs = |name: &str| {
        let told = cluster.summary("node-1").unwrap().json();
        let pods = told["pods"].as_array().cloned().unwrap_or_default();
        let containers = |pod: &Value| pod["containers"].as_array().map_or(0, Vec::len);
        pods.iter().any(|pod| pod["podRef"]["name"] == name && containers(pod) == 1)
    };
    until("the pod runs", SOON, || runs("with-a-map"));
    assert!(!runs("with-a-secret"), "what is secret is not for the broker");
    to_the_api.set(Mode::Open);
    until("its Secret is asked for", SOON, || runs("with-a-secret"));
}

/// Who reads the pods that have no node hears of each that it got one, with the same message as the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pod_that_is_bound_leaves_the_unscheduled_ones() {
    let (cluster, rabbit) = Cluster::on_rabbitmq(Options { nodes: 2, ..Options::default() }).await;
    let mut world = World { cluster, rabbit, mark: 0 };
    world.bind("waiting", "core.pods.*.unscheduled.*").await;
    for node in ["node-1", "node-2"] {
        world.bind(&format!("of-{node}"), &format!("*.*.*.node~{node}.*")).await;
    }
    world.run("late", &json!({"containers": [{}]}));
    let bound = world.cluster.object("pod", "default", "late").unwrap();
    let node = bound["spec"]["nodeName"].as_str().unwrap().to_owned();
    let mut heard = Vec::new();
    let start = std::time::Instant::now();
    while heard.len() < 2 {
        assert!(start.elapsed() < SOON, "{heard:#?}");
        heard.extend(world.rabbit.take("waiting", 100).await.unwrap());
    }
    let events: Vec<Value> = heard
        .iter()
        .map(|message| serde_json::from_str(message["payload"].as_str().unwrap()).unwrap())
        .collect();
    let last = events.last().unwrap();
    assert_eq!(events[0]["type"], "ADDED");
    assert!(events[0]["object"]["spec"]["nodeName"].is_null());
    assert_eq!(last["object"]["spec"]["nodeName"], node.as_str(), "it has left: {events:#?}");
    assert!(
        events[..events.len() - 1].iter().all(|e| e["object"]["spec"]["nodeName"].is_null()),
        "nothing of what happens to it on its node: {events:#?}"
    );
    let key = heard.last().unwrap()["routing_key"].as_str().unwrap();
    assert_eq!(key, format!("core.pods.default.node~{node}.modified"), "the node's message");
    let came = world.came().await;
    let number = usize::from(node == "node-2");
    let late =
        |e: &&Value| e["object"]["kind"] == "Pod" && e["object"]["metadata"]["name"] == "late";
    assert!(came[number].iter().filter(late).count() >= 1, "the node heard of it");
    assert_eq!(came[1 - number].iter().filter(late).count(), 0, "the other node did not");
}
