//! What the worker of a pod remembers beyond what the runtime can tell: tries, back-offs, verdicts of probes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::runtime::{Exit, Id};

/// Delays that grow: the first, doubled each time, up to the last.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub last: Duration,
}

impl Backoff {
    /// The delay after this many failures (1 for the first).
    pub fn after(&self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        doubled.min(self.last)
    }
}

/// The kubelet's figures, unless a test or an operator sets others.
#[derive(Clone, Copy, Debug)]
pub struct Backoffs {
    /// Containers that end: the first restart comes at once, then 10 s doubling to 5 min.
    pub crash: Backoff,
    /// A container that ran this long beyond the last delay starts anew.
    pub crash_reset: Duration,
    pub image: Backoff,
    /// Everything else that failed and may be mended by somebody: a missing ConfigMap, a runtime that is away.
    pub other: Backoff,
}

impl Default for Backoffs {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            crash: Backoff { first: s(10), last: s(300) },
            crash_reset: s(600),
            image: Backoff { first: s(10), last: s(300) },
            other: Backoff { first: s(1), last: s(20) },
        }
    }
}

/// Something that failed and will be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
    pub at: Timestamp,
    pub retry_at: Timestamp,
    pub count: u32,
}

impl Failure {
    /// The failure that follows `before`.
    pub fn next(
        before: Option<&Failure>,
        reason: &'static str,
        message: String,
        now: Timestamp,
        backoff: Backoff,
    ) -> Self {
        let count = before.map_or(1, |f| f.count.saturating_add(1));
        Self { reason, message, at: now, retry_at: later(now, backoff.after(count)), count }
    }
}

/// `at + by`, bounded instead of overflowing.
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// How long until then; zero where it is past.
pub fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// The crash-loop back-off of a container: what the kubelet keeps in its `backOff` entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashLoop {
    pub delay: Duration,
    pub updated: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Busy {
    Starting,
    Stopping { deadline: Timestamp },
    Removing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerMemory {
    pub busy: Option<Busy>,
    /// Why the last try to start it failed.
    pub failure: Option<Failure>,
    pub crash: Option<CrashLoop>,
    /// This container must go, and why: a liveness or startup probe, a hook. Ends with the container.
    pub kill: Option<(Id, String)>,
    /// The container whose end was begun: it is told once, and its preStop hook is run once.
    pub stopped: Option<Id>,
    /// The container that has started: its startup probe succeeded and its postStart hook is done.
    pub started: Option<Id>,
    /// The container whose readiness probe says yes.
    pub ready: Option<Id>,
    /// How a container before the present one ended, for when the runtime no longer has it.
    pub last: Option<(Id, Exit)>,
    /// The restart count of the newest container that there has been, for when the runtime has lost all of them.
    pub attempt: Option<u32>,
}

/// Why a pod is over although its containers might go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub sandbox_busy: bool,
    pub sandbox_failure: Option<Failure>,
    pub cleaning: bool,
    pub cleanup_failure: Option<Failure>,
    /// Boxed: a node of the tree has room for eleven, and most pods have one.
    pub containers: BTreeMap<Arc<str>, Box<ContainerMemory>>,
    pub terminal: Option<Terminal>,
    /// When the agent first saw the pod; `status.startTime`.
    pub start_time: Option<Timestamp>,
}

impl Memory {
    pub fn container(&mut self, name: &str) -> &mut ContainerMemory {
        if !self.containers.contains_key(name) {
            self.containers.insert(name.into(), Box::default());
        }
        self.containers.entry(name.into()).or_default()
    }

    pub fn get(&self, name: &str) -> Option<&ContainerMemory> {
        self.containers.get(name).map(|memory| &**memory)
    }

    pub fn is_started(&self, name: &str, id: &str) -> bool {
        self.get(name).and_then(|m| m.started.as_deref()) == Some(id)
    }

    pub fn is_ready(&self, name: &str, id: &str) -> bool {
        self.get(name).and_then(|m| m.ready.as_deref()) == Some(id)
    }

    /// Whether anything is being done for the pod now.
    pub fn is_busy(&self) -> bool {
        self.sandbox_busy || self.cleaning || self.containers.values().any(|c| c.busy.is_some())
    }
}
