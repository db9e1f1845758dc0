//! How long to wait before the next attempt.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Exponential back-off with jitter: the `n`-th delay lies between half of and the whole of `first × 2ⁿ`, never above
/// `max`. A half is jitter, so that what failed together does not come back together.
///
/// ```
/// # use std::time::Duration;
/// let mut backoff = warren_process::Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// let delay = backoff.next_delay();
/// assert!((Duration::from_millis(50)..=Duration::from_millis(100)).contains(&delay));
/// backoff.reset(); // after a success
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
    random: SmallRng,
}

impl Backoff {
    /// `first` is raised to a millisecond, `max` to `first`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self::seeded(first, max, rand::random())
    }

    /// The same delays for the same seed.
    pub fn seeded(first: Duration, max: Duration, seed: u64) -> Self {
        let first = first.max(Duration::from_millis(1));
        Self { first, max: max.max(first), attempts: 0, random: SmallRng::seed_from_u64(seed) }
    }

    /// The delay before the next attempt. Does not wait.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        whole.mul_f64(self.random.random_range(0.5..=1.0))
    }

    /// Waits for [`Backoff::next_delay`]. Cancellation safe, but the attempt counts.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// Delays given since the start or the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// After a success: the next delay is the first again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_bound_and_start_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::seeded(ms(100), ms(1000), 7);
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay();
            assert!(delay >= ms(whole / 2) && delay <= ms(whole), "{delay:?} of {whole}");
        }
        assert_eq!(backoff.attempts(), 6);
        backoff.reset();
        assert!(backoff.next_delay() <= ms(100));
    }

    #[test]
    fn it_never_overflows() {
        let mut backoff = Backoff::seeded(Duration::from_secs(1), Duration::MAX / 4, 1);
        assert!((0..200).map(|_| backoff.next_delay()).all(|d| d <= Duration::MAX / 4));
        let mut zero = Backoff::seeded(Duration::ZERO, Duration::ZERO, 1);
        assert!(zero.next_delay() > Duration::ZERO);
    }

    #[test]
    fn a_seed_repeats() {
        let delays = |seed| {
            let mut backoff =
                Backoff::seeded(Duration::from_secs(1), Duration::from_secs(60), seed);
            (0..8).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(3), delays(3));
        assert_ne!(delays(3), delays(4));
    }
}
