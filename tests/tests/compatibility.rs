//! Each verb against each kind that the server names, for real; what was seen is the page docs/compatibility.md.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, Http, document};

#[path = "compatibility/kubernetes.rs"]
mod kubernetes;

use kubernetes::{Offered, fixture};

/// As a column is headed.
const VERBS: [&str; 11] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "JSON patch",
    "merge patch",
    "strategic patch",
    "apply",
    "delete",
    "delete collection",
];

struct World {
    admin: Http,
}

#[derive(Clone, Debug)]
struct Kind {
    group: String,
    version: String,
    kind: String,
    plural: String,
    namespaced: bool,
    /// Those that discovery names.
    subresources: Vec<String>,
}

impl Kind {
    fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    fn all(&self) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let namespace = if self.namespaced { "/namespaces/matrix" } else { "" };
        format!("{root}/{}{namespace}/{}", self.api_version(), self.plural)
    }

    fn one(&self, name: &str) -> String {
        format!("{}/{name}", self.all())
    }

    /// `deployments.apps`
    fn resource(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_what_each_verb_does_to_each_kind() {
    let cluster = Cluster::simulated();
    let world = World { admin: Http::of(&cluster.kubeconfig()).await };
    let made = json!({"metadata": {"name": "matrix"}});
    assert_eq!(world.post("/api/v1/namespaces", &made).await, 201);
    cluster.wait_object("serviceaccount", "matrix", "default", |_| true);
    let kinds = world.kinds().await;
    let mut table = format!(
        "| group | kind | {} |\n|---|---{}|\n",
        VERBS.join(" | "),
        "|---".repeat(VERBS.len())
    );
    for kind in &kinds {
        let worked = world.verbs(kind).await;
        let offered = kubernetes::offered(&kind.resource());
        let cells = VERBS.map(|verb| match (worked.contains(&verb), offered.has(verb)) {
            (true, true) => "yes",
            (false, false) => "–",
            (false, true) => "**no**",
            (true, false) => panic!("{}: Kubernetes has no {verb}", kind.resource()),
        });
        let group = if kind.group.is_empty() { "core" } else { &kind.group };
        writeln!(table, "| {group}/{} | {} | {} |", kind.version, kind.kind, cells.join(" | "))
            .unwrap();
    }
    table += "\n`–`: Kubernetes does not offer it either.\n\n";
    let served: Vec<String> = kinds.iter().map(Kind::resource).collect();
    let missing: Vec<&str> =
        kubernetes::ALL.into_iter().filter(|kind| !served.iter().any(|s| s == kind)).collect();
    for kind in &served {
        let known = kubernetes::ALL.contains(&kind.as_str()) || kind.ends_with(".metrics.k8s.io");
        assert!(known, "{kind} is no resource of Kubernetes v1.34");
    }
    writeln!(table, "Missing of Kubernetes v1.34's own resources: {}.", missing.join(", "))
        .unwrap();
    document::generated("kinds", &table);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_what_stands_behind_objects() {
    let cluster = Cluster::simulated();
    let world = World { admin: Http::of(&cluster.kubeconfig()).await };
    let made = json!({"metadata": {"name": "matrix"}});
    assert_eq!(world.post("/api/v1/namespaces", &made).await, 201);
    let kinds = world.kinds().await;
    let mut table = "| resource | works | missing |\n|---|---|---|\n".to_owned();
    let mut told = BTreeMap::new();
    for (resource, subresource, verbs) in kubernetes::SUBRESOURCES {
        let kind = kinds.iter().find(|kind| kind.resource() == resource).unwrap();
        let name = format!("of-{subresource}");
        let object = fixture(&kind.resource(), &name);
        assert_eq!(world.post(&kind.all(), &object).await, 201, "{resource}");
        if kind.kind == "Pod" && subresource != "binding" {
            cluster.wait_object("pod", "matrix", &name, |pod| pod["status"]["phase"] == "Running");
        }
        let path = format!("{}/{subresource}", kind.one(&name));
        let mut works = Vec::new();
        let mut missing = Vec::new();
        for verb in verbs.iter().copied() {
            match world.subresource(kind, &name, &path, subresource, verb).await {
                true => works.push(verb),
                false => missing.push(verb),
            }
        }
        let named = kind.subresources.iter().any(|sub| sub == subresource);
        assert!(named || works.is_empty(), "{resource}/{subresource} works and is not named");
        told.insert(format!("{resource}/{subresource}"), ());
        writeln!(
            table,
            "| {resource}/{subresource} | {} | {} |",
            works.join(", "),
            missing.join(", ")
        )
        .unwrap();
    }
    for kind in &kinds {
        for subresource in &kind.subresources {
            let known = told.contains_key(&format!("{}/{subresource}", kind.resource()));
            assert!(known, "{}/{subresource} is no subresource of Kubernetes", kind.resource());
        }
    }
    document::generated("subresources", &table);
}

impl World {
    async fn code(&self, method: &str, path: &str, content_type: &str, body: &Value) -> u16 {
        let headers = [("content-type".to_owned(), content_type.to_owned())];
        let body = if body.is_null() { vec![] } else { serde_json::to_vec(body).unwrap() };
        self.admin.send(method, path, &headers, body).await.code
    }

    async fn post(&self, path: &str, body: &Value) -> u16 {
        self.code("POST", path, "application/json", body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.admin.send("GET", path, &[], vec![]).await.value()
    }

    /// What discovery names, in its order of groups.
    async fn kinds(&self) -> Vec<Kind> {
        let mut paths = vec!["/api/v1".to_owned()];
        for group in self.get("/apis").await["groups"].as_array().unwrap() {
            for version in group["versions"].as_array().unwrap() {
                paths.push(format!("/apis/{}", version["groupVersion"].as_str().unwrap()));
            }
        }
        let mut kinds: Vec<Kind> = Vec::new();
        for path in paths {
            let list = self.get(&path).await;
            let group_version = list["groupVersion"].as_str().unwrap();
            let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
            for resource in list["resources"].as_array().unwrap() {
                let text = |field: &str| resource[field].as_str().unwrap().to_owned();
                let name = text("name");
                match name.split_once('/') {
                    None => kinds.push(Kind {
                        group: group.to_owned(),
                        version: version.to_owned(),
                        kind: text("kind"),
                        plural: name,
                        namespaced: resource["namespaced"] == true,
                        subresources: Vec::new(),
                    }),
                    Some((plural, sub)) => {
                        let of = |kind: &&mut Kind| kind.plural == plural && kind.group == group;
                        let kind = kinds.iter_mut().find(of).unwrap();
                        kind.subresources.push(sub.to_owned());
                    }
                }
            }
        }
        kinds
    }

    /// The verbs that did what they say.
    async fn verbs(&self, kind: &Kind) -> Vec<&'static str> {
        let mut worked = Vec::new();
        let mut note = |verb: &'static str, did: bool| {
            if did {
                worked.push(verb);
            }
        };
        let resource = kind.resource();
        if kubernetes::offered(&resource) == Offered::Figures {
            // They are there as soon as the node has been asked; its name is the one that can be known.
            let name = if kind.namespaced { "none" } else { "node-1" };
            note("list", self.get(&kind.all()).await["items"].is_array());
            let answer = self.get(&kind.one(name)).await;
            let found = answer["kind"] == kind.kind.as_str();
            let missing = answer["details"]["name"].as_str().is_some_and(|n| n.ends_with(name));
            note("get", found || missing);
            return worked;
        }
        // Endpoints live as long as the Service of their name, so each kind has names of its own.
        let (mine, many) = (format!("mine-{}", kind.plural), format!("many-{}", kind.plural));
        if resource == "endpoints" {
            let services = kind.all().replace("/endpoints", "/services");
            for name in [&mine, &many] {
                assert_eq!(self.post(&services, &fixture("services", name)).await, 201);
            }
        }
        let (one, object) = (kind.one(&mine), fixture(&resource, &mine));
        note("create", self.post(&kind.all(), &object).await == 201);
        if kubernetes::offered(&resource) == Offered::Question {
            return worked;
        }
        let value = self.get(&one).await;
        note("get", value["metadata"]["name"] == *mine && value["kind"] == kind.kind.as_str());
        let listed = self.get(&kind.all()).await;
        let items = listed["items"].as_array().unwrap();
        note("list", items.iter().any(|item| item["metadata"]["name"] == *mine));
        let watch = format!(
            "{}?watch=1&timeoutSeconds=30&fieldSelector=metadata.name%3D{mine}",
            kind.all()
        );
        let event = self.admin.first_line("GET", &watch, &[]).await.value();
        note("watch", event["type"] == "ADDED" && event["object"]["metadata"]["name"] == *mine);
        let label = async || self.get(&one).await["metadata"]["labels"]["by"].clone();
        // A controller may write in between.
        for _ in 0..100 {
            let mut changed = self.get(&one).await;
            changed["metadata"]["labels"]["by"] = "update".into();
            if self.code("PUT", &one, "application/json", &changed).await != 409 {
                break;
            }
        }
        note("update", label().await == "update");
        let to = |by: &str| json!({"metadata": {"labels": {"by": by}}});
        let step = json!([{"op": "replace", "path": "/metadata/labels/by", "value": "json"}]);
        self.code("PATCH", &one, "application/json-patch+json", &step).await;
        note("JSON patch", label().await == "json");
        self.code("PATCH", &one, "application/merge-patch+json", &to("merge")).await;
        note("merge patch", label().await == "merge");
        self.code("PATCH", &one, "application/strategic-merge-patch+json", &to("smp")).await;
        note("strategic patch", label().await == "smp");
        let apply = format!("{one}?fieldManager=matrix&force=true");
        let mut wanted = to("apply");
        wanted["apiVersion"] = kind.api_version().into();
        wanted["kind"] = kind.kind.as_str().into();
        wanted["metadata"]["name"] = mine.as_str().into();
        self.code("PATCH", &apply, "application/apply-patch+yaml", &wanted).await;
        note("apply", label().await == "apply");
        let gone = async |path: &str| {
            let going = self.get(path).await;
            going["code"] == 404 || !going["metadata"]["deletionTimestamp"].is_null()
        };
        self.code("DELETE", &one, "application/json", &Value::Null).await;
        note("delete", gone(&one).await);
        let other = kind.one(&many);
        assert_eq!(self.post(&kind.all(), &fixture(&resource, &many)).await, 201, "{resource}");
        let some = format!("{}?fieldSelector=metadata.name%3D{many}", kind.all());
        self.code("DELETE", &some, "application/json", &Value::Null).await;
        note("delete collection", gone(&other).await);
        worked
    }

    async fn subresource(
        &self,
        kind: &Kind,
        name: &str,
        path: &str,
        subresource: &str,
        verb: &str,
    ) -> bool {
        let json = "application/json";
        match (subresource, verb) {
            ("binding", _) => {
                let target = json!({"kind": "Node", "name": "node-1"});
                let body = json!({"metadata": {"name": name}, "target": target});
                self.post(path, &body).await == 201
            }
            ("eviction", _) => {
                let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
                self.post(path, &body).await == 201
            }
            ("token", _) => self.post(path, &json!({"spec": {}})).await == 201,
            ("log", _) => self.code("GET", path, json, &Value::Null).await == 200,
            ("proxy", _) => self.proxies(kind, name, path).await,
            ("exec", by) => self.upgrades(&format!("{path}?command=cat&stdout=1"), by).await,
            ("attach", by) => self.upgrades(&format!("{path}?stdout=1"), by).await,
            ("portforward", by) => self.upgrades(&format!("{path}?ports=80"), by).await,
            ("finalize", _) => {
                let namespace = self.get(&kind.one(name)).await;
                self.code("PUT", path, json, &namespace).await == 200
            }
            (_, "get") => self.code("GET", path, json, &Value::Null).await == 200,
            (_, "update") => {
                // A controller may write in between.
                let mut code = 409;
                for _ in 0..100 {
                    let value = self.get(path).await;
                    if code != 409 || !value["code"].is_null() {
                        break;
                    }
                    code = self.code("PUT", path, json, &value).await;
                }
                code == 200
            }
            (_, "patch") => {
                let nothing = json!({});
                self.code("PATCH", path, "application/merge-patch+json", &nothing).await == 200
            }
            other => panic!("how is {other:?} tried?"),
        }
    }

    /// Nothing here speaks HTTP but the nodes: of others it is tried that they are found, and the client is sent to
    /// their root.
    async fn proxies(&self, kind: &Kind, name: &str, path: &str) -> bool {
        match kind.plural.as_str() {
            "nodes" => {
                let healthz = format!("{}/healthz", path.replace(name, "node-1"));
                return self.code("GET", &healthz, "", &Value::Null).await == 200;
            }
            "services" => {
                let pod = self.get(&path.replace("services", "pods").replace("/proxy", "")).await;
                let target = json!({"kind": "Pod", "namespace": "matrix", "name": name});
                let address = json!({"ip": pod["status"]["podIP"], "targetRef": target});
                let subset = json!({"addresses": [address], "ports": [{"port": 80}]});
                let endpoints = json!({"metadata": {"name": name}, "subsets": [subset]});
                let made = self.post("/api/v1/namespaces/matrix/endpoints", &endpoints).await;
                assert_eq!(made, 201);
            }
            _ => {}
        }
        let answer = self.admin.send("GET", path, &[], vec![]).await;
        answer.code == 301 && answer.header("location") == format!("{path}/")
    }

    /// Whether a stream opens.
    async fn upgrades(&self, path: &str, by: &str) -> bool {
        let headers: &[(&str, &str)] = match by {
            "WebSocket" => &[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-protocol", "v5.channel.k8s.io"),
            ],
            _ => &[
                ("connection", "upgrade"),
                ("upgrade", "SPDY/3.1"),
                ("x-stream-protocol-version", "v4.channel.k8s.io"),
                ("x-stream-protocol-version", "portforward.k8s.io"),
            ],
        };
        // In every version of kubectl, forwarded ports speak SPDY, from 1.31 on within a WebSocket.
        let headers: Vec<(String, String)> = headers
            .iter()
            .map(|(name, value)| match (path.contains("/portforward"), *value) {
                (true, "v5.channel.k8s.io") => {
                    ((*name).to_owned(), "SPDY/3.1+portforward.k8s.io".to_owned())
                }
                _ => ((*name).to_owned(), (*value).to_owned()),
            })
            .collect();
        let method = if by == "WebSocket" { "GET" } else { "POST" };
        let body = warren_tests::http::full(Vec::new());
        let answer = self.admin.open(method, path, &headers, body);
        let answer = tokio::time::timeout(SOON, answer).await.expect("an answer");
        answer.status() == http::StatusCode::SWITCHING_PROTOCOLS
    }
}
