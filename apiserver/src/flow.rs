//! Two limits on requests in flight, reading and mutating: beyond them requests wait for their turn, and where too many
//! wait, or one waits too long, the answer is 429.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warren_api::{Reason, Status};

use crate::authn::{CONTROLLERS, MASTERS, NODE_PREFIX, User};

/// Kubernetes' own defaults. A request holds its permit until its answer's head is ready, or, where the answer was made
/// for it and is large, until that is written; watches, logs and the connect verbs live long and hold none.
pub(crate) const MAX_READING: usize = 400;
pub(crate) const MAX_MUTATING: usize = 200;
/// Requests of one sort that wait, with their heads and no bodies: some 30 MB at the most. A thousand nodes that start
/// together, or ten thousand pods that are bound, are no reason to turn anybody away. Policy: beyond it, 429.
const MAX_WAITING: usize = 8192;
/// Of the permits to change something, those that one node or one broker's account can have at a time: who sends bodies
/// that never end must not stop all others. A node has its own and its accounts' together, as it can name any account.
/// Policy: beyond it, 429.
const MAX_OF_ONE: usize = 40;
/// Of the permits to read, those that one of them can have for lists that were made for it and are being written: who
/// does not read them must not stop all others. Policy: beyond it, 429.
const MAX_UNREAD_OF_ONE: usize = 10;
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
struct Shares(Mutex<HashMap<Holder, usize>>);

/// Who has them, and whether they are those of lists that are being written.
type Holder = (String, bool);

/// Who vouches for a user's name: a node for the accounts whose commands it hands in, else the user itself.
fn who(user: &User) -> String {
    match &user.via_node {
        Some(node) => format!("{NODE_PREFIX}{}", node.0),
        None => user.name.clone(),
    }
}

fn is_trusted(user: &User) -> bool {
    user.is_in(MASTERS) || user.is_in(CONTROLLERS)
}

#[derive(Debug)]
struct Share {
    of: Arc<Shares>,
    holder: Holder,
}

impl Shares {
    fn take(self: &Arc<Self>, holder: Holder, most: usize) -> Option<Share> {
        let mut taken = self.0.lock();
        let count = taken.entry(holder.clone()).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Share { of: Arc::clone(self), holder })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock();
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
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
        let gate = if reads { &self.reading } else { &self.mutating };
        let enter = async {
            let share = match reads || is_trusted(user) {
                true => None,
                false => Some(self.shares.take((who(user), false), MAX_OF_ONE)?),
            };
            let permit = gate.enter().await?;
            Some(Permit { _share: share, ..permit })
        };
        enter.await.ok_or_else(too_many)
    }

    /// A reader's permit, for as long as its answer is being written.
    pub(crate) fn for_writing(&self, user: &User, permit: Permit) -> Result<Permit, Status> {
        if is_trusted(user) || permit._share.is_some() {
            return Ok(permit);
        }
        let share = self.shares.take((who(user), true), MAX_UNREAD_OF_ONE).ok_or_else(too_many)?;
        Ok(Permit { _share: Some(share), ..permit })
    }

    /// (reading, mutating) in flight now.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        (
            MAX_READING.saturating_sub(self.reading.free.available_permits()),
            MAX_MUTATING.saturating_sub(self.mutating.free.available_permits()),
        )
    }
}

pub(crate) fn too_many() -> Status {
    let mut status =
        Status::new(Reason::TooManyRequests, "Too many requests, please try again later.");
    let details = warren_api::Details { retry_after_seconds: Some(1), ..Default::default() };
    status.details = Some(Box::new(details));
    status
}

#[cfg(test)]
mod tests {
    use warren_api::NodeName;

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
    async fn a_node_has_no_more_for_the_accounts_that_it_names() {
        let flow = Flow::new(1, 3 * MAX_OF_ONE);
        let via = |account: &str, node: &str| {
            let via_node = Some(NodeName(node.into()));
            User { via_node, ..User::broker(Some(account)) }
        };
        let mut permits = vec![flow.admit(&User::node("a"), false).await.unwrap()];
        for n in 1..MAX_OF_ONE {
            permits.push(flow.admit(&via(&n.to_string(), "a"), false).await.unwrap());
        }
        assert!(flow.admit(&via("new", "a"), false).await.is_err());
        assert!(flow.admit(&User::node("a"), false).await.is_err());
        assert!(flow.admit(&via("new", "b"), false).await.is_ok());
        assert!(flow.admit(&User::broker(Some("new")), false).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_leaves_permits_for_others() {
        let flow = Flow::new(2 * MAX_UNREAD_OF_ONE, 1);
        let (node, admin) = (User::node("a"), User::admin("admin"));
        let mut held = Vec::new();
        for _ in 0..MAX_UNREAD_OF_ONE {
            let permit = flow.admit(&node, true).await.unwrap();
            held.push(flow.for_writing(&node, permit).unwrap());
        }
        let permit = flow.admit(&node, true).await.unwrap();
        assert!(flow.for_writing(&node, permit).is_err());
        let permit = flow.admit(&admin, true).await.unwrap();
        assert!(flow.for_writing(&admin, permit).is_ok());
        drop(held);
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
