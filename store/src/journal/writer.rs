//! The one thread that writes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use rusqlite::Connection;
use smallvec::SmallVec;
use warren_api::ObjectKey;

use self::stage::{Attempt, Pending, finish};
use super::checkpoint::Checkpointer;
use super::queue::{Job, Taken};
use super::state::{Heads, Shared, State};
use super::{Batch, Change, CommitError, Options};
use crate::database::{Database, Fault, fault};

mod house;
mod stage;
mod sweep;

pub(crate) type Answer = Result<SmallVec<[Arc<Change>; 1]>, CommitError>;

/// Revisions that are given out for one write of the mark. After a crash at most so many are skipped.
pub(crate) const MARK_STEP: u64 = 10_000;
/// After a failure, the writer's own work (not the commits) rests so long.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What tests put in place of the world.
pub(crate) struct Hooks {
    /// Ends the process. In tests it may return; the writer then stops.
    pub(crate) fatal: Box<dyn Fn(&str) + Send>,
    #[cfg(test)]
    pub(crate) faults: Faults,
}

/// What tests do to the writer's connection.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// For the next transactions, in place of their commit.
    pub(crate) errors: Arc<parking_lot::Mutex<std::collections::VecDeque<rusqlite::Error>>>,
    /// Runs before the next transaction.
    pub(crate) sql: Arc<parking_lot::Mutex<Vec<&'static str>>>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            fatal: Box::new(|_| std::process::abort()),
            #[cfg(test)]
            faults: Faults::default(),
        }
    }
}

pub(crate) fn start(
    mut database: Database,
    state: State,
    options: Options,
    shared: Arc<Shared>,
    on_commit: Box<dyn FnMut(&Batch) + Send>,
    hooks: Hooks,
) -> std::io::Result<()> {
    std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
        let ended = Arc::clone(&shared);
        let wal_frames = Arc::new(AtomicU32::new(0));
        let frames = Arc::clone(&wal_frames);
        // In the place of SQLite's own checkpoints, which would stop a commit for as long as they take.
        let hooked = database.connection.wal_hook(Some(move |_: &mut _, pages: i32| {
            frames.store(pages.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        }));
        if let Err(error) = hooked {
            tracing::warn!(%error, "the size of the WAL is not watched");
        }
        let resources_on_disk = shared.resources.read().len();
        let checkpointer = match Checkpointer::start(&shared.path) {
            Ok(checkpointer) => Some(checkpointer),
            Err(error) => {
                tracing::warn!(%error, "checkpoints are made between commits");
                None
            }
        };
        let mut writer = Writer {
            checkpointer,
            connection: &database.connection,
            state,
            options,
            shared,
            on_commit,
            deferred: AHashMap::new(),
            deferred_since: None,
            cursor_since: None,
            last_commit: Instant::now(),
            sweeping: true,
            vacuuming: false,
            resources_on_disk,
            wal_frames,
            checkpointed: 0,
            rest_until: None,
            failing: false,
            hooks,
        };
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| writer.run()));
        if ran.is_err() {
            let _: Stop = writer.stop("the journal's writer panicked");
        }
        drop(writer);
        // The file is closed and unlocked before anybody hears of the end.
        drop(database);
        ended.readers.lock().clear();
        ended.queue.end();
    })?;
    Ok(())
}

/// The process must end: what is on disk, or what the cache has seen, is unknown.
#[derive(Debug)]
pub(crate) struct Stop;

pub(crate) struct Writer<'db> {
    connection: &'db Connection,
    state: State,
    options: Options,
    shared: Arc<Shared>,
    on_commit: Box<dyn FnMut(&Batch) + Send>,
    /// Deferred changes that are not on disk, the newest of each key. One that a durable write overtook is recognised
    /// by its revision. Bounded by the number of objects that are written so.
    deferred: AHashMap<ObjectKey, Arc<Change>>,
    deferred_since: Option<Instant>,
    cursor_since: Option<Instant>,
    last_commit: Instant,
    sweeping: bool,
    vacuuming: bool,
    /// Those with higher numbers are only known in memory yet.
    resources_on_disk: usize,
    /// Pages in the WAL, as of the last commit.
    wal_frames: Arc<AtomicU32>,
    /// As of the last checkpoint that was made or asked for.
    checkpointed: u32,
    checkpointer: Option<Checkpointer>,
    rest_until: Option<Instant>,
    failing: bool,
    hooks: Hooks,
}

impl Writer<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        let shared = Arc::clone(&self.shared);
        let mut jobs = Vec::new();
        loop {
            match shared.queue.take(&mut jobs, self.deadline()) {
                Taken::Jobs => {
                    self.commit(jobs.drain(..))?;
                    self.checkpoint_if_long()?;
                }
                Taken::Woken => {}
                Taken::Closed => return self.finish(),
            }
            self.note_cursor();
            if shared.queue.waiting() == 0 {
                self.keep_house()?;
            }
            self.tell();
        }
    }

    fn tell(&self) {
        let mut stats = self.shared.stats.lock();
        stats.history_changes = self.state.history_rows;
        stats.history_bytes = self.state.history_bytes;
    }

    fn commit(&mut self, jobs: impl Iterator<Item = Job>) -> Result<(), Stop> {
        let (deferred, mut durable): (Vec<_>, Vec<_>) =
            jobs.map(Pending::new).partition(Pending::is_deferred);
        let writes = deferred.iter().chain(&durable).map(|p| p.writes()).sum::<usize>() as u64;
        if let Err(error) = self.raise_mark(writes) {
            return self.refuse(deferred.into_iter().chain(durable), &error);
        }
        if !deferred.is_empty() {
            self.commit_deferred(deferred)?;
        }
        if durable.is_empty() {
            return Ok(());
        }
        match self.transact(&mut durable) {
            Ok(heads) => self.publish(durable, heads),
            // What is too much together may fit alone: a large write must not take the others with it.
            Err(error) if durable.len() > 1 && fault(&error) == Fault::Full => {
                for pending in durable {
                    let mut alone = [pending];
                    match self.transact(&mut alone) {
                        Ok(heads) => self.publish(alone, heads)?,
                        Err(error) => self.refuse(alone, &error)?,
                    }
                }
                Ok(())
            }
            Err(error) => self.refuse(durable, &error),
        }
    }

    /// Answers at once; the disk follows.
    fn commit_deferred(&mut self, mut jobs: Vec<Pending>) -> Result<(), Stop> {
        let mut attempt = Attempt::default();
        jobs.iter_mut().for_each(|pending| self.stage(pending, &mut attempt));
        // Streams are what is published, and this is not: the heads stay.
        let (changes, answers) = finish(jobs);
        for change in &changes {
            self.deferred.insert(change.key.clone(), Arc::clone(change));
            self.deferred_since.get_or_insert_with(Instant::now);
        }
        self.show(&changes, Heads::new())?;
        answers.into_iter().for_each(|(to, answer)| drop(to.send(answer)));
        Ok(())
    }

    /// One transaction with all items that hold. On an error all is as before.
    fn transact(&mut self, jobs: &mut [Pending]) -> rusqlite::Result<Heads> {
        let resources = self.shared.resources.read().len();
        let mut attempt = Attempt::default();
        jobs.iter_mut().for_each(|pending| self.stage(pending, &mut attempt));
        let changes: usize = jobs.iter().map(Pending::staged).sum();
        if changes == 0 {
            return Ok(Heads::new());
        }
        let result = self.in_transaction(|writer| {
            writer.insert_resources()?;
            jobs.iter().try_for_each(|pending| pending.insert(writer.connection))?;
            writer.house_work(changes)
        });
        match result {
            Ok(done) => {
                self.resources_known();
                self.apply(done);
                let bytes: usize = jobs.iter().map(Pending::staged_bytes).sum();
                self.state.history_rows += changes as u64;
                self.state.history_bytes += bytes as u64;
                self.sweeping |= self.sweep_due();
                self.last_commit = Instant::now();
                self.shared.stats.lock().transactions += 1;
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the journal can be written again");
                }
                Ok(attempt.heads)
            }
            Err(error) => {
                for (key, entry) in attempt.undo.into_iter().rev() {
                    match entry {
                        Some(entry) => self.state.current.insert(key, entry),
                        None => self.state.current.remove(&key),
                    };
                }
                jobs.iter_mut().for_each(Pending::unstage);
                self.shared.resources.write().truncate(resources);
                Err(error)
            }
        }
    }

    /// The cache first, then the answers.
    fn publish(
        &mut self,
        jobs: impl IntoIterator<Item = Pending>,
        heads: Heads,
    ) -> Result<(), Stop> {
        let (changes, answers) = finish(jobs);
        self.show(&changes, heads)?;
        answers.into_iter().for_each(|(to, answer)| drop(to.send(answer)));
        Ok(())
    }

    fn show(&mut self, changes: &[Arc<Change>], heads: Heads) -> Result<(), Stop> {
        let Some(last) = changes.last() else { return Ok(()) };
        let on_commit = &mut self.on_commit;
        std::panic::catch_unwind(AssertUnwindSafe(|| on_commit(changes)))
            .map_err(|_| self.stop("the cache could not take a committed batch"))?;
        if !heads.is_empty() {
            self.shared.heads.write().extend(heads);
        }
        self.shared.visible.store(last.revision.0, Ordering::Release);
        self.shared.stats.lock().changes += changes.len() as u64;
        Ok(())
    }

    fn refuse(
        &mut self,
        jobs: impl IntoIterator<Item = Pending>,
        error: &rusqlite::Error,
    ) -> Result<(), Stop> {
        self.note_failure(error)?;
        for pending in jobs {
            pending.refuse(CommitError::Storage(error.to_string()));
        }
        Ok(())
    }

    fn note_failure(&mut self, error: &rusqlite::Error) -> Result<(), Stop> {
        if fault(error) == Fault::Fatal {
            return Err(self.stop(&error.to_string()));
        }
        self.shared.stats.lock().failures += 1;
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "cannot write the journal");
        }
        Ok(())
    }

    /// Before anybody who waits for an answer is let go: what they asked for may be on disk.
    fn stop(&self, problem: &str) -> Stop {
        tracing::error!(problem, "the journal cannot go on; the process ends");
        (self.hooks.fatal)(problem);
        Stop
    }

    /// Makes room for revisions before they are given out.
    fn raise_mark(&mut self, writes: u64) -> rusqlite::Result<()> {
        let needed = self.state.last + writes;
        if needed <= self.state.mark {
            return Ok(());
        }
        let mark = needed + MARK_STEP;
        self.in_transaction(|writer| set_meta(writer.connection, "mark", mark))?;
        self.state.mark = mark;
        Ok(())
    }

    fn insert_resources(&self) -> rusqlite::Result<()> {
        let resources = self.shared.resources.read();
        for (id, name) in resources.since(self.resources_on_disk) {
            self.connection.execute(
                "INSERT INTO resource (id, grp, name) VALUES (?1, ?2, ?3)",
                (id, &*name.group, &*name.resource),
            )?;
        }
        Ok(())
    }

    fn resources_known(&mut self) {
        self.resources_on_disk = self.shared.resources.read().len();
    }

    /// All or nothing; leaves no transaction open.
    fn in_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        #[cfg(test)]
        for sql in self.hooks.faults.sql.lock().drain(..) {
            self.connection.execute_batch(sql)?;
        }
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let result = work(self).and_then(|done| {
            self.injected_fault()?;
            self.connection.prepare_cached("COMMIT")?.execute([])?;
            Ok(done)
        });
        if result.is_err() && !self.connection.is_autocommit() {
            // Some errors have rolled back already; if this one fails, so will the next BEGIN.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        result
    }

    #[cfg(test)]
    fn injected_fault(&self) -> rusqlite::Result<()> {
        self.hooks.faults.errors.lock().pop_front().map_or(Ok(()), Err)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the tests' form uses it")]
    fn injected_fault(&self) -> rusqlite::Result<()> {
        Ok(())
    }
}

pub(crate) fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?
        .execute((name, value as i64))
        .map(drop)
}
