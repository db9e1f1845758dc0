//! Events: the notes that controllers leave for people.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use indexmap::IndexMap;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use warren_process::{Clock, Tasks};

use crate::plan::Note;

/// Notes that wait to be written: some 2 MB. Policy: beyond it they are dropped and counted.
const WAITING: usize = 4096;
/// Events remembered, so that a repeated one is counted and not written anew. Policy: the oldest is forgotten (and found
/// again by its name).
const REMEMBERED: usize = 4096;
/// Written at the same time.
const IN_FLIGHT: usize = 16;
/// Distinct messages with one reason about one object within ten minutes before they are counted as one.
const SIMILAR: u32 = 10;
const SIMILAR_FOR: i64 = 600;
/// Events about one object: so many at once, then one each five minutes, as Kubernetes' clients have it.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// The API's bound for an Event's message.
const MESSAGE: usize = 1024;

/// Takes notes and never waits. Clones share one writer.
#[derive(Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<(&'static str, Note)>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// The writer runs until shutdown.
    pub fn start(client: kube::Client, clock: Arc<dyn Clock>, tasks: &Tasks) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let shutdown = tasks.shutdown().clone();
        let writer = Writer { client, clock, book: Book::default() };
        tasks.spawn("events", async move {
            tokio::select! {
                () = writer.run(receiver) => {}
                () = shutdown.draining() => {}
            }
        });
        Self { sender, dropped: Arc::default() }
    }

    pub fn record(&self, component: &'static str, note: Note) {
        if self.sender.try_send((component, note)).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed);
            if dropped.is_multiple_of(1000) {
                tracing::warn!(dropped = dropped + 1, "events are dropped: too many wait");
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct EventKey {
    component: &'static str,
    namespace: String,
    uid: String,
    reason: String,
    message: String,
    warning: bool,
}

/// What is remembered of past events, and what follows for a new one.
#[derive(Default)]
struct Book {
    known: IndexMap<EventKey, i32>,
    /// Per object and reason: distinct messages since.
    similar: IndexMap<(String, String), (u32, Timestamp)>,
    /// Per object: how many events it may still have, as of when.
    budget: IndexMap<String, (f64, Timestamp)>,
}

impl Book {
    /// How the note is to be written, unless its object has too many of them.
    fn enter(&mut self, now: Timestamp, component: &'static str, note: &Note) -> Option<EventKey> {
        let uid = note.regarding.uid.clone().unwrap_or_default();
        let mut key = EventKey {
            component,
            namespace: note.regarding.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            uid: uid.clone(),
            reason: note.reason.to_string(),
            message: note.message.chars().take(MESSAGE - 64).collect(),
            warning: note.warning,
        };
        let (left, since) = self.budget.entry(uid.clone()).or_insert((BURST, now));
        *left = (*left + now.duration_since(*since).as_secs_f64() / REFILL_SECONDS).min(BURST);
        *since = now;
        if *left < 1.0 {
            return None;
        }
        *left -= 1.0;
        if !self.known.contains_key(&key) {
            let similar = self.similar.entry((uid, key.reason.clone())).or_insert((0, now));
            if now.duration_since(similar.1).as_secs() > SIMILAR_FOR {
                *similar = (0, now);
            }
            similar.0 += 1;
            if similar.0 > SIMILAR {
                key.message = format!("(combined from similar events): {}", key.message);
                let same = |other: &EventKey| {
                    other.uid == key.uid
                        && other.reason == key.reason
                        && other.message.starts_with("(combined")
                };
                if let Some(known) = self.known.keys().find(|k| same(k)) {
                    key = known.clone();
                }
            }
        }
        for _ in REMEMBERED..self.known.len() {
            self.known.swap_remove_index(0);
        }
        for _ in REMEMBERED..self.similar.len() {
            self.similar.swap_remove_index(0);
        }
        for _ in REMEMBERED..self.budget.len() {
            self.budget.swap_remove_index(0);
        }
        Some(key)
    }
}

struct Writer {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    book: Book,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<(&'static str, Note)>) {
        let mut notes = Vec::with_capacity(256);
        while receiver.recv_many(&mut notes, 256).await > 0 {
            let now = self.clock.now();
            let mut batch: IndexMap<EventKey, (Note, i32)> = IndexMap::new();
            for (component, note) in notes.drain(..) {
                if let Some(key) = self.book.enter(now, component, &note) {
                    batch.entry(key.clone()).or_insert((note, 0)).1 += 1;
                    self.book.known.entry(key).or_insert(0);
                }
            }
            let client = &self.client;
            let writes = batch.into_iter().map(|(key, (note, times))| {
                let known = self.book.known.get(&key).copied().unwrap_or(0);
                async move {
                    let count = write(client, now, &key, &note, known, times).await;
                    (key, count)
                }
            });
            let counts: Vec<_> =
                futures::stream::iter(writes).buffer_unordered(IN_FLIGHT).collect().await;
            for (key, count) in counts {
                match count {
                    Ok(count) => {
                        self.book.known.insert(key, count);
                    }
                    Err(error) => {
                        self.book.known.swap_remove(&key);
                        tracing::warn!(reason = key.reason, %error, "an event was not written");
                    }
                }
            }
        }
    }
}

fn name(key: &EventKey, note: &Note) -> String {
    let text = format!("{key:?}");
    let hash: String =
        Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let of: String = note.regarding.name.iter().flat_map(|name| name.chars()).take(236).collect();
    format!("{}.{hash}", of.trim_end_matches(['.', '-']))
}

/// Creates the Event or counts it up; answers its count.
async fn write(
    client: &kube::Client,
    now: Timestamp,
    key: &EventKey,
    note: &Note,
    known: i32,
    times: i32,
) -> Result<i32, kube::Error> {
    let api: Api<Event> = Api::namespaced(client.clone(), &key.namespace);
    let name = name(key, note);
    let in_time = Duration::from_secs(10);
    let work = async {
        let mut known = known;
        if known == 0 {
            let event = Event {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(key.namespace.clone()),
                    ..Default::default()
                },
                involved_object: note.regarding.clone(),
                reason: Some(key.reason.clone()),
                message: Some(key.message.clone()),
                type_: Some(if key.warning { "Warning" } else { "Normal" }.to_owned()),
                source: Some(EventSource { component: Some(key.component.to_owned()), host: None }),
                reporting_component: Some(key.component.to_owned()),
                first_timestamp: Some(Time(now)),
                last_timestamp: Some(Time(now)),
                count: Some(times),
                ..Default::default()
            };
            match api.create(&PostParams::default(), &event).await {
                Ok(_) => return Ok(times),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    known = api.get(&name).await?.count.unwrap_or(1);
                }
                // Nobody can leave notes in a namespace that is gone or going.
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 403 => {
                    tracing::debug!(event = name, "no event: {}", status.message);
                    return Ok(0);
                }
                Err(error) => return Err(error),
            }
        }
        let count = known.saturating_add(times);
        let patch = json!({"count": count, "lastTimestamp": now.to_string(),
            "message": key.message});
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(count),
            // Expired meanwhile; the next one is a new one.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(0),
            Err(error) => Err(error),
        }
    };
    match tokio::time::timeout(in_time, work).await {
        Ok(result) => result,
        Err(_) => Err(kube::Error::Service("no answer in time".into())),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn note(message: &str) -> Note {
        Note {
            regarding: ObjectReference { uid: Some("u".into()), ..Default::default() },
            warning: false,
            reason: "SuccessfulCreate".into(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn similar_events_are_combined_and_floods_are_cut() {
        let (mut book, now) = (Book::default(), Timestamp::UNIX_EPOCH);
        let mut keys = Vec::new();
        for i in 0..40 {
            if let Some(key) = book.enter(now, "c", &note(&format!("Created pod: {i}"))) {
                book.known.insert(key.clone(), 1);
                keys.push(key);
            }
        }
        assert_eq!(keys.len(), 25);
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), 11);
        let later = now + jiff::SignedDuration::from_secs(301);
        assert!(book.enter(later, "c", &note("Created pod: 1")).is_some());
        assert!(book.enter(later, "c", &note("Created pod: 1")).is_none());
    }
}
