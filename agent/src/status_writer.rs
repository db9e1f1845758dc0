//! Writes the status of pods to the API: the latest wins, failures are tried again, nothing else waits for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::Mutex;
use tokio::sync::Notify;
use warren_process::Tasks;

use crate::api::{ApiError, SharedApi};
use crate::mirror::Mirrors;
use crate::pod::memory::Backoff;
use crate::pod::status;
use crate::runtime::PodRef;

/// Writes of one agent that are on their way at once.
const IN_FLIGHT: usize = 16;
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(200), last: Duration::from_secs(10) };

#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub pod: PodRef,
    /// The pod is static: its status stands in its mirror.
    pub mirror: bool,
    pub status: Arc<PodStatus>,
    /// Nothing of it is left: after this the object may go.
    pub delete: bool,
}

/// A handle; clones share it. Bounded by the number of pods: there is at most one update for each.
#[derive(Clone)]
pub(crate) struct StatusWriter(Arc<Shared>);

struct Shared {
    api: SharedApi,
    mirrors: Mirrors,
    pending: Mutex<Pending>,
    ready: Notify,
}

#[derive(Default)]
struct Pending {
    updates: HashMap<Arc<str>, Update>,
    in_flight: HashSet<Arc<str>>,
}

enum Outcome {
    Done,
    Again,
    /// The mirror is not there yet; [`StatusWriter::wake`] says when it is.
    Later,
}

impl StatusWriter {
    pub(crate) fn start(api: SharedApi, mirrors: Mirrors, tasks: &Tasks) -> Self {
        let shared =
            Arc::new(Shared { api, mirrors, pending: Mutex::default(), ready: Notify::new() });
        let (worker, shutdown) = (Arc::clone(&shared), tasks.shutdown().clone());
        tasks.spawn("status-writer", async move {
            tokio::select! {
                () = worker.run() => {}
                () = shutdown.draining() => {}
            }
        });
        Self(shared)
    }

    /// A deletion that waits stays one: the object would never go.
    pub(crate) fn put(&self, uid: Arc<str>, mut update: Update) {
        let mut pending = self.0.pending.lock();
        update.delete |= pending.updates.get(&uid).is_some_and(|old| old.delete);
        pending.updates.insert(uid, update);
        drop(pending);
        self.0.ready.notify_one();
    }

    /// The pod is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.pending.lock().updates.remove(uid);
    }

    /// A mirror has come, or the API has come back.
    pub(crate) fn wake(&self) {
        self.0.ready.notify_one();
    }
}

impl Shared {
    async fn run(&self) {
        let mut flying = FuturesUnordered::new();
        let mut failures = 0;
        let mut waiting: Vec<Arc<str>> = Vec::new();
        loop {
            while flying.len() < IN_FLIGHT {
                let Some((uid, update)) = self.take(&waiting) else { break };
                flying.push(async move {
                    let outcome = self.write(&uid, &update).await;
                    (uid, update, outcome)
                });
            }
            tokio::select! {
                Some((uid, update, outcome)) = flying.next() => {
                    match self.landed(&uid, update, &outcome) {
                        Outcome::Done => failures = 0,
                        Outcome::Later => waiting.push(uid),
                        Outcome::Again => {
                            failures += 1;
                            // Half of it is chance, so that a thousand agents do not come back at once.
                            let wait = BACKOFF.after(failures);
                            tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
                        }
                    }
                }
                () = self.ready.notified() => waiting.clear(),
            }
        }
    }

    fn take(&self, waiting: &[Arc<str>]) -> Option<(Arc<str>, Update)> {
        let mut pending = self.pending.lock();
        let pending = &mut *pending;
        let free = |uid: &&Arc<str>| !pending.in_flight.contains(*uid) && !waiting.contains(uid);
        let uid = pending.updates.keys().find(free)?.clone();
        let update = pending.updates.remove(&uid)?;
        pending.in_flight.insert(uid.clone());
        Some((uid, update))
    }

    /// What was not written waits again, unless something newer does.
    fn landed<'a>(&self, uid: &Arc<str>, update: Update, outcome: &'a Outcome) -> &'a Outcome {
        let mut pending = self.pending.lock();
        pending.in_flight.remove(uid);
        if !matches!(outcome, Outcome::Done) {
            let delete = update.delete;
            pending.updates.entry(uid.clone()).or_insert(update).delete |= delete;
        }
        outcome
    }

    async fn write(&self, uid: &Arc<str>, update: &Update) -> Outcome {
        let PodRef { namespace, name, .. } = &update.pod;
        let target = if update.mirror {
            match self.mirrors.uid_of(uid) {
                Some(mirror) => mirror,
                None => return Outcome::Later,
            }
        } else {
            uid.clone()
        };
        let patch = status::patch(Some(&target), &update.status);
        let mut result = self.api.patch_pod_status(namespace, name, &patch).await;
        if update.delete && (result.is_ok() || refused(&result)) {
            result = self.api.delete_pod(namespace, name, Some(&target), Some(0), None).await;
        }
        match result {
            Ok(()) => Outcome::Done,
            Err(error) if error.is_transient() => {
                tracing::debug!(pod = %update.pod, %error, "the status was not written; again later");
                Outcome::Again
            }
            // Another pod of that name, or none: nobody waits for this status.
            Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => Outcome::Done,
            Err(error) => {
                tracing::warn!(pod = %update.pod, %error, "the API refused a pod's status");
                Outcome::Done
            }
        }
    }
}

fn refused(result: &Result<(), ApiError>) -> bool {
    matches!(result, Err(ApiError::Refused(..)))
}
