//! Clients that watch, in every form and with every selection, and remember each stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use warren_tests::history::Selection;
use warren_tests::history::streams::{Kind, Session, Told};

use super::wire::{Resource, lines, revision, state};
use super::worker::{Run, selection};

/// Long enough for a bookmark, which comes two seconds before the end.
const TIMEOUT: u64 = 3;
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    Object,
    Metadata,
    Table,
}

pub const FORMS: [Form; 3] = [Form::Object, Form::Metadata, Form::Table];

impl Form {
    fn accept(self) -> &'static str {
        match self {
            Self::Object => "application/json",
            Self::Metadata => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            Self::Table => "application/json;as=Table;g=meta.k8s.io;v=v1",
        }
    }

    /// The metadata within an event's object, which has to be of this form.
    fn metadata(self, object: &Value) -> &Value {
        let is = |kind: &str| assert_eq!(object["kind"], kind, "{self:?}: {object}");
        match self {
            Self::Object => &object["metadata"],
            Self::Metadata => {
                is("PartialObjectMetadata");
                &object["metadata"]
            }
            Self::Table => {
                is("Table");
                let rows = object["rows"].as_array().unwrap();
                assert_eq!(rows.len(), 1, "{object}");
                assert_eq!(
                    object["metadata"]["resourceVersion"],
                    rows[0]["object"]["metadata"]["resourceVersion"]
                );
                &object["rows"][0]["object"]["metadata"]
            }
        }
    }
}

pub struct Watcher {
    pub client: Client,
    pub run: Arc<Run>,
    pub resource: Resource,
    pub form: Form,
    pub sessions: Vec<(Form, Resource, Session)>,
    /// How often history did not reach back so far: 410.
    pub expired: usize,
    pub strange: Vec<String>,
}

/// Why a session was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its end or the connection's.
    Closed,
    Expired,
    /// All that was wanted is seen.
    Seen,
}

impl Watcher {
    pub fn new(client: Client, run: Arc<Run>, resource: Resource, form: Form) -> Self {
        Self { client, run, resource, form, sessions: vec![], expired: 0, strange: vec![] }
    }

    /// One watch, until its client has seen enough.
    async fn watch(
        &mut self,
        selection: &Selection,
        from: Option<u64>,
        until: &(dyn Fn(u64) -> bool + Sync),
    ) -> (Option<u64>, End) {
        let begin = match from {
            Some(from) => format!("resourceVersion={from}"),
            None => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
        };
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={TIMEOUT}&{begin}{}",
            self.resource.path(),
            self.resource.query(selection)
        );
        let mut session = Session { selection: selection.clone(), from, told: vec![] };
        let end = match lines(&self.client, &path, self.form.accept()).await {
            Some(Ok(lines)) => {
                let mut lines = std::pin::pin!(lines);
                loop {
                    let Some(line) = lines.next().await else { break End::Closed };
                    if line["type"] == "ERROR" {
                        break self.error(&path, &line["object"]);
                    }
                    session.told.push(self.told(&line));
                    if session.cursor().is_some_and(until) {
                        break End::Seen;
                    }
                }
            }
            // The server comes or goes; or there never was such a revision, which may not be.
            Some(Err((503, _))) | None => {
                tokio::time::sleep(PAUSE).await;
                return (from, End::Closed);
            }
            Some(Err((status, body))) => {
                self.strange.push(format!("{path}: {status}, {body}"));
                tokio::time::sleep(PAUSE).await;
                return (from, End::Closed);
            }
        };
        let cursor = session.cursor();
        self.sessions.push((self.form, self.resource, session));
        (cursor, end)
    }

    fn error(&mut self, path: &str, status: &Value) -> End {
        if status["code"] == 410 {
            self.expired += 1;
            return End::Expired;
        }
        self.strange.push(format!("{path}: {status}"));
        End::Closed
    }

    fn told(&self, line: &Value) -> Told {
        let object = &line["object"];
        let kind = match line["type"].as_str().unwrap() {
            "ADDED" => Kind::Added,
            "MODIFIED" => Kind::Modified,
            "DELETED" => Kind::Deleted,
            "BOOKMARK" => {
                let metadata = &object["metadata"];
                return match metadata["annotations"]["k8s.io/initial-events-end"] == "true" {
                    true => Told::InitialEnd(revision(metadata)),
                    false => Told::Bookmark(revision(metadata)),
                };
            }
            other => panic!("an event of type {other}: {line}"),
        };
        let metadata = self.form.metadata(object);
        Told::Event { kind, key: self.resource.key(metadata), state: state(metadata) }
    }

    /// Follows a selection over all deaths of the server until it has seen the last revision, once that is known.
    pub async fn follow(
        mut self,
        selection: Selection,
        last: tokio::sync::watch::Receiver<u64>,
    ) -> Self {
        let mut from = Some(self.run.first);
        loop {
            let until = |at: u64| *last.borrow() > 0 && at >= *last.borrow();
            let (cursor, end) = self.watch(&selection, from, &until).await;
            if end == End::Seen {
                return self;
            }
            from = if end == End::Expired { None } else { cursor };
        }
    }

    /// Begins anywhere in the past, or with what is there, and leaves soon; again and again.
    pub async fn dip(mut self, mut random: StdRng, over: Arc<AtomicBool>) -> Self {
        while !over.load(Ordering::Relaxed) {
            self.form = FORMS[random.random_range(0..FORMS.len())];
            let selection = selection(&mut random, self.resource);
            let newest = self.run.newest.load(Ordering::Relaxed).max(self.run.first);
            let from =
                random.random_bool(0.7).then(|| random.random_range(self.run.first..=newest));
            let enough = newest + random.random_range(1..100);
            self.watch(&selection, from, &|at| at >= enough).await;
        }
        self
    }

    /// From a revision of the past up to the last one, all at rest.
    pub async fn replay(&mut self, selection: &Selection, from: u64, last: u64) {
        let (mut cursor, mut end) = (Some(from), End::Closed);
        while end == End::Closed {
            (cursor, end) = self.watch(selection, cursor, &|at| at >= last).await;
        }
    }
}
