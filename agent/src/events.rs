//! Events about pods and the node: counted where they repeat, bounded in number, dropped (and counted) when nobody
//! takes them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;
use warren_api::NodeName;
use warren_process::{Clock, Shutdown, Tasks};

use crate::api::{ApiError, SharedApi};

/// Events that may wait; more are dropped and counted.
const WAITING: usize = 256;
/// Different events whose count is remembered; the oldest is forgotten.
const REMEMBERED: usize = 512;
/// So many at once, then one each interval: a pod that fails in a loop does not fill the store.
const BURST: u32 = 50;
const INTERVAL: Duration = Duration::from_millis(200);
/// Longer messages are cut; Kubernetes refuses them.
const MESSAGE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    Normal,
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Note {
    level: Level,
    about: About,
    reason: String,
    message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct About {
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
    field: Option<String>,
}

/// A handle; clones share the queue.
#[derive(Clone)]
pub struct Events {
    send: mpsc::Sender<Note>,
    dropped: Arc<AtomicU64>,
    /// Simulated nodes keep quiet about what goes well, unless told otherwise.
    normal: bool,
}

impl Events {
    pub fn start(
        api: SharedApi,
        node: NodeName,
        clock: Arc<dyn Clock>,
        normal: bool,
        tasks: &Tasks,
    ) -> Self {
        let (send, receive) = mpsc::channel(WAITING);
        let sink = Sink {
            api,
            node,
            clock,
            seen: HashMap::new(),
            order: VecDeque::new(),
            tokens: BURST,
            refilled: tokio::time::Instant::now(),
        };
        tasks.spawn("agent-events", sink.run(receive, tasks.shutdown().clone()));
        Self { send, dropped: Arc::default(), normal }
    }

    /// About a pod, or (with `field`) about a container of it.
    pub fn pod(&self, pod: &Pod, level: Level, reason: &str, message: &str, field: Option<&str>) {
        if level == Level::Normal && !self.normal {
            return;
        }
        let meta = &pod.metadata;
        self.note(Note {
            level,
            about: About {
                kind: "Pod",
                namespace: meta.namespace.clone().unwrap_or_else(|| "default".into()),
                name: meta.name.clone().unwrap_or_default(),
                uid: meta.uid.clone().unwrap_or_default(),
                field: field.map(str::to_owned),
            },
            reason: reason.to_owned(),
            message: cut(message),
        });
    }

    /// About the node itself.
    pub fn node(&self, node: &NodeName, level: Level, reason: &str, message: &str) {
        if level == Level::Normal && !self.normal {
            return;
        }
        self.note(Note {
            level,
            about: About {
                kind: "Node",
                namespace: "default".into(),
                name: node.to_string(),
                uid: node.to_string(),
                field: None,
            },
            reason: reason.to_owned(),
            message: cut(message),
        });
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn note(&self, note: Note) {
        if self.send.try_send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn cut(message: &str) -> String {
    let mut end = message.len().min(MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

struct Sink {
    api: SharedApi,
    node: NodeName,
    clock: Arc<dyn Clock>,
    seen: HashMap<Note, (String, i32)>,
    order: VecDeque<Note>,
    tokens: u32,
    refilled: tokio::time::Instant,
}

impl Sink {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>, shutdown: Shutdown) {
        loop {
            let note = tokio::select! {
                note = notes.recv() => note,
                () = shutdown.draining() => return,
            };
            let Some(note) = note else { return };
            self.throttle().await;
            if let Err(error) = self.write(note).await {
                tracing::debug!(node = %self.node, %error, "an event was not written");
            }
        }
    }

    async fn throttle(&mut self) {
        let earned = self.refilled.elapsed().as_nanos() / INTERVAL.as_nanos();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(BURST);
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.refilled = tokio::time::Instant::now();
        }
        match self.tokens.checked_sub(1) {
            Some(tokens) => self.tokens = tokens,
            None => {
                tokio::time::sleep(INTERVAL).await;
                self.refilled = tokio::time::Instant::now();
            }
        }
    }

    async fn write(&mut self, note: Note) -> Result<(), ApiError> {
        let now = self.clock.now();
        if let Some((name, count)) = self.seen.get_mut(&note) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": Time(now)});
            match self.api.patch_event(&note.about.namespace, name, &patch).await {
                Err(ApiError::NotFound(_)) => {}
                result => return result,
            }
        }
        let name = format!("{}.{:x}", note.about.name, unique(now));
        self.api.create_event(&self.event(&note, &name, now)).await?;
        if self.seen.insert(note.clone(), (name, 1)).is_none() {
            self.order.push_back(note);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        Ok(())
    }

    fn event(&self, note: &Note, name: &str, now: Timestamp) -> Event {
        let about = &note.about;
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(about.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some(about.kind.into()),
                namespace: (about.kind != "Node").then(|| about.namespace.clone()),
                name: Some(about.name.clone()),
                uid: Some(about.uid.clone()),
                field_path: about.field.clone(),
                resource_version: None,
            },
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            type_: Some(format!("{:?}", note.level)),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(self.node.to_string()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.to_string()),
            ..Event::default()
        }
    }
}

/// Distinct within a process, and in all likelihood between them.
fn unique(now: Timestamp) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let nanos = u64::try_from(now.as_nanosecond()).unwrap_or_default();
    let last = LAST.fetch_max(nanos, Ordering::Relaxed);
    if last < nanos { nanos } else { LAST.fetch_add(1, Ordering::Relaxed) + 1 }
}
