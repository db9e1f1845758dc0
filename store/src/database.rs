//! Every database of the project is opened here, the same way.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the database {}", path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("cannot create or lock the database {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the database {} is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error("the database {} was written by a newer release (schema {found}, this release knows {known})", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the database {} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
}

impl OpenError {
    /// Sorts what SQLite says while a database is opened: damage apart from all else.
    pub(crate) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, detail: source.to_string() }
            }
            _ => Self::Sqlite { path, source },
        }
    }

    pub(crate) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), detail: detail.into() }
    }
}

/// What a database is for. Stands in its header, so that one is never opened as the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schema {
    pub(crate) application_id: i64,
    /// Each step in a transaction of its own, from `user_version` = its index to the next. Steps are never edited
    /// after a release.
    pub(crate) migrations: &'static [&'static str],
}

impl Schema {
    pub(crate) fn version(&self) -> i64 {
        self.migrations.len() as i64
    }
}

/// How long [`Database::open`] waits for the last owner to let go: a restart may overlap with the end of the old process.
const LOCK_WAIT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 5 });
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Readers and the writer only meet in short locks of the WAL index.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A WAL that grew beyond this is cut when it starts anew.
const WAL_KEPT_BYTES: i64 = 64 << 20;

/// An open database: the only connection that writes, and the lock that keeps other processes out.
#[derive(Debug)]
pub(crate) struct Database {
    // Closed before the lock is let go.
    pub(crate) connection: Connection,
    _lock: File,
}

impl Database {
    /// Opens or creates, locks, sets the pragmas, migrates.
    pub(crate) fn open(path: &Path, schema: Schema) -> Result<Self, OpenError> {
        let lock = lock(path)?;
        check_wal(path)?;
        create(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        let sqlite = |source| OpenError::sqlite(path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        let found = check_header(&connection, path, schema)?;
        pragmas(&connection).map_err(sqlite)?;
        migrate(&mut connection, schema, found).map_err(sqlite)?;
        Ok(Self { connection, _lock: lock })
    }
}

/// What follows from an error of SQLite while writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// What is on disk is unknown: the process must end and read it again.
    Fatal,
    /// There is no room for this transaction; a smaller one may fit.
    Full,
    /// Nothing was written; a later attempt may succeed.
    Passing,
}

pub(crate) fn fault(error: &rusqlite::Error) -> Fault {
    let Some(error) = error.sqlite_error() else { return Fault::Passing };
    match (error.code, error.extended_code) {
        // The kernel may have dropped the pages that it could not write: asking again proves nothing.
        (_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => Fault::Fatal,
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => Fault::Fatal,
        (ErrorCode::DiskFull | ErrorCode::TooBig | ErrorCode::OutOfMemory, _) => Fault::Full,
        // Writing beyond a limit on the size of files.
        (_, ffi::SQLITE_IOERR_WRITE) => Fault::Full,
        _ => Fault::Passing,
    }
}

/// A connection beside the writer's, for reads only.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// A connection that moves the WAL into the database and does nothing else.
pub(crate) fn open_checkpointer(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// The full check of SQLite itself; reads the whole file. One line a problem, at most 100.
pub(crate) fn integrity_problems(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("PRAGMA integrity_check(100)")?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
    let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
    Ok(if lines == ["ok"] { Vec::new() } else { lines })
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    PathBuf::from(name)
}

/// SQLite throws away the log of a database that is gone, and begins an empty one: to the nodes an order to end all pods.
/// It writes its first page before the first entry of the log, so that this is always damage.
fn check_wal(path: &Path) -> Result<(), OpenError> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    if size(path) == 0 && size(Path::new(&wal)) > 0 {
        return Err(OpenError::damaged(
            path,
            "it is missing or empty, and its write-ahead log is not; restore it, or remove the log to begin anew",
        ));
    }
    Ok(())
}

/// A file of its own: SQLite's own locks go when any descriptor of the database file is closed in this process.
pub(crate) fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(lock_path(path))
        .map_err(io)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(OpenError::InUse { path: path.to_owned() });
            }
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_POLL),
        }
    }
}

/// With the mode that the WAL and its index then inherit: bodies hold secrets.
pub(crate) fn create(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map(drop)
}

/// Refuses what is not ours before anything is written to it.
pub(crate) fn check_header(
    connection: &Connection,
    path: &Path,
    schema: Schema,
) -> Result<i64, OpenError> {
    let read = |name| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(|source| OpenError::sqlite(path, source))
    };
    let (id, found, tables) =
        (read("application_id")?, read("user_version")?, read("schema_version")?);
    if tables != 0 && id != schema.application_id {
        return Err(OpenError::damaged(path, "it is a database of something else"));
    }
    if found > schema.version() {
        let path = path.to_owned();
        return Err(OpenError::Newer { path, found, known: schema.version() });
    }
    Ok(found)
}

fn pragmas(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Only counts before the first table; lets compaction give pages back to the file system.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_KEPT_BYTES, |_| Ok(()))?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // KiB. The writer appends; it needs its working pages, not the database.
    connection.pragma_update(None, "cache_size", -4096)
}

fn migrate(connection: &mut Connection, schema: Schema, found: i64) -> rusqlite::Result<()> {
    let steps = schema.migrations.iter().enumerate().skip(usize::try_from(found).unwrap_or(0));
    for (index, step) in steps {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", schema.application_id)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1)?;
        transaction.commit()?;
        tracing::info!(from = index, to = index + 1, "migrated the database");
    }
    Ok(())
}
