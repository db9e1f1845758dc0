//! Agents and controllers that have nothing but a broker's address, and the API as any AMQP client sees it.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use warren_tests::amqp::{Asker, Request};
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Options, RabbitMq, Role, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_but_a_broker() {
    let options = Options {
        nodes: 2,
        amqp_only: true,
        controllers: vec!["--node-monitor-grace-period=8s".to_owned()],
        agents: vec!["--node-lease-duration-seconds=8".to_owned()],
        ..Options::default()
    };
    let (cluster, rabbit) = Cluster::on_rabbitmq(options).await;
    let mut world = World { cluster, rabbit };
    world.only_the_broker_is_spoken_to();
    world.a_deployment_lives_and_goes();
    world.what_pods_refer_to_is_read();
    world.a_static_pod_is_mirrored();
    world.no_logs_and_why();
    world.who_one_is().await;
    world.what_is_too_large_is_read_in_pages().await;
    world.a_change_is_done_once().await;
    world.what_is_no_question_is_refused().await;
    world.a_flood_starves_nobody().await;
    world.a_silent_node_is_noticed();
    world.the_broker_goes_and_comes().await;
    world.the_server_goes_and_comes();
    world.only_the_broker_is_spoken_to();
}

/// The cluster goes before its broker.
struct World {
    cluster: Cluster,
    rabbit: RabbitMq,
}

fn config_map(name: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": text}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

impl World {
    async fn asker(&self, account: &str) -> Asker {
        Asker::connect(&self.rabbit.amqp_url(account), account).await.unwrap()
    }

    #[track_caller]
    fn running(&self, count: usize) {
        until(&format!("{count} pods of the Deployment run"), SOON, || {
            let list = self.cluster.kubectl(["get", "pods", "-l", "app=web", "-o", "json"]);
            let list = if list.succeeded() { list.json() } else { return false };
            let pods = list["items"].as_array().unwrap();
            pods.len() == count && pods.iter().all(|pod| pod["status"]["phase"] == "Running")
        });
    }

    /// The ports to which agents and controllers have connections.
    fn only_the_broker_is_spoken_to(&self) {
        let agents = self.cluster.node_names().into_iter().map(Role::Agent);
        for role in agents.chain([Role::Controllers]) {
            let pid = self.cluster.pid(&role).unwrap();
            let ports = remote_ports(pid);
            assert_eq!(ports, BTreeSet::from([self.rabbit.amqp_port()]), "{}", role.name());
            let folder = self.cluster.data_dir().with_file_name(role.name());
            assert!(!folder.join("kubeconfig").exists() || is_empty(&folder.join("kubeconfig")));
        }
    }

    fn a_deployment_lives_and_goes(&self) {
        let create = ["create", "deployment", "web", "--image=example/web:1", "--replicas=3"];
        self.cluster.kubectl(create).ok();
        self.running(3);
        self.cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
        self.cluster.kubectl(["scale", "deployment", "web", "--replicas=5"]).ok();
        self.running(5);
        self.cluster.kubectl(["set", "image", "deployment/web", "web=example/web:2"]).ok();
        self.cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
        self.cluster.kubectl(["delete", "deployment", "web"]).ok();
        until("its pods are gone", SOON, || {
            self.cluster.kubectl(["get", "pods", "-l", "app=web", "-o", "name"]).stdout.is_empty()
        });
    }

    fn what_pods_refer_to_is_read(&self) {
        let from = |kind: &str| json!({kind: {"name": "later", "key": "k"}});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "refers"},
            "spec": {"containers": [{"name": "c", "image": "example/c:1", "env": [
                {"name": "A", "valueFrom": from("configMapKeyRef")},
                {"name": "B", "valueFrom": from("secretKeyRef")},
            ]}]},
        });
        self.cluster.kubectl_with(["apply", "-f", "-"], &pod.to_string()).ok();
        let waits = |pod: &Value| {
            let state = &pod["status"]["containerStatuses"][0]["state"];
            state["waiting"]["reason"] == "CreateContainerConfigError"
        };
        self.cluster.wait_object("pod", "default", "refers", waits);
        self.cluster.kubectl(["create", "configmap", "later", "--from-literal=k=v"]).ok();
        self.cluster.kubectl(["create", "secret", "generic", "later", "--from-literal=k=v"]).ok();
        let runs = |pod: &Value| pod["status"]["phase"] == "Running";
        self.cluster.wait_object("pod", "default", "refers", runs);
        self.cluster.kubectl(["delete", "pod", "refers", "--timeout=60s"]).ok();
    }

    fn a_static_pod_is_mirrored(&self) {
        let dir = self.cluster.manifests_dir().join("node-1");
        std::fs::create_dir_all(&dir).unwrap();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "still"},
            "spec": {"containers": [{"name": "c", "image": "example/still:1"}]},
        });
        std::fs::write(dir.join(".still"), pod.to_string()).unwrap();
        std::fs::rename(dir.join(".still"), dir.join("still.json")).unwrap();
        let pod = self.cluster.wait_object("pod", "default", "still-node-1", |pod| {
            pod["status"]["phase"] == "Running"
        });
        assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
    }

    fn no_logs_and_why(&self) {
        let said = self.cluster.kubectl(["logs", "still-node-1"]);
        assert!(!said.succeeded() && said.stderr.contains("over AMQP alone"), "{}", said.stderr);
    }

    async fn who_one_is(&self) {
        self.cluster.kubectl(["create", "secret", "generic", "other", "--from-literal=k=v"]).ok();
        let mut node = self.asker("node-node-2").await;
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let review =
            Request::with("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &review);
        let me = node.ask(&review).await.unwrap();
        assert_eq!(me.body["status"]["userInfo"]["username"], "system:node:node-2");
        assert_eq!((me.code, me.user_id.as_deref()), (201, Some("server")));
        let status = json!({"status": {"phase": "Failed"}});
        let pod = "/api/v1/namespaces/default/pods/still-node-1";
        for (request, code) in [
            (Request::get("/api/v1/nodes/node-2"), 200),
            (Request::get("/api/v1/nodes/node-1"), 403),
            (Request::get("/api/v1/namespaces/default/secrets/other"), 403),
            (Request::get(pod), 403),
            (Request::with("PATCH", &format!("{pod}/status"), &status), 403),
            (Request::with("DELETE", pod, &json!({})), 403),
            (Request::get("/api/v1/nodes").header("impersonate-user", "admin"), 403),
        ] {
            let answer = node.ask(&request).await.unwrap();
            assert_eq!(answer.code, code, "{request:?}: {answer:?}");
        }
        let mut controllers = self.asker("controllers").await;
        let me = controllers.ask(&review).await.unwrap();
        assert_eq!(me.body["status"]["userInfo"]["username"], "system:controllers");
        // Nobody in particular, by the page's own form; and the answer to a queue of one's own.
        let durable = json!({"durable": true});
        self.rabbit.http(hyper::Method::PUT, "/api/queues/%2f/mine", Some(durable)).await.unwrap();
        let ask = async |path: &str| {
            let properties = json!({
                "headers": {"method": "GET", "path": path}, "reply_to": "mine", "correlation_id": "1",
            });
            assert!(self.rabbit.publish("warren.api", "", "", properties).await.unwrap());
            loop {
                if let Some(answer) = self.rabbit.take("mine", 1).await.unwrap().pop() {
                    return answer;
                }
            }
        };
        let answer = ask("/api/v1/namespaces/default/secrets/other").await;
        assert_eq!(answer["properties"]["headers"]["code"], 403, "{answer}");
        let answer = ask("/api/v1/namespaces/default/pods/still-node-1").await;
        assert_eq!(answer["properties"]["headers"]["code"], 200, "{answer}");
        let pod: Value = serde_json::from_str(answer["payload"].as_str().unwrap()).unwrap();
        assert_eq!(pod["metadata"]["name"], "still-node-1");
    }

    async fn what_is_too_large_is_read_in_pages(&self) {
        let mut admin = self.asker("admin").await;
        let text = "x".repeat(700 << 10);
        for n in 0..3 {
            let map = config_map(&format!("large-{n}"), &text);
            let answer = admin.ask(&Request::with("POST", MAPS, &map)).await.unwrap();
            assert_eq!(answer.code, 201);
        }
        let list = admin.ask(&Request::get(MAPS)).await.unwrap();
        assert_eq!(list.code, 413);
        assert!(list.message().contains("limit and continue"), "{}", list.message());
        let page = admin.ask(&Request::get(&format!("{MAPS}?limit=1"))).await.unwrap();
        assert_eq!((page.code, page.body["items"].as_array().unwrap().len()), (200, 1));
        // An object as large as there may be one cannot be read in pages.
        let map = config_map("largest", &"\u{1}".repeat(350 << 10));
        let answer = admin.ask(&Request::with("POST", MAPS, &map)).await.unwrap();
        assert_eq!(answer.code, 201, "{}", answer.message());
        let answer = admin.ask(&Request::get(&format!("{MAPS}/largest"))).await.unwrap();
        assert_eq!(answer.code, 200);
        assert!(answer.body["data"]["k"].as_str().unwrap().len() == 350 << 10);
        // The controllers' own client puts pages together: a namespace with all of it goes.
        self.cluster.kubectl(["create", "namespace", "large"]).ok();
        for n in 0..3 {
            let maps = "/api/v1/namespaces/large/configmaps";
            let map = config_map(&format!("large-{n}"), &text);
            assert_eq!(admin.ask(&Request::with("POST", maps, &map)).await.unwrap().code, 201);
        }
        self.cluster.kubectl(["delete", "namespace", "large", "--timeout=60s"]).ok();
        for name in ["large-0", "large-1", "large-2", "largest"] {
            let gone = Request::with("DELETE", &format!("{MAPS}/{name}"), &json!({}));
            assert_eq!(admin.ask(&gone).await.unwrap().code, 200);
        }
    }

    async fn a_change_is_done_once(&self) {
        let mut admin = self.asker("admin").await;
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "once-"}});
        let request = Request::with("POST", MAPS, &map).id("once");
        let first = admin.ask(&request).await.unwrap();
        // Over another connection, as after a loss.
        let mut admin = self.asker("admin").await;
        let second = admin.ask(&request).await.unwrap();
        assert_eq!((first.code, second.code), (201, 201));
        assert_eq!(first.body, second.body);
        let other = Request::with("POST", MAPS, &config_map("other", "")).id("once");
        let answer = admin.ask(&other).await.unwrap();
        assert_eq!(answer.code, 400);
        assert!(answer.message().starts_with("message_id: Invalid value"), "{}", answer.message());
        let third = admin.ask(&Request { message_id: None, ..request.clone() }).await.unwrap();
        assert_ne!(third.body["metadata"]["name"], first.body["metadata"]["name"]);
        // What may have been done by a server that is no more is not done blindly.
        let again = request.id("other").header("again", "true");
        let answer = admin.ask(&again).await.unwrap();
        assert_eq!(answer.code, 201, "only a boolean counts: {answer:?}");
        let maps = self.cluster.objects("configmaps", "default");
        let made = maps
            .iter()
            .filter(|map| map["metadata"]["name"].as_str().unwrap().starts_with("once-"));
        assert_eq!(made.count(), 3);
    }

    async fn what_is_no_question_is_refused(&self) {
        let mut admin = self.asker("admin").await;
        for (request, code, hint) in [
            (Request::get("/api/v1/pods?watch=true"), 405, "warren.events"),
            (Request::get("/api/v1/namespaces/default/pods/a/log?follow=true"), 405, "follow"),
            (
                Request::with("POST", "/api/v1/namespaces/default/pods/a/exec", &json!({})),
                405,
                "HTTPS",
            ),
            (Request::get("api"), 400, "header path"),
            (Request::with("TRACE", "/", &json!({})), 400, "header method"),
            (Request::get("/apis/nope/v1/x"), 404, ""),
            (Request::with("POST", MAPS, &json!(["x"])), 400, ""),
        ] {
            let answer = admin.ask(&request).await.unwrap();
            assert_eq!(answer.code, code, "{request:?}: {answer:?}");
            assert!(answer.message().contains(hint), "{}", answer.message());
        }
        let large =
            Request { body: vec![b'x'; (3 << 20) + 1], ..Request::with("POST", MAPS, &json!({})) };
        assert_eq!(admin.ask(&large).await.unwrap().code, 413);
    }

    async fn a_flood_starves_nobody(&self) {
        const FLOOD: u64 = 40_000;
        let url = self.rabbit.amqp_url("node-node-2");
        let mut flood = tokio::task::JoinSet::new();
        flood.spawn(async move {
            let askers = (0..4).map(|_| async {
                let mut asker = Asker::connect(&url, "node-node-2").await.unwrap();
                let request = Request::get("/api/v1/services");
                let mut codes = BTreeMap::<i64, u64>::new();
                let (mut open, mut sent) = (0, Vec::new());
                for _ in 0..FLOOD / 4 {
                    sent.push(asker.publish(&request).await.unwrap());
                }
                for confirmation in sent {
                    match confirmation.await.unwrap() {
                        lapin::Confirmation::Ack(None) => open += 1,
                        // Nobody answers what the queue had no room for.
                        _ => *codes.entry(0).or_default() += 1,
                    }
                }
                for _ in 0..open {
                    let (_, answer) = asker.next().await.unwrap();
                    *codes.entry(answer.code).or_default() += 1;
                }
                codes
            });
            futures::future::join_all(askers).await
        });
        let mut admin = self.asker("admin").await;
        let mut longest = std::time::Duration::ZERO;
        let mut asked = 0;
        let codes = loop {
            if let Some(codes) = flood.try_join_next() {
                break codes.unwrap();
            }
            let start = Instant::now();
            let answer = admin.ask(&Request::get("/api/v1/nodes/node-1")).await.unwrap();
            assert_eq!(answer.code, 200, "{answer:?}");
            longest = longest.max(start.elapsed());
            asked += 1;
        };
        println!(
            "flood of {FLOOD}: {codes:?}; another's {asked} requests took at most {longest:?}"
        );
        assert!(asked >= 5 && longest < SOON / 4, "{asked} {longest:?}");
    }

    fn a_silent_node_is_noticed(&mut self) {
        let role = Role::Agent("node-2".into());
        self.cluster.kill9(&role);
        let ready = |node: &Value| {
            let conditions = node["status"]["conditions"].as_array().unwrap();
            conditions.iter().find(|c| c["type"] == "Ready").unwrap()["status"].clone()
        };
        self.cluster.wait_object("node", "", "node-2", |node| ready(node) == "Unknown");
        self.cluster.start(&role);
        self.cluster.wait_object("node", "", "node-2", |node| ready(node) == "True");
    }

    async fn the_broker_goes_and_comes(&mut self) {
        let create = ["create", "deployment", "web", "--image=example/web:1", "--replicas=2"];
        self.cluster.kubectl(create).ok();
        self.running(2);
        self.rabbit.kill9();
        self.cluster.kubectl(["scale", "deployment", "web", "--replicas=4"]).ok();
        self.rabbit.restart().await.unwrap();
        self.running(4);
    }

    fn the_server_goes_and_comes(&mut self) {
        self.cluster.kill9(&Role::Apiserver);
        self.cluster.start(&Role::Apiserver);
        until("the API takes it", SOON, || {
            self.cluster.kubectl(["scale", "deployment", "web", "--replicas=3"]).succeeded()
        });
        self.running(3);
        self.cluster.kubectl(["delete", "deployment", "web"]).ok();
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

/// Of the connections that a process has open.
fn remote_ports(pid: u32) -> BTreeSet<u16> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let inodes: BTreeSet<String> = links
        .filter_map(|link| std::fs::read_link(link.ok()?.path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.get(9).is_some_and(|inode| inodes.contains(*inode)) {
                let (_, port) = words[2].rsplit_once(':').unwrap();
                ports.insert(u16::from_str_radix(port, 16).unwrap());
            }
        }
    }
    ports
}
