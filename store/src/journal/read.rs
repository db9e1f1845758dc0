//! Reads of the history, on connections of their own.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use warren_api::{GroupResource, ObjectKey, Revision};

use super::load::{COLUMNS, Reader};
use super::state::Shared;
use super::{Change, HistoryError, MAX_HISTORY_LIMIT};
use crate::backup::{self, BackupError};
use crate::database;

/// Connections that are kept open between reads: each may hold 2 MB of pages.
const IDLE_READERS: usize = 4;

impl Shared {
    pub(crate) fn history(
        &self,
        after: Revision,
        resource: Option<&GroupResource>,
        limit: usize,
    ) -> Result<Vec<Change>, HistoryError> {
        let compacted = || {
            let floor = self.floor();
            (after < floor).then_some(HistoryError::Compacted { asked: after, floor })
        };
        if let Some(error) = compacted() {
            return Err(error);
        }
        let id = match resource {
            None => None,
            Some(resource) => match self.resources.read().id(resource) {
                Some(id) => Some(id),
                None => return Ok(Vec::new()),
            },
        };
        let until = self.visible();
        let limit = limit.min(MAX_HISTORY_LIMIT) as i64;
        let changes = self.with_reader(|connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM journal
                 WHERE rv > ?1 AND rv <= ?2 AND deferred = 0 AND (?3 IS NULL OR resource = ?3)
                 ORDER BY rv LIMIT ?4"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query((signed(after), signed(until), id, limit))?;
            let mut reader = Reader::default();
            let mut changes = Vec::new();
            while let Some(row) = rows.next()? {
                let head = reader.head(row, &self.resources.read())?;
                changes.push(head.with_body(row)?);
            }
            Ok(changes)
        })?;
        // The floor moves before the rows go, so a hole in what was read shows here.
        match compacted() {
            Some(error) => Err(error),
            None => Ok(changes),
        }
    }

    pub(crate) fn sizes(
        &self,
        after: Revision,
        mut each: impl FnMut(Revision, &GroupResource, u64, i64),
    ) -> Result<(), HistoryError> {
        let until = self.visible();
        self.with_reader(|connection| {
            let sql = "SELECT rv, resource, length(body), time_ms FROM journal
                 WHERE rv > ?1 AND rv <= ?2 AND deferred = 0 ORDER BY rv";
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query((signed(after), signed(until)))?;
            while let Some(row) = rows.next()? {
                let resources = self.resources.read();
                // A row of a resource that nobody knows is no event either.
                let Some(resource) = resources.name(row.get(1)?) else { continue };
                let bytes = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
                let revision = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
                each(Revision(revision), resource, bytes, row.get(3)?);
            }
            Ok(())
        })?;
        Ok(())
    }

    pub(crate) fn row(
        &self,
        key: &ObjectKey,
        at: Revision,
    ) -> Result<Option<Change>, HistoryError> {
        if at > self.visible() {
            return Ok(None);
        }
        let change = self.with_reader(|connection| {
            let sql = format!("SELECT {COLUMNS} FROM journal WHERE rv = ?1");
            let mut statement = connection.prepare_cached(&sql)?;
            statement
                .query_row([signed(at)], |row| {
                    let head = Reader::default().head(row, &self.resources.read())?;
                    head.with_body(row)
                })
                .optional()
        })?;
        Ok(change.filter(|change| change.key == *key))
    }

    pub(crate) fn integrity_problems(&self) -> Result<Vec<String>, HistoryError> {
        let mut problems = self.with_reader(database::integrity_problems)?;
        problems.extend(self.with_reader(|connection| {
            let sql =
                "SELECT 'journal row ' || rv || ': unknown resource ' || resource FROM journal
                       WHERE resource NOT IN (SELECT id FROM resource) LIMIT 100";
            let mut statement = connection.prepare(sql)?;
            let lines = statement.query_map([], |row| row.get(0))?;
            lines.collect::<Result<Vec<String>, _>>()
        })?);
        Ok(problems)
    }

    pub(crate) fn backup(&self, to: &Path) -> Result<(), BackupError> {
        let source = database::open_reader(&self.path)
            .map_err(|source| BackupError::Sqlite { path: to.to_owned(), source })?;
        backup::backup(&source, to)
    }

    pub(crate) fn with_reader<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let idle = self.readers.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => database::open_reader(&self.path)?,
        };
        let result = read(&connection);
        let mut readers = self.readers.lock();
        if result.is_ok() && readers.len() < IDLE_READERS {
            readers.push(connection);
        }
        result
    }
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
