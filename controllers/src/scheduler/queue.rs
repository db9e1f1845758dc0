//! Pods that wait for a node.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster::PodInfo;

/// After a failed attempt a pod waits; doubled each time. Kubernetes' figures.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Looked at again after this long even where nothing has changed.
const AT_LATEST: Duration = Duration::from_secs(300);

#[derive(Debug)]
enum State {
    /// To be decided on now.
    Active,
    /// From then on.
    Backoff(Instant),
    /// Nothing fits until something changes.
    Waiting { since: Instant },
    /// A node is chosen and being told to the API.
    Binding,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    order: (Reverse<i32>, u64),
    attempts: u32,
    failed: Option<Instant>,
    state: State,
}

/// By priority, then in order of arrival. Bounded by the number of pods that have no node.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeSet<((Reverse<i32>, u64), String)>,
    delayed: BTreeSet<(Instant, String)>,
    sequence: u64,
}

impl Queue {
    /// A new pod, or one that has changed. A change of what matters is a new chance.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid().to_owned();
        if let Some(entry) = self.entries.get_mut(&uid) {
            let changed = entry.pod.pod.spec != pod.pod.spec
                || entry.pod.pod.metadata.labels != pod.pod.metadata.labels;
            entry.pod = pod;
            if changed && matches!(entry.state, State::Waiting { .. }) {
                self.wake(&uid, now);
            }
            return;
        }
        self.sequence += 1;
        let order = (Reverse(pod.priority()), self.sequence);
        self.active.insert((order, uid.clone()));
        let entry = Entry { pod, order, attempts: 0, failed: None, state: State::Active };
        self.entries.insert(uid, entry);
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(entry) = self.entries.remove(uid) else { return };
        match entry.state {
            State::Active => {
                self.active.remove(&(entry.order, uid.to_owned()));
            }
            State::Backoff(at) => {
                self.delayed.remove(&(at, uid.to_owned()));
            }
            State::Waiting { .. } | State::Binding => {}
        }
    }

    /// The next pod to decide on. It is `Binding` until told otherwise.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some((at, uid)) = self.delayed.first().cloned() {
            if at > now {
                break;
            }
            self.delayed.remove(&(at, uid.clone()));
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.state = State::Active;
                self.active.insert((entry.order, uid));
            }
        }
        let (_, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.state = State::Binding;
        entry.attempts = entry.attempts.saturating_add(1);
        Some(Arc::clone(&entry.pod))
    }

    /// When the next pod's back-off ends.
    pub fn next_delay(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// Nothing fits: it waits for a change.
    pub fn unschedulable(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.failed = Some(now);
            entry.state = State::Waiting { since: now };
        }
    }

    /// The attempt failed for another reason: again, after the back-off.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.failed = Some(now);
            self.wake(uid, now);
        }
    }

    fn wake(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let doublings = entry.attempts.saturating_sub(1).min(8);
        let wait = (BACKOFF.0 * (1 << doublings)).min(BACKOFF.1);
        match entry.failed.map(|failed| failed + wait).filter(|at| *at > now) {
            Some(at) => {
                entry.state = State::Backoff(at);
                self.delayed.insert((at, uid.to_owned()));
            }
            None => {
                entry.state = State::Active;
                self.active.insert((entry.order, uid.to_owned()));
            }
        }
    }

    fn wake_where(&mut self, now: Instant, which: impl Fn(Instant) -> bool) {
        let waiting: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, e)| matches!(e.state, State::Waiting { since } if which(since)))
            .map(|(uid, _)| uid.clone())
            .collect();
        waiting.iter().for_each(|uid| self.wake(uid, now));
    }

    /// Something changed that may make room.
    pub fn wake_all(&mut self, now: Instant) {
        self.wake_where(now, |_| true);
    }

    /// Those that have waited very long.
    pub fn wake_old(&mut self, now: Instant) {
        self.wake_where(now, |since| since + AT_LATEST <= now);
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }
}
