//! Events live for an hour.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use warren_api::GroupResource;
use warren_store::{Expected, Item};

use crate::api::Api;
use crate::cache::Scope;
use crate::commit;

/// Kubernetes' default `--event-ttl`.
const TTL: Duration = Duration::from_secs(3600);
const EVERY: Duration = Duration::from_secs(60);
/// Deletions that are committed at a time, so that a flood of expired Events does not hold up others.
const BATCH: usize = 256;

/// Removes Events that have not changed for [`TTL`], until shutdown.
pub(crate) async fn expire(api: Arc<Api>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = api.shutdown.draining() => return,
        }
        expire_once(&api).await;
    }
}

async fn expire_once(api: &Api) {
    let events = GroupResource::new("", "events");
    let Some(kind) = api.registry.by_group_resource(&events) else { return };
    let oldest = api.clock.now().as_millisecond() - TTL.as_millis() as i64;
    let (entries, _) = api.cache.list(&events, Scope::All);
    let expired: Vec<_> = entries.iter().filter(|e| e.change.time_ms < oldest).collect();
    for chunk in expired.chunks(BATCH) {
        let deletions = chunk.iter().map(|entry| {
            let key = entry.change.key.clone();
            let expected = Expected::Revision(entry.revision());
            let write = commit::write(api, kind, key.clone(), Some(entry), &entry.object(), true);
            api.journal.commit(Item { expects: vec![(key, expected)], writes: vec![write] })
        });
        for error in join_all(deletions).await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "an expired event was not removed");
        }
    }
}
