//! One agent for a node: a copied data folder, a cloned machine or a name that was given twice would run every pod of the
//! node twice, and both would write its statuses for ever.
//!
//! The lease says in an annotation who renews it. An agent that finds another one there waits while that one renews.
//! Clocks are not compared: what counts is that the lease changes while it is looked at. Where the API does not answer the
//! node starts, as it must.
//!
//! An agent that was stopped (SIGSTOP, a machine that slept) does nothing before it has looked again: its lease may have
//! run out meanwhile, another may be the node, and its pods may run elsewhere.
//!
//! A live agent renews four times in a lease, and one that did not run for a quarter of it looks before it acts: who has
//! not renewed for half a lease does nothing of its own accord, and a node that was rebooted need not wait for longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;
use warren_process::{Clock, Shutdown};

use crate::api::{ApiError, SharedApi};

/// Who renews a lease: the agent's folder and the machine's boot. Written with each renewal.
pub(crate) const INSTANCE: &str = "warren.dev/agent-instance";

/// A node that starts does not wait longer for an API that does not answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the lease of another one is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// 16 hex digits that a copy of the folder has as well, but not on another machine.
pub(crate) fn instance(key: &[u8], boot_id: &str) -> String {
    let hash = Sha256::new().chain_update(key).chain_update(boot_id.as_bytes()).finalize();
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until nobody else is this node. Cancellation safe.
pub(crate) async fn claim(api: &SharedApi, node: &str, instance: &str, duration: Duration) {
    let mut seen: Option<(Lease, Instant)> = None;
    loop {
        let lease = match tokio::time::timeout(PATIENCE, api.node_lease(node)).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(ApiError::NotFound(_) | ApiError::Refused(..))) => return,
            // A node that saw another one waits; one that saw nobody starts.
            _ if seen.is_none() => return,
            _ => {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
        };
        let Some(other) = other(&lease, instance) else { return };
        match &seen {
            Some((known, since)) if renewed(known) == renewed(&lease) => {
                if since.elapsed() >= patience(duration, known) {
                    tracing::info!(node, other, "the agent that was this node is gone");
                    return;
                }
            }
            known => {
                if known.is_some() {
                    tracing::error!(
                        node,
                        other,
                        "another agent is this node and renews its lease; nothing starts here until it is stopped"
                    );
                }
                seen = Some((lease, Instant::now()));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How long a lease must stand still. What was renewed was seen a look later.
fn patience(own: Duration, lease: &Lease) -> Duration {
    let said = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let said = said.map_or(Duration::ZERO, |s| Duration::from_secs(s.max(0).unsigned_abs().into()));
    own.max(said) / 2 + LOOK_EVERY
}

/// Notices that the process did not run for a while.
pub(crate) struct Vigil {
    /// After so long a pause another may be the node. `None`: there is no other.
    limit: Option<Duration>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    awake: Mutex<(Instant, Timestamp)>,
    resumed: Notify,
    /// The node's pods must be listed, and were.
    asks: Notify,
    listed: Notify,
    /// The process has slept, and the pods' worker has not taken in what it missed.
    behind: AtomicBool,
    woke: Notify,
}

/// How often it is noted that the process runs, at most.
const TICK: Duration = Duration::from_secs(1);

impl Vigil {
    /// `lease`: how long a lease counts, where it is looked at who renews it.
    pub(crate) fn new(lease: Option<Duration>, clock: Arc<dyn Clock>, shutdown: Shutdown) -> Self {
        let awake = Mutex::new((Instant::now(), clock.now()));
        Self {
            // A busy machine stalls for a second; what others wait for has that to spare.
            limit: lease.map(|lease| (lease / 4).max(LOOK_EVERY)),
            clock,
            shutdown,
            awake,
            resumed: Notify::new(),
            asks: Notify::new(),
            listed: Notify::new(),
            behind: AtomicBool::new(false),
            woke: Notify::new(),
        }
    }

    /// Waits until it is sure that nobody else is this node, or for shutdown. Cancellation safe. At once unless the
    /// process was stopped.
    pub(crate) async fn may_act(&self) {
        while self.overslept() {
            let resumed = self.resumed.notified();
            tokio::pin!(resumed);
            resumed.as_mut().enable();
            if !self.overslept() {
                return;
            }
            tokio::select! {
                () = resumed => {}
                () = self.shutdown.draining() => return,
            }
        }
    }

    /// For what was on its way already: also until the pods' worker knows what the process missed. Cancellation safe.
    pub(crate) async fn may_start(&self) {
        loop {
            self.may_act().await;
            let resumed = self.resumed.notified();
            tokio::pin!(resumed);
            resumed.as_mut().enable();
            if !self.is_behind() {
                return;
            }
            tokio::select! {
                () = resumed => {}
                () = self.shutdown.draining() => return,
            }
        }
    }

    /// Whether the process has slept, and [`Vigil::caught_up`] was not said since.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Acquire)
    }

    pub(crate) fn caught_up(&self) {
        self.behind.store(false, Ordering::Release);
        self.resumed.notify_waiters();
    }

    /// Waits until the process has slept and may act again. For one listener. Cancellation safe.
    pub(crate) async fn woke(&self) {
        self.woke.notified().await;
    }

    /// Waits until the node's pods are to be listed, to which [`Vigil::listed`] is the answer. For one listener.
    /// Cancellation safe.
    pub(crate) async fn asks_for_a_list(&self) {
        self.asks.notified().await;
    }

    pub(crate) fn listed(&self) {
        self.listed.notify_waiters();
    }

    /// Follows the claim. Never ends.
    pub(crate) async fn run(&self, api: &SharedApi, node: &str, instance: &str, lease: Duration) {
        loop {
            if self.overslept() {
                tracing::warn!(
                    node,
                    "this agent was stopped for longer than a quarter of its lease; looking whether another is this node"
                );
                claim(api, node, instance, lease).await;
                let listed = self.listed.notified();
                tokio::pin!(listed);
                listed.as_mut().enable();
                self.asks.notify_one();
                // Where the API does not answer the node goes on, as at a start.
                let _ = tokio::time::timeout(PATIENCE, listed).await;
                self.behind.store(true, Ordering::Release);
                self.woke.notify_one();
            }
            *self.awake.lock() = (Instant::now(), self.clock.now());
            self.resumed.notify_waiters();
            let tick = self.limit.map_or(TICK, |limit| TICK.min(limit / 4));
            tokio::time::sleep(tick).await;
        }
    }

    /// By both clocks: one stands still while the machine sleeps, the other may be set.
    fn overslept(&self) -> bool {
        let Some(limit) = self.limit else { return false };
        let (instant, time) = *self.awake.lock();
        let by_time = Duration::try_from(self.clock.now().duration_since(time));
        instant.elapsed().max(by_time.unwrap_or_default()) > limit
    }
}

fn other<'a>(lease: &'a Lease, instance: &str) -> Option<&'a str> {
    let annotations = lease.metadata.annotations.as_ref()?;
    annotations.get(INSTANCE).map(String::as_str).filter(|other| *other != instance)
}

fn renewed(lease: &Lease) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime> {
    lease.spec.as_ref()?.renew_time.as_ref()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::api::NodeApi as _;
    use crate::testing::FakeApi;

    const DURATION: Duration = Duration::from_secs(40);

    fn lease(instance: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "annotations": {INSTANCE: instance}},
            "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"},
        }))
        .unwrap()
    }

    async fn wait(api: &Arc<FakeApi>, instance: &str) -> Duration {
        let (start, api) = (Instant::now(), Arc::clone(api) as SharedApi);
        claim(&api, "n", instance, DURATION).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_starts_at_once() {
        let api = Arc::new(FakeApi::default());
        assert_eq!(wait(&api, "a").await, Duration::ZERO);
        api.create_lease(&lease("a")).await.unwrap();
        assert_eq!(wait(&api, "a").await, Duration::ZERO, "its own, from before");
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_another_waits_until_it_is_gone() {
        let api = Arc::new(FakeApi::default());
        api.create_lease(&lease("a")).await.unwrap();
        let renewing = async {
            for n in 10..30 {
                tokio::time::sleep(Duration::from_secs(10)).await;
                let at = format!("2026-01-01T00:00:{n}.000000Z");
                api.patch_lease("n", &json!({"spec": {"renewTime": at}}), None).await.unwrap();
            }
        };
        let (waited, ()) = tokio::join!(wait(&api, "b"), renewing);
        let half = Duration::from_secs(200) + DURATION / 2;
        assert!(waited >= half, "{waited:?}");
        assert!(waited < half + 3 * LOOK_EVERY, "{waited:?}");
    }

    /// `advance` is what a stopped process sees: the time has passed, and nothing was run.
    #[tokio::test(start_paused = true)]
    async fn who_was_stopped_looks_before_it_acts() {
        let api = Arc::new(FakeApi::default());
        api.create_lease(&lease("a")).await.unwrap();
        let tasks = warren_process::Tasks::new();
        let clock = Arc::new(crate::testing::TokioClock::new());
        let vigil = Arc::new(Vigil::new(Some(DURATION), clock, tasks.shutdown().clone()));
        let (follower, shared) = (Arc::clone(&vigil), Arc::clone(&api) as SharedApi);
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("vigil", async move {
            tokio::select! {
                () = follower.run(&shared, "n", "a", DURATION) => {}
                () = shutdown.draining() => {}
            }
        });
        // Who feeds the pods' worker, and the worker.
        let (feed, shutdown) = (Arc::clone(&vigil), tasks.shutdown().clone());
        tasks.spawn("feed", async move {
            let work = async {
                loop {
                    feed.asks_for_a_list().await;
                    feed.listed();
                }
            };
            tokio::select! {
                () = work => {}
                () = shutdown.draining() => {}
            }
        });
        let waited = async || {
            let start = Instant::now();
            vigil.may_act().await;
            start.elapsed()
        };
        assert_eq!(waited().await, Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(waited().await, Duration::ZERO, "it ran all the time");
        tokio::time::advance(DURATION).await;
        assert!(waited().await <= TICK, "nobody has come meanwhile");
        vigil.woke().await;
        let mut start = std::pin::pin!(vigil.may_start());
        let soon = tokio::time::timeout(DURATION / 8, &mut start).await;
        assert!(soon.is_err(), "the worker does not know yet what it missed");
        vigil.caught_up();
        start.await;

        let patch = json!({"metadata": {"annotations": {INSTANCE: "b"}}});
        api.patch_lease("n", &patch, None).await.unwrap();
        tokio::time::advance(DURATION).await;
        let waited_for_the_other = waited().await;
        assert!(waited_for_the_other >= DURATION / 2, "{waited_for_the_other:?}");
        tasks.shutdown().trigger();
        tasks.wait(Duration::from_secs(5)).await.unwrap();
    }

    #[test]
    fn a_cloned_machine_is_another() {
        assert_ne!(instance(b"key", "boot-1"), instance(b"key", "boot-2"));
        assert_ne!(instance(b"key", "boot"), instance(b"other", "boot"));
        assert_eq!(instance(b"key", "boot").len(), 16);
    }
}
