//! Clients that write all the time, each to keys of its own, and remember what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use kube::Client;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::RwLock;
use warren_tests::chaos::{Entry, Op, Outcome, State};
use warren_tests::docker::BUSYBOX;

pub const NAMESPACE: &str = "chaos";
/// A client gives up after this; whether it was done is then unknown.
const REQUEST: Duration = Duration::from_secs(4);
const NAMES: usize = 6;
/// Pods have names that are never used again; so many are there at once.
const PODS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ConfigMaps,
    Deployments,
    Pods,
}

pub const KINDS: [Kind; 3] = [Kind::ConfigMaps, Kind::Deployments, Kind::Pods];

impl Kind {
    pub fn resource(self) -> &'static str {
        match self {
            Self::ConfigMaps => "configmaps",
            Self::Deployments => "deployments",
            Self::Pods => "pods",
        }
    }

    pub fn path(self) -> String {
        let group = if self == Self::Deployments { "/apis/apps/v1" } else { "/api/v1" };
        format!("{group}/namespaces/{NAMESPACE}/{}", self.resource())
    }

    /// In the exchange's routing keys.
    pub fn binding(self) -> &'static str {
        match self {
            Self::ConfigMaps => "core.configmaps.#",
            Self::Deployments => "apps.deployments.#",
            Self::Pods => "core.pods.#",
        }
    }

    /// Two cores are for the cluster.
    fn pause(self) -> Duration {
        Duration::from_millis(match self {
            Self::ConfigMaps => 40,
            Self::Deployments => 1_500,
            Self::Pods => 1_000,
        })
    }

    fn object(self, name: &str, token: &str, random: &mut StdRng) -> Value {
        let metadata = json!({"name": name, "annotations": {"born": token, "token": token}});
        let containers = json!([{
            "name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "1000000"],
        }]);
        match self {
            Self::ConfigMaps => json!({"metadata": metadata, "data": {"token": token}}),
            // Nobody but the client ends it.
            Self::Pods => json!({"metadata": metadata, "spec": {
                "containers": containers, "terminationGracePeriodSeconds": 1,
                "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
            }}),
            Self::Deployments => json!({"metadata": metadata, "spec": {
                "replicas": random.random_range(1..=3),
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {
                    "containers": containers, "terminationGracePeriodSeconds": 1,
                }},
            }}),
        }
    }
}

/// What an object says; what is being deleted is not there.
pub fn state(object: &Value) -> Option<State> {
    let meta = &object["metadata"];
    if !meta["deletionTimestamp"].is_null() {
        return None;
    }
    let born = meta["annotations"]["born"].as_str()?.to_owned();
    let token = meta["annotations"]["token"].as_str().unwrap_or_default();
    // Both of a write, or none.
    let data = object["data"]["token"].as_str().unwrap_or(token);
    let token = if data == token { token.to_owned() } else { format!("{token}, but {data}") };
    Some(State { born, token })
}

pub fn revision(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// What an answer's status was, and its body. `None`: there was no whole answer in time.
pub async fn call(
    client: &Client,
    method: Method,
    path: &str,
    body: &Value,
) -> Option<(u16, Value)> {
    let answer =
        warren_tests::http::call(client, method, "application/json-patch+json", path, body);
    tokio::time::timeout(REQUEST, answer).await.ok()?
}

/// What all clients share.
#[derive(Default)]
pub struct Shared {
    pub history: Mutex<Vec<Entry>>,
    /// Held to write while nobody else may.
    pub gate: Arc<RwLock<()>>,
    pub over: AtomicBool,
    /// When writes were acknowledged.
    pub acknowledged: Mutex<Vec<Instant>>,
    /// Answers that no client can make sense of.
    pub strange: Mutex<Vec<String>>,
}

impl Shared {
    pub fn done(&self) -> usize {
        self.acknowledged.lock().len()
    }

    pub fn push(&self, entry: Entry) {
        self.history.lock().push(entry);
    }
}

/// What is known of one name.
#[derive(Clone, Debug, Default)]
struct Known {
    name: String,
    state: Option<State>,
    uid: String,
    /// It has to be looked at first.
    unsure: bool,
}

pub struct Writer {
    pub kind: Kind,
    pub number: usize,
    pub client: Client,
    pub shared: Arc<Shared>,
    /// What gets no answer is said again, so that a no may be the answer to the second time.
    says_again: bool,
    random: StdRng,
    names: Vec<Known>,
    count: usize,
}

impl Writer {
    pub fn new(kind: Kind, number: usize, seed: u64, client: Client, shared: Arc<Shared>) -> Self {
        let names = match kind {
            Kind::ConfigMaps => NAMES,
            Kind::Deployments => 3,
            Kind::Pods => PODS,
        };
        let names =
            (0..names).map(|n| Known { name: format!("w{number}-{n}"), ..Known::default() });
        let random = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        let (names, says_again) = (names.collect(), false);
        Self { kind, number, client, shared, says_again, random, names, count: 0 }
    }

    /// Its requests are messages.
    pub fn by_broker(
        kind: Kind,
        number: usize,
        seed: u64,
        client: Client,
        shared: Arc<Shared>,
    ) -> Self {
        Self { says_again: true, ..Self::new(kind, number, seed, client, shared) }
    }

    pub async fn run(mut self) {
        while !self.shared.over.load(Ordering::Relaxed) {
            {
                let shared = Arc::clone(&self.shared);
                let _open = shared.gate.read().await;
                self.step().await;
            }
            tokio::time::sleep(self.kind.pause()).await;
        }
    }

    async fn step(&mut self) {
        let at = self.random.random_range(0..self.names.len());
        self.count += 1;
        let token = format!("{}.{}", self.number, self.count);
        let known = self.names[at].clone();
        let op = match &known.state {
            _ if known.unsure || self.random.random_bool(0.1) => Op::Read,
            None => Op::Create { token },
            Some(state) if self.random.random_bool(0.25) => Op::Delete { born: state.born.clone() },
            Some(State { born, token: from }) => {
                Op::Update { born: born.clone(), from: from.clone(), to: token }
            }
        };
        let answer = self.ask(&op, &known).await;
        let outcome = self.outcome(&op, answer, at);
        let key = format!("{}/{}", self.kind.resource(), known.name);
        if matches!(outcome, Outcome::Done(_)) {
            self.shared.acknowledged.lock().push(Instant::now());
        }
        let gone = matches!(
            (&op, &outcome),
            (Op::Delete { .. }, Outcome::Done(_)) | (Op::Read, Outcome::Is(None))
        );
        self.shared.push(Entry::Did { key, op, outcome });
        if gone && self.kind == Kind::Pods {
            // It takes its time to go, and its name with it.
            self.names[at] =
                Known { name: format!("w{}-p{}", self.number, self.count), ..Known::default() };
        }
    }

    async fn ask(&mut self, op: &Op, known: &Known) -> Option<(u16, Value)> {
        let one = format!("{}/{}", self.kind.path(), known.name);
        let (method, path, body) = match op {
            Op::Create { token } => {
                let object = self.kind.object(&known.name, token, &mut self.random);
                (Method::POST, self.kind.path(), object)
            }
            Op::Update { born, from, to } => {
                let (from, to) = (json!(from), json!(to));
                let mut patch = vec![
                    json!({"op": "test", "path": "/metadata/annotations/born", "value": born}),
                    json!({"op": "test", "path": "/metadata/annotations/token", "value": from}),
                    json!({"op": "replace", "path": "/metadata/annotations/token", "value": to}),
                ];
                match self.kind {
                    Kind::ConfigMaps => {
                        patch.push(json!({"op": "replace", "path": "/data/token", "value": to}))
                    }
                    Kind::Deployments => {
                        let replicas = self.random.random_range(0..=4);
                        patch.push(
                            json!({"op": "replace", "path": "/spec/replicas", "value": replicas}),
                        );
                    }
                    Kind::Pods => {}
                }
                (Method::PATCH, one, Value::Array(patch))
            }
            Op::Delete { .. } => {
                let mut body = json!({"preconditions": {"uid": known.uid}});
                if self.kind == Kind::Deployments {
                    body["propagationPolicy"] = "Background".into();
                }
                (Method::DELETE, one, body)
            }
            Op::Read => (Method::GET, one, Value::Null),
        };
        call(&self.client, method, &path, &body).await
    }

    fn outcome(&mut self, op: &Op, answer: Option<(u16, Value)>, at: usize) -> Outcome {
        let known = &mut self.names[at];
        known.unsure = false;
        match (op, answer) {
            (Op::Read, Some((200, object))) => {
                known.state = state(&object);
                known.uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                Outcome::Is(known.state.clone())
            }
            (Op::Read, Some((404, _))) => {
                known.state = None;
                Outcome::Is(None)
            }
            (Op::Delete { .. }, Some((200 | 202, _))) => {
                known.state = None;
                Outcome::Done(None)
            }
            (_, Some((200 | 201, object))) => {
                known.state = state(&object);
                known.uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                Outcome::Done(revision(&object))
            }
            (_, answer) => {
                known.unsure = true;
                match answer {
                    // Somebody else was first, or a request of one's own that came late, or a restore; too much at once.
                    Some((404 | 409 | 422 | 429, _)) if self.says_again => Outcome::Unknown,
                    Some((404 | 409 | 422 | 429, _)) => Outcome::Refused,
                    // The server comes or goes, or cannot write: whether it has is not said.
                    Some((500.., _)) | None => Outcome::Unknown,
                    Some((status, body)) => {
                        let what = format!("{op:?} of {}: {status}, {body}", known.name);
                        self.shared.strange.lock().push(what);
                        Outcome::Unknown
                    }
                }
            }
        }
    }
}
