//! The journal: the order of all changes, on disk before it is answered.
//!
//! One thread owns the write connection. It drains the items that wait into one transaction, gives each write the next
//! revision, and hands the committed batch to the `on_commit` callback, in revision order, before any of the answers
//! go out: a read after a write is never stale.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use smallvec::SmallVec;
use warren_api::{GroupResource, ObjectKey, Revision, Shard, Uid};

use crate::backup::BackupError;
use crate::database::{self, OpenError};

mod checkpoint;
mod codec;
mod load;
mod queue;
mod read;
mod schema;
mod state;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use schema::SCHEMA;
use state::Shared;
use writer::Hooks;

/// The largest body of a write. The API's own limit on requests (3 MiB) lies below it.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// The most changes that one call of [`Journal::history`] reads: 10,000 of 2.8 KB are 28 MB.
pub const MAX_HISTORY_LIMIT: usize = 10_000;

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
    /// nodes that refer to it). Never empty. [`Shard::Every`] is added by the journal.
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
    /// The object's revision before this change; 0 for an object that was not there. Read back from the history it is
    /// the revision before it in the history, so never a deferred one.
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
    /// No revision above it was ever given out. After a crash it may be above the last change.
    pub revision: Revision,
    pub epoch: u64,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// How many changes are kept for watches, at least, as long as their bodies fit into `outbox_bytes`. Deferred
    /// changes do not count.
    pub history_revisions: u64,
    /// How many bytes of bodies the history may hold, those included that the relay has not published, before the floor
    /// moves past the relay's cursor.
    pub outbox_bytes: u64,
    /// Stamps the changes.
    pub clock: WallClock,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_revisions: 20_000, outbox_bytes: 512 << 20, clock: WallClock::default() }
    }
}

/// Tells the milliseconds since 1970.
#[derive(Clone)]
pub struct WallClock(pub Arc<dyn Fn() -> i64 + Send + Sync>);

impl Default for WallClock {
    fn default() -> Self {
        Self(Arc::new(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
        }))
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallClock({})", (self.0)())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The first expectation that does not hold, and the revision that is there.
    #[error("{key} is at {actual:?}, expected {expected:?}")]
    Unexpected { key: ObjectKey, expected: Expected, actual: Option<Revision> },
    /// The disk is full or the database cannot be written: nothing was committed, a later attempt may succeed.
    #[error("cannot write to the database: {0}")]
    Storage(String),
    /// A write that breaks the contract of [`Write`] or [`Body`], or is over [`MAX_BODY_BYTES`].
    #[error("not a valid write: {0}")]
    Invalid(&'static str),
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

/// What the journal is doing, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions that committed changes since the start.
    pub transactions: u64,
    /// Changes given out since the start, deferred ones included.
    pub changes: u64,
    /// Items that wait for the writer, at most 4,096.
    pub waiting: u64,
    /// Changes and bytes of bodies in the history, above the floor.
    pub history_changes: u64,
    pub history_bytes: u64,
    pub wal_bytes: u64,
    pub database_bytes: u64,
    /// Attempts to write that failed since the start.
    pub failures: u64,
}

/// A handle on the journal; clones share it. The writer thread ends when the last handle is dropped or on
/// [`Journal::close`].
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

/// Dropped with the last clone of the journal; the writer itself only holds [`Shared`].
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("path", &self.handle.shared.path).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens or creates the database and starts the writer thread.
    ///
    /// `on_commit` runs on the writer thread, once a batch, before the answers to it go out; it must not block on I/O.
    /// When it panics, the process ends: the cache would miss what is on disk.
    pub fn open(
        path: &Path,
        options: Options,
        on_commit: impl FnMut(&Batch) + Send + 'static,
    ) -> Result<(Self, Loaded), OpenError> {
        Self::open_with(path, options, Box::new(on_commit), Hooks::default())
    }

    fn open_with(
        path: &Path,
        options: Options,
        on_commit: Box<dyn FnMut(&Batch) + Send>,
        hooks: Hooks,
    ) -> Result<(Self, Loaded), OpenError> {
        let database = database::Database::open(path, SCHEMA)?;
        let load::Start { state, resources, heads, loaded } =
            load::load(&database.connection, path)?;
        let shared = Arc::new(Shared::new(path, &state, resources, heads));
        writer::start(database, state, options, Arc::clone(&shared), on_commit, hooks)
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok((Self { handle: Arc::new(Handle { shared }) }, loaded))
    }

    /// Commits one item. When it answers `Ok`, the changes are on disk (unless deferred) and in the cache. Dropping
    /// the future does not undo it.
    pub async fn commit(&self, item: Item) -> Result<SmallVec<[Arc<Change>; 1]>, CommitError> {
        codec::check(&item)?;
        let answer = self.shared().queue.push(item).await?;
        answer.await.unwrap_or(Err(CommitError::Closed))
    }

    /// Up to `limit` (at most [`MAX_HISTORY_LIMIT`]) changes after a revision, oldest first, of one resource or of all.
    /// Deferred changes are not in the history, nor is what `on_commit` has not seen. Blocking: call it off the
    /// runtime's workers.
    pub fn history(
        &self,
        after: Revision,
        resource: Option<&GroupResource>,
        limit: usize,
    ) -> Result<Vec<Change>, HistoryError> {
        self.shared().history(after, resource, limit)
    }

    /// What the rows after a revision hold, oldest first and deferred ones left out: revision, resource, bytes of the body,
    /// milliseconds since 1970. No body is read. Blocking.
    pub fn sizes(
        &self,
        after: Revision,
        each: impl FnMut(Revision, &GroupResource, u64, i64),
    ) -> Result<(), HistoryError> {
        self.shared().sizes(after, each)
    }

    /// The object's row at exactly this revision, if it is still there. Blocking.
    pub fn row(&self, key: &ObjectKey, at: Revision) -> Result<Option<Change>, HistoryError> {
        self.shared().row(key, at)
    }

    /// The incarnation of the database; only grows. The Unix time of its creation, raised by each restore.
    pub fn epoch(&self) -> u64 {
        self.shared().epoch
    }

    /// The newest revision that `on_commit` has seen.
    pub fn revision(&self) -> Revision {
        self.shared().visible()
    }

    /// The oldest revision that history can be asked for.
    pub fn floor(&self) -> Revision {
        self.shared().floor()
    }

    /// The revision of the last change of a stream; 0 where there was none.
    pub fn head(&self, resource: &GroupResource, shard: &Shard) -> Revision {
        self.shared().head(resource, shard)
    }

    /// The heads of these shards in all resources, where there is one. Waits for nobody who waits for the disk.
    pub fn heads(&self, shards: &[Shard]) -> Vec<(GroupResource, Shard, Revision)> {
        self.shared().heads(shards)
    }

    /// Up to where the relay's publications are confirmed; only moves forward, and never past [`Journal::revision`].
    /// Persisted with a batch 10 ms later, or by itself after 100 ms. Without a relay, follow [`Journal::revision`], or the history
    /// grows to its bound in bytes.
    pub fn set_relay_cursor(&self, confirmed: Revision) {
        self.shared().set_cursor(confirmed);
    }

    pub fn relay_cursor(&self) -> Revision {
        self.shared().cursor()
    }

    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }

    /// Reads the whole database and tells what is wrong with it; empty where all is well. Blocking, and long: seconds
    /// per gigabyte.
    pub fn integrity_problems(&self) -> Result<Vec<String>, HistoryError> {
        self.shared().integrity_problems()
    }

    /// Writes a copy of the database, whole and as of one moment, into one file; what is at `to` is replaced when the copy
    /// is complete. Commits go on meanwhile. [`crate::restore`] puts it back. Blocking, seconds per gigabyte.
    pub fn backup(&self, to: &Path) -> Result<(), BackupError> {
        self.shared().backup(to)
    }

    /// Commits what waits, checkpoints and closes. Later commits answer [`CommitError::Closed`].
    pub async fn close(&self) {
        self.shared().queue.close();
        self.shared().queue.closed().await;
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}
