//! What is committed and not yet confirmed by the broker: how much, and since when. Pure.

use std::collections::VecDeque;

use warren_api::Revision;

/// Up to so many events each is known by itself, beyond it in groups of [`GROUP`]: at its bound, 512 MiB of objects of 1 KiB,
/// the outbox has 500,000 events, and this 300 KiB.
const EXACT: u64 = 1_024;
const GROUP: u64 = 64;

#[derive(Clone, Copy, Debug)]
struct Group {
    last: Revision,
    events: u64,
    bytes: u64,
    /// Of the oldest, in milliseconds since 1970.
    time_ms: i64,
}

/// What waits, as of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub events: u64,
    /// Of their objects.
    pub bytes: u64,
    /// When the oldest was committed, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
}

/// Events come in the order of revisions, and leave in it.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    groups: VecDeque<Group>,
    waiting: Waiting,
}

impl Backlog {
    pub(crate) fn push(&mut self, revision: Revision, bytes: u64, time_ms: i64) {
        self.waiting.events += 1;
        self.waiting.bytes += bytes;
        let full = self.waiting.events > EXACT;
        match self.groups.back_mut().filter(|group| full && group.events < GROUP) {
            Some(group) => {
                group.last = revision;
                group.events += 1;
                group.bytes += bytes;
            }
            None => self.groups.push_back(Group { last: revision, events: 1, bytes, time_ms }),
        }
    }

    /// Everything up to here is confirmed, or given up. A group counts until all of it is.
    pub(crate) fn forget(&mut self, up_to: Revision) {
        while let Some(group) = self.groups.front().filter(|group| group.last <= up_to) {
            self.waiting.events -= group.events;
            self.waiting.bytes -= group.bytes;
            self.groups.pop_front();
        }
    }

    pub(crate) fn waiting(&self) -> Waiting {
        Waiting { oldest_ms: self.groups.front().map(|group| group.time_ms), ..self.waiting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_events_are_counted_one_by_one() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.waiting(), Waiting::default());
        for n in 1..=4 {
            backlog.push(Revision(n * 10), n, 1_000 + n as i64);
        }
        let waiting =
            |events, bytes, oldest: i64| Waiting { events, bytes, oldest_ms: Some(oldest) };
        assert_eq!(backlog.waiting(), waiting(4, 10, 1_001));
        backlog.forget(Revision(25));
        assert_eq!(backlog.waiting(), waiting(2, 7, 1_003));
        backlog.forget(Revision(25));
        assert_eq!(backlog.waiting(), waiting(2, 7, 1_003));
        backlog.forget(Revision(40));
        assert_eq!(backlog.waiting(), Waiting::default());
    }

    #[test]
    fn many_events_take_little_memory_and_leave_nothing() {
        let mut backlog = Backlog::default();
        let count = 500_000;
        for n in 1..=count {
            backlog.push(Revision(n), 1_024, n as i64);
        }
        let waiting = backlog.waiting();
        assert_eq!((waiting.events, waiting.bytes), (count, count * 1_024));
        assert!(backlog.groups.len() < 10_000, "{}", backlog.groups.len());
        for n in 1..=count {
            backlog.forget(Revision(n));
            let left = backlog.waiting().events;
            assert!((count - n..=count - n + GROUP).contains(&left), "{n}: {left}");
        }
        assert_eq!(backlog.waiting(), Waiting::default());
    }
}
