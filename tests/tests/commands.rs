//! What people put on a node's queue and on `warren.commands`, as the management page does it, with every part in a
//! process of its own.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use serde_json::{Value, json};
use warren_tests::cluster::{Role, SOON};
use warren_tests::{Cluster, Options, RabbitMq, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_people_publish() {
    let (cluster, rabbit) = Cluster::on_rabbitmq(Options { nodes: 2, ..Options::default() }).await;
    let world = World { cluster, rabbit };
    world.every_form_runs().await;
    world.manifests_of_the_folder().await;
    world.through_the_servers_exchange().await;
    world.a_node_answers_too().await;
    world.the_start_was_quiet();
    world.the_same_twice_runs_once().await;
    world.what_was_deleted_may_be_said_again().await;
    world.what_a_node_cannot_use_is_put_aside().await;
    world.what_the_server_cannot_use_is_put_aside().await;
    world.what_was_refused_may_be_said_again().await;
    world.a_missing_namespace_is_made().await;
}

/// `warren up` logs in with the accounts that `warren init` made, each part with one that may what it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_in_one_process_on_the_brokers_accounts() {
    let options = Options { nodes: 2, ..Options::default() };
    let (cluster, rabbit) = Cluster::with_rabbitmq(options).await;
    let world = World { cluster, rabbit };
    world.to_queue("node-2", &pod("one", "example/o:1").to_string(), json!({})).await;
    world.runs("one", "node-2", "example/o:1");
    let log = world.cluster.log(&Role::Up);
    assert!(!log.contains("ACCESS_REFUSED"), "{log}");
}

/// The cluster goes before its broker.
struct World {
    cluster: Cluster,
    rabbit: RabbitMq,
}

fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}

/// The forms of a pod's creation and change, by name.
fn forms(image: &str) -> Vec<(&'static str, String)> {
    let event = if image.ends_with('1') { "ADDED" } else { "MODIFIED" };
    let action = if image.ends_with('1') { "add" } else { "update" };
    let with_spec =
        |name: &str| json!({"metadata": {"name": name}, "spec": pod(name, image)["spec"]});
    let bare_spec = json!({"name": "spec-only", "containers": [{"name": "c", "image": image}]});
    vec![
        ("event", json!({"type": event, "object": pod("event", image)}).to_string()),
        ("action", json!({"action": action, "podspec": pod("action", image)}).to_string()),
        ("no-kind", json!({"action": action, "podspec": with_spec("no-kind")}).to_string()),
        ("spec-only", json!({"action": action, "podspec": bare_spec}).to_string()),
        ("json", pod("json", image).to_string()),
        (
            "yaml",
            format!(
                "# by hand\napiVersion: v1\nkind: Pod\nmetadata:\n  name: yaml\nspec:\n  containers:\n  - name: c\n    \
                 image: {image}\n"
            ),
        ),
        (
            "first-form",
            format!(
                "version: v0\nkind: Pod\nspec:\n  name: First Form\n  namespace: default\n  containers:\n  - name: c\n    \
                 image: {image}\n"
            ),
        ),
        (
            "yaml-action",
            format!(
                "action: {action}\npodspec:\n  name: yaml-action\n  containers:\n  - name: c\n    image: {image}\n"
            ),
        ),
    ]
}

fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

impl World {
    /// As the page's form of a queue does.
    async fn to_queue(&self, node: &str, payload: &str, properties: Value) {
        let key = format!("node.{node}");
        let routed = self.rabbit.publish("amq.default", &key, payload, properties).await.unwrap();
        assert!(routed, "nobody declared {key}");
    }

    async fn to_server(&self, key: &str, payload: &str, properties: Value) {
        assert!(self.rabbit.publish("warren.commands", key, payload, properties).await.unwrap());
    }

    #[track_caller]
    fn runs(&self, name: &str, node: &str, image: &str) {
        self.cluster.wait_object("pod", "default", name, |pod| {
            pod["status"]["phase"] == "Running"
                && image_of(pod) == image
                && (node.is_empty() || pod["spec"]["nodeName"] == node)
        });
    }

    #[track_caller]
    fn gone(&self, name: &str) {
        until(&format!("pod {name} is gone"), SOON, || {
            self.cluster.object("pod", "default", name).is_none()
        });
    }

    async fn every_form_runs(&self) {
        for image in ["example/a:1", "example/a:2"] {
            for (_, body) in forms(image) {
                self.to_queue("node-1", &body, json!({})).await;
            }
            for (name, _) in forms(image) {
                self.runs(name, "node-1", image);
            }
        }
        let first_form = self.cluster.object("pod", "default", "first-form").unwrap();
        let annotations = first_form["metadata"]["annotations"].to_string();
        assert!(annotations.contains("First Form"), "the name as written is kept: {annotations}");
        for (n, (name, _)) in forms("").into_iter().enumerate() {
            let body = match n % 4 {
                0 => json!({"type": "DELETED", "object": pod(name, "example/a:2")}),
                1 => json!({"action": "delete", "podspec": pod(name, "example/a:2")}),
                2 => json!({"action": "delete", "podname": name, "namespace": "default"}),
                _ => json!({"action": "delete", "podname": name}),
            };
            self.to_queue("node-1", &body.to_string(), json!({})).await;
        }
        for (name, _) in forms("") {
            self.gone(name);
        }
    }

    async fn manifests_of_the_folder(&self) {
        let dir = self.cluster.manifests_dir().join("node-1");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("filed.json"), pod("filed", "example/f:1").to_string()).unwrap();
        self.runs("filed-node-1", "node-1", "example/f:1");
        self.to_queue("node-1", r#"{"action":"delete","podname":"filed"}"#, json!({})).await;
        self.gone("filed-node-1");
        self.to_queue("node-1", r#"{"action":"add","podname":"filed"}"#, json!({})).await;
        self.runs("filed-node-1", "node-1", "example/f:1");
        std::fs::remove_file(dir.join("filed.json")).unwrap();
        self.gone("filed-node-1");
    }

    /// The server's answers, by correlation id.
    async fn answers(&self, count: usize) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        let start = std::time::Instant::now();
        while all.len() < count {
            assert!(start.elapsed() < SOON, "only these answers: {all:?}");
            for message in self.rabbit.take("answers", 100).await.unwrap() {
                let id = message["properties"]["correlation_id"].as_str().unwrap_or_default();
                let body: Value =
                    serde_json::from_str(message["payload"].as_str().unwrap()).unwrap();
                all.push((id.to_owned(), body));
            }
        }
        all
    }

    async fn through_the_servers_exchange(&self) {
        let queue = json!({"durable": true});
        let path = "/api/queues/%2f/answers";
        self.rabbit.http(hyper::Method::PUT, path, Some(queue)).await.unwrap();
        let mut id = 0;
        let mut ask = async |key: &str, body: &Value| {
            id += 1;
            let properties = json!({"reply_to": "answers", "correlation_id": id.to_string()});
            self.to_server(key, &body.to_string(), properties).await;
            let (of, status) = self.answers(1).await.remove(0);
            assert_eq!((of, &status["kind"]), (id.to_string(), &json!("Status")), "{status}");
            status
        };
        for (name, key, node) in [("by-node", "node-2", "node-2"), ("anywhere", "apply", "")] {
            let status = ask(key, &pod(name, "example/c:1")).await;
            assert_eq!(status["status"], "Success", "{status}");
            assert_eq!(status["details"]["name"], name, "{status}");
            self.runs(name, node, "example/c:1");
            // Scheduler and agent have filled in the rest by now; a change is what is given.
            let event = json!({"type": "MODIFIED", "object": pod(name, "example/c:2")});
            let status = ask(key, &event).await;
            assert_eq!(status["status"], "Success", "{status}");
            self.runs(name, node, "example/c:2");
            let status = ask(key, &json!({"action": "delete", "podname": name})).await;
            assert_eq!(status["status"], "Success", "{status}");
            self.gone(name);
        }
        let status = ask("apply", &json!({"action": "delete", "podname": "nobody"})).await;
        assert_eq!((&status["status"], &status["reason"]), (&json!("Failure"), &json!("NotFound")));
        let mut bad = pod("bad", "example/c:1");
        bad["spec"]["containers"] = json!([]);
        let status = ask("apply", &bad).await;
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("spec.containers: Required value"), "{message}");
        // The server does not speak to our own queues for anybody.
        let to_node = json!({"reply_to": "node.node-1"});
        self.to_server("apply", &pod("loud", "example/c:1").to_string(), to_node).await;
        self.runs("loud", "", "example/c:1");
        self.rabbit.take("warren.dead", 100).await.unwrap();
    }

    /// By way of the server: a node may write to nobody's queue.
    async fn a_node_answers_too(&self) {
        let mut id = 100;
        let mut ask = async |body: &str| {
            id += 1;
            let properties = json!({"reply_to": "answers", "correlation_id": id.to_string()});
            self.to_queue("node-1", body, properties).await;
            let (of, status) = self.answers(1).await.remove(0);
            assert_eq!((of, &status["kind"]), (id.to_string(), &json!("Status")), "{status}");
            status
        };
        let status = ask(&pod("asked", "example/c:1").to_string()).await;
        assert_eq!(
            (&status["status"], &status["code"], &status["details"]["name"]),
            (&json!("Success"), &json!(201), &json!("asked")),
            "{status}"
        );
        self.runs("asked", "node-1", "example/c:1");
        let status = ask(&pod("asked", "example/c:2").to_string()).await;
        assert_eq!((&status["status"], &status["code"]), (&json!("Success"), &json!(200)));
        let status = ask("nonsense").await;
        assert_eq!((&status["reason"], &status["code"]), (&json!("BadRequest"), &json!(400)));
        let mut bad = pod("bad", "example/c:1");
        bad["spec"]["containers"] = json!([]);
        let status = ask(&bad.to_string()).await;
        assert_eq!((&status["reason"], &status["code"]), (&json!("Invalid"), &json!(422)));
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("spec.containers: Required value"), "{message}");
        let status = ask(r#"{"action":"delete","podname":"asked"}"#).await;
        assert_eq!(status["status"], "Success", "{status}");
        self.gone("asked");
        self.dead(2).await;
    }

    /// Everybody starts at once, and nothing is declared yet: that is no error.
    fn the_start_was_quiet(&self) {
        for role in self.cluster.roles() {
            let log = self.cluster.log(&role);
            let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", role.name());
        }
    }

    async fn the_same_twice_runs_once(&self) {
        for (target, prefix) in [("queue", "same-q-"), ("server", "same-s-")] {
            let mut any = pod("", "example/s:1");
            any["metadata"] = json!({"generateName": prefix});
            let any = any.to_string();
            let publish = async |body: &str, properties: Value| match target {
                "queue" => self.to_queue("node-1", body, properties).await,
                _ => self.to_server("apply", body, properties).await,
            };
            for _ in 0..3 {
                publish(&any, json!({})).await;
            }
            for id in ["one", "two", "two"] {
                publish(&any, json!({"message_id": format!("{prefix}{id}")})).await;
            }
            let last = format!("{prefix}last");
            publish(&pod(&last, "example/s:1").to_string(), json!({})).await;
            // What came before it was done before it.
            self.runs(&last, "", "example/s:1");
            let pods = self.cluster.objects("pods", "default");
            let generated = pods.iter().filter(|pod| pod["metadata"]["generateName"] == prefix);
            assert_eq!(generated.count(), 3, "one without an id, and one for each id: {target}");
        }
    }

    /// The same words, without an id: from the management page nobody gives one.
    async fn what_was_deleted_may_be_said_again(&self) {
        for (target, name) in [("queue", "again-q"), ("server", "again-s")] {
            let [create, delete] =
                [pod(name, "example/r:1"), json!({"action": "delete", "podname": name})];
            let mut lives = Vec::new();
            for _ in 0..3 {
                for body in [&create, &delete] {
                    match target {
                        "queue" => self.to_queue("node-1", &body.to_string(), json!({})).await,
                        _ => self.to_server("node-1", &body.to_string(), json!({})).await,
                    }
                    if body == &create {
                        self.runs(name, "node-1", "example/r:1");
                        let pod = self.cluster.object("pod", "default", name).unwrap();
                        lives.push(pod["metadata"]["uid"].clone());
                    } else {
                        self.gone(name);
                    }
                }
            }
            lives.dedup();
            assert_eq!(lives.len(), 3, "{target}");
        }
    }

    /// Dead letters until there are as many.
    async fn dead(&self, count: usize) -> Vec<Value> {
        let mut all = Vec::new();
        let start = std::time::Instant::now();
        while all.len() < count {
            assert!(start.elapsed() < SOON, "only these dead letters: {all:#?}");
            all.extend(self.rabbit.take("warren.dead", 100).await.unwrap());
        }
        assert_eq!(all.len(), count, "{all:#?}");
        all
    }

    async fn what_a_node_cannot_use_is_put_aside(&self) {
        let bad = bad_messages();
        for (body, properties, _) in &bad {
            self.to_queue("node-1", body, properties.clone()).await;
        }
        let foreign = with_node("foreign", "node-2");
        self.to_queue("node-1", &foreign, json!({})).await;
        let missing = r#"{"action":"add","podname":"nowhere"}"#;
        self.to_queue("node-1", missing, json!({})).await;
        self.to_queue("node-1", &large(5 << 19), json!({})).await;
        // What only the server says, by somebody who has the right to publish everywhere.
        let dressed = json!({"type": "ADDED", "object": pod("dressed", "example/b:1")}).to_string();
        let key = "core.pods.default.node~node-1.added";
        assert!(self.rabbit.publish("warren.events", key, &dressed, json!({})).await.unwrap());
        self.to_queue("node-1", &pod("after-bad", "example/b:1").to_string(), json!({})).await;
        self.runs("after-bad", "node-1", "example/b:1");
        let letters = self.dead(bad.len() + 4).await;
        let mut told = Vec::new();
        for letter in &letters {
            let headers = &letter["properties"]["headers"];
            assert_eq!(headers["x-origin"], "node.node-1", "{letter}");
            assert!(headers["x-count"].as_u64().is_some_and(|count| count >= 1), "{letter}");
            let reason = text(&headers["x-reason"]);
            assert!(!reason.is_empty(), "{letter}");
            told.push(reason);
        }
        let mut reasons: Vec<_> = bad.iter().map(|(_, _, reason)| *reason).collect();
        reasons.extend([
            "spec.nodeName: Invalid value: \"node-2\"",
            "podname: Not found: \"nowhere\"",
            "larger than",
        ]);
        for reason in reasons {
            assert!(
                told.iter().any(|told| told.contains(reason)),
                "{reason:?} is not in {told:#?}"
            );
            until(&format!("the node tells: {reason}"), SOON, || {
                let events = self.cluster.objects("events", "default");
                events.iter().any(|event| {
                    event["reason"] == "CommandRefused"
                        && event["involvedObject"]["name"] == "node-1"
                        && event["message"].as_str().unwrap_or_default().contains(reason)
                })
            });
        }
        assert!(self.cluster.object("pod", "default", "foreign").is_none());
        assert!(self.cluster.object("pod", "default", "dressed").is_none());
    }

    async fn what_the_server_cannot_use_is_put_aside(&self) {
        let bad = bad_messages();
        for (body, properties, _) in &bad {
            self.to_server("apply", body, properties.clone()).await;
        }
        self.to_server("node-1", &with_node("foreign", "node-2"), json!({})).await;
        self.to_server("nowhere", &pod("lost", "example/b:1").to_string(), json!({})).await;
        self.to_server("apply", r#"{"action":"add","podname":"x"}"#, json!({})).await;
        self.to_server("apply", &large(4 << 20), json!({})).await;
        self.to_server("node-2", &pod("after", "example/b:1").to_string(), json!({})).await;
        self.runs("after", "node-2", "example/b:1");
        let letters = self.dead(bad.len() + 4).await;
        let mut reasons: Vec<_> = bad.iter().map(|(_, _, reason)| *reason).collect();
        reasons.extend([
            "spec.nodeName: Invalid value: \"node-2\"",
            "routing key: Not found: \"nowhere\"",
            "manifests lie on the nodes",
            "at most",
        ]);
        // What is too large is not handed on, so its letter may come before those of others.
        let told: Vec<_> =
            letters.iter().map(|m| text(&m["properties"]["headers"]["x-reason"])).collect();
        assert!(told.iter().all(|reason| !reason.is_empty()), "{letters:#?}");
        for reason in reasons {
            assert!(
                told.iter().any(|told| told.contains(reason)),
                "{reason:?} is not in {told:#?}"
            );
        }
        assert!(self.cluster.object("pod", "default", "foreign").is_none());
        assert!(self.cluster.object("configmap", "default", "not-a-pod").is_none());
    }

    /// What stood in the way is gone; the same words are no repetition then.
    async fn what_was_refused_may_be_said_again(&self) {
        let add = r#"{"action":"add","podname":"later"}"#;
        self.to_queue("node-2", add, json!({})).await;
        self.dead(1).await;
        let dir = self.cluster.manifests_dir().join("node-2");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("later.json"), pod("later", "example/l:1").to_string()).unwrap();
        self.runs("later-node-2", "node-2", "example/l:1");
        self.to_queue("node-2", r#"{"action":"delete","podname":"later"}"#, json!({})).await;
        self.gone("later-node-2");
        self.to_queue("node-2", add, json!({})).await;
        self.runs("later-node-2", "node-2", "example/l:1");
    }

    async fn a_missing_namespace_is_made(&self) {
        let mut body = pod("first", "example/n:1");
        body["metadata"]["namespace"] = "made-for-it".into();
        self.to_queue("node-2", &body.to_string(), json!({})).await;
        self.cluster.wait_object("pod", "made-for-it", "first", |pod| {
            pod["status"]["phase"] == "Running" && pod["spec"]["nodeName"] == "node-2"
        });
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn with_node(name: &str, node: &str) -> String {
    let mut pod = pod(name, "example/b:1");
    pod["spec"]["nodeName"] = node.into();
    pod.to_string()
}

fn large(bytes: usize) -> String {
    let mut pod = pod("large", "example/b:1");
    pod["metadata"]["annotations"] = json!({"a": "x".repeat(bytes)});
    pod.to_string()
}

/// Body, properties, and what must be said of it.
fn bad_messages() -> Vec<(String, Value, &'static str)> {
    let imitation = json!({"type": "MODIFIED", "object": pod("imitation", "example/b:1")});
    let headers = json!({
        "epoch": 1, "rv": 1_000_000, "uid": "x", "group": "", "resource": "pods",
        "namespace": "default", "name": "imitation", "shards": ["node~node-1"], "prev": [0],
    });
    let not_a_pod = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "not-a-pod"}, "data": {},
    });
    let no_name = json!({"type": "DELETED", "object": {"apiVersion": "v1", "kind": "Pod"}});
    let mut wrong = pod("wrong", "example/b:1");
    wrong["spec"]["containers"][0]["name"] = "Not A Name".into();
    vec![
        ("{]: no".into(), json!({}), ""),
        ("hello".into(), json!({}), "is wanted, not a text"),
        (String::new(), json!({}), "the message is empty"),
        (not_a_pod.to_string(), json!({}), ""),
        (r#"{"type":"RENAMED","object":{}}"#.into(), json!({}), "type: Unsupported value"),
        (r#"{"action":"add"}"#.into(), json!({}), "podspec: Required value"),
        (r#"{"action":"delete","podname":"No Name/.."}"#.into(), json!({}), "Invalid value"),
        (no_name.to_string(), json!({}), "object.metadata.name: Required value"),
        (wrong.to_string(), json!({}), "spec.containers[0].name: Invalid value"),
        (
            imitation.to_string(),
            json!({"user_id": "admin", "type": "warren.event", "headers": headers}),
            "form of an event",
        ),
    ]
}
