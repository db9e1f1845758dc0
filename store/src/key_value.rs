//! A small database for an agent: tables of bytes by key, and ordered local queues.

use std::fmt;
use std::path::Path;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::database::{Database, OpenError, Schema};
use worker::Job;

mod worker;

#[cfg(test)]
mod tests;

/// Of a table, a queue or a key.
pub const MAX_KEY_BYTES: usize = 1024;
pub const MAX_VALUE_BYTES: usize = 16 << 20;
/// Entries of one queue. A queue of statuses has at most one entry a pod, far below it; beyond it, pushes are refused.
pub const MAX_QUEUE_ENTRIES: usize = 10_000;
/// Requests that may wait for the worker; beyond it, callers wait for a place.
const WAITING: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// The disk is full or the database cannot be written or read: nothing was changed, a later attempt may succeed.
    #[error("cannot use the database: {0}")]
    Storage(String),
    #[error("the queue {0:?} is full ({MAX_QUEUE_ENTRIES} entries)")]
    QueueFull(String),
    #[error("{0}")]
    Invalid(&'static str),
    #[error("the database is closed")]
    Closed,
}

/// Changes that happen together or not at all, in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Put { table: String, key: String, value: Bytes },
    Delete { table: String, key: String },
    Clear { table: String },
    Push { queue: String, key: String, value: Bytes },
    Remove { queue: String, sequence: u64 },
}

/// An entry of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Rises within the queue, never used twice.
    pub sequence: u64,
    pub key: String,
    pub value: Bytes,
}

impl Changes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value, new or not.
    pub fn put(
        mut self,
        table: impl Into<String>,
        key: impl Into<String>,
        value: impl Into<Bytes>,
    ) -> Self {
        let (table, key, value) = (table.into(), key.into(), value.into());
        self.steps.push(Step::Put { table, key, value });
        self
    }

    /// Removes a value, if it is there.
    pub fn delete(mut self, table: impl Into<String>, key: impl Into<String>) -> Self {
        self.steps.push(Step::Delete { table: table.into(), key: key.into() });
        self
    }

    /// Removes all values of a table.
    pub fn clear(mut self, table: impl Into<String>) -> Self {
        self.steps.push(Step::Clear { table: table.into() });
        self
    }

    /// Puts an entry at the end of a queue. An entry of the same key goes: only the newest state of a thing waits.
    pub fn push(
        mut self,
        queue: impl Into<String>,
        key: impl Into<String>,
        value: impl Into<Bytes>,
    ) -> Self {
        let (queue, key, value) = (queue.into(), key.into(), value.into());
        self.steps.push(Step::Push { queue, key, value });
        self
    }

    /// Removes the entry with exactly this sequence, if it is still there. One that a newer push of its key has replaced
    /// is not touched.
    pub fn remove(mut self, queue: impl Into<String>, sequence: u64) -> Self {
        self.steps.push(Step::Remove { queue: queue.into(), sequence });
        self
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// A handle on the database; clones share it. Tables and queues exist as soon as something is in them.
///
/// One thread does all the work; changes that wait together share one write to the disk. The thread ends when the last
/// handle is dropped or on [`KeyValue::close`]. Many nodes in one process should share one database and put the node's
/// name into the names of their tables: each database costs a thread and a lock.
///
/// ```
/// # use warren_store::{Changes, KeyValue};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = KeyValue::open(&folder.path().join("agent.db"))?;
/// store.commit(Changes::new().put("pods", "default/web", "{}").push("status", "default/web", "{}")).await?;
/// for waiting in store.peek("status", 100).await? {
///     // … send it, then:
///     store.commit(Changes::new().remove("status", waiting.sequence)).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct KeyValue {
    jobs: mpsc::Sender<Job>,
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyValue")
    }
}

/// `WRNk`, in the header of the file.
const SCHEMA: Schema = Schema {
    application_id: 0x5752_4e6b,
    migrations: &["
CREATE TABLE entry (
    tbl   TEXT NOT NULL,
    key   TEXT NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (tbl, key)
) STRICT;
CREATE TABLE queue (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    queue    TEXT NOT NULL,
    key      TEXT NOT NULL,
    value    BLOB NOT NULL,
    UNIQUE (queue, key)
) STRICT;
CREATE INDEX queue_order ON queue (queue, sequence);
"],
};

/// It is small, and damage that is met later ends the process, again and again.
fn whole(database: &Database) -> Result<(), String> {
    let check = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    match database.connection.query_row("PRAGMA quick_check(1)", [], check) {
        Ok(word) if word == "ok" => Ok(()),
        Ok(problem) => Err(problem),
        Err(error) => Err(error.to_string()),
    }
}

impl KeyValue {
    /// Opens or creates the database, reads it through and starts its thread. Blocking.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let database = Database::open(path, SCHEMA)?;
        whole(&database).map_err(|detail| OpenError::damaged(path, detail))?;
        let (jobs, waiting) = mpsc::channel(WAITING);
        worker::start(database, waiting)
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { jobs })
    }

    /// On disk when it answers `Ok`. Dropping the future does not undo it.
    pub async fn commit(&self, changes: Changes) -> Result<(), KeyValueError> {
        check(&changes)?;
        self.ask(|answer| Job::Commit(changes, answer)).await
    }

    /// As [`KeyValue::commit`] with one [`Changes::put`].
    pub async fn put(
        &self,
        table: &str,
        key: &str,
        value: impl Into<Bytes>,
    ) -> Result<(), KeyValueError> {
        self.commit(Changes::new().put(table, key, value)).await
    }

    /// As [`KeyValue::commit`] with one [`Changes::delete`].
    pub async fn delete(&self, table: &str, key: &str) -> Result<(), KeyValueError> {
        self.commit(Changes::new().delete(table, key)).await
    }

    /// As [`KeyValue::commit`] with one [`Changes::push`].
    pub async fn push(
        &self,
        queue: &str,
        key: &str,
        value: impl Into<Bytes>,
    ) -> Result<(), KeyValueError> {
        self.commit(Changes::new().push(queue, key, value)).await
    }

    pub async fn get(&self, table: &str, key: &str) -> Result<Option<Bytes>, KeyValueError> {
        let (table, key) = (table.to_owned(), key.to_owned());
        self.ask(|answer| Job::Get { table, key, answer }).await
    }

    /// Up to `limit` entries in the order of their keys, those after `after`, or from the first.
    pub async fn list(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, KeyValueError> {
        let (table, after) = (table.to_owned(), after.map(str::to_owned));
        self.ask(|answer| Job::List { table, after, limit, answer }).await
    }

    /// Up to `limit` entries of a queue, oldest first. They stay until they are removed.
    pub async fn peek(&self, queue: &str, limit: usize) -> Result<Vec<Queued>, KeyValueError> {
        let queue = queue.to_owned();
        self.ask(|answer| Job::Peek { queue, limit, answer }).await
    }

    /// Reads the whole database and tells what is wrong with it; empty where all is well.
    pub async fn integrity_problems(&self) -> Result<Vec<String>, KeyValueError> {
        self.ask(|answer| Job::Check { answer }).await
    }

    /// Finishes what waits and closes the file. Later calls answer [`KeyValueError::Closed`].
    pub async fn close(&self) {
        let (answer, done) = oneshot::channel();
        if self.jobs.send(Job::Close { answer }).await.is_ok() {
            let _ = done.await;
        }
        self.jobs.closed().await;
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, KeyValueError>>) -> Job,
    ) -> Result<T, KeyValueError> {
        let (answer, receiver) = oneshot::channel();
        self.jobs.send(job(answer)).await.map_err(|_| KeyValueError::Closed)?;
        receiver.await.unwrap_or(Err(KeyValueError::Closed))
    }
}

fn check(changes: &Changes) -> Result<(), KeyValueError> {
    for step in &changes.steps {
        let (names, value) = match step {
            Step::Put { table, key, value } => ([table, key], value.len()),
            Step::Push { queue, key, value } => ([queue, key], value.len()),
            Step::Delete { table, key } => ([table, key], 0),
            Step::Clear { table } => ([table, table], 0),
            Step::Remove { queue, .. } => ([queue, queue], 0),
        };
        if names.iter().any(|name| name.is_empty() || name.len() > MAX_KEY_BYTES) {
            return Err(KeyValueError::Invalid("a name or key is empty or above 1024 bytes"));
        }
        if value > MAX_VALUE_BYTES {
            return Err(KeyValueError::Invalid("a value is above 16 MiB"));
        }
    }
    Ok(())
}
