//! Every error that Kubernetes documents is provoked once, and its Status compared field by field.
//!
//! The cases are data: `tests/tests/errors/*.yaml`, described in the README.md there.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Map, Value, json};
use warren_tests::cluster::SOON;
use warren_tests::http::Answer;
use warren_tests::{Cluster, Http, Role};

#[path = "errors/documented.rs"]
mod documented;

use documented::Seen;

struct World {
    admin: Http,
    node: Http,
    nobody: Http,
    /// Answers that later requests and expectations speak of.
    kept: BTreeMap<String, Value>,
    seen: Seen,
    wrong: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_worded_as_kubernetes_words_it() {
    let mut cluster = Cluster::simulated();
    let mut world = World::of(&cluster).await;
    for request in cases("0-fixtures") {
        world.succeed(&request).await;
    }
    // Their state is what the cases are about.
    cluster.wait_object("pod", "default", "running", |pod| pod["status"]["phase"] == "Running");
    cluster.wait_object("pod", "default", "waiting", |pod| {
        let status = &pod["status"];
        status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
            && status["initContainerStatuses"][0]["state"]["running"].is_object()
    });
    for file in ["1-reading", "2-access", "3-writing", "4-patching", "5-objects", "6-pods"] {
        for case in cases(file) {
            world.check(file, &case).await;
        }
    }
    world.too_many_requests().await;
    cluster.kill9(&Role::Up);
    cluster.start_all();
    cluster.wait_ready();
    let after = World::of(&cluster).await;
    (world.admin, world.node, world.nobody) = (after.admin, after.node, after.nobody);
    for case in cases("7-restarted") {
        world.check("7-restarted", &case).await;
    }
    let World { mut wrong, seen, .. } = world;
    wrong.extend(seen.missing());
    assert!(wrong.is_empty(), "{} differ:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

/// The list in a file; all keys are known.
fn cases(file: &str) -> Vec<Value> {
    const KEYS: [&str; 12] = [
        "name", "request", "as", "headers", "body", "before", "keep", "times", "answer", "code",
        "text", "event",
    ];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/errors/{file}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap();
    let documents = warren_api::yaml::documents(&text)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let list = documents[0].as_array().unwrap().clone();
    for case in &list {
        for key in case.as_object().unwrap().keys() {
            assert!(KEYS.contains(&key.as_str()), "{file}: what is {key}? {case}");
        }
    }
    list
}

impl World {
    async fn of(cluster: &Cluster) -> Self {
        let node = cluster.data_dir().join("kubeconfig/node-node-1.conf");
        Self {
            admin: Http::of(&cluster.kubeconfig()).await,
            node: Http::of(&node).await,
            nobody: Http::nobody(&cluster.kubeconfig()).await,
            kept: BTreeMap::new(),
            seen: Seen::default(),
            wrong: Vec::new(),
        }
    }

    async fn send(&self, case: &Value) -> Answer {
        let line = self.filled(case["request"].as_str().unwrap());
        let (method, path) = line.split_once(' ').unwrap();
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in case["headers"].as_object().into_iter().flatten() {
            headers.push((name.clone(), value.as_str().unwrap().to_owned()));
        }
        if !headers.iter().any(|(name, _)| name == "content-type") && method != "GET" {
            headers.push(("content-type".into(), "application/json".into()));
        }
        let who = match case["as"].as_str().unwrap_or("admin") {
            "admin" => &self.admin,
            "jane" => {
                headers.push(("impersonate-user".into(), "jane".into()));
                &self.admin
            }
            "node" => &self.node,
            "nobody" => &self.nobody,
            other => panic!("who is {other}?"),
        };
        let body = match &case["body"] {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            tree => serde_json::to_vec(&expanded(tree)).unwrap(),
        };
        match case["event"] == true {
            true => who.first_line(method, path, &headers).await,
            false => who.send(method, path, &headers, body).await,
        }
    }

    /// A request that prepares a case.
    async fn succeed(&mut self, request: &Value) {
        let times = request["times"].as_u64().unwrap_or(1);
        for turn in 1..=times {
            // `{turn.n}` tells repetitions apart.
            self.kept.insert("turn".to_owned(), json!({"n": turn.to_string()}));
            let answer = self.send(request).await;
            assert!(answer.is_success(), "{request}: {} {}", answer.code, answer.value());
            if let Some(name) = request["keep"].as_str() {
                self.kept.insert(name.to_owned(), answer.value());
            }
        }
    }

    async fn check(&mut self, file: &str, case: &Value) {
        for request in case["before"].as_array().into_iter().flatten() {
            self.succeed(request).await;
        }
        let answer = self.send(case).await;
        let name = format!("{file}: {}", case["name"].as_str().unwrap());
        let found = match case["text"].as_str() {
            Some(text) => self.differs_from_text(case, text, &answer),
            None => self.differs(case, &answer),
        };
        self.wrong.extend(found.map(|found| format!("{name}\n{found}")));
    }

    fn differs_from_text(&self, case: &Value, text: &str, answer: &Answer) -> Option<String> {
        let same = json!(answer.code) == case["code"]
            && answer.body == text.as_bytes()
            && answer.header("content-type") == "text/plain; charset=utf-8"
            && answer.header("x-content-type-options") == "nosniff";
        (!same).then(|| format!("{} {:?} {}", answer.code, answer.headers, answer.value()))
    }

    /// The whole Status, the HTTP code, and the headers that go with it.
    fn differs(&mut self, case: &Value, answer: &Answer) -> Option<String> {
        let mut wanted = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        });
        for (key, value) in case["answer"].as_object().unwrap() {
            assert!(
                ["code", "reason", "message", "details", "metadata"].contains(&key.as_str()),
                "what is {key}?"
            );
            wanted[key] = self.filled_tree(value);
        }
        let is_event = case["event"] == true;
        let value = answer.value();
        let status = match is_event {
            true if value["type"] == "ERROR" => &value["object"],
            true => return Some(format!("no ERROR: {value}")),
            false => &value,
        };
        self.seen.note(status);
        if !fits(&wanted, status) {
            return Some(format!("wanted {wanted:#}\nfound {status:#}"));
        }
        // ErrorNegotiated and Forbidden, apiserver/pkg/endpoints/handlers/responsewriters
        let code = if is_event { json!(200) } else { wanted["code"].clone() };
        let seconds = wanted["details"]["retryAfterSeconds"].as_u64();
        let nosniff = if code == 403 { "nosniff" } else { "" };
        for (what, wanted, found) in [
            ("HTTP code", code.to_string(), answer.code.to_string()),
            ("Content-Type", "application/json".into(), answer.header("content-type").to_owned()),
            (
                "Retry-After",
                seconds.map(|seconds| seconds.to_string()).unwrap_or_default(),
                answer.header("retry-after").to_owned(),
            ),
            (
                "X-Content-Type-Options",
                nosniff.to_owned(),
                answer.header("x-content-type-options").to_owned(),
            ),
            // Since basic authentication went, there is none; and an error carries no warnings.
            ("WWW-Authenticate", String::new(), answer.header("www-authenticate").to_owned()),
            ("Warning", String::new(), answer.header("warning").to_owned()),
        ] {
            if wanted != found {
                return Some(format!("{what}: wanted {wanted:?}, found {found:?}"));
            }
        }
        None
    }

    /// `{there.metadata.uid}` is what was kept; `{xxx}` is a name that is too long.
    fn filled(&self, text: &str) -> String {
        let mut text = text.replace("{xxx}", &"x".repeat(129));
        for (name, value) in &self.kept {
            while let Some(at) = text.find(&format!("{{{name}.")) {
                let end = at + text[at..].find('}').unwrap();
                let path = text[at + 2 + name.len()..end].replace('.', "/");
                let found = value.pointer(&format!("/{path}")).and_then(Value::as_str);
                text.replace_range(at..=end, found.unwrap());
            }
        }
        text
    }

    fn filled_tree(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.filled(text).into(),
            Value::Array(items) => items.iter().map(|item| self.filled_tree(item)).collect(),
            Value::Object(map) => {
                map.iter().map(|(key, value)| (key.clone(), self.filled_tree(value))).collect()
            }
            other => other.clone(),
        }
    }

    /// Requests whose bodies do not end hold their places; one more than a node may have is told to come again.
    async fn too_many_requests(&mut self) {
        /// What one node may have in flight.
        const SHARE: usize = 40;
        let path = "/api/v1/namespaces/default/events";
        let json = [("content-type".to_owned(), "application/json".to_owned())];
        let hold = || async {
            let begin = futures::stream::iter([Ok::<_, std::io::Error>(Frame::data(
                Bytes::from_static(b"{"),
            ))]);
            let body = StreamBody::new(begin.chain(futures::stream::pending()));
            self.node.open("POST", path, &json, body.boxed_unsync()).await
        };
        // Whoever is answered had no place any more: the others wait for ever.
        let mut all: futures::stream::FuturesUnordered<_> =
            (0..=SHARE).map(|_| Box::pin(hold())).collect();
        let first = tokio::time::timeout(SOON, all.next()).await.expect("one is refused").unwrap();
        let (parts, body) = first.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        drop(all);
        let answer = Answer { code: parts.status.as_u16(), headers: parts.headers, body };
        // NewTooManyRequests, apimachinery/pkg/api/errors/errors.go
        let case = json!({"answer": {
            "code": 429, "reason": "TooManyRequests",
            "message": "Too many requests, please try again later.",
            "details": {"retryAfterSeconds": 1},
        }});
        let found = self.differs(&case, &answer);
        self.wrong.extend(found.map(|found| format!("too many requests\n{found}")));
        // The node itself gets on with its work again.
        tokio::time::timeout(Duration::from_secs(30), async {
            while !self.node.send("GET", "/api/v1/nodes/node-1", &[], vec![]).await.is_success() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the node is let in again");
    }
}

/// Whether the found is the wanted, in which `{*}` stands for any text that is not empty.
fn fits(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::String(wanted), Value::String(found)) => {
            let mut parts = wanted.split("{*}");
            let first = parts.next().unwrap_or_default();
            let Some(mut rest) = found.strip_prefix(first) else { return false };
            let parts: Vec<&str> = parts.collect();
            let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
            for part in between {
                match rest.get(1..).and_then(|rest| rest.split_once(part)) {
                    Some((_, after)) => rest = after,
                    None => return false,
                }
            }
            rest.len() > last.len() && rest.ends_with(last)
        }
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(w, f)| fits(w, f))
        }
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.len() == found.len()
                && wanted.iter().all(|(key, w)| found.get(key).is_some_and(|f| fits(w, f)))
        }
        (wanted, found) => wanted == found,
    }
}

/// A body with its long parts written out.
fn expanded(tree: &Value) -> Value {
    match tree {
        Value::Object(map) => match (map.get("$text"), map.get("$times")) {
            (Some(length), _) => {
                let length = usize::try_from(length.as_u64().unwrap()).unwrap();
                "x".repeat(length).into()
            }
            (_, Some(times)) => {
                let times = usize::try_from(times.as_u64().unwrap()).unwrap();
                Value::Array(vec![expanded(&map["$of"]); times])
            }
            _ => Value::Object(
                map.iter()
                    .map(|(key, value)| (key.clone(), expanded(value)))
                    .collect::<Map<_, _>>(),
            ),
        },
        Value::Array(items) => items.iter().map(expanded).collect(),
        other => other.clone(),
    }
}

#[test]
fn each_case_has_a_name_of_its_own() {
    let mut names = BTreeSet::new();
    for file in ["1-reading", "2-access", "3-writing", "4-patching", "5-objects", "6-pods"] {
        for case in cases(file) {
            let name = case["name"].as_str().unwrap().to_owned();
            assert!(names.insert(name.clone()), "twice: {name}");
        }
    }
}
