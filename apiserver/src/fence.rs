//! Writes that hold only while their sender leads: the header [`FENCE_HEADER`].
//!
//! A leader that was stopped and wakes up does not know yet that another leads. What it then writes is refused here, in
//! the same transaction in which it would be written.

use std::sync::Arc;

use http::HeaderMap;
use warren_api::{Cause, FENCE_HEADER, Fence, FieldError, ObjectKey, Status};
use warren_store::Expected;

use crate::api::Api;
use crate::authn::User;
use crate::authz::{self, Facts};
use crate::cache::Cache;
use crate::request::{ResourceRequest, Verb};

/// The fence of a write, if its sender set one. Only whoever could take the Lease may name it: the answer tells of it.
pub(crate) fn of(
    headers: &HeaderMap,
    user: &Arc<User>,
    facts: &dyn Facts,
) -> Result<Option<Fence>, Status> {
    let mut all = headers.get_all(FENCE_HEADER).iter();
    let Some(value) = all.next() else { return Ok(None) };
    let bad = |why: &str| Status::bad_request(format!("the header {FENCE_HEADER} {why}"));
    if all.next().is_some() {
        return Err(bad("may stand once only"));
    }
    let text = value.to_str().map_err(|_| bad("must be printable ASCII"))?;
    let fence: Fence = text.parse().map_err(bad)?;
    let take = ResourceRequest {
        verb: Verb::Update,
        group: "coordination.k8s.io".to_owned(),
        version: "v1".to_owned(),
        resource: "leases".to_owned(),
        namespace: fence.namespace.clone(),
        name: fence.name.clone(),
        named: true,
        subresource: String::new(),
    };
    authz::authorize(user, &take, "", facts)?;
    Ok(Some(fence))
}

/// What must still hold when the write is committed; an error where the term is over.
pub(crate) fn check(fence: &Fence, api: &Api) -> Result<(ObjectKey, Expected), Status> {
    checked(fence, &api.cache).inspect_err(|status| {
        api.metrics.fenced_writes.inc();
        tracing::debug!(%fence, why = status.message, "a write of a term that is over was refused");
    })
}

fn checked(fence: &Fence, cache: &Cache) -> Result<(ObjectKey, Expected), Status> {
    let key = fence.key();
    let entry = cache.get(&key.resource, &key.namespace, &key.name);
    match entry {
        Some(entry) if holds(fence, entry.body()) => {
            Ok((key, Expected::Revision(entry.revision())))
        }
        Some(entry) => {
            let spec = spec(entry.body());
            let (term, holder) = (spec.lease_transitions, spec.holder_identity);
            let now = match holder.as_str() {
                "" => "nobody holds it".to_owned(),
                holder => format!("{holder:?} holds it at term {term}"),
            };
            Err(over(fence, &now))
        }
        None => Err(over(fence, "it is not there")),
    }
}

fn over(fence: &Fence, now: &str) -> Status {
    let key = fence.key();
    let why = format!("the term {} of {:?} is over: {now}", fence.term, fence.holder);
    let mut status = Status::conflict(&key.resource, &key.name, &why);
    let cause = FieldError { kind: Cause::TermOver, field: String::new(), message: why };
    status.details.get_or_insert_default().causes.push(cause);
    status
}

/// Whether the Lease says that the sender leads.
pub(crate) fn holds(fence: &Fence, lease: &[u8]) -> bool {
    let Spec { holder_identity, lease_transitions } = spec(lease);
    holder_identity == fence.holder && lease_transitions == fence.term
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    holder_identity: String,
    lease_transitions: u64,
}

/// Every write of a leader asks this, so the rest of the Lease is not read.
fn spec(lease: &[u8]) -> Spec {
    #[derive(serde::Deserialize)]
    struct Lease {
        #[serde(default)]
        spec: Spec,
    }
    serde_json::from_slice::<Lease>(lease).map(|lease| lease.spec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    struct Nothing;

    impl Facts for Nothing {
        fn node_of_pod(&self, _: &str, _: &str) -> Option<String> {
            None
        }
        fn node_refers_to(&self, _: &str, _: &str, _: &str, _: &str) -> bool {
            false
        }
        fn loopback_only(&self) -> bool {
            true
        }
    }

    /// Also where its words are those of the leader of now: a publisher is somebody else.
    #[test]
    fn who_could_not_take_the_lease_names_no_fence() {
        let (leader, node) = ("kube-system/warren-controllers@7/boss", "kube-node-lease/n@7/n");
        let next = "kube-system/warren-controllers@8/evil";
        for (user, fence, may) in [
            (User::controllers(), leader, true),
            (User::admin("admin"), leader, true),
            (User::broker(Some("mine")), leader, false),
            (User::broker(Some("mine")), next, false),
            (User::broker(Some("mine")), node, false),
            (User::broker(None), leader, false),
            (User::broker(None), next, false),
            (User::node("n"), leader, false),
            (User::node("n"), next, false),
            (User::node("m"), node, false),
            // Its own lease: what it says there of itself binds only itself.
            (User::node("n"), node, true),
        ] {
            let name = user.name.clone();
            let headers =
                [(http::HeaderName::from_static(FENCE_HEADER), HeaderValue::from_static(fence))];
            let of = of(&HeaderMap::from_iter(headers), &Arc::new(user), &Nothing);
            assert_eq!(of.is_ok(), may, "{name} {fence}");
            assert!(may || of.is_err_and(|status| status.reason.code() == 403), "{name} {fence}");
        }
    }
}
