//! What travels: one change of one object.

use bytes::Bytes;
use smallvec::SmallVec;
use warren_api::{GroupResource, ObjectKey, Revision, Shard, Uid};
use warren_process::trace::{About, Subject};

/// A resource and a shard of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    pub resource: GroupResource,
    pub shard: Shard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

/// A change as the fabric carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The incarnation of the server's database.
    pub epoch: u64,
    pub revision: Revision,
    pub uid: Uid,
    pub key: ObjectKey,
    pub event_type: EventType,
    /// The shards that the event is published to, the object's own first, each with the revision of the event before
    /// it in that stream (0 for none).
    pub shards: SmallVec<[(Shard, Revision); 2]>,
    /// The object as JSON; its metadata only where the kind is published so. The message's body is
    /// `{"type":"ADDED","object":<this>}`.
    pub object: Bytes,
    /// What a pod's node has first: the present state of what the pod refers to, where no other pod there does. Written
    /// only; a reader gets each by itself.
    pub brings: Vec<Present>,
}

/// An object as it is, of which nothing has changed: it is in no stream, and its loss shows by nothing but that it is not there.
/// Whoever lacks it asks the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The object's own.
    pub revision: Revision,
    pub uid: Uid,
    pub key: ObjectKey,
    pub object: Bytes,
}

impl Event {
    /// For the hops of its way.
    pub fn about(&self) -> About {
        about(&self.key, &self.uid, self.revision)
    }
}

/// What hops say of a change.
pub fn about(key: &ObjectKey, uid: &Uid, revision: Revision) -> About {
    let subject = Subject {
        group: key.resource.group.clone(),
        resource: key.resource.resource.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    };
    About { subject, uid: uid.0.clone(), revision: revision.0 }
}

/// Whether the ways of this resource's changes are worth remembering: of Events and Leases there are more than of all
/// else, and they would push that out.
pub fn leaves_hops(key: &ObjectKey) -> bool {
    !matches!(&*key.resource.resource, "events" | "leases")
}
