//! Writes the status of pods to the API: the latest wins, failures are tried again, nothing else waits for it. What the API
//! does not take is on disk until it does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use warren_process::Tasks;
use warren_process::trace::{Step, Trace};

use crate::api::{ApiError, SharedApi};
use crate::claim::Vigil;
use crate::context::about_pod;
use crate::keep::Keep;
use crate::mirror::Mirrors;
use crate::pod::memory::Backoff;
use crate::pod::status;
use crate::runtime::PodRef;

use queue::{Again, Queue, Row, Taken};

mod queue;

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

/// An update as it is on disk.
#[derive(Serialize, Deserialize)]
struct KeptUpdate {
    sequence: u64,
    namespace: String,
    name: String,
    status: PodStatus,
    delete: bool,
}

/// A handle; clones share it. Bounded by the number of pods: there is at most one update for each.
#[derive(Clone)]
pub(crate) struct StatusWriter(Arc<Shared>);

struct Shared {
    api: SharedApi,
    node: String,
    keep: Arc<dyn Keep>,
    mirrors: Mirrors,
    vigil: Arc<Vigil>,
    trace: Trace,
    queue: Mutex<Queue>,
    ready: Notify,
    back: Notify,
}

enum Outcome {
    Done,
    /// The API is not there, or cannot now.
    Failed,
    /// The mirror is not there yet; [`StatusWriter::wake`] says when it is.
    NoMirror,
}

impl StatusWriter {
    pub(crate) fn start(
        api: SharedApi,
        node: &str,
        keep: Arc<dyn Keep>,
        mirrors: Mirrors,
        vigil: Arc<Vigil>,
        trace: Trace,
        tasks: &Tasks,
    ) -> Self {
        let shared = Arc::new(Shared {
            api,
            node: node.to_owned(),
            keep,
            mirrors,
            vigil,
            trace,
            queue: Mutex::default(),
            ready: Notify::new(),
            back: Notify::new(),
        });
        let (worker, shutdown) = (Arc::clone(&shared), tasks.shutdown().clone());
        tasks.spawn("status-writer", async move {
            tokio::select! {
                () = worker.run() => {}
                () = shutdown.draining() => {}
            }
        });
        Self(shared)
    }

    /// What an agent before this one could not tell, by uid. It is told before anything new.
    pub(crate) async fn restore(&self) -> Vec<(Arc<str>, Arc<PodStatus>)> {
        let rows = match self.0.keep.statuses().await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(%error, "the kept statuses of pods cannot be read");
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (uid, bytes) in rows {
            let uid = Arc::<str>::from(uid);
            match serde_json::from_slice::<KeptUpdate>(&bytes) {
                Ok(KeptUpdate { sequence, namespace, name, status, delete }) => {
                    let status = Arc::new(status);
                    found.push((uid.clone(), Arc::clone(&status)));
                    let pod =
                        PodRef { namespace: namespace.into(), name: name.into(), uid: uid.clone() };
                    let update = Update { pod, mirror: false, status, delete };
                    self.0.queue.lock().restore(uid, update, sequence, Instant::now());
                }
                Err(error) => tracing::warn!(%uid, %error, "a kept status cannot be read"),
            }
        }
        self.0.ready.notify_one();
        found
    }

    /// A deletion that waits stays one: the object would never go.
    pub(crate) fn put(&self, uid: Arc<str>, update: Update) {
        self.0.queue.lock().put(uid, update, Instant::now());
        self.0.ready.notify_one();
    }

    /// The pod is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.queue.lock().forget(uid);
        self.0.ready.notify_one();
    }

    /// A mirror has come, or the API has come back.
    pub(crate) fn wake(&self) {
        self.0.queue.lock().mirrors_came();
        self.0.back.notify_one();
    }
}

impl Shared {
    async fn run(&self) {
        let mut flying = FuturesUnordered::new();
        let mut failures = 0;
        let mut retry: Option<Instant> = None;
        // The API was asked, and answers: what fails now is not for its being away.
        let mut answers = false;
        loop {
            self.keep_up().await;
            self.vigil.may_act().await;
            while let Some(taken) = self.take() {
                flying.push(async move {
                    let outcome = self.write(&taken.uid, &taken.update).await;
                    (taken, outcome)
                });
            }
            let settled = self.queue.lock().next_settled();
            tokio::select! {
                Some((taken, outcome)) = flying.next() => {
                    let why = match outcome {
                        Outcome::Done => {
                            (failures, answers) = (0, false);
                            self.queue.lock().done(&taken.uid);
                            continue;
                        }
                        Outcome::NoMirror => Again::NoMirror,
                        Outcome::Failed => {
                            failures += 1;
                            // Half of it is chance, so that a thousand agents do not come back at once.
                            let wait = BACKOFF.after(failures);
                            let wait = wait.mul_f64(rand::random_range(0.5..1.0));
                            retry = Some(Instant::now() + wait);
                            if std::mem::take(&mut answers) { Again::Stuck } else { Again::Away }
                        }
                    };
                    self.queue.lock().again(taken, why, Instant::now());
                }
                () = self.ready.notified() => {}
                () = self.back.notified() => retry = retry.map(|_| Instant::now()),
                () = until(settled) => {}
                () = until(retry), if retry.is_some() => {
                    let away = self.queue.lock().away;
                    if away && self.is_away().await {
                        failures += 1;
                        let wait = BACKOFF.after(failures).mul_f64(rand::random_range(0.5..1.0));
                        retry = Some(Instant::now() + wait);
                        continue;
                    }
                    answers = away;
                    retry = None;
                    self.queue.lock().is_back();
                }
            }
        }
    }

    fn take(&self) -> Option<Taken> {
        self.queue.lock().take(Instant::now())
    }

    /// Asks for something small: which of many updates the API will not take is only known where it answers.
    async fn is_away(&self) -> bool {
        matches!(self.api.node(&self.node).await, Err(error) if error.is_transient())
    }

    /// Brings the rows on disk up to date. A failure is told, and costs what a killed agent had not told.
    async fn keep_up(&self) {
        let rows = self.queue.lock().rows();
        for row in rows {
            let (uid, body) = match &row {
                Row::Delete(uid) => (uid, None),
                Row::Put(uid, sequence) => {
                    let queue = self.queue.lock();
                    let Some(update) = queue.update(uid) else { continue };
                    let kept = KeptUpdate {
                        sequence: *sequence,
                        namespace: update.pod.namespace.to_string(),
                        name: update.pod.name.to_string(),
                        status: (*update.status).clone(),
                        delete: update.delete,
                    };
                    let Ok(body) = serde_json::to_vec(&kept) else { continue };
                    (uid, Some(Bytes::from(body)))
                }
            };
            if let Err(error) = self.keep.put_status(uid, body).await {
                tracing::warn!(%uid, %error, "a pod's status is not kept for a start without the API");
            }
            self.queue.lock().wrote(&row);
        }
    }

    async fn write(&self, uid: &Arc<str>, update: &Update) -> Outcome {
        let PodRef { namespace, name, .. } = &update.pod;
        let target = if update.mirror {
            match self.mirrors.uid_of(uid) {
                Some(mirror) => mirror,
                None => return Outcome::NoMirror,
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
                Outcome::Failed
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
