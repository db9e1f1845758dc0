//! What one reader saw of numbered events, judged as it comes: nothing may be missing, and nothing out of order.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lapin::BasicProperties;
use lapin::types::AMQPValue;

/// Where an event stands in the stream of all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) revision: u64,
    pub(super) prev: u64,
}

impl Position {
    /// `None` for what is not an event.
    pub(super) fn of(properties: &BasicProperties) -> Option<Self> {
        let headers = properties.headers().as_ref()?.inner();
        let number = |value: &AMQPValue| match value {
            AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let list = |name: &str| match headers.get(name)? {
            AMQPValue::FieldArray(list) => Some(list.as_slice()),
            _ => None,
        };
        let all = |shard: &AMQPValue| matches!(shard, AMQPValue::LongString(word) if word.as_bytes() == b"*");
        let at = list("shards")?.iter().position(all)?;
        let prev = number(list("prev")?.get(at)?)?;
        Some(Self { revision: number(headers.get("rv")?)?, prev })
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    seen: Vec<bool>,
    last: u64,
    /// Different numbers that came.
    pub(super) distinct: usize,
    /// Came again.
    pub(super) repeated: usize,
    /// Came for the first time after something newer.
    late: usize,
    /// Followed something that never came.
    gaps: usize,
}

impl Ledger {
    pub(super) fn new(numbers: usize) -> Self {
        Self { seen: vec![false; numbers], ..Self::default() }
    }

    /// An event without a number only has its place in the order.
    pub(super) fn note(&mut self, at: Position, number: Option<usize>) {
        let seen = number.and_then(|number| self.seen.get_mut(number));
        let is_new = seen.is_some_and(|seen| !std::mem::replace(seen, true));
        self.distinct += usize::from(is_new);
        if at.revision <= self.last {
            self.late += usize::from(is_new);
            self.repeated += usize::from(!is_new);
            return;
        }
        self.gaps += usize::from(self.last > 0 && at.prev > self.last);
        self.last = at.revision;
    }

    pub(super) fn in_order(&self) -> Result<()> {
        let Self { late, gaps, .. } = self;
        ensure!(*late == 0, "{late} events came after newer ones");
        ensure!(*gaps == 0, "{gaps} events followed some that never came");
        Ok(())
    }
}

/// The first and the last of many, and how many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    times: Option<(Instant, Instant)>,
    count: usize,
}

impl Span {
    pub(super) fn note(&mut self, now: Instant) {
        self.count += 1;
        self.times = Some((self.times.map_or(now, |(first, _)| first), now));
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// How many a second followed the first; 0 where there were not two.
    pub(super) fn rate(&self) -> f64 {
        let took = self.times.map_or(Duration::ZERO, |(first, last)| last - first);
        match took.is_zero() {
            true => 0.0,
            false => (self.count - 1) as f64 / took.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(events: &[(u64, u64, usize)]) -> (usize, usize, usize, usize) {
        let mut ledger = Ledger::new(10);
        for &(prev, revision, number) in events {
            ledger.note(Position { revision, prev }, Some(number));
        }
        (ledger.distinct, ledger.repeated, ledger.late, ledger.gaps)
    }

    #[test]
    fn what_is_lost_late_or_repeated_shows() {
        assert_eq!(judged(&[(3, 5, 0), (5, 6, 1), (6, 9, 2)]), (3, 0, 0, 0), "in order");
        assert_eq!(judged(&[(0, 5, 0), (5, 6, 1), (0, 5, 0), (5, 6, 1), (6, 7, 2)]), (3, 2, 0, 0));
        assert_eq!(judged(&[(0, 5, 0), (6, 7, 2)]), (2, 0, 0, 1), "6 is missing");
        assert_eq!(judged(&[(0, 5, 0), (6, 7, 2), (5, 6, 1)]), (3, 0, 1, 1), "6 is late");
        let mut ledger = Ledger::new(1);
        ledger.note(Position { revision: 7, prev: 6 }, Some(99));
        ledger.note(Position { revision: 8, prev: 7 }, None);
        assert_eq!(ledger.distinct, 0);
        assert!(ledger.in_order().is_ok());
        ledger.note(Position { revision: 10, prev: 9 }, None);
        assert!(ledger.in_order().is_err());
    }

    #[test]
    fn a_rate_is_of_what_followed_the_first() {
        let (mut span, start) = (Span::default(), Instant::now());
        span.note(start);
        assert_eq!(span.rate(), 0.0);
        span.note(start + Duration::from_millis(250));
        span.note(start + Duration::from_millis(500));
        assert_eq!((span.count(), span.rate()), (3, 4.0));
    }
}
