//! The journal: the order of all changes, on disk before it is answered.
//!
//! One thread owns the write connection. It drains the items that wait into one transaction, gives each write the next
//! revision, and hands the committed batch to the `on_commit` callback, in revision order, before any of the answers
//! go out: a read after a write is never stale.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use warren_api::{GroupResource, ObjectKey, Revision, Shard, Uid};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Added,
    Modified,
    Deleted,
}

/// An encoded object with a hole where the decimal digits of its `resourceVersion` go. The writer fills it.
#[derive(Clone, Debug)]
pub struct Body {
    pub json: Vec<u8>,
    /// Byte offset of the hole, between the quotes of `"resourceVersion":""`.
    pub hole: usize,
}

/// What must be true of a key when the item is committed, else the item fails and writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Absent,
    Present,
    Revision(Revision),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// On disk before it is answered.
    #[default]
    Durable,
    /// Node heartbeats: answered at once, seen by the cache and HTTP watches, published nowhere, and written to disk
    /// with the next durable batch or a timer. A crash may lose the latest ones.
    Deferred,
}

#[derive(Clone, Debug)]
pub struct Write {
    pub key: ObjectKey,
    pub uid: Uid,
    pub op: Op,
    pub durability: Durability,
    /// Where the change is published: first the object's shard, then others that must see it (the shard that it left,
    /// nodes that refer to it). Never empty.
    pub shards: SmallVec<[Shard; 2]>,
    /// For a delete the last body.
    pub body: Body,
}

/// One request's writes: all or nothing, in one savepoint.
#[derive(Clone, Debug, Default)]
pub struct Item {
    pub expects: Vec<(ObjectKey, Expected)>,
    pub writes: Vec<Write>,
}

/// A shard of the change's resource, and the revision of the change that was published there before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    pub shard: Shard,
    /// 0 where this is the first.
    pub prev: Revision,
}

/// A committed row of the journal.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: Revision,
    /// The object's revision before this change; 0 for an object that was not there.
    pub prev: Revision,
    pub key: ObjectKey,
    pub uid: Uid,
    pub op: Op,
    pub durability: Durability,
    pub streams: SmallVec<[StreamPosition; 2]>,
    /// Milliseconds since 1970.
    pub time_ms: i64,
    /// The encoded object with its revision.
    pub body: Bytes,
}

/// What one transaction committed, in revision order. Never empty.
pub type Batch = [Arc<Change>];

/// What is there when the journal is opened.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest row of every object that exists, in no particular order.
    pub objects: Vec<Arc<Change>>,
    pub revision: Revision,
    pub epoch: u64,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// How many revisions of history are kept for watches, at least.
    pub history_revisions: u64,
    /// How many bytes of bodies that the relay has not published the journal may hold before the floor moves past the
    /// relay's cursor.
    pub outbox_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_revisions: 20_000, outbox_bytes: 512 << 20 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the database {}", path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("the database {} was written by a newer release (schema {found}, this release knows {known})", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the database {} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The first expectation that does not hold, and the revision that is there.
    #[error("{key} is at {actual:?}, expected {expected:?}")]
    Unexpected { key: ObjectKey, expected: Expected, actual: Option<Revision> },
    /// The disk is full or the database cannot be written: nothing was committed, a later attempt may succeed.
    #[error("cannot write to the database: {0}")]
    Storage(String),
    #[error("the journal is closed")]
    Closed,
}

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Rows after the revision that was asked for are compacted away; `floor` is the oldest that can be asked for.
    #[error("revision {asked} is compacted; the oldest is {floor}")]
    Compacted { asked: Revision, floor: Revision },
    #[error("cannot read the journal")]
    Sqlite(#[from] rusqlite::Error),
}

/// A handle on the journal; clones share it. The writer thread ends when the last handle is dropped or on
/// [`Journal::close`].
#[derive(Clone, Debug)]
pub struct Journal {}

impl Journal {
    /// Opens or creates the database and starts the writer thread.
    ///
    /// `on_commit` runs on the writer thread, once a batch, before the answers to it go out; it must not block on I/O.
    pub fn open(
        path: &Path,
        options: Options,
        on_commit: impl FnMut(&Batch) + Send + 'static,
    ) -> Result<(Self, Loaded), OpenError> {
        let _ = (path, options, on_commit);
        todo!("store")
    }

    /// Commits one item. When it answers `Ok`, the changes are on disk (unless deferred) and in the cache. Dropping
    /// the future does not undo it.
    pub async fn commit(&self, item: Item) -> Result<SmallVec<[Arc<Change>; 1]>, CommitError> {
        let _ = item;
        todo!("store")
    }

    /// Up to `limit` changes after a revision, oldest first, of one resource or of all. Deferred changes are not in the
    /// history. Blocking: call it off the runtime's workers.
    pub fn history(
        &self,
        after: Revision,
        resource: Option<&GroupResource>,
        limit: usize,
    ) -> Result<Vec<Change>, HistoryError> {
        let _ = (after, resource, limit);
        todo!("store")
    }

    /// The object's row at exactly this revision, if it is still there. Blocking.
    pub fn row(&self, key: &ObjectKey, at: Revision) -> Result<Option<Change>, HistoryError> {
        let _ = (key, at);
        todo!("store")
    }

    /// The incarnation of the database; only grows.
    pub fn epoch(&self) -> u64 {
        todo!("store")
    }

    /// The oldest revision that history can be asked for.
    pub fn floor(&self) -> Revision {
        todo!("store")
    }

    /// The revision of the last change of a stream; 0 where there was none.
    pub fn head(&self, resource: &GroupResource, shard: &Shard) -> Revision {
        let _ = (resource, shard);
        todo!("store")
    }

    /// Up to where the relay's publications are confirmed. Persisted with the next batch or within a second.
    pub fn set_relay_cursor(&self, confirmed: Revision) {
        let _ = confirmed;
        todo!("store")
    }

    pub fn relay_cursor(&self) -> Revision {
        todo!("store")
    }

    /// Commits what waits, checkpoints and closes. Later commits answer [`CommitError::Closed`].
    pub async fn close(&self) {
        todo!("store")
    }
}
