//! For which message does the broker close the channel? It does not say: it is one of those that were in flight.

use super::WINDOW_MESSAGES;

/// From one loss to the next so many times fewer messages are in flight, until it is one alone.
const NARROWED: usize = 4;

/// Pure. Messages are known by their numbers, which grow.
#[derive(Debug)]
pub(super) struct Suspects {
    /// So many may be in flight.
    at_once: usize,
    /// The last of those among which it is.
    last: Option<u64>,
    /// Of the smallest body for which a channel was closed: one as large goes alone at once, so that somebody who writes such
    /// objects again and again does not have everybody's events sent over and over.
    too_large: usize,
    /// What is in flight goes alone.
    alone: bool,
}

impl Suspects {
    pub(super) fn new() -> Self {
        Self { at_once: WINDOW_MESSAGES, last: None, too_large: usize::MAX, alone: false }
    }

    /// Whether a message may be published now.
    pub(super) fn admit(&mut self, in_flight: usize, bytes: usize) -> bool {
        if in_flight == 0 {
            self.alone = self.resembles(bytes);
            return true;
        }
        !self.alone && !self.resembles(bytes) && in_flight < self.at_once
    }

    /// A channel was closed for a message that is as large, or smaller.
    pub(super) fn resembles(&self, bytes: usize) -> bool {
        bytes >= self.too_large
    }

    /// The channel was closed for one of several.
    pub(super) fn narrow(&mut self, in_flight: usize, last: u64) {
        self.at_once = (in_flight / NARROWED).max(1);
        self.last = self.last.max(Some(last));
    }

    /// It was this one.
    pub(super) fn found(&mut self, bytes: usize) {
        self.too_large = self.too_large.min(bytes);
        (self.at_once, self.last) = (WINDOW_MESSAGES, None);
    }

    /// The broker took a message: it takes what is as large, perhaps since somebody has told it to.
    pub(super) fn taken(&mut self, bytes: usize) {
        if self.resembles(bytes) {
            self.too_large = usize::MAX;
        }
    }

    /// All before `front` is settled.
    pub(super) fn settled(&mut self, front: u64) {
        if self.last.is_some_and(|last| last < front) {
            (self.at_once, self.last) = (WINDOW_MESSAGES, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_fewer_are_in_flight_until_it_is_one() {
        let mut suspects = Suspects::new();
        let mut in_flight = WINDOW_MESSAGES;
        let mut steps = Vec::new();
        while in_flight > 1 {
            suspects.narrow(in_flight, 2_000);
            in_flight = (0..).find(|n| !suspects.admit(*n, 9)).unwrap();
            steps.push(in_flight);
        }
        assert_eq!(steps, [256, 64, 16, 4, 1]);
        suspects.settled(2_000);
        assert!(!suspects.admit(1, 9), "the last may still be it");
        suspects.settled(2_001);
        assert!(suspects.admit(1, 9), "it was none of them");
    }

    #[test]
    fn what_is_as_large_goes_alone_until_the_broker_takes_it() {
        let mut suspects = Suspects::new();
        suspects.narrow(8, 7);
        suspects.found(500);
        assert!(suspects.admit(0, 499) && suspects.admit(5, 499) && !suspects.admit(5, 500));
        assert!(suspects.admit(0, 500) && !suspects.admit(1, 9), "it is alone");
        suspects.found(300);
        assert!(suspects.resembles(300), "the smallest counts");
        suspects.taken(299);
        assert!(suspects.resembles(300));
        suspects.taken(400);
        assert!(suspects.admit(0, 500) && suspects.admit(1, 500));
    }
}
