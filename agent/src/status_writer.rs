//! Writes the status of pods to the API: the latest wins, failures are tried again, nothing else waits for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use warren_process::Tasks;
use warren_process::trace::{Step, Trace};

use crate::api::{ApiError, SharedApi};
use crate::context::about_pod;
use crate::mirror::Mirrors;
use crate::pod::memory::Backoff;
use crate::pod::status;
use crate::runtime::PodRef;

/// Writes of one agent that are on their way at once.
const IN_FLIGHT: usize = 16;
/// How long a status waits that only says that the containers are being made. Where that takes no longer, the status that
/// follows is the first one, and the write is saved.
const SETTLE: Duration = Duration::from_millis(25);
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
    trace: Trace,
    pending: Mutex<Pending>,
    ready: Notify,
}

#[derive(Default)]
struct Pending {
    updates: HashMap<Arc<str>, Waiting>,
    in_flight: HashSet<Arc<str>>,
}

struct Waiting {
    update: Update,
    not_before: Instant,
}

impl Waiting {
    fn new(update: Update, now: Instant) -> Self {
        let settles = !update.delete && status::is_interim(&update.status);
        Self { update, not_before: if settles { now + SETTLE } else { now } }
    }
}

enum Outcome {
    Done,
    Again,
    /// The mirror is not there yet; [`StatusWriter::wake`] says when it is.
    Later,
}

impl StatusWriter {
    pub(crate) fn start(api: SharedApi, mirrors: Mirrors, trace: Trace, tasks: &Tasks) -> Self {
        let (pending, ready) = (Mutex::default(), Notify::new());
        let shared = Arc::new(Shared { api, mirrors, trace, pending, ready });
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
        let old = pending.updates.get(&uid);
        update.delete |= old.is_some_and(|old| old.update.delete);
        let mut new = Waiting::new(update, Instant::now());
        if let Some(old) = old {
            new.not_before = new.not_before.min(old.not_before);
        }
        pending.updates.insert(uid, new);
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
            let settled = self.next_settled(&waiting);
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
                () = until(settled), if flying.len() < IN_FLIGHT => {}
            }
        }
    }

    fn take(&self, waiting: &[Arc<str>]) -> Option<(Arc<str>, Update)> {
        let mut pending = self.pending.lock();
        let pending = &mut *pending;
        let now = Instant::now();
        let uid = pending.free(waiting).find(|(_, at)| *at <= now)?.0.clone();
        let Waiting { update, .. } = pending.updates.remove(&uid)?;
        pending.in_flight.insert(uid.clone());
        Some((uid, update))
    }

    /// When the first of those that settle may go.
    fn next_settled(&self, waiting: &[Arc<str>]) -> Option<Instant> {
        self.pending.lock().free(waiting).map(|(_, at)| at).min()
    }

    /// What was not written waits again, unless something newer does.
    fn landed<'a>(&self, uid: &Arc<str>, update: Update, outcome: &'a Outcome) -> &'a Outcome {
        let mut pending = self.pending.lock();
        pending.in_flight.remove(uid);
        if !matches!(outcome, Outcome::Done) {
            let delete = update.delete;
            let again = Waiting { update, not_before: Instant::now() };
            pending.updates.entry(uid.clone()).or_insert(again).update.delete |= delete;
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
            Ok(()) => {
                self.trace.push(Step::Reported, about_pod(&update.pod), said(update));
                Outcome::Done
            }
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

impl Pending {
    /// Updates that nothing holds up, and from when on they may go.
    fn free<'a>(
        &'a self,
        waiting: &'a [Arc<str>],
    ) -> impl Iterator<Item = (&'a Arc<str>, Instant)> {
        let free = |uid: &Arc<str>| !self.in_flight.contains(uid) && !waiting.contains(uid);
        self.updates.iter().filter(move |(uid, _)| free(uid)).map(|(uid, w)| (uid, w.not_before))
    }
}

/// `Running, 1 of 2 containers ready`
fn said(update: &Update) -> String {
    let phase = update.status.phase.as_deref().unwrap_or("no phase");
    let containers = update.status.container_statuses.as_deref().unwrap_or_default();
    let ready = containers.iter().filter(|container| container.ready).count();
    let gone = if update.delete { ", and that nothing is left" } else { "" };
    format!("{phase}, {ready} of {} containers ready{gone}", containers.len())
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn refused(result: &Result<(), ApiError>) -> bool {
    matches!(result, Err(ApiError::Refused(..)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn update(status: serde_json::Value, delete: bool) -> Update {
        let pod = PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        let status = Arc::new(serde_json::from_value(status).unwrap());
        Update { pod, mirror: false, status, delete }
    }

    #[test]
    fn only_a_status_of_containers_that_are_being_made_may_wait() {
        let waiting = |reason: &str| {
            let state = json!({"waiting": {"reason": reason}});
            let container = json!({"name": "a", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state});
            json!({"phase": "Pending", "containerStatuses": [container]})
        };
        let running = json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "",
            "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
        let now = Instant::now();
        for (status, delete, waits) in [
            (waiting("ContainerCreating"), false, true),
            (waiting("PodInitializing"), false, true),
            (waiting("ContainerCreating"), true, false),
            (waiting("ImagePullBackOff"), false, false),
            (running, false, false),
            (json!({"phase": "Pending"}), false, false),
        ] {
            let got = Waiting::new(update(status.clone(), delete), now).not_before;
            assert_eq!(got > now, waits, "{status}");
        }
    }
}
