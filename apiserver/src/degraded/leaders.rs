//! Who leads: the Leases that say so.

use std::time::Duration;

use warren_api::{GroupResource, LEADER_QUEUE};
use warren_store::Change;

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
    /// How long ago, by our own clock: renewTime is by another's.
    pub renewed: Duration,
    /// The `<name>` of `controllers.<name>.leader`, where there is a broker.
    pub queue: Option<String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    holder_identity: Option<String>,
    lease_transitions: u64,
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
pub(super) fn all(cache: &Cache, now: jiff::Timestamp) -> Vec<Leader> {
    let resource = GroupResource::new("coordination.k8s.io", "leases");
    let (entries, _) = cache.list(&resource, Scope::All);
    let ours = entries.iter().filter(|entry| &*entry.change.key.namespace != HEARTBEATS);
    ours.filter_map(|entry| read(&entry.change, now)).collect()
}

/// `None` of a Lease that is no election of ours.
fn read(change: &Change, now: jiff::Timestamp) -> Option<Leader> {
    let Lease { metadata, spec } = serde_json::from_slice(&change.body).ok()?;
    let queue = metadata.annotations.get(LEADER_QUEUE)?;
    let key = &change.key;
    let renewed = now.as_millisecond() - change.time_ms;
    Some(Leader {
        lease: format!("{}/{}", key.namespace, key.name),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        term: spec.lease_transitions,
        renewed: Duration::from_millis(u64::try_from(renewed).unwrap_or(0)),
        queue: Some(queue.clone()).filter(|queue| !queue.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use warren_api::{ObjectKey, Revision, Uid};

    use super::*;

    #[test]
    fn a_leaders_clock_may_be_wrong() {
        let lease = json!({
            "metadata": {"annotations": {LEADER_QUEUE: "controllers"}},
            "spec": {
                "holderIdentity": "host_1", "leaseTransitions": 3,
                "renewTime": "2001-01-01T00:00:00.000000Z",
            },
        });
        let resource = GroupResource::new("coordination.k8s.io", "leases");
        let change = Change {
            revision: Revision(1),
            prev: Revision(0),
            key: ObjectKey::new(resource, "kube-system", "warren-controllers"),
            uid: Uid("u".into()),
            op: warren_store::Op::Modified,
            durability: warren_store::Durability::Durable,
            streams: Default::default(),
            time_ms: 1_800_000_000_000,
            body: lease.to_string().into(),
        };
        let at = |ms| jiff::Timestamp::from_millisecond(change.time_ms + ms).unwrap();
        let renewed = |ms| read(&change, at(ms)).unwrap().renewed;
        assert_eq!(renewed(1_500), Duration::from_millis(1_500));
        // Ours may be put back.
        assert_eq!(renewed(-1), Duration::ZERO);
    }
}
