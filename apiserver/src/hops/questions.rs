//! What is asked of components that have no port: they wait here for questions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use warren_process::trace::{Answered, Missing, Report, Story, Subject, now};

/// So long a component waits for a question before it asks anew; shorter than proxies and load balancers keep a silent
/// connection.
const WAIT: Duration = Duration::from_secs(20);
/// After so long without asking a component is gone.
const KNOWN: Duration = Duration::from_secs(45);
/// For the answers.
const PATIENCE: Duration = Duration::from_secs(2);
/// Components that may be known; of more, those that asked last.
const MAX_LISTENERS: usize = 64;
/// Questions that may be open; the oldest gives way.
const MAX_OPEN: usize = 32;

/// Component and instance.
pub(crate) type Who = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Questions {
    state: Mutex<State>,
    /// The newest question.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<u64, Open>,
    /// When each asked last.
    listeners: BTreeMap<Who, Instant>,
}

#[derive(Debug)]
struct Open {
    subject: Subject,
    asked: i64,
    answers: mpsc::Sender<Answered>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Question {
    id: u64,
    group: String,
    resource: String,
    namespace: String,
    name: String,
}

/// Closed when whoever asked has gone.
struct Closing<'a>(&'a Questions, u64);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().open.remove(&self.1);
    }
}

impl Questions {
    /// Questions after `after` that are open; waits for one, and then answers that there is none. Cancellation safe.
    pub(super) async fn listen(&self, who: Who, after: u64) -> Vec<Question> {
        let until = Instant::now() + WAIT;
        let mut newest = self.newest.subscribe();
        loop {
            newest.mark_unchanged();
            let found = self.open_after(&who, after);
            if !found.is_empty() || timeout_at(until, newest.changed()).await.is_err() {
                return found;
            }
        }
    }

    fn open_after(&self, who: &Who, after: u64) -> Vec<Question> {
        let mut state = self.state.lock();
        state.listeners.insert(who.clone(), Instant::now());
        if state.listeners.len() > MAX_LISTENERS {
            let oldest =
                state.listeners.iter().min_by_key(|(_, at)| **at).map(|(who, _)| who.clone());
            oldest.map(|oldest| state.listeners.remove(&oldest));
        }
        // A server that was restarted counts from the beginning.
        let newest = *self.newest.borrow();
        let after = if after > newest { 0 } else { after };
        let question = |(id, open): (&u64, &Open)| Question {
            id: *id,
            group: open.subject.group.to_string(),
            resource: open.subject.resource.to_string(),
            namespace: open.subject.namespace.to_string(),
            name: open.subject.name.to_string(),
        };
        state.open.range(after + 1..).map(question).collect()
    }

    /// An answer to a question that is closed is late, and dropped.
    pub(super) fn answered(&self, id: u64, report: Report) {
        if let Some(open) = self.state.lock().open.get(&id) {
            let answer = Answered { report, asked: open.asked, had: now() };
            // Full where more have answered than were known.
            let _ = open.answers.try_send(answer);
        }
    }

    /// Asks all that are known, and waits a moment.
    pub(super) async fn ask(&self, subject: &Subject) -> Story {
        let mut story = Story::default();
        let (answers, mut answered) = mpsc::channel(MAX_LISTENERS);
        let (id, mut awaited) = self.open(subject, answers);
        let _closing = Closing(self, id);
        if awaited.is_empty() {
            let why = "none has asked this server for questions lately: they do not run, cannot reach it, or are older";
            story.missing.push(Missing { who: "controllers".to_owned(), why: why.to_owned() });
            return story;
        }
        let until = Instant::now() + PATIENCE;
        while !awaited.is_empty()
            && let Ok(Some(answer)) = timeout_at(until, answered.recv()).await
        {
            let Report { component, instance, .. } = &answer.report;
            if awaited.remove(&(component.clone(), instance.clone())) {
                story.reports.push(answer);
            }
        }
        story.missing.extend(awaited.into_iter().map(|(component, instance)| Missing {
            who: format!("{component} {instance}"),
            why: "no answer in time".to_owned(),
        }));
        story
    }

    fn open(&self, subject: &Subject, answers: mpsc::Sender<Answered>) -> (u64, BTreeSet<Who>) {
        let mut state = self.state.lock();
        let now_is = Instant::now();
        state.listeners.retain(|_, at| now_is.duration_since(*at) < KNOWN);
        let awaited = state.listeners.keys().cloned().collect();
        let id = *self.newest.borrow() + 1;
        if state.open.len() >= MAX_OPEN {
            state.open.pop_first();
        }
        state.open.insert(id, Open { subject: subject.clone(), asked: now(), answers });
        self.newest.send_replace(id);
        (id, awaited)
    }
}
