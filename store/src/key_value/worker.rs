//! The thread that owns the database.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::{mpsc, oneshot};

use super::{Changes, KeyValueError, MAX_QUEUE_ENTRIES, Queued, Step};
use crate::database::{Database, Fault, fault, integrity_problems};

type Answer<T> = oneshot::Sender<Result<T, KeyValueError>>;

#[derive(Debug)]
pub(super) enum Job {
    Commit(Changes, Answer<()>),
    Get {
        table: String,
        key: String,
        answer: Answer<Option<Bytes>>,
    },
    List {
        table: String,
        after: Option<String>,
        limit: usize,
        answer: Answer<Vec<(String, Bytes)>>,
    },
    Peek {
        queue: String,
        limit: usize,
        answer: Answer<Vec<Queued>>,
    },
    Check {
        answer: Answer<Vec<String>>,
    },
    Close {
        answer: oneshot::Sender<()>,
    },
}

/// Commits that share one transaction, at most.
const BATCH: usize = 256;

pub(super) fn start(database: Database, mut jobs: mpsc::Receiver<Job>) -> std::io::Result<()> {
    std::thread::Builder::new().name("key-value".to_owned()).spawn(move || {
        let closing = run(&database.connection, &mut jobs);
        // Closed and unlocked before anybody hears of it.
        drop(database);
        drop(jobs);
        if let Some(answer) = closing {
            let _ = answer.send(());
        }
    })?;
    Ok(())
}

fn run(connection: &Connection, jobs: &mut mpsc::Receiver<Job>) -> Option<oneshot::Sender<()>> {
    let mut next = jobs.blocking_recv();
    loop {
        match next.take()? {
            Job::Commit(changes, answer) => {
                let mut batch = vec![(changes, answer)];
                while batch.len() < BATCH {
                    match jobs.try_recv() {
                        Ok(Job::Commit(changes, answer)) => batch.push((changes, answer)),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                commit(connection, batch);
            }
            Job::Get { table, key, answer } => {
                let _ = answer.send(get(connection, &table, &key).map_err(storage));
            }
            Job::List { table, after, limit, answer } => {
                let found = list(connection, &table, after.as_deref().unwrap_or(""), limit);
                let _ = answer.send(found.map_err(storage));
            }
            Job::Peek { queue, limit, answer } => {
                let _ = answer.send(peek(connection, &queue, limit).map_err(storage));
            }
            Job::Check { answer } => {
                let _ = answer.send(integrity_problems(connection).map_err(storage));
            }
            Job::Close { answer } => return Some(answer),
        }
        if next.is_none() {
            next = jobs.blocking_recv();
        }
    }
}

fn commit(connection: &Connection, batch: Vec<(Changes, Answer<()>)>) {
    let mut outcomes = Vec::with_capacity(batch.len());
    let together = transact(connection, || {
        for (changes, _) in &batch {
            outcomes.push(savepoint(connection, changes)?);
        }
        Ok(())
    });
    match together {
        Ok(()) => {
            for ((_, answer), outcome) in batch.into_iter().zip(outcomes) {
                let _ = answer.send(outcome);
            }
        }
        // What is too much together may fit alone.
        Err(error) if batch.len() > 1 && fault(&error) == Fault::Full => {
            for pair in batch {
                commit(connection, vec![pair]);
            }
        }
        Err(error) => {
            tracing::error!(%error, "cannot write the database");
            for (_, answer) in batch {
                let _ = answer.send(Err(KeyValueError::Storage(error.to_string())));
            }
        }
    }
}

fn transact(
    connection: &Connection,
    work: impl FnOnce() -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let result = (|| {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        work()?;
        connection.prepare_cached("COMMIT")?.execute([]).map(drop)
    })();
    if let Err(error) = &result {
        die_if_fatal(error);
        if !connection.is_autocommit() {
            // If this one fails, so will the next BEGIN.
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
    result
}

/// What is on disk is unknown: the process must end and read it again.
fn die_if_fatal(error: &rusqlite::Error) {
    if fault(error) == Fault::Fatal {
        tracing::error!(%error, "the agent's database cannot go on; the process ends");
        std::process::abort();
    }
}

/// The outer error ends the transaction, the inner one only these changes.
fn savepoint(
    connection: &Connection,
    changes: &Changes,
) -> rusqlite::Result<Result<(), KeyValueError>> {
    let guarded = changes.steps.iter().any(|step| matches!(step, Step::Push { .. }));
    if !guarded {
        // Nothing in them can be refused.
        for step in &changes.steps {
            apply(connection, step)?;
        }
        return Ok(Ok(()));
    }
    connection.prepare_cached("SAVEPOINT changes")?.execute([])?;
    let mut outcome = Ok(());
    for step in &changes.steps {
        if let Some(full) = apply(connection, step)? {
            connection.prepare_cached("ROLLBACK TO changes")?.execute([])?;
            outcome = Err(full);
            break;
        }
    }
    connection.prepare_cached("RELEASE changes")?.execute([])?;
    Ok(outcome)
}

fn apply(connection: &Connection, step: &Step) -> rusqlite::Result<Option<KeyValueError>> {
    match step {
        Step::Put { table, key, value } => {
            connection
                .prepare_cached(
                    "INSERT INTO entry (tbl, key, value) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET value = excluded.value",
                )?
                .execute((table, key, &value[..]))?;
        }
        Step::Delete { table, key } => {
            connection
                .prepare_cached("DELETE FROM entry WHERE tbl = ?1 AND key = ?2")?
                .execute((table, key))?;
        }
        Step::Clear { table } => {
            connection.prepare_cached("DELETE FROM entry WHERE tbl = ?1")?.execute([table])?;
        }
        Step::Push { queue, key, value } => {
            // Not an update: the newest state goes to the end of the queue, under a number of its own.
            connection
                .prepare_cached("DELETE FROM queue WHERE queue = ?1 AND key = ?2")?
                .execute((queue, key))?;
            let entries: i64 = connection
                .prepare_cached("SELECT count(*) FROM queue WHERE queue = ?1")?
                .query_row([queue], |row| row.get(0))?;
            if entries >= MAX_QUEUE_ENTRIES as i64 {
                return Ok(Some(KeyValueError::QueueFull(queue.clone())));
            }
            connection
                .prepare_cached("INSERT INTO queue (queue, key, value) VALUES (?1, ?2, ?3)")?
                .execute((queue, key, &value[..]))?;
        }
        Step::Remove { queue, sequence } => {
            connection
                .prepare_cached("DELETE FROM queue WHERE queue = ?1 AND sequence = ?2")?
                .execute((queue, *sequence as i64))?;
        }
    }
    Ok(None)
}

fn get(connection: &Connection, table: &str, key: &str) -> rusqlite::Result<Option<Bytes>> {
    connection
        .prepare_cached("SELECT value FROM entry WHERE tbl = ?1 AND key = ?2")?
        .query_row((table, key), |row| bytes(row, 0))
        .optional()
}

fn list(
    connection: &Connection,
    table: &str,
    after: &str,
    limit: usize,
) -> rusqlite::Result<Vec<(String, Bytes)>> {
    let mut statement = connection.prepare_cached(
        "SELECT key, value FROM entry WHERE tbl = ?1 AND key > ?2 ORDER BY key LIMIT ?3",
    )?;
    let rows = statement
        .query_map((table, after, limit as i64), |row| Ok((row.get(0)?, bytes(row, 1)?)))?;
    rows.collect()
}

fn peek(connection: &Connection, queue: &str, limit: usize) -> rusqlite::Result<Vec<Queued>> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, key, value FROM queue WHERE queue = ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let rows = statement.query_map((queue, limit as i64), |row| {
        let sequence = row.get::<_, i64>(0)? as u64;
        Ok(Queued { sequence, key: row.get(1)?, value: bytes(row, 2)? })
    })?;
    rows.collect()
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
}

fn storage(error: rusqlite::Error) -> KeyValueError {
    KeyValueError::Storage(error.to_string())
}
