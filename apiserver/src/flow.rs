//! Two limits on requests in flight, reading and mutating: beyond them requests wait for their turn, and where too many
//! wait, or one waits too long, the answer is 429.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warren_api::{Reason, Status};

/// Kubernetes' own defaults. A request holds its permit until its answer's head is ready; watches, logs and the
/// connect verbs live long and hold none.
pub(crate) const MAX_READING: usize = 400;
pub(crate) const MAX_MUTATING: usize = 200;
/// Requests of one sort that wait, with their heads and no bodies: some 30 MB at the most. A thousand nodes that start
/// together, or ten thousand pods that are bound, are no reason to turn anybody away. Policy: beyond it, 429.
const MAX_WAITING: usize = 8192;
/// As Kubernetes lets requests wait: a quarter of their time.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct Gate {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// Counts one that waits, also where it is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    fn new(limit: usize, max_waiting: usize) -> Self {
        let free = Arc::new(Semaphore::new(limit));
        Self { free, waiting: AtomicUsize::new(0), max_waiting }
    }

    async fn enter(&self) -> Option<Permit> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(Permit(permit));
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.max_waiting {
            return None;
        }
        let turn = Arc::clone(&self.free).acquire_owned();
        tokio::time::timeout(PATIENCE, turn).await.ok()?.ok().map(Permit)
    }
}

#[derive(Debug)]
pub(crate) struct Flow {
    reading: Gate,
    mutating: Gate,
}

/// The right to be in flight; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Flow {
    pub(crate) fn new(reading: usize, mutating: usize) -> Self {
        Self {
            reading: Gate::new(reading, MAX_WAITING),
            mutating: Gate::new(mutating, MAX_WAITING),
        }
    }

    /// In the order of arrival. Cancellation safe.
    pub(crate) async fn admit(&self, reads: bool) -> Result<Permit, Status> {
        let gate = if reads { &self.reading } else { &self.mutating };
        gate.enter().await.ok_or_else(|| {
            let mut status =
                Status::new(Reason::TooManyRequests, "Too many requests, please try again later.");
            status.details = Some(Box::new(warren_api::Details {
                retry_after_seconds: Some(1),
                ..Default::default()
            }));
            status
        })
    }

    /// (reading, mutating) in flight now.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        (
            MAX_READING.saturating_sub(self.reading.free.available_permits()),
            MAX_MUTATING.saturating_sub(self.mutating.free.available_permits()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readers_and_writers_have_limits_of_their_own() {
        let flow = Flow::new(1, 1);
        let reading = flow.admit(true).await.unwrap();
        assert_eq!(flow.admit(true).await.unwrap_err().reason, Reason::TooManyRequests);
        let _mutating = flow.admit(false).await.unwrap();
        drop(reading);
        assert!(flow.admit(true).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn some_wait_for_their_turn_and_too_many_do_not() {
        let gate = Gate::new(1, 2);
        let first = gate.enter().await.unwrap();
        let (second, third, fourth, _) =
            tokio::join!(gate.enter(), gate.enter(), gate.enter(), async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop(first);
            });
        assert!(second.is_some(), "it had its turn");
        assert!(third.is_none(), "the second keeps it: its patience ended");
        assert!(fourth.is_none(), "too many");
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
    }
}
