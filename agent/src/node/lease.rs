//! The node's lease: its heartbeat.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;
use warren_api::LISTED;

use crate::api::{ApiError, LEASE_NAMESPACE};
use crate::claim::INSTANCE;
use crate::context::Context;

/// Heartbeats that ask where the streams stand are spread over this time.
const ASK_JITTER: Duration = Duration::from_millis(500);

/// Who renews the lease, and with which list what runs here agrees.
fn said_of_lease(context: &Context) -> BTreeMap<String, String> {
    let agreed = *context.agreed.lock();
    let listed = agreed.map(|at| (LISTED.to_owned(), at.to_string()));
    let instance = context.instance.clone().map(|instance| (INSTANCE.to_owned(), instance));
    listed.into_iter().chain(instance).collect()
}

/// Renews the node's lease. After a silence in which others may have taken it for lost, the node's state is told again. The
/// first beats of many nodes are spread over one interval.
pub(super) async fn keep_fresh(context: &Context, node_uid: &str) {
    let config = &context.config;
    let lease = |now: Timestamp| Lease {
        metadata: ObjectMeta {
            name: Some(config.node.clone()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            annotations: Some(said_of_lease(context)).filter(|said| !said.is_empty()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: config.node.clone(),
                uid: node_uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(config.node.clone()),
            lease_duration_seconds: Some(config.lease_seconds),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    let mut first = true;
    let mut renewed = context.now();
    loop {
        // Another's lease is not written over.
        context.vigil.may_act().await;
        let now = context.now();
        let mut patch = json!({"spec": {
            "holderIdentity": config.node,
            "leaseDurationSeconds": config.lease_seconds,
            "renewTime": MicroTime(now),
        }});
        let said = said_of_lease(context);
        if !said.is_empty() {
            patch["metadata"] = json!({"annotations": said});
        }
        let asked = context.heads.asked(&context.node);
        let renewal = context.api.patch_lease(&config.node, &patch, asked.as_ref()).await;
        if let Some(asked) = &asked {
            context.heads.answered(asked, renewal.clone().map_err(drop));
        }
        let result = match renewal {
            Err(ApiError::NotFound(_)) => context.api.create_lease(&lease(now)).await,
            result => result.map(drop),
        };
        if result.is_ok() {
            if context.now() > crate::pod::memory::later(renewed, config.heartbeat * 2) {
                context.tell_again.notify_one();
            }
            renewed = now;
        }
        let pause = match result {
            Ok(()) if std::mem::take(&mut first) => {
                config.heartbeat.mul_f64(rand::random_range(0.1..1.0))
            }
            Ok(()) => config.heartbeat,
            Err(error) => {
                tracing::debug!(node = %config.node, %error, "the lease was not renewed");
                (config.heartbeat / 5).max(Duration::from_millis(200))
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Where a broker comes back, many want to know.
            () = context.heads.soon() => tokio::time::sleep(ASK_JITTER.mul_f64(rand::random())).await,
        }
    }
}
