//! From an item to rows: expectations, revisions, stream heads.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use warren_api::{ObjectKey, Revision, Shard};

use super::{Answer, Writer};
use crate::journal::codec::{encode_streams, fill, op_code, unfill};
use crate::journal::queue::Job;
use crate::journal::state::{Entry, Heads};
use crate::journal::{Change, CommitError, Durability, Expected, Item, Op, StreamPosition, Write};

/// An item on its way through the writer.
pub(crate) struct Pending {
    item: Item,
    answer: oneshot::Sender<Answer>,
    staged: SmallVec<[Staged; 1]>,
    refused: Option<CommitError>,
}

/// What a write of the item becomes.
struct Staged {
    revision: u64,
    /// Before it, as watches see it.
    prev: u64,
    /// Before it in the history.
    history: u64,
    /// A deferred row that goes with this write; 0 for none.
    replaces: u64,
    resource: u32,
    streams: SmallVec<[StreamPosition; 2]>,
    digits: usize,
    time_ms: i64,
}

/// What a batch has changed in memory before it is on disk.
#[derive(Default)]
pub(crate) struct Attempt {
    pub(crate) undo: Vec<(ObjectKey, Option<Entry>)>,
    pub(crate) heads: Heads,
}

impl Pending {
    pub(crate) fn new(job: Job) -> Self {
        Self { item: job.item, answer: job.answer, staged: SmallVec::new(), refused: None }
    }

    /// A delete is never deferred: its row must take the object's rows with it.
    pub(crate) fn is_deferred(&self) -> bool {
        let deferred = |w: &Write| w.durability == Durability::Deferred && w.op != Op::Deleted;
        !self.item.writes.is_empty() && self.item.writes.iter().all(deferred)
    }

    pub(crate) fn writes(&self) -> usize {
        self.item.writes.len()
    }

    pub(crate) fn staged(&self) -> usize {
        self.staged.len()
    }

    pub(crate) fn staged_bytes(&self) -> usize {
        self.item.writes.iter().zip(&self.staged).map(|(w, _)| w.body.json.len()).sum()
    }

    pub(crate) fn refuse(self, error: CommitError) {
        let _ = self.answer.send(Err(self.refused.unwrap_or(error)));
    }

    pub(crate) fn unstage(&mut self) {
        for (write, staged) in self.item.writes.iter_mut().zip(self.staged.drain(..)) {
            unfill(&mut write.body, staged.digits);
        }
        self.refused = None;
    }

    pub(crate) fn insert(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut lines = String::new();
        for (write, staged) in self.item.writes.iter().zip(&self.staged) {
            encode_streams(&staged.streams, &mut lines);
            Row {
                revision: staged.revision,
                resource: staged.resource,
                key: &write.key,
                uid: &write.uid.0,
                prev: staged.history,
                op: write.op,
                deferred: false,
                time_ms: staged.time_ms,
                streams: &lines,
                body: &write.body.json,
            }
            .insert(connection)?;
            if staged.replaces != 0 {
                delete_row(connection, staged.replaces)?;
            }
        }
        Ok(())
    }
}

/// A row of the journal.
pub(crate) struct Row<'a> {
    pub(crate) revision: u64,
    pub(crate) resource: u32,
    pub(crate) key: &'a ObjectKey,
    pub(crate) uid: &'a str,
    pub(crate) prev: u64,
    pub(crate) op: Op,
    pub(crate) deferred: bool,
    pub(crate) time_ms: i64,
    pub(crate) streams: &'a str,
    pub(crate) body: &'a [u8],
}

impl Row<'_> {
    pub(crate) fn insert(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "INSERT INTO journal
             (rv, resource, namespace, name, uid, prev, op, deferred, time_ms, streams, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        statement
            .execute((
                self.revision as i64,
                self.resource,
                &*self.key.namespace,
                &*self.key.name,
                self.uid,
                self.prev as i64,
                op_code(self.op),
                self.deferred,
                self.time_ms,
                self.streams,
                self.body,
            ))
            .map(drop)
    }
}

pub(crate) fn delete_row(connection: &Connection, revision: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM journal WHERE rv = ?1")?
        .execute([revision as i64])
        .map(drop)
}

impl Writer<'_> {
    /// Checks an item against all that came before it, in its batch too, and gives its writes their revisions. An item
    /// that does not hold changes nothing.
    pub(crate) fn stage(&mut self, pending: &mut Pending, attempt: &mut Attempt) {
        let deferred = pending.is_deferred();
        for (key, expected) in &pending.item.expects {
            let actual = self.state.current.get(key).map(|entry| Revision(entry.revision));
            let holds = match expected {
                Expected::Absent => actual.is_none(),
                Expected::Present => actual.is_some(),
                Expected::Revision(revision) => actual == Some(*revision),
            };
            if !holds {
                let (key, expected) = (key.clone(), *expected);
                pending.refused = Some(CommitError::Unexpected { key, expected, actual });
                return;
            }
        }
        let time_ms = (self.options.clock.0)();
        for write in &mut pending.item.writes {
            self.state.last += 1;
            let revision = self.state.last;
            let resource = self.resource_id(write);
            let old = self.state.current.get(&write.key).copied();
            let entry = old.unwrap_or(Entry { revision: 0, history: 0, deferred_row: 0 });
            let new = if deferred {
                Entry { revision, ..entry }
            } else {
                Entry { revision, history: revision, deferred_row: 0 }
            };
            let undone = if write.op == Op::Deleted {
                self.state.current.remove(&write.key)
            } else {
                self.state.current.insert(write.key.clone(), new)
            };
            attempt.undo.push((write.key.clone(), undone));
            let streams = self.streams(write, resource, revision, deferred, attempt);
            pending.staged.push(Staged {
                revision,
                prev: entry.revision,
                history: entry.history,
                replaces: entry.deferred_row,
                resource,
                streams,
                digits: fill(&mut write.body, revision),
                time_ms,
            });
        }
    }

    fn resource_id(&self, write: &Write) -> u32 {
        let known = self.shared.resources.read().id(&write.key.resource);
        known.unwrap_or_else(|| self.shared.resources.write().push(write.key.resource.clone()))
    }

    fn streams(
        &self,
        write: &Write,
        resource: u32,
        revision: u64,
        deferred: bool,
        attempt: &mut Attempt,
    ) -> SmallVec<[StreamPosition; 2]> {
        let shared = self.shared.heads.read();
        let mut streams: SmallVec<[StreamPosition; 2]> = SmallVec::new();
        // The stream of all shards comes last: the first is the object's own.
        for shard in write.shards.iter().chain([&Shard::Every]) {
            if streams.iter().any(|position| position.shard == *shard) {
                continue;
            }
            let stream = (resource, shard.clone());
            let head = attempt.heads.get(&stream).or_else(|| shared.get(&stream));
            let prev = Revision(head.copied().unwrap_or(0));
            streams.push(StreamPosition { shard: shard.clone(), prev });
            if !deferred {
                attempt.heads.insert(stream, revision);
            }
        }
        streams
    }
}

type Addressed = (oneshot::Sender<Answer>, Answer);

/// The changes in revision order, and the answers with whom they go to.
pub(crate) fn finish(
    jobs: impl IntoIterator<Item = Pending>,
) -> (Vec<Arc<Change>>, Vec<Addressed>) {
    let jobs = jobs.into_iter();
    let mut changes = Vec::with_capacity(jobs.size_hint().0);
    let mut answers = Vec::with_capacity(jobs.size_hint().0);
    for pending in jobs {
        if let Some(error) = pending.refused {
            answers.push((pending.answer, Err(error)));
            continue;
        }
        let deferred = pending.is_deferred();
        let mut own = SmallVec::new();
        for (write, staged) in pending.item.writes.into_iter().zip(pending.staged) {
            let mut json = write.body.json;
            // The cache keeps these bytes as they are: no more than an eighth may be unused.
            if json.capacity() - json.len() > json.len() / 8 {
                json.shrink_to_fit();
            }
            own.push(Arc::new(Change {
                revision: Revision(staged.revision),
                prev: Revision(staged.prev),
                key: write.key,
                uid: write.uid,
                op: write.op,
                durability: if deferred { Durability::Deferred } else { Durability::Durable },
                streams: staged.streams,
                time_ms: staged.time_ms,
                body: Bytes::from(json),
            }));
        }
        changes.extend(own.iter().cloned());
        answers.push((pending.answer, Ok(own)));
    }
    (changes, answers)
}
