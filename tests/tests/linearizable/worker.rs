//! A client that writes and reads, one thing after the other, and remembers what it was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use kube::Client;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use warren_tests::history::{Listing, Op, Outcome, Record, Selection, State, Time};

use super::wire::{RESOURCES, Resource, call, revision, state};

pub const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
pub const COLOURS: [&str; 3] = ["red", "blue", ""];
/// Until a server that was killed may be back.
const PAUSE: Duration = Duration::from_millis(20);

/// What all clients of the run share.
pub struct Run {
    pub begin: Instant,
    pub first: u64,
    /// The newest revision that anybody was told of.
    pub newest: AtomicU64,
}

impl Run {
    pub fn now(&self) -> Time {
        self.begin.elapsed().as_nanos() as Time
    }

    fn told(&self, revision: u64) {
        self.newest.fetch_max(revision, Ordering::Relaxed);
    }
}

pub struct Worker {
    pub number: usize,
    pub client: Client,
    pub run: Arc<Run>,
    pub random: StdRng,
    pub records: Vec<Record>,
    pub listings: Vec<Listing>,
    /// A revision that each object had not long ago.
    known: [[u64; NAMES.len()]; RESOURCES.len()],
    /// What is no answer that an API gives in such a run.
    pub strange: Vec<String>,
}

impl Worker {
    pub fn new(number: usize, client: Client, run: Arc<Run>, random: StdRng) -> Self {
        let known = [[1; NAMES.len()]; RESOURCES.len()];
        let (records, listings, strange) = (vec![], vec![], vec![]);
        Self { number, client, run, random, records, listings, known, strange }
    }

    pub async fn step(&mut self) {
        let of = self.random.random_range(0..RESOURCES.len());
        let resource = RESOURCES[of];
        let at = self.random.random_range(0..NAMES.len());
        let known = self.known[of][at];
        let op = match self.random.random_range(0..12) {
            0 | 1 => Op::Create,
            2 | 3 => Op::Replace(known),
            4..=6 => Op::Patch,
            7 => Op::Delete(None),
            8 => Op::Delete(Some(known)),
            9 | 10 => Op::Get,
            _ => return self.list(resource).await,
        };
        match self.act(resource, NAMES[at], op).await {
            Outcome::Is(state) => self.known[of][at] = state.revision,
            Outcome::Unknown => tokio::time::sleep(PAUSE).await,
            Outcome::Gone(_) | Outcome::IsNot | Outcome::Conflict => {}
        }
    }

    pub async fn act(&mut self, resource: Resource, name: &str, op: Op) -> Outcome {
        let token = format!("{}-{}", self.number, self.records.len());
        let colour = COLOURS[self.random.random_range(0..COLOURS.len())];
        let mut body = resource.body(&token, colour);
        let one = format!("{}/{name}", resource.path());
        let (method, path) = match &op {
            Op::Create => (Method::POST, resource.path()),
            Op::Replace(_) => (Method::PUT, one),
            Op::Patch => (Method::PATCH, one),
            Op::Delete(_) => (Method::DELETE, one),
            Op::Get => (Method::GET, one),
        };
        body["metadata"]["name"] = name.into();
        match &op {
            Op::Create | Op::Patch => {}
            Op::Replace(expected) => {
                body["metadata"]["resourceVersion"] = expected.to_string().into();
            }
            Op::Delete(Some(expected)) => {
                body = json!({"preconditions": {"resourceVersion": expected.to_string()}});
            }
            Op::Delete(None) | Op::Get => body = Value::Null,
        }
        let start = self.run.now();
        let answer = call(&self.client, method, &path, &body).await;
        let end = self.run.now();
        let outcome = match answer {
            None => Outcome::Unknown,
            Some((200 | 201, answer)) => self.outcome(&op, &answer),
            Some((404, _)) => Outcome::IsNot,
            Some((409, _)) => Outcome::Conflict,
            // The server comes or goes.
            Some((503 | 504, _)) => Outcome::Unknown,
            Some((status, answer)) => {
                self.strange.push(format!("{op:?} of {path}: {status}, {answer}"));
                Outcome::Unknown
            }
        };
        let key = format!("{}/{name}", resource.name());
        self.records.push(Record { key, op, token, start, end, outcome: outcome.clone() });
        outcome
    }

    fn outcome(&mut self, op: &Op, answer: &Value) -> Outcome {
        if let Op::Delete(_) = op {
            return Outcome::Gone(answer["details"]["uid"].as_str().unwrap_or_default().to_owned());
        }
        let state: State = state(&answer["metadata"]);
        self.run.told(state.revision);
        Outcome::Is(state)
    }

    async fn list(&mut self, resource: Resource) {
        let selection = selection(&mut self.random, resource);
        let path = format!("{}?limit=0{}", resource.path(), resource.query(&selection));
        let start = self.run.now();
        let answer = call(&self.client, Method::GET, &path, &Value::Null).await;
        let end = self.run.now();
        match answer {
            Some((200, list)) => {
                let revision = revision(&list["metadata"]);
                self.run.told(revision);
                let items = list["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|item| (resource.key(&item["metadata"]), state(&item["metadata"])));
                let items = items.collect();
                let resource = resource.name().to_owned();
                self.listings.push(Listing { resource, selection, start, end, revision, items });
            }
            None | Some((503 | 504, _)) => tokio::time::sleep(PAUSE).await,
            Some((status, answer)) => {
                self.strange.push(format!("list of {path}: {status}, {answer}"));
            }
        }
    }
}

pub fn selection(random: &mut StdRng, resource: Resource) -> Selection {
    let name = NAMES[random.random_range(0..NAMES.len())];
    match random.random_range(0..5) {
        0 => Selection::All,
        1 => Selection::Colour("red".to_owned()),
        2 => Selection::Colour("blue".to_owned()),
        3 => Selection::NotColour("red".to_owned()),
        _ => Selection::Key(format!("{}/{name}", resource.name())),
    }
}
