//! Wall-clock time as a value, so that decisions can be tested without waiting.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;

    /// Ends when this much has passed by this clock. For work that is done by the hour; cancellation safe.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands still until it is moved. Clones share it.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<watch::Sender<Timestamp>>);

impl ManualClock {
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(watch::Sender::new(now)))
    }

    pub fn advance(&self, by: SignedDuration) {
        self.0.send_modify(|now| *now += by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let mut moved = self.0.subscribe();
        let wait = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        let end = self.now().checked_add(wait).unwrap_or(Timestamp::MAX);
        Box::pin(async move {
            // A clock that nobody can move any more stands still for ever.
            if moved.wait_for(|now| *now >= end).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_sleeps_wakes_when_the_clock_is_moved_far_enough() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let mut sleep = clock.sleep(Duration::from_secs(60));
        clock.advance(SignedDuration::from_secs(59));
        assert!((&mut sleep).now_or_never().is_none());
        clock.advance(SignedDuration::from_secs(1));
        assert!((&mut sleep).now_or_never().is_some());
    }
}
