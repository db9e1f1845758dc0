//! The Lease of the election as the API has it: what an operation writes, and what its answer says. Pure.

use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use serde_json::{Value, json};
use warren_broker::election::{Action, Input, Lease};

/// For clients that know Leases and not us.
const LEASE_SECONDS: i32 = 15;

/// What an operation writes: a merge patch, or a new Lease where the version that it names is empty. `None` where it only
/// reads, or is no operation. `now` as Kubernetes' MicroTime.
pub fn change(operation: &Action, now: &str) -> Option<Value> {
    let (lease, spec) = match operation {
        Action::Take(lease) => {
            let spec = json!({
                "holderIdentity": lease.holder, "leaseTransitions": lease.term, "acquireTime": now,
                "renewTime": now, "leaseDurationSeconds": LEASE_SECONDS,
            });
            (lease, spec)
        }
        Action::Renew(lease) => (lease, json!({"renewTime": now})),
        Action::Release(lease) => (lease, json!({"holderIdentity": null})),
        _ => return None,
    };
    Some(json!({"metadata": {"resourceVersion": lease.version}, "spec": spec}))
}

/// What the API answered with.
pub fn read(lease: LeaseObject) -> Lease {
    let spec = lease.spec.unwrap_or_default();
    let transitions = spec.lease_transitions.unwrap_or(0);
    Lease {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        term: u64::try_from(transitions).unwrap_or(0),
        version: lease.metadata.resource_version.unwrap_or_default(),
    }
}

/// What a refusal with this code means.
pub fn refused(code: u16, is_read: bool) -> Input {
    match code {
        404 if is_read => Input::Lease(Lease::default()),
        404 | 409 => Input::Conflict,
        _ => Input::Failed,
    }
}
