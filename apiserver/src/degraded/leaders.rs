//! Who leads: the Leases that say so.

use std::time::Duration;

use warren_api::{GroupResource, LEADER_QUEUE};

use crate::cache::{Cache, Scope};

/// There are as many as nodes, and nobody leads by them.
const HEARTBEATS: &str = "kube-node-lease";

/// A group of processes of which one acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    /// `namespace/name`
    pub lease: String,
    pub holder: Option<String>,
    pub term: u64,
    /// How long ago.
    pub renewed: Duration,
    /// The `<name>` of `controllers.<name>.leader`, where there is a broker.
    pub queue: Option<String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    holder_identity: Option<String>,
    lease_transitions: u64,
    renew_time: Option<jiff::Timestamp>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Metadata {
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
struct Lease {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

/// All Leases of our own elections, in order.
pub(super) fn all(cache: &Cache) -> Vec<Leader> {
    let resource = GroupResource::new("coordination.k8s.io", "leases");
    let (entries, _) = cache.list(&resource, Scope::All);
    let ours = entries.iter().filter(|entry| &*entry.change.key.namespace != HEARTBEATS);
    ours.filter_map(|entry| {
        let Lease { metadata, spec } = serde_json::from_slice(entry.body()).ok()?;
        let queue = metadata.annotations.get(LEADER_QUEUE)?;
        let key = &entry.change.key;
        let renewed = spec
            .renew_time
            .map_or(0, |at| jiff::Timestamp::now().as_millisecond() - at.as_millisecond());
        Some(Leader {
            lease: format!("{}/{}", key.namespace, key.name),
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            term: spec.lease_transitions,
            renewed: Duration::from_millis(u64::try_from(renewed).unwrap_or(0)),
            queue: Some(queue.clone()).filter(|queue| !queue.is_empty()),
        })
    })
    .collect()
}
