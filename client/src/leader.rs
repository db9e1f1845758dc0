//! Leading: one process of a kind acts, the others are ready to.
//!
//! [`Leadership`] is what workers ask: they act in turns of a term, and what they write carries that term
//! ([`Leadership::fenced`]), so that the API refuses it when another leads. [`Campaign`] finds out who leads.

mod campaign;
mod fence;
#[doc(hidden)]
pub mod lease;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use warren_api::Fence;
use warren_process::Family;

pub use campaign::{Campaign, Place};

tokio::task_local! {
    /// The term in which what runs was decided.
    static TERM: u64;
}

/// Whether this process leads, and in which term. Clones share it.
#[derive(Clone, Default)]
pub struct Leadership(Option<Arc<Shared>>);

struct Shared {
    lease: Place,
    identity: String,
    term: watch::Sender<Option<u64>>,
    /// The term of which the API said last that it is over.
    refused: watch::Sender<u64>,
    turns: TaskTracker,
    takeovers: AtomicU64,
    losses: AtomicU64,
    refusals: AtomicU64,
    /// The last term that is known, whoever has it.
    newest: AtomicU64,
}

impl Leadership {
    /// There is nobody else: this process leads from its start to its end, and its writes carry no term.
    pub fn always() -> Self {
        Self(None)
    }

    fn elected(lease: Place, identity: String) -> Self {
        Self(Some(Arc::new(Shared {
            lease,
            identity,
            term: watch::Sender::new(None),
            refused: watch::Sender::new(0),
            turns: TaskTracker::new(),
            takeovers: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            newest: AtomicU64::new(0),
        })))
    }

    /// Waits until this process leads. Cancellation safe. Decide after it, and write within [`Turn::run`].
    pub async fn turn(&self) -> Turn {
        let Some(shared) = &self.0 else { return Turn(None) };
        let mut term = shared.term.subscribe();
        loop {
            if let Some(turn) = self.turn_now() {
                return turn;
            }
            // The sender lives in `self`.
            let _ = term.changed().await;
        }
    }

    /// A turn where this process leads now.
    pub fn turn_now(&self) -> Option<Turn> {
        let Some(shared) = &self.0 else { return Some(Turn(None)) };
        let term = (*shared.term.borrow())?;
        Some(Turn(Some((term, shared.turns.token()))))
    }

    /// Completes at the next change of who leads; never where there is no election. Cancellation safe between calls
    /// with the same `seen`, which begins as [`Leadership::term`].
    pub async fn changed(&self, seen: Option<u64>) {
        match &self.0 {
            Some(shared) => {
                let _ = shared.term.subscribe().wait_for(|term| *term != seen).await;
            }
            None => std::future::pending().await,
        }
    }

    /// The term in which this process leads; none where it stands by, or there is no election.
    pub fn term(&self) -> Option<u64> {
        self.0.as_ref().and_then(|shared| *shared.term.borrow())
    }

    /// The same client, whose writes carry the term, and end with it.
    pub fn fenced(&self, client: kube::Client) -> kube::Client {
        match &self.0 {
            Some(shared) => fence::client(Arc::clone(shared), client),
            None => client,
        }
    }

    pub fn families(&self) -> Vec<Family> {
        let Some(shared) = &self.0 else { return Vec::new() };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let leads = u64::from(self.term().is_some());
        vec![
            Family::gauge("leader_leads", "Whether this process leads.").of(leads),
            Family::gauge("leader_term", "The last term that is known here.")
                .of(get(&shared.newest)),
            Family::counter("leader_takeovers", "Terms that began here.")
                .of(get(&shared.takeovers)),
            Family::counter("leader_losses", "Terms that ended here.").of(get(&shared.losses)),
            Family::counter("leader_refusals", "Writes of a term that was over.")
                .of(get(&shared.refusals)),
        ]
    }
}

/// A piece of a leader's work, within one term.
pub struct Turn(Option<(u64, TaskTrackerToken)>);

impl Turn {
    /// Runs work whose writes belong to this turn's term, and to no later one.
    pub async fn run<T>(self, work: impl Future<Output = T>) -> T {
        match &self.0 {
            Some((term, _token)) => TERM.scope(*term, work).await,
            None => work.await,
        }
    }
}

impl Shared {
    fn fence(&self, term: u64) -> Fence {
        Fence {
            namespace: self.lease.namespace.clone(),
            name: self.lease.name.clone(),
            term,
            holder: self.identity.clone(),
        }
    }

    fn lead(&self, term: u64) {
        self.takeovers.fetch_add(1, Ordering::Relaxed);
        self.newest.fetch_max(term, Ordering::Relaxed);
        self.term.send_replace(Some(term));
    }

    /// What is being written ends at once.
    fn step_down(&self) {
        if self.term.send_replace(None).is_some() {
            self.losses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The API said so.
    fn is_over(&self, term: u64) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        let ended = self.term.send_if_modified(|now| {
            let ends = *now == Some(term);
            if ends {
                *now = None;
            }
            ends
        });
        if ended {
            self.losses.fetch_add(1, Ordering::Relaxed);
        }
        self.refused.send_if_modified(|last| std::mem::replace(last, term) != term);
    }
}

#[cfg(test)]
mod tests;
