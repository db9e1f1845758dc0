//! The writer's own work between and beside commits: deferred rows, the cursor, compaction, the WAL, free pages.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use warren_api::ObjectKey;

use super::stage::{Row, delete_row};
use super::sweep::Swept;
use super::{REST_AFTER_FAILURE, Stop, Writer, set_meta};
use crate::journal::checkpoint::{Checkpointer, checkpoint};
use crate::journal::codec::encode_streams;

/// Deferred writes go to disk with the first transaction after so long, or alone a while later.
const JOIN_AFTER: Duration = Duration::from_secs(1);
/// The cursor as well, but soon: what is confirmed and not in it is published again after a crash. Under load it is one
/// more row in a transaction that is made anyway, at most 100 times a second (50 events at 5,000/s); alone it is one
/// transaction for what was written within a tenth of a second, and none where nothing is.
const CURSOR_JOIN_AFTER: Duration = Duration::from_millis(10);
const CURSOR_ALONE_AFTER: Duration = Duration::from_millis(100);
const DEFERRED_ALONE_AFTER: Duration = Duration::from_secs(5);
/// Deferred rows in one transaction: about 3 ms, so that a commit never waits long for heartbeats.
const DEFERRED_STEP: usize = 256;
/// Rows that compaction passes in one transaction of its own, and for each change that it rides with.
const SWEEP_STEP: usize = 256;
const SWEEP_PER_CHANGE: usize = 2;
/// A checkpoint is asked for each time the WAL has grown by so many pages (4 MB).
const CHECKPOINT_PAGES: u32 = 1024;
/// From here on (16 MB) the writer makes one itself, between two batches, when few pages are left to it: with all of
/// them in the database, the WAL starts anew.
const INLINE_PAGES: u32 = 4 * 1024;
const INLINE_PAGES_LEFT: u32 = 768;
/// Where readers have kept the WAL from starting anew: wait for them (64 MB).
const CHECKPOINT_HARD_PAGES: u32 = 16 * 1024;
/// After so long without a commit the rest of the WAL goes into the database, so that the next start is quick.
const CHECKPOINT_IDLE_AFTER: Duration = Duration::from_secs(1);
/// Free pages that are kept for later rows, and the step in which more are given back.
const FREE_PAGES_KEPT: i64 = 4096;
const VACUUM_STEP: i64 = 256;

/// What a transaction has done beside its changes; applied when it is on disk.
#[derive(Default)]
pub(crate) struct Done {
    cursor: Option<u64>,
    /// Keys whose deferred change went to disk, with its revision.
    flushed: Vec<(ObjectKey, u64)>,
    /// Keys whose deferred change a durable one overtook.
    overtaken: Vec<ObjectKey>,
    swept: Option<Swept>,
}

impl Writer<'_> {
    /// When there is work though nobody writes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let pages = self.wal_frames.load(Ordering::Relaxed);
        let due = [
            self.deferred_since.map(|since| since + DEFERRED_ALONE_AFTER),
            self.cursor_since.map(|since| since + CURSOR_ALONE_AFTER),
            (self.sweeping || self.vacuuming).then_some(now),
            (pages > self.checkpointed).then(|| self.last_commit + CHECKPOINT_IDLE_AFTER),
        ];
        let due = due.into_iter().flatten().min()?;
        Some(self.rest_until.map_or(due, |rest| due.max(rest)))
    }

    pub(crate) fn note_cursor(&mut self) {
        if self.shared.cursor_dirty.load(Ordering::Acquire) && self.cursor_since.is_none() {
            self.cursor_since = Some(Instant::now());
            // What waited for the relay may go now.
            self.sweeping |= self.sweep_due();
        }
    }

    /// For the transaction of a batch.
    pub(crate) fn house_work(&mut self, changes: usize) -> rusqlite::Result<Done> {
        let sweep = if self.sweeping { changes * SWEEP_PER_CHANGE } else { 0 };
        self.work(JOIN_AFTER, CURSOR_JOIN_AFTER, sweep)
    }

    fn work(
        &mut self,
        deferred_after: Duration,
        cursor_after: Duration,
        sweep: usize,
    ) -> rusqlite::Result<Done> {
        let mut done = Done::default();
        let due = |since: Option<Instant>, after| since.is_some_and(|s| s.elapsed() >= after);
        if due(self.cursor_since, cursor_after) {
            // Cleared first: whoever moves the cursor from here on says so again.
            self.shared.cursor_dirty.store(false, Ordering::Release);
            let cursor = self.shared.cursor().0;
            set_meta(self.connection, "cursor", cursor)?;
            done.cursor = Some(cursor);
        }
        if due(self.deferred_since, deferred_after) {
            self.flush_deferred(&mut done)?;
        }
        if sweep > 0 {
            done.swept = Some(self.sweep(sweep)?);
        }
        Ok(done)
    }

    fn flush_deferred(&self, done: &mut Done) -> rusqlite::Result<()> {
        let mut lines = String::new();
        for (key, change) in self.deferred.iter().take(DEFERRED_STEP) {
            let entry = self.state.current.get(key).copied();
            let Some(entry) = entry.filter(|entry| entry.revision == change.revision.0) else {
                done.overtaken.push(key.clone());
                continue;
            };
            let Some(resource) = self.shared.resources.read().id(&key.resource) else { continue };
            encode_streams(&change.streams, &mut lines);
            Row {
                revision: change.revision.0,
                resource,
                key,
                uid: &change.uid.0,
                prev: entry.history,
                op: change.op,
                deferred: true,
                time_ms: change.time_ms,
                streams: &lines,
                body: &change.body,
            }
            .insert(self.connection)?;
            if entry.deferred_row != 0 {
                delete_row(self.connection, entry.deferred_row)?;
            }
            done.flushed.push((key.clone(), change.revision.0));
        }
        Ok(())
    }

    pub(crate) fn apply(&mut self, done: Done) {
        if let Some(cursor) = done.cursor {
            self.state.cursor = cursor;
            self.cursor_since = None;
        }
        for (key, revision) in done.flushed {
            if let Some(entry) = self.state.current.get_mut(&key) {
                entry.deferred_row = revision;
            }
            self.deferred.remove(&key);
        }
        for key in done.overtaken {
            self.deferred.remove(&key);
        }
        if self.deferred.is_empty() {
            self.deferred_since = None;
        }
        match done.swept {
            Some(swept) => self.apply_swept(swept),
            None => self.sweeping |= self.sweep_due(),
        }
    }
}

impl Writer<'_> {
    /// When nobody waits: one small step, then the queue is looked at again.
    pub(crate) fn keep_house(&mut self) -> Result<(), Stop> {
        if self.rest_until.is_some_and(|rest| rest > Instant::now()) {
            return Ok(());
        }
        self.rest_until = None;
        if let Err(error) = self.step() {
            self.note_failure(&error)?;
            self.rest_until = Some(Instant::now() + REST_AFTER_FAILURE);
        }
        Ok(())
    }

    fn step(&mut self) -> rusqlite::Result<()> {
        let due = |since: Option<Instant>, after| since.is_some_and(|s| s.elapsed() >= after);
        let rows = due(self.deferred_since, DEFERRED_ALONE_AFTER)
            || due(self.cursor_since, CURSOR_ALONE_AFTER);
        self.sweeping &=
            self.sweep_due() || self.state.history_rows > self.options.history_revisions;
        if rows || self.sweeping {
            let sweep = if self.sweeping { SWEEP_STEP } else { 0 };
            self.own_transaction(|writer| writer.work(JOIN_AFTER, CURSOR_JOIN_AFTER, sweep))?;
            self.vacuuming |= !self.sweeping;
        } else if self.vacuuming {
            self.vacuuming = self.vacuum()?;
        }
        let pages = self.wal_frames.load(Ordering::Relaxed);
        if pages > self.checkpointed && self.last_commit.elapsed() >= CHECKPOINT_IDLE_AFTER {
            // What a reader held back waits for the next commit.
            self.checkpointed = pages;
            checkpoint(
                self.connection,
                if pages > CHECKPOINT_PAGES { "TRUNCATE" } else { "PASSIVE" },
            )?;
        }
        Ok(())
    }

    fn own_transaction(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<Done>,
    ) -> rusqlite::Result<()> {
        let done = self.in_transaction(|writer| {
            writer.insert_resources()?;
            work(writer)
        })?;
        self.resources_known();
        self.apply(done);
        self.last_commit = Instant::now();
        Ok(())
    }

    /// Gives free pages at the end back to the file system; answers whether there are more.
    fn vacuum(&mut self) -> rusqlite::Result<bool> {
        let free: i64 =
            self.connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        let step = (free - FREE_PAGES_KEPT).min(VACUUM_STEP);
        if step <= 0 {
            return Ok(false);
        }
        // One row for each page; it only works while it is read.
        let sql = format!("PRAGMA incremental_vacuum({step})");
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(free - FREE_PAGES_KEPT > step)
    }

    /// Keeps the WAL short also where it is never quiet. Most of it moves into the database beside the commits; now and
    /// then the rest follows between two of them, so that it can start anew.
    pub(crate) fn checkpoint_if_long(&mut self) -> Result<(), Stop> {
        if let Some(error) = self.checkpointer.as_ref().and_then(Checkpointer::trouble) {
            self.note_failure(&error)?;
        }
        let pages = self.wal_frames.load(Ordering::Relaxed);
        if pages < self.checkpointed {
            // It has started anew.
            self.checkpointed = 0;
            self.checkpointer.as_ref().inspect(|c| c.forget());
        }
        if self.rest_until.is_some_and(|rest| rest > Instant::now()) {
            return Ok(());
        }
        let grown = pages - self.checkpointed >= CHECKPOINT_PAGES;
        let few_left =
            |c: &Checkpointer| pages >= INLINE_PAGES && c.left(pages) <= INLINE_PAGES_LEFT;
        let mode = match &self.checkpointer {
            Some(_) if grown && pages >= CHECKPOINT_HARD_PAGES => "RESTART",
            Some(checkpointer) if few_left(checkpointer) => {
                checkpointer.forget();
                "PASSIVE"
            }
            Some(checkpointer) => {
                if grown {
                    self.checkpointed = pages;
                    checkpointer.ask();
                }
                return Ok(());
            }
            None if grown => "PASSIVE",
            None => return Ok(()),
        };
        self.checkpointed = pages;
        if let Err(error) = checkpoint(self.connection, mode) {
            self.note_failure(&error)?;
            self.rest_until = Some(Instant::now() + REST_AFTER_FAILURE);
        }
        Ok(())
    }

    /// Everything to disk, and the revisions without a gap.
    pub(crate) fn finish(&mut self) -> Result<(), Stop> {
        if let Err(error) = self.write_all() {
            // What was answered as durable is on disk; the rest was not promised.
            self.note_failure(&error)?;
        }
        Ok(())
    }

    fn write_all(&mut self) -> rusqlite::Result<()> {
        loop {
            let before = self.deferred.len();
            self.own_transaction(|writer| {
                set_meta(writer.connection, "mark", writer.state.last)?;
                writer.work(Duration::ZERO, Duration::ZERO, 0)
            })?;
            if self.deferred.is_empty() || self.deferred.len() == before {
                break;
            }
        }
        checkpoint(self.connection, "TRUNCATE").map(drop)
    }
}
