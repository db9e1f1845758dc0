//! One agent for a node: a copied data folder, a cloned machine or a name that was given twice would run every pod of the
//! node twice, and both would write its statuses for ever.
//!
//! The lease says in an annotation who renews it. An agent that finds another one there waits while that one renews.
//! Clocks are not compared: what counts is that the lease changes while it is looked at. Where the API does not answer the
//! node starts, as it must.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

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
                if since.elapsed() >= duration {
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
                api.patch_lease("n", &json!({"spec": {"renewTime": at}})).await.unwrap();
            }
        };
        let (waited, ()) = tokio::join!(wait(&api, "b"), renewing);
        assert!(waited >= Duration::from_secs(200) + DURATION - LOOK_EVERY, "{waited:?}");
        assert!(waited < Duration::from_secs(200) + DURATION + 3 * LOOK_EVERY, "{waited:?}");
    }

    #[test]
    fn a_cloned_machine_is_another() {
        assert_ne!(instance(b"key", "boot-1"), instance(b"key", "boot-2"));
        assert_ne!(instance(b"key", "boot"), instance(b"other", "boot"));
        assert_eq!(instance(b"key", "boot").len(), 16);
    }
}
