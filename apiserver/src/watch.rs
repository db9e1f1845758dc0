//! HTTP watches. A watcher is a cursor: it reads the ring when its client takes bytes, and the journal for what the
//! ring no longer has. A slow client therefore costs nobody else anything, and gets 410 when history is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use warren_api::{ErrorList, Kind, Object, Reason, Revision, Status, protobuf};
use warren_store::{Change, HistoryError, Op};

use crate::accept::{Accept, Form, Protobuf, not_acceptable};
use crate::api::{Api, Call};
use crate::cache::{Entry, Resource, Since};
use crate::read::{revision, too_large};
use crate::readers::Reading;
use crate::request::Query;
use crate::response::{self, Body, BoxError};
use crate::selection::Selection;
use crate::table::{self, Include};
use crate::write::resource;

/// Events that are taken from the ring at a time.
const CHUNK: usize = 256;
/// Bytes after which a frame is handed out.
const FRAME: usize = 64 << 10;
/// Rows that are taken from the journal at a time.
const HISTORY_PAGE: usize = 500;
/// Kubernetes promises about one a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(50);
/// Before a watch ends by its timeout there is one more, so that its client goes on from there. As in Kubernetes.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Watches without a timeout last between half and the whole of this, so that they do not all end at once.
const MAX_SECONDS: u64 = 3600;

pub(crate) fn start(
    api: &Arc<Api>,
    call: &Call,
    kind: &'static dyn Kind,
) -> Result<Response<Body>, Status> {
    let (request, query) = (resource(call)?, &call.info.query);
    let selection = Selection::of(kind, request, query)?;
    let from = revision(query.get("resourceVersion"))?;
    let current = api.cache.revision();
    if from > current {
        // What comes before it would be passed over in silence.
        return Err(too_large(from, current));
    }
    let send_initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
    check_options(send_initial, query)?;
    let timeout = query.number("timeoutSeconds")?;
    let timeout = timeout.and_then(|t| u64::try_from(t).ok()).filter(|seconds| *seconds > 0);
    let seconds =
        timeout.unwrap_or_else(|| MAX_SECONDS / 2 + rand::random_range(0..MAX_SECONDS / 2));

    let stored = kind.stored();
    let name = stored.resource();
    let resource = api.cache.resource(&name);
    let receiver = resource.subscribe();
    let initial = send_initial.unwrap_or(from.0 == 0);
    let (mut backlog, mut cursor) = (VecDeque::new(), from);
    if initial {
        let (entries, listed) = api.cache.list(&name, selection.scope(stored));
        backlog.extend(entries.into_iter().filter(|entry| selection.matches(stored, entry)));
        cursor = listed;
    } else if from.0 == 0 {
        cursor = api.cache.revision();
    }
    let in_protobuf = match call.accept.protobuf {
        None => false,
        Some(_) if protobuf::has_type(&kind.api_version(), kind.kind()) => true,
        Some(Protobuf::OrJson) => false,
        Some(Protobuf::Only) => return Err(not_acceptable()),
    };
    let now = Instant::now();
    let deadline = now + Duration::from_secs(seconds.min(10 * 365 * 86_400));
    let watcher = Watcher {
        encoder: Encoder {
            kind,
            accept: call.accept,
            include: Include::parse(query.get("includeObject")),
            protobuf: in_protobuf,
            columns_sent: false,
        },
        api: Arc::clone(api),
        kind: stored,
        selection,
        resource,
        receiver,
        cursor,
        backlog,
        initial_end: (send_initial == Some(true)).then_some(cursor),
        bookmarks: query.flag("allowWatchBookmarks"),
        next_bookmark: next_bookmark(now, deadline),
        deadline,
        ended: false,
        _counted: api.metrics.count_watch(),
        _instead: api.readers.watch(call.http.headers(), call.allowed.user())?,
    };
    let frames = futures::stream::unfold(watcher, |mut watcher| async {
        let frame = watcher.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(frame)), watcher))
    });
    let mut response = response::json(StatusCode::OK, Bytes::new());
    if in_protobuf {
        let media_type = HeaderValue::from_static(protobuf::WATCH_MEDIA_TYPE);
        response.headers_mut().insert(http::header::CONTENT_TYPE, media_type);
    }
    *response.body_mut() = StreamBody::new(frames).boxed_unsync();
    Ok(response)
}

fn next_bookmark(now: Instant, deadline: Instant) -> Instant {
    let regular = now + BOOKMARK_EVERY;
    match deadline.checked_sub(BOOKMARK_BEFORE_END) {
        Some(last) if last > now => regular.min(last),
        _ => regular,
    }
}

/// As `validateWatchOptions` of k8s.io/apimachinery.
fn check_options(send_initial: Option<bool>, query: &Query) -> Result<(), Status> {
    const MATCH: &str = "resourceVersionMatch";
    let matching = query.get(MATCH);
    let mut errors = ErrorList::default();
    if send_initial.is_some() && matching != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.forbidden(MATCH, why);
    }
    if !matching.is_empty() {
        if send_initial.is_none() {
            errors.forbidden(
                MATCH,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if matching != "NotOlderThan" {
            errors.not_supported(MATCH, matching, &["NotOlderThan"]);
        }
        if !query.get("continue").is_empty() {
            errors.forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided");
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors)),
    }
}

struct Watcher {
    api: Arc<Api>,
    /// The one that is stored.
    kind: &'static dyn Kind,
    selection: Selection,
    encoder: Encoder,
    resource: Arc<Resource>,
    receiver: tokio::sync::watch::Receiver<Revision>,
    /// Everything up to here has been sent or was not selected.
    cursor: Revision,
    /// The state that the watch starts with.
    backlog: VecDeque<Arc<Entry>>,
    /// A bookmark says when the initial state is complete.
    initial_end: Option<Revision>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
    _counted: crate::metrics::WatchCount,
    /// Its reader would read from the broker.
    _instead: Option<Reading>,
}

impl Watcher {
    /// The next frame: whole lines. `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            let mut frame = Vec::new();
            if !self.backlog.is_empty() {
                while frame.len() < FRAME
                    && let Some(entry) = self.backlog.pop_front()
                {
                    self.encoder.event(&mut frame, "ADDED", &entry);
                }
                return Some(frame.into());
            }
            if let Some(at) = self.initial_end.take() {
                self.encoder.bookmark(&mut frame, at, true);
                return Some(frame.into());
            }
            let settled = self.api.cache.revision();
            match self.resource.since(self.cursor, CHUNK) {
                Since::Behind => self.read_history(&mut frame).await,
                Since::Events(events) if events.is_empty() => {
                    if !self.wait(&mut frame, settled).await {
                        return None;
                    }
                }
                Since::Events(events) => {
                    if let Some(last) = events.last() {
                        self.api.cache.settle(last.entry.revision());
                    }
                    for event in &events {
                        self.event(&mut frame, &event.entry, event.prev.as_deref());
                        self.cursor = event.entry.revision();
                        if frame.len() >= FRAME {
                            break;
                        }
                    }
                }
            }
            if !frame.is_empty() {
                return Some(frame.into());
            }
        }
        None
    }

    /// Waits for something new; writes a bookmark when one is due. False when the watch is over.
    async fn wait(&mut self, frame: &mut Vec<u8>, settled: Revision) -> bool {
        tokio::select! {
            changed = self.receiver.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                self.next_bookmark = next_bookmark(Instant::now(), self.deadline);
                // Nothing of this resource lies between the cursor and what was settled before the ring was read.
                self.cursor = self.cursor.max(settled);
                self.encoder.bookmark(frame, self.cursor, false);
                true
            }
            () = tokio::time::sleep_until(self.deadline) => false,
            () = self.api.shutdown.draining() => false,
        }
    }

    /// One page of what the ring no longer has.
    async fn read_history(&mut self, frame: &mut Vec<u8>) {
        let floor = self.resource.ring_floor();
        let (journal, name, cursor) = (self.api.journal.clone(), self.kind.resource(), self.cursor);
        // Heartbeats are in no history: their watchers list again.
        let has_history = &*name.resource != "leases";
        let with_prev = !self.selection.is_plain();
        let read = tokio::task::spawn_blocking(move || {
            if !has_history {
                return Err(HistoryError::Compacted { asked: cursor, floor });
            }
            let changes = journal.history(cursor, Some(&name), HISTORY_PAGE)?;
            let with_prev = |change: Change| {
                let prev = match with_prev && change.prev.0 > 0 && change.op != Op::Added {
                    false => None,
                    true => match journal.row(&change.key, change.prev)? {
                        // Compacted since the page was read: whether it was selected before is not known any more.
                        None => {
                            let floor = journal.floor();
                            return Err(HistoryError::Compacted { asked: cursor, floor });
                        }
                        prev => prev,
                    },
                };
                Ok::<_, HistoryError>((change, prev))
            };
            changes.into_iter().map(with_prev).collect::<Result<Vec<_>, _>>()
        })
        .await;
        match read {
            Ok(Ok(changes)) => {
                if changes.is_empty() {
                    self.cursor = self.cursor.max(floor);
                }
                for (change, prev) in changes {
                    self.cursor = change.revision;
                    let entry = Entry::new(Arc::new(change));
                    let prev = prev.map(|prev| Entry::new(Arc::new(prev)));
                    self.event(frame, &entry, prev.as_ref());
                }
            }
            Ok(Err(HistoryError::Compacted { floor, .. })) => {
                let message = format!("too old resource version: {} ({floor})", self.cursor);
                self.fail(frame, &Status::new(Reason::Expired, message));
            }
            Ok(Err(error)) => self.fail(frame, &Status::internal(error.to_string())),
            Err(_) => self.ended = true,
        }
    }

    fn fail(&mut self, frame: &mut Vec<u8>, status: &Status) {
        self.ended = true;
        self.encoder.send(frame, "ERROR", &status.to_json());
    }

    /// Objects that enter or leave the selection appear as added or deleted.
    fn event(&mut self, frame: &mut Vec<u8>, entry: &Entry, prev: Option<&Entry>) {
        if self.selection.is_plain() && !self.selection.matches(self.kind, entry) {
            return;
        }
        let was = match entry.change.op {
            Op::Added => false,
            // A delete's body is the last state; without a predecessor at hand it speaks for itself.
            _ => prev.is_none_or(|prev| self.selection.matches(self.kind, prev)),
        };
        let is = entry.change.op != Op::Deleted && self.selection.matches(self.kind, entry);
        let event_type = match (was, is) {
            (false, false) => return,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        match prev {
            // Kubernetes sends the last state that matched, at the revision of the change that took it away.
            Some(prev) if event_type == "DELETED" && entry.change.op != Op::Deleted => {
                let mut object = prev.object();
                object.set_at(&["metadata", "resourceVersion"], entry.revision().to_string());
                self.encoder.object(frame, event_type, &object);
            }
            _ => self.encoder.event(frame, event_type, entry),
        }
    }
}

struct Encoder {
    /// The one that is served.
    kind: &'static dyn Kind,
    accept: Accept,
    include: Include,
    /// Frames of protobuf instead of lines of JSON.
    protobuf: bool,
    /// Columns stand in the first event only.
    columns_sent: bool,
}

impl Encoder {
    fn event(&mut self, frame: &mut Vec<u8>, event_type: &str, entry: &Entry) {
        match self.accept.form {
            Form::Object | Form::AggregatedDiscovery
                if !self.protobuf && self.kind.conversion().is_none() =>
            {
                line(frame, event_type, entry.body());
            }
            _ => self.object(frame, event_type, &entry.object()),
        }
    }

    fn object(&mut self, frame: &mut Vec<u8>, event_type: &str, object: &Object) {
        let value = match self.accept.form {
            Form::Object | Form::AggregatedDiscovery => {
                let mut object = object.clone();
                self.kind.to_served(&mut object);
                Value::from(object)
            }
            Form::Metadata => table::metadata_of(object),
            Form::Table => {
                let mut meta = Map::new();
                let rv = object.str_at(&["metadata", "resourceVersion"]);
                meta.insert("resourceVersion".to_owned(), rv.into());
                let objects = [object].into_iter();
                let now = jiff::Timestamp::now();
                let mut table = table::of_objects(self.kind, objects, now, &meta, self.include);
                if std::mem::replace(&mut self.columns_sent, true) {
                    table["columnDefinitions"] = json!([]);
                }
                table
            }
        };
        self.send(frame, event_type, &value);
    }

    fn bookmark(&self, frame: &mut Vec<u8>, at: Revision, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": at.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let value = match self.accept.form {
            Form::Object | Form::AggregatedDiscovery => json!({
                "kind": self.kind.kind(), "apiVersion": self.kind.api_version(), "metadata": metadata,
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            }),
            Form::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": [], "rows": [],
            }),
        };
        self.send(frame, "BOOKMARK", &value);
    }

    fn send(&self, frame: &mut Vec<u8>, event_type: &str, value: &Value) {
        if !self.protobuf {
            return line(frame, event_type, &serde_json::to_vec(value).unwrap_or_default());
        }
        let encode = |value: &Value| protobuf::encode(value.as_object().unwrap_or(&Map::new()));
        match encode(value) {
            Ok(bytes) => frame.extend(protobuf::watch_frame(event_type, &bytes)),
            Err(error) => {
                let status = Status::internal(error.to_string()).to_json();
                let bytes = encode(&status).unwrap_or_default();
                frame.extend(protobuf::watch_frame("ERROR", &bytes));
            }
        }
    }
}

fn line(frame: &mut Vec<u8>, event_type: &str, object: &[u8]) {
    frame.reserve(object.len() + 40);
    frame.extend_from_slice(b"{\"type\":\"");
    frame.extend_from_slice(event_type.as_bytes());
    frame.extend_from_slice(b"\",\"object\":");
    frame.extend_from_slice(object);
    frame.extend_from_slice(b"}\n");
}
