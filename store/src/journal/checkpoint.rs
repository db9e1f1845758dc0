//! Moves the WAL into the database beside the writer, so that commits do not wait for it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::Connection;

use crate::database;

/// The thread that does it, on a connection of its own. It ends with this value.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    ask: Option<SyncSender<()>>,
    /// Pages of the WAL that are in the database, as of the last run.
    backfilled: Arc<AtomicU32>,
    trouble: Arc<Mutex<Option<rusqlite::Error>>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub(crate) fn start(path: &Path) -> std::io::Result<Self> {
        let path = path.to_owned();
        // One that runs and one that waits; more would do nothing.
        let (ask, asked) = sync_channel(1);
        let trouble = Arc::new(Mutex::new(None));
        let told = Arc::clone(&trouble);
        let backfilled = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&backfilled);
        let thread =
            std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
                let mut connection = None;
                while asked.recv().is_ok() {
                    match run(&path, &mut connection) {
                        Ok(pages) => counted.store(pages, Ordering::Release),
                        Err(error) => *told.lock() = Some(error),
                    }
                }
            })?;
        Ok(Self { ask: Some(ask), backfilled, trouble, thread: Some(thread) })
    }

    /// Does not wait.
    pub(crate) fn ask(&self) {
        if let Some(ask) = &self.ask {
            // Full: one waits already.
            let _ = ask.try_send(());
        }
    }

    /// Pages of a WAL of so many that are not in the database yet.
    pub(crate) fn left(&self, pages: u32) -> u32 {
        pages.saturating_sub(self.backfilled.load(Ordering::Acquire))
    }

    /// The WAL starts anew.
    pub(crate) fn forget(&self) {
        self.backfilled.store(0, Ordering::Release);
    }

    /// What went wrong since the last call.
    pub(crate) fn trouble(&self) -> Option<rusqlite::Error> {
        self.trouble.lock().take()
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; nothing is lost but time.
            let _ = thread.join();
        }
    }
}

fn run(path: &Path, connection: &mut Option<Connection>) -> rusqlite::Result<u32> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(database::open_checkpointer(path)?),
    };
    checkpoint(connection, "PASSIVE")
}

/// Answers how many pages of the WAL are in the database then. Not an error: a reader that holds back the rest.
pub(crate) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<u32> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    connection.query_row(&sql, [], |row| Ok(row.get::<_, i64>(2)?.try_into().unwrap_or(0)))
}
