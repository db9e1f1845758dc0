//! What waits to be written, the newest of each pod, in the order in which it happened. Pure.
//!
//! While the API takes everything, many are on their way at once. Once it did not, what has piled up is delivered one by
//! one and in order, so that whoever follows the pods sees what happened to them in the order in which it did.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Update;
use crate::pod::status;

/// Writes of one agent that are on their way at once.
const IN_FLIGHT: usize = 16;
/// How long a status waits that only says that the containers are being made. Where that takes no longer, the status that
/// follows is the first one, and the write is saved.
const SETTLE: Duration = Duration::from_millis(25);

type Uid = Arc<str>;

#[derive(Default)]
pub(super) struct Queue {
    updates: HashMap<Uid, Waiting>,
    in_flight: HashMap<Uid, u64>,
    /// Their mirror is not there.
    no_mirror: HashSet<Uid>,
    /// The API is there, and does not take these.
    stuck: HashSet<Uid>,
    /// Rows on disk.
    kept: HashSet<Uid>,
    last: u64,
    /// What is not newer than this waited for the API.
    behind: u64,
    pub(super) away: bool,
}

struct Waiting {
    update: Update,
    not_before: Instant,
    sequence: u64,
    is_kept: bool,
}

pub(super) struct Taken {
    pub uid: Uid,
    pub update: Update,
    pub sequence: u64,
}

/// A change of what is on disk.
#[derive(Debug, PartialEq)]
pub(super) enum Row {
    Put(Uid, u64),
    Delete(Uid),
}

impl Queue {
    /// A deletion that waits stays one: the object would never go.
    pub(super) fn put(&mut self, uid: Uid, mut update: Update, now: Instant) {
        self.last += 1;
        let settles = !update.delete && status::is_interim(&update.status);
        let mut not_before = if settles { now + SETTLE } else { now };
        if let Some(old) = self.updates.get(&uid) {
            update.delete |= old.update.delete;
            not_before = not_before.min(old.not_before);
        }
        let sequence = self.last;
        self.updates.insert(uid, Waiting { update, not_before, sequence, is_kept: false });
    }

    /// One from disk, from before this process.
    pub(super) fn restore(&mut self, uid: Uid, update: Update, sequence: u64, now: Instant) {
        self.last = self.last.max(sequence);
        self.behind = self.last;
        self.kept.insert(uid.clone());
        self.updates.insert(uid, Waiting { update, not_before: now, sequence, is_kept: true });
    }

    pub(super) fn forget(&mut self, uid: &str) {
        self.updates.remove(uid);
    }

    /// Mirrors may have come.
    pub(super) fn mirrors_came(&mut self) {
        self.no_mirror.clear();
    }

    /// The oldest that may go now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Taken> {
        let in_order = self.is_behind();
        if self.away || self.in_flight.len() >= if in_order { 1 } else { IN_FLIGHT } {
            return None;
        }
        let free = self.free().filter(|(_, waiting)| in_order || waiting.not_before <= now);
        let (uid, _) = free.min_by_key(|(_, waiting)| waiting.sequence)?;
        let uid = uid.clone();
        let Waiting { update, sequence, .. } = self.updates.remove(&uid)?;
        self.in_flight.insert(uid.clone(), sequence);
        Some(Taken { uid, update, sequence })
    }

    /// When the first of those that settle may go.
    pub(super) fn next_settled(&self) -> Option<Instant> {
        if self.away || self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        self.free().map(|(_, waiting)| waiting.not_before).min()
    }

    pub(super) fn done(&mut self, uid: &str) {
        self.in_flight.remove(uid);
    }

    /// It waits again in its place, unless something newer does.
    pub(super) fn again(&mut self, taken: Taken, why: Again, now: Instant) {
        let Taken { uid, update, sequence } = taken;
        self.in_flight.remove(&uid);
        match why {
            Again::Away => self.away = true,
            Again::NoMirror => drop(self.no_mirror.insert(uid.clone())),
            Again::Stuck => drop(self.stuck.insert(uid.clone())),
        }
        let delete = update.delete;
        let waiting = Waiting { update, not_before: now, sequence, is_kept: false };
        self.updates.entry(uid).or_insert(waiting).update.delete |= delete;
    }

    /// The API answers: the oldest is tried, and what it did not take before as well.
    pub(super) fn is_back(&mut self) {
        if std::mem::take(&mut self.away) {
            self.behind = self.last;
        }
        self.stuck.clear();
    }

    /// What must be done so that the disk has the newest of each pod that waits for the API, and no more.
    pub(super) fn rows(&self) -> Vec<Row> {
        let waits = |uid: &Uid| self.updates.contains_key(uid) || self.in_flight.contains_key(uid);
        let old = self.kept.iter().filter(|uid| !waits(uid));
        let mut rows: Vec<Row> = old.map(|uid| Row::Delete(uid.clone())).collect();
        if self.away {
            // A mirror's status is told anew when there is a mirror.
            let new = self.updates.iter().filter(|(_, w)| !w.is_kept && !w.update.mirror);
            rows.extend(new.map(|(uid, waiting)| Row::Put(uid.clone(), waiting.sequence)));
        }
        rows
    }

    pub(super) fn update(&self, uid: &str) -> Option<&Update> {
        self.updates.get(uid).map(|waiting| &waiting.update)
    }

    /// A row was written (or failed to be: it is not tried again before there is something new).
    pub(super) fn wrote(&mut self, row: &Row) {
        match row {
            Row::Delete(uid) => drop(self.kept.remove(uid)),
            Row::Put(uid, sequence) => {
                self.kept.insert(uid.clone());
                if let Some(waiting) = self.updates.get_mut(uid) {
                    waiting.is_kept |= waiting.sequence == *sequence;
                }
            }
        }
    }

    fn is_behind(&self) -> bool {
        let waiting = self.updates.iter().filter(|(uid, _)| !self.held(uid));
        let waiting = waiting.map(|(_, waiting)| waiting.sequence);
        waiting.chain(self.in_flight.values().copied()).any(|sequence| sequence <= self.behind)
    }

    fn held(&self, uid: &Uid) -> bool {
        self.no_mirror.contains(uid) || self.stuck.contains(uid)
    }

    fn free(&self) -> impl Iterator<Item = (&Uid, &Waiting)> {
        let free = |uid: &Uid| !self.in_flight.contains_key(uid) && !self.held(uid);
        self.updates.iter().filter(move |(uid, _)| free(uid))
    }
}

/// Why something was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Away,
    NoMirror,
    Stuck,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::PodRef;

    fn update(status: serde_json::Value, delete: bool) -> Update {
        let pod = PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        let status = Arc::new(serde_json::from_value(status).unwrap());
        Update { pod, mirror: false, status, delete }
    }

    fn said(text: &str) -> Update {
        update(json!({"phase": "Running", "message": text}), false)
    }

    fn take(queue: &mut Queue, now: Instant) -> Option<(String, String, Taken)> {
        let taken = queue.take(now)?;
        let message = taken.update.status.message.clone().unwrap_or_default();
        Some((taken.uid.to_string(), message, taken))
    }

    #[test]
    fn only_a_status_of_containers_that_are_being_made_may_wait() {
        let waiting = |reason: &str| {
            let state = json!({"waiting": {"reason": reason}});
            let container = json!({"name": "a", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state});
            json!({"phase": "Pending", "containerStatuses": [container]})
        };
        let running = json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "",
            "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
        let now = Instant::now();
        for (status, delete, waits) in [
            (waiting("ContainerCreating"), false, true),
            (waiting("PodInitializing"), false, true),
            (waiting("ContainerCreating"), true, false),
            (waiting("ImagePullBackOff"), false, false),
            (running, false, false),
            (json!({"phase": "Pending"}), false, false),
        ] {
            let mut queue = Queue::default();
            queue.put("a".into(), update(status.clone(), delete), now);
            assert_eq!(queue.take(now).is_none(), waits, "{status}");
            assert_eq!(queue.take(now + SETTLE).is_some(), waits, "{status}");
        }
    }

    #[test]
    fn what_waited_for_the_api_goes_one_by_one_in_order() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.put("a".into(), said("a1"), now);
        queue.put("b".into(), said("b1"), now);
        let (_, first, taken_a) = take(&mut queue, now).unwrap();
        let (_, second, taken_b) = take(&mut queue, now).unwrap();
        assert_eq!((&*first, &*second), ("a1", "b1"), "two at once");
        queue.again(taken_a, Again::Away, now);
        queue.again(taken_b, Again::Away, now);
        assert!(take(&mut queue, now).is_none(), "nobody is there");
        for (uid, text) in [("c", "c1"), ("a", "a2"), ("d", "d1")] {
            queue.put(uid.into(), said(text), now);
        }
        let mut rows = queue.rows();
        rows.sort_by_key(|row| format!("{row:?}"));
        let put = |uid: &str, sequence| Row::Put(uid.into(), sequence);
        assert_eq!(rows, [put("a", 4), put("b", 2), put("c", 3), put("d", 5)]);
        rows.iter().for_each(|row| queue.wrote(row));
        assert_eq!(queue.rows(), [], "written");

        queue.is_back();
        queue.put("e".into(), said("e1"), now);
        let mut told = Vec::new();
        while let Some((uid, text, _)) = take(&mut queue, now) {
            told.push(text);
            if uid != "e" {
                assert!(take(&mut queue, now).is_none(), "one by one");
            }
            queue.done(&uid);
        }
        assert_eq!(told, ["b1", "c1", "a2", "d1", "e1"]);
        let mut rows = queue.rows();
        rows.sort_by_key(|row| format!("{row:?}"));
        assert_eq!(rows, ["a", "b", "c", "d"].map(|uid| Row::Delete(uid.into())));
        rows.iter().for_each(|row| queue.wrote(row));
        assert_eq!(queue.rows(), []);
    }

    #[test]
    fn what_was_kept_goes_first_and_a_newer_word_takes_its_place() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.restore("b".into(), said("b"), 9, now);
        queue.restore("a".into(), said("a"), 7, now);
        queue.restore("gone".into(), update(json!({}), true), 8, now);
        queue.put("a".into(), said("newer"), now);
        queue.put("gone".into(), said("late"), now);
        let mut told = Vec::new();
        while let Some((uid, text, taken)) = take(&mut queue, now) {
            assert_eq!(taken.update.delete, uid == "gone", "a deletion stays one");
            told.push(text);
            queue.done(&uid);
        }
        assert_eq!(told, ["b", "newer", "late"]);
    }

    #[test]
    fn what_is_not_taken_holds_up_nobody() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.restore("a".into(), said("a"), 1, now);
        queue.restore("b".into(), said("b"), 2, now);
        let (_, _, taken) = take(&mut queue, now).unwrap();
        queue.again(taken, Again::Stuck, now);
        assert_eq!(take(&mut queue, now).unwrap().1, "b");
        queue.done("b");
        assert!(take(&mut queue, now).is_none());
        queue.is_back();
        assert_eq!(take(&mut queue, now).unwrap().1, "a");
    }
}
