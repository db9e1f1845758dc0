//! SQLite opened one way, and the journal.
//!
//! The only user of `rusqlite`: every database of the project, the server's and the agents', is opened here with the
//! same pragmas, migrations and integrity checks. The [`Journal`] is the server's: one row a change is the body, the
//! watch history and the outbox at once. [`KeyValue`] is what an agent needs: tables of
//! bytes and local queues, durable before they are answered.

mod backup;
mod database;
mod journal;
mod key_value;

pub use backup::{BackupError, Restored, Summary, back_up, inspect, restore};
pub use database::OpenError;
pub use journal::{
    Batch, Body, Change, CommitError, Durability, Expected, HistoryError, Item, Journal, Loaded,
    MAX_BODY_BYTES, MAX_HISTORY_LIMIT, Op, Options, Stats, StreamPosition, WallClock, Write,
};
pub use key_value::{
    Changes, KeyValue, KeyValueError, MAX_KEY_BYTES, MAX_QUEUE_ENTRIES, MAX_VALUE_BYTES, Queued,
};
