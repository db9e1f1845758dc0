//! The way of a change, hop by hop: a ring of the last hops in each component, and what becomes of several rings.
//!
//! What a hop is about is opaque here: a [`Subject`] is four words that the components agree on.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::Family;

mod story;

pub use story::{Answered, Missing, Record, Report, Story, Told};

/// A pod that is created and becomes ready leaves about 50 hops in the server: the way of the last 200 pods.
pub const MAX_HOPS: usize = 10_000;
/// Hops with names of the usual length take 250 bytes, so this many hold 10,000; names of 253 bytes push others out
/// earlier.
pub const MAX_BYTES: usize = 4 << 20;
/// A detail is cut there.
pub const MAX_DETAIL: usize = 200;
/// Hops in one report; the newest are told.
pub const MAX_TOLD: usize = 2_000;

/// What happened, in the order in which it happens to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A request was read that came to be this change.
    Accepted,
    /// It is on disk.
    Committed,
    /// It was handed to the broker.
    Published,
    /// The broker has it.
    Confirmed,
    /// A reader has it.
    Delivered,
    /// The reader keeps it: it will not come again.
    Acknowledged,
    /// What to do was decided.
    Decided,
    /// It was done.
    Acted,
    /// It was written to the API.
    Wrote,
    /// How it is was written to the API.
    Reported,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::Accepted => "accepted",
            Step::Committed => "committed",
            Step::Published => "published",
            Step::Confirmed => "confirmed",
            Step::Delivered => "delivered",
            Step::Acknowledged => "acknowledged",
            Step::Decided => "decided",
            Step::Acted => "acted",
            Step::Wrote => "wrote",
            Step::Reported => "reported",
        }
    }
}

/// What a hop is about. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub group: Arc<str>,
    pub resource: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Subject {
    pub fn new(
        group: impl Into<Arc<str>>,
        resource: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        let (group, resource) = (group.into(), resource.into());
        Self { group, resource, namespace: namespace.into(), name: name.into() }
    }
}

/// A subject, which life of it, and which change; uid and revision may be unknown (empty, 0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub subject: Subject,
    pub uid: Arc<str>,
    pub revision: u64,
}

#[derive(Debug)]
struct Hop {
    /// Microseconds since 1970, by this machine's clock.
    time: i64,
    step: Step,
    instance: Arc<str>,
    about: About,
    detail: Cow<'static, str>,
}

impl Hop {
    /// With the names, though others may share them: a bound that holds in the worst case.
    fn bytes(&self) -> usize {
        let About { subject, uid, .. } = &self.about;
        let Subject { group, resource, namespace, name } = subject;
        let names = group.len() + resource.len() + namespace.len() + name.len() + uid.len();
        let detail = if let Cow::Owned(text) = &self.detail { text.len() } else { 0 };
        size_of::<Self>() + names + detail
    }
}

#[derive(Debug, Default)]
struct Ring {
    hops: VecDeque<Hop>,
    bytes: usize,
    pushed_out: u64,
}

impl Ring {
    fn push(&mut self, hop: Hop) {
        self.bytes += hop.bytes();
        self.hops.push_back(hop);
        while self.hops.len() > MAX_HOPS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.hops.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.pushed_out += 1;
        }
    }
}

/// A component's ring of hops. Clones share it.
#[derive(Clone, Debug)]
pub struct Trace {
    component: &'static str,
    instance: Arc<str>,
    ring: Arc<Mutex<Ring>>,
}

impl Trace {
    /// `instance` tells this one from others of the component.
    pub fn new(component: &'static str, instance: impl Into<Arc<str>>) -> Self {
        Self { component, instance: instance.into(), ring: Arc::default() }
    }

    /// The same ring, for another instance in this process.
    #[must_use]
    pub fn of(&self, instance: impl Into<Arc<str>>) -> Self {
        Self { instance: instance.into(), ..self.clone() }
    }

    pub fn component(&self) -> &'static str {
        self.component
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// It happened now.
    pub fn push(&self, step: Step, about: About, detail: impl Into<Cow<'static, str>>) {
        self.push_at(now(), step, about, detail);
    }

    /// It happened at `time`, in microseconds since 1970. Never waits but for another
    /// push, and for a reader that looks through the ring.
    pub fn push_at(
        &self,
        time: i64,
        step: Step,
        about: About,
        detail: impl Into<Cow<'static, str>>,
    ) {
        let detail = cut(detail.into());
        let hop = Hop { time, step, instance: Arc::clone(&self.instance), about, detail };
        self.ring.lock().push(hop);
    }

    /// What is known about a subject, oldest first.
    pub fn report(&self, about: &Subject) -> Report {
        let ring = self.ring.lock();
        let mut hops: Vec<Record> = ring
            .hops
            .iter()
            .rev()
            .filter(|hop| hop.about.subject == *about)
            .take(MAX_TOLD)
            .map(|hop| Record {
                time: hop.time,
                component: self.component.to_owned(),
                instance: hop.instance.to_string(),
                step: hop.step,
                uid: hop.about.uid.to_string(),
                revision: hop.about.revision,
                detail: hop.detail.to_string(),
            })
            .collect();
        hops.reverse();
        Report {
            component: self.component.to_owned(),
            instance: self.instance.to_string(),
            now: now(),
            since: ring.hops.front().filter(|_| ring.pushed_out > 0).map(|hop| hop.time),
            hops,
        }
    }

    /// As `<part>_<name>`.
    pub fn families(&self, part: &str) -> Vec<Family> {
        let ring = self.ring.lock();
        let name = |name: &str| format!("{part}_{name}");
        vec![
            Family::gauge(name("hops"), "Hops of changes that are remembered.")
                .of(ring.hops.len() as u64),
            Family::gauge(name("hop_bytes"), "Bytes that they take, at most.")
                .of(ring.bytes as u64),
            Family::counter(name("hops_pushed_out"), "Hops that newer ones have pushed out.")
                .of(ring.pushed_out),
        ]
    }
}

/// Microseconds since 1970.
pub fn now() -> i64 {
    Timestamp::now().as_microsecond()
}

fn cut(detail: Cow<'static, str>) -> Cow<'static, str> {
    if detail.len() <= MAX_DETAIL {
        return detail;
    }
    let mut end = MAX_DETAIL - '…'.len_utf8();
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}…", &detail[..end]))
}

#[cfg(test)]
mod tests;
