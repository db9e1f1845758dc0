//! From a prepared write to a committed one: races that were lost are prepared again.

use std::sync::Arc;

use smallvec::SmallVec;
use warren_api::{
    GroupResource, Kind, NodeName, Object, ObjectKey, Reason, Revision, Shard, Status, Uid,
};
use warren_store::{Change, CommitError, Durability, Expected, Item, Op, Write};

use crate::api::Api;
use crate::authz::Authorized;
use crate::cache::Entry;
use crate::codec;
use crate::fence;
use crate::hops;
use crate::prepare::{MODIFIED, Outcome};

/// As Kubernetes: a write without a resourceVersion is prepared again this often before it is a conflict.
pub(crate) const MAX_ATTEMPTS: usize = 5;

/// A write as prepared against what was there.
pub(crate) struct Plan {
    pub key: ObjectKey,
    pub old: Option<Arc<Entry>>,
    pub outcome: Outcome,
    /// What else must hold, and what else is written with it.
    pub expects: Vec<(ObjectKey, Expected)>,
    pub writes: Vec<Write>,
}

/// What became of it.
pub(crate) enum Committed {
    Unchanged(Arc<Entry>),
    Stored(Arc<Change>),
    Removed(Arc<Change>),
    /// Nothing was committed: a dry run. `removed` where the object would be gone.
    Dry {
        object: Object,
        removed: bool,
    },
}

/// Prepares and commits until it holds. `may_retry` is false where the client named a resourceVersion. Only who holds an
/// [`Authorized`] gets here; the term that it is fenced by is looked at on each attempt and expected of the commit.
pub(crate) async fn commit(
    api: &Api,
    proof: &Authorized,
    kind: &'static dyn Kind,
    may_retry: bool,
    dry_run: bool,
    prepare: &mut (dyn FnMut() -> Result<Plan, Status> + Send),
) -> Result<Committed, Status> {
    let mut attempt = 1;
    loop {
        let term = proof.fence().map(|fence| fence::check(fence, api)).transpose()?;
        let Plan { key, old, outcome, expects, writes } = prepare()?;
        let (object, removed) = match outcome {
            Outcome::Unchanged => {
                return old.map(Committed::Unchanged).ok_or_else(|| {
                    Status::internal(format!("nothing to change, and nothing there: {key}"))
                });
            }
            Outcome::Store(object) => (object, false),
            Outcome::Remove(object) => (object, true),
        };
        if dry_run {
            return Ok(Committed::Dry { object, removed });
        }
        let expected = match &old {
            Some(entry) => Expected::Revision(entry.revision()),
            None => Expected::Absent,
        };
        let mut item = Item { expects, writes };
        item.expects.extend(term);
        item.expects.push((key.clone(), expected));
        item.writes.push(write(api, kind, key.clone(), old.as_deref(), &object, removed));
        match api.journal.commit(item).await {
            Ok(changes) => {
                let change = changes
                    .into_iter()
                    .next_back()
                    .ok_or_else(|| Status::internal("the journal committed nothing"))?;
                hops::accepted(api, proof, &change);
                return Ok(match removed {
                    true => Committed::Removed(change),
                    false => Committed::Stored(change),
                });
            }
            Err(CommitError::Unexpected { key: raced, actual, .. }) => {
                api.metrics.lost_races.inc();
                if raced == key && old.is_none() && actual.is_some() && attempt == MAX_ATTEMPTS {
                    return Err(Status::already_exists(&key.resource, &key.name));
                }
                if !may_retry && raced == key || attempt == MAX_ATTEMPTS {
                    return Err(Status::conflict(&key.resource, &key.name, MODIFIED));
                }
                attempt += 1;
            }
            Err(error) => return Err(storage(&error)),
        }
    }
}

/// The write of one object, without expectations.
pub(crate) fn write(
    api: &Api,
    kind: &dyn Kind,
    key: ObjectKey,
    old: Option<&Entry>,
    object: &Object,
    removed: bool,
) -> Write {
    let op = match (old.is_some(), removed) {
        (_, true) => Op::Deleted,
        (true, false) => Op::Modified,
        (false, false) => Op::Added,
    };
    let mut shards: SmallVec<[Shard; 2]> = SmallVec::new();
    shards.push(kind.shard(object));
    let left = old.and_then(|old| old.change.streams.first()).map(|stream| &stream.shard);
    shards.extend(left.filter(|left| **left != shards[0]).cloned());
    for node in api.nodes_that_refer_to(&key) {
        let shard = Shard::Node(NodeName(node));
        if !shards.contains(&shard) {
            shards.push(shard);
        }
    }
    let heartbeat = &*key.namespace == "kube-node-lease" && &*key.resource.resource == "leases";
    let durability = match heartbeat && op == Op::Modified {
        true => Durability::Deferred,
        false => Durability::Durable,
    };
    let uid = object.uid().unwrap_or_else(|| Uid("".into()));
    Write { key, uid, op, durability, shards, body: codec::encode(object) }
}

/// The disk's trouble, as an answer that tells the client to come back.
fn storage(error: &CommitError) -> Status {
    tracing::error!(%error, "a write could not be committed");
    Status::new(Reason::ServiceUnavailable, error.to_string())
}

/// The key of an object of a kind, whichever form it is served in.
pub(crate) fn key_of(kind: &'static dyn Kind, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(kind.stored().resource(), namespace, name)
}

/// Records of the server's own that share the journal with objects and are no kind: which Service has an address or a
/// port. In one item with the Service, so that two cannot get the same.
pub(crate) fn internal_key(resource: &str, name: &str) -> ObjectKey {
    ObjectKey::new(GroupResource::new(INTERNAL_GROUP, resource), "", name)
}

/// A record of the server's own by itself; no request asks for it.
pub(crate) async fn record(api: &Api, item: Item) -> Result<(), Status> {
    api.journal.commit(item).await.map(drop).map_err(|error| storage(&error))
}

pub(crate) const INTERNAL_GROUP: &str = "internal.warren";

/// Takes (or with `held_at` gives back) a name that one owner may have.
pub(crate) fn internal_write(key: ObjectKey, owner: &str, held_at: Option<Revision>) -> Write {
    let mut object = Object::default();
    object.set_at(&["metadata", "name"], &*key.name);
    object.set_at(&["owner"], owner);
    Write {
        key,
        uid: Uid("".into()),
        op: if held_at.is_some() { Op::Deleted } else { Op::Added },
        durability: Durability::Durable,
        shards: SmallVec::from_elem(Shard::None, 1),
        body: codec::encode(&object),
    }
}

#[cfg(test)]
mod tests {
    /// What holds an `Authorized` in front of every write: nobody else speaks to the journal.
    #[test]
    fn the_journal_is_written_here_only() {
        fn sources(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => sources(&path, found),
                    false => found.push(path),
                }
            }
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        sources(&folder, &mut found);
        found.retain(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            text.contains(concat!("journal", ".commit("))
        });
        assert_eq!(found, [folder.join("commit.rs")]);
    }
}
