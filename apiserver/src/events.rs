//! Events live for an hour.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use warren_api::GroupResource;

use crate::api::Api;
use crate::authn::User;
use crate::authz::{Authorized, authorize};
use crate::cache::Scope;
use crate::commit::{Plan, commit};
use crate::prepare::Outcome;
use crate::request::{ResourceRequest, Verb};

/// Kubernetes' default `--event-ttl`.
const TTL: Duration = Duration::from_secs(3600);
const EVERY: Duration = Duration::from_secs(60);
/// Deletions that are committed at a time, so that a flood of expired Events does not hold up others.
const BATCH: usize = 256;

/// Removes Events that have not changed for [`TTL`], until shutdown.
pub(crate) async fn expire(api: Arc<Api>) {
    loop {
        tokio::select! {
            () = api.clock.sleep(EVERY) => {}
            () = api.shutdown.draining() => return,
        }
        expire_once(&api).await;
    }
}

async fn expire_once(api: &Api) {
    let events = GroupResource::new("", "events");
    let Some(kind) = api.registry.by_group_resource(&events) else { return };
    let Some(allowed) = proof(api) else { return };
    let oldest = api.clock.now().as_millisecond() - TTL.as_millis() as i64;
    let (entries, _) = api.cache.list(&events, Scope::All);
    let expired: Vec<_> = entries.iter().filter(|e| e.change.time_ms < oldest).collect();
    for chunk in expired.chunks(BATCH) {
        let deletions = chunk.iter().map(|entry| {
            let mut plan = || {
                Ok(Plan {
                    key: entry.change.key.clone(),
                    old: Some(Arc::clone(entry)),
                    outcome: Outcome::Remove(entry.object()),
                    expects: Vec::new(),
                    writes: Vec::new(),
                })
            };
            // One that has changed meanwhile is no longer old: the race is lost, and not run again.
            let allowed = &allowed;
            async move { commit(api, allowed, kind, false, false, &mut plan).await }
        });
        for error in join_all(deletions).await.into_iter().filter_map(Result::err) {
            tracing::debug!(error = %error.message, "an expired event was not removed");
        }
    }
}

/// The server asks itself, under a name that may do this alone.
fn proof(api: &Api) -> Option<Authorized> {
    let request = ResourceRequest {
        verb: Verb::DeleteCollection,
        group: String::new(),
        version: "v1".to_owned(),
        resource: "events".to_owned(),
        namespace: String::new(),
        name: String::new(),
        named: false,
        subresource: String::new(),
    };
    match authorize(&Arc::new(User::event_ttl()), &request, "", api) {
        Ok(allowed) => Some(allowed),
        Err(status) => {
            tracing::error!(error = %status.message, "expired events stay");
            None
        }
    }
}
