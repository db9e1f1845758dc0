//! Copies of the journal's database, and what becomes of one when it is put back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use warren_api::Revision;

use crate::database::{self, Database, OpenError, integrity_problems};
use crate::journal::SCHEMA;

#[cfg(test)]
mod tests;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot copy the database to {}", path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("cannot read the database {}", path.display())]
    Missing { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What a restored database says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    pub epoch: u64,
    /// Everything up to here is compacted: every reader lists again.
    pub revision: Revision,
}

/// What a database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub epoch: u64,
    /// The newest change, or what a restore has raised it to.
    pub revision: Revision,
    pub objects: u64,
}

/// Copies the database of a server into a file, whole and as of one moment, also while the server runs, and checks the
/// copy. What is at `to` is replaced when the copy is complete. Blocking.
pub fn back_up(from: &Path, to: &Path) -> Result<Summary, BackupError> {
    let source = open_existing(from)?;
    backup(&source, to)?;
    drop(source);
    inspect(to)
}

/// Reads all of a database and checks that it is whole, also while its server runs. Blocking.
pub fn inspect(path: &Path) -> Result<Summary, BackupError> {
    let database = open_existing(path)?;
    let sqlite = |source| OpenError::sqlite(path, source);
    let problems = integrity_problems(&database).map_err(sqlite)?;
    if let Some(first) = problems.first() {
        return Err(OpenError::damaged(path, first).into());
    }
    let count = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0));
    let newest = count("SELECT coalesce(max(rv), 0) FROM journal").map_err(sqlite)? as u64;
    let floor = meta(&database, "floor").map_err(sqlite)?;
    Ok(Summary {
        epoch: meta(&database, "epoch").map_err(sqlite)?,
        revision: Revision(newest.max(floor)),
        objects: count("SELECT count(*) FROM object").map_err(sqlite)? as u64,
    })
}

fn open_existing(path: &Path) -> Result<Connection, BackupError> {
    if !path.exists() {
        let source = std::io::ErrorKind::NotFound.into();
        return Err(BackupError::Missing { path: path.to_owned(), source });
    }
    let database = open_plain(path).map_err(|source| OpenError::sqlite(path, source))?;
    database::check_header(&database, path, SCHEMA)?;
    Ok(database)
}

/// Puts a backup in the place of the database of a server that does not run. Blocking.
///
/// The epoch becomes newer and the revision 10⁹ higher than in the backup and in what was there before, and all before is
/// marked as compacted: no reader, over HTTP or AMQP, takes the old world's revisions for the new one's. What was there
/// before stays beside it, as `<name>.before-restore`. The backup is checked first and is not changed; when anything
/// fails, `to` is as it was.
pub fn restore(from: &Path, to: &Path) -> Result<Restored, BackupError> {
    let source = open_existing(from)?;
    let _lock = database::lock(to)?;
    let partial = beside(to, ".restoring");
    let old = if to.exists() { settle(to) } else { None };
    remove_all(&partial)?;
    let problems = integrity_problems(&source).map_err(|source| OpenError::sqlite(from, source))?;
    if let Some(first) = problems.first() {
        return Err(OpenError::damaged(from, first).into());
    }
    copy(&source, &partial)?;
    drop(source);
    let restored = raise(&partial, old)?;
    if to.exists() {
        let kept = beside(to, ".before-restore");
        remove(&kept)?;
        std::fs::hard_link(to, &kept).map_err(|source| BackupError::Io { path: kept, source })?;
    }
    // A WAL of the old database must not be played onto the new one; `settle` has emptied it.
    remove(&beside(to, "-wal"))?;
    remove(&beside(to, "-shm"))?;
    put_in_place(&partial, to)?;
    Ok(restored)
}

/// Copies an open database into a file, whole and as of one moment. What is at `to` is replaced when the copy is
/// complete.
pub(crate) fn backup(source: &Connection, to: &Path) -> Result<(), BackupError> {
    let partial = beside(to, ".partial");
    remove_all(&partial)?;
    copy(source, &partial)?;
    put_in_place(&partial, to)
}

/// In one step: a backup in several begins anew whenever the writer commits in between, and may never end. The writer
/// goes on meanwhile; only its WAL grows.
fn copy(source: &Connection, to: &Path) -> Result<(), BackupError> {
    let sqlite = |source| BackupError::Sqlite { path: to.to_owned(), source };
    database::create(to).map_err(|source| BackupError::Io { path: to.to_owned(), source })?;
    let mut target = open_plain(to).map_err(sqlite)?;
    {
        let backup = Backup::new(source, &mut target).map_err(sqlite)?;
        while backup.step(-1).map_err(sqlite)? != StepResult::Done {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
    // One file, without a WAL beside it.
    target.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(())).map_err(sqlite)?;
    target.close().map_err(|(_, source)| sqlite(source))
}

/// Empties the WAL of the database that is replaced, and reads its epoch and revision. A database that cannot be read
/// is no reason not to restore.
fn settle(path: &Path) -> Option<(u64, u64)> {
    let read = || -> rusqlite::Result<(u64, u64)> {
        let connection = open_plain(path)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok((meta(&connection, "epoch")?, meta(&connection, "mark")?))
    };
    match read() {
        Ok(found) => Some(found),
        Err(error) => {
            tracing::warn!(%error, "the database that is replaced cannot be read");
            None
        }
    }
}

fn raise(path: &Path, old: Option<(u64, u64)>) -> Result<Restored, BackupError> {
    let mut database = Database::open(path, SCHEMA)?;
    let sqlite = |source| BackupError::Sqlite { path: path.to_owned(), source };
    let (old_epoch, old_mark) = old.unwrap_or_default();
    // By the clock as well: where the old database is lost, two restores of one backup are still two epochs.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let raise = |connection: &mut Connection| -> rusqlite::Result<Restored> {
        let transaction = connection.transaction()?;
        let epoch = (meta(&transaction, "epoch")?.max(old_epoch) + 1).max(now);
        let newest: i64 =
            transaction
                .query_row("SELECT coalesce(max(rv), 0) FROM journal", [], |row| row.get(0))?;
        let mark = meta(&transaction, "mark")?.max(old_mark).max(newest as u64);
        let revision = mark + Revision::RESTORE_STEP;
        for (name, value) in
            [("epoch", epoch), ("mark", revision), ("floor", revision), ("cursor", revision)]
        {
            transaction
                .execute("UPDATE meta SET value = ?2 WHERE name = ?1", (name, value as i64))?;
        }
        transaction.commit()?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
        Ok(Restored { epoch, revision: Revision(revision) })
    };
    let restored = raise(&mut database.connection).map_err(sqlite)?;
    drop(database);
    remove(&beside(path, "-lock"))?;
    Ok(restored)
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let sql = "SELECT value FROM meta WHERE name = ?1";
    connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).map(|value| value as u64)
}

/// Without pragmas and migrations: the file stays as it is.
fn open_plain(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
}

fn put_in_place(partial: &Path, to: &Path) -> Result<(), BackupError> {
    let io = |source| BackupError::Io { path: to.to_owned(), source };
    File::open(partial).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(partial, to).map_err(io)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

/// What an attempt that was cut off has left.
fn remove_all(partial: &Path) -> Result<(), BackupError> {
    ["", "-wal", "-shm", "-journal", "-lock"].iter().try_for_each(|s| remove(&beside(partial, s)))
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BackupError::Io { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
