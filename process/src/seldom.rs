//! Lines of the log that others can cause at will: one for each cause in a while, and how many were left out.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets one of each cause through in `every`; the next that passes says how many did not. Causes are words of the program:
/// what comes from outside would have no bound.
///
/// ```
/// # use std::time::Duration;
/// let seldom = warren_process::Seldom::new(Duration::from_secs(10));
/// assert_eq!(seldom.pass("a message that cannot be used"), Some(0));
/// assert_eq!(seldom.pass("a message that cannot be used"), None);
/// assert_eq!(seldom.pass("another cause"), Some(0));
/// ```
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    causes: Mutex<Vec<Cause>>,
}

#[derive(Debug)]
struct Cause {
    word: &'static str,
    passed: Instant,
    left_out: u64,
}

impl Seldom {
    /// For the log.
    pub const EVERY: Duration = Duration::from_secs(10);

    pub const fn new(every: Duration) -> Self {
        Self { every, causes: Mutex::new(Vec::new()) }
    }

    /// `None`: say nothing. Else how many were left out since the last that passed.
    pub fn pass(&self, cause: &'static str) -> Option<u64> {
        self.pass_at(Instant::now(), cause)
    }

    fn pass_at(&self, now: Instant, word: &'static str) -> Option<u64> {
        let mut causes = self.causes.lock();
        let Some(cause) = causes.iter_mut().find(|cause| cause.word == word) else {
            causes.push(Cause { word, passed: now, left_out: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(cause.passed) < self.every {
            cause.left_out += 1;
            return None;
        }
        cause.passed = now;
        Some(std::mem::take(&mut cause.left_out))
    }
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new(Self::EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_cause_in_a_while() {
        let (seldom, start) = (Seldom::new(Duration::from_secs(10)), Instant::now());
        for (seconds, cause, passes) in [
            (0, "a", Some(0)),
            (0, "a", None),
            (1, "b", Some(0)),
            (9, "a", None),
            (10, "a", Some(2)),
            (11, "a", None),
            (11, "b", Some(0)),
            (100, "a", Some(1)),
            (200, "a", Some(0)),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(seldom.pass_at(now, cause), passes, "{cause} at {seconds}");
        }
    }
}
