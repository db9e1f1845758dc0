//! Two limits on requests in flight, reading and mutating: beyond them requests wait for their turn, and where too many
//! wait, or one waits too long, the answer is 429.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warren_api::{Reason, Status};

use crate::authn::{CONTROLLERS, MASTERS, User};

/// Kubernetes' own defaults. A request holds its permit until its answer's head is ready; watches, logs and the
/// connect verbs live long and hold none.
pub(crate) const MAX_READING: usize = 400;
pub(crate) const MAX_MUTATING: usize = 200;
/// Requests of one sort that wait, with their heads and no bodies: some 30 MB at the most. A thousand nodes that start
/// together, or ten thousand pods that are bound, are no reason to turn anybody away. Policy: beyond it, 429.
const MAX_WAITING: usize = 8192;
/// Of the permits to change something, those that one node or one broker's account can have at a time: who sends bodies
/// that never end must not stop all others. Policy: beyond it, 429.
const MAX_OF_ONE: usize = 40;
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
            return Some(Permit { _turn: permit, _share: None });
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.max_waiting {
            return None;
        }
        let turn = Arc::clone(&self.free).acquire_owned();
        let permit = tokio::time::timeout(PATIENCE, turn).await.ok()?.ok()?;
        Some(Permit { _turn: permit, _share: None })
    }
}

#[derive(Debug)]
pub(crate) struct Flow {
    reading: Gate,
    mutating: Gate,
    shares: Arc<Shares>,
}

/// How many permits each user has, or waits for, that may not have all.
#[derive(Debug, Default)]
struct Shares(Mutex<HashMap<String, usize>>);

#[derive(Debug)]
struct Share {
    of: Arc<Shares>,
    user: String,
}

impl Shares {
    fn take(self: &Arc<Self>, user: &str) -> Option<Share> {
        let mut taken = self.0.lock();
        let count = taken.entry(user.to_owned()).or_insert(0);
        if *count >= MAX_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Share { of: Arc::clone(self), user: user.to_owned() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock();
        if let Some(count) = taken.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

/// The right to be in flight; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _turn: OwnedSemaphorePermit,
    _share: Option<Share>,
}

impl Flow {
    pub(crate) fn new(reading: usize, mutating: usize) -> Self {
        Self {
            reading: Gate::new(reading, MAX_WAITING),
            mutating: Gate::new(mutating, MAX_WAITING),
            shares: Arc::default(),
        }
    }

    /// In the order of arrival. Cancellation safe.
    pub(crate) async fn admit(&self, user: &User, reads: bool) -> Result<Permit, Status> {
        let trusted = user.is_in(MASTERS) || user.is_in(CONTROLLERS);
        let gate = if reads { &self.reading } else { &self.mutating };
        let enter = async {
            let share = match reads || trusted {
                true => None,
                false => Some(self.shares.take(&user.name)?),
            };
            let permit = gate.enter().await?;
            Some(Permit { _share: share, ..permit })
        };
        enter.await.ok_or_else(|| {
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
        let admin = User::admin("admin");
        let reading = flow.admit(&admin, true).await.unwrap();
        assert_eq!(flow.admit(&admin, true).await.unwrap_err().reason, Reason::TooManyRequests);
        let _mutating = flow.admit(&admin, false).await.unwrap();
        drop(reading);
        assert!(flow.admit(&admin, true).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_cannot_have_all() {
        let flow = Flow::new(1, MAX_OF_ONE + 1);
        let (node, other) = (User::node("a"), User::node("b"));
        let mut permits = Vec::new();
        for _ in 0..MAX_OF_ONE {
            permits.push(flow.admit(&node, false).await.unwrap());
        }
        assert!(flow.admit(&node, false).await.is_err());
        assert!(flow.admit(&other, false).await.is_ok());
        permits.pop();
        assert!(flow.admit(&node, false).await.is_ok());
        drop(permits);
        assert!(flow.shares.0.lock().is_empty());
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
