//! What is there when the journal is opened: one pass over the rows, newest first.

use std::path::Path;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use rusqlite::{Connection, Row};
use warren_api::{GroupResource, NodeName, ObjectKey, Revision, Shard, Uid};

use super::codec::{decode_streams, op_of};
use super::state::{Entry, Heads, Resources, State};
use super::{Change, Durability, Loaded, Op};
use crate::database::OpenError;

pub(crate) struct Start {
    pub(crate) state: State,
    pub(crate) resources: Resources,
    pub(crate) heads: Heads,
    pub(crate) loaded: Loaded,
}

/// Columns of `journal` in the order that [`Reader::change`] wants; `body` comes last.
pub(crate) const COLUMNS: &str =
    "rv, resource, namespace, name, uid, prev, op, deferred, time_ms, streams, body";

pub(crate) fn load(connection: &Connection, path: &Path) -> Result<Start, OpenError> {
    let sqlite = |source| OpenError::sqlite(path, source);
    let mut state = State::default();
    load_meta(connection, &mut state).map_err(sqlite)?;
    let resources = load_resources(connection, path)?;
    let mut heads = load_heads(connection, path)?;
    let mut reader = Reader::default();
    let mut objects = Vec::new();
    // Keys whose newest row is a delete.
    let mut gone = AHashSet::new();

    let sql = format!("SELECT {COLUMNS} FROM journal ORDER BY rv DESC");
    let mut statement = connection.prepare(&sql).map_err(sqlite)?;
    let mut rows = statement.query([]).map_err(sqlite)?;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let head = reader.head(row, &resources).map_err(|error| error.at_open(path))?;
        state.mark = state.mark.max(head.revision);
        let deferred = head.durability == Durability::Deferred;
        if !deferred {
            let resource = head.resource;
            for position in &head.streams {
                let seen = heads.entry((resource, position.shard.clone())).or_default();
                *seen = (*seen).max(head.revision);
            }
            if head.revision > state.swept {
                state.history_rows += 1;
                state.history_bytes += head.body_len(row).map_err(sqlite)?;
            }
        }
        if state.current.contains_key(&head.key) || gone.contains(&head.key) {
            continue;
        }
        if head.op == Op::Deleted {
            gone.insert(head.key);
            continue;
        }
        let (history, deferred_row) = match head.durability {
            Durability::Durable => (head.revision, 0),
            Durability::Deferred => (head.prev, head.revision),
        };
        let entry = Entry { revision: head.revision, history, deferred_row };
        state.current.insert(head.key.clone(), entry);
        objects.push(Arc::new(head.with_body(row).map_err(sqlite)?));
    }
    every_shard(&mut heads);
    // Above all that may have been given out before a crash.
    state.last = state.mark;
    let loaded = Loaded { objects, revision: Revision(state.last), epoch: state.epoch };
    Ok(Start { state, resources, heads, loaded })
}

/// Rows of earlier releases do not name the stream of all shards: its head is the newest of the resource's.
fn every_shard(heads: &mut Heads) {
    let mut newest = AHashMap::<u32, u64>::new();
    for ((resource, _), head) in &*heads {
        let of_resource = newest.entry(*resource).or_default();
        *of_resource = (*of_resource).max(*head);
    }
    heads.extend(newest.into_iter().map(|(resource, head)| ((resource, Shard::Every), head)));
}

fn load_meta(connection: &Connection, state: &mut State) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT name, value FROM meta")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let value = row.get::<_, i64>(1)? as u64;
        match row.get_ref(0)?.as_str()? {
            "epoch" => state.epoch = value,
            "mark" => state.mark = value,
            "floor" => state.floor = value,
            "swept" => state.swept = value,
            "cursor" => state.cursor = value,
            _ => {}
        }
    }
    Ok(())
}

fn load_resources(connection: &Connection, path: &Path) -> Result<Resources, OpenError> {
    let read = || -> rusqlite::Result<Vec<(i64, String, String)>> {
        let mut statement = connection.prepare("SELECT id, grp, name FROM resource ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    };
    let mut resources = Resources::default();
    for (id, group, name) in read().map_err(|source| OpenError::sqlite(path, source))? {
        if i64::from(resources.push(GroupResource::new(group, name))) != id {
            return Err(OpenError::damaged(path, "the numbers of the resources have gaps"));
        }
    }
    Ok(resources)
}

fn load_heads(connection: &Connection, path: &Path) -> Result<Heads, OpenError> {
    let read = || -> rusqlite::Result<Vec<(u32, String, i64)>> {
        let mut statement = connection.prepare("SELECT resource, shard, rv FROM head")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    };
    let rows = read().map_err(|source| OpenError::sqlite(path, source))?;
    rows.into_iter()
        .map(|(resource, word, rv)| {
            let shard = Shard::of_word(&word)
                .ok_or_else(|| OpenError::damaged(path, format!("unknown shard {word:?}")))?;
            Ok(((resource, shard), rv as u64))
        })
        .collect()
}

/// Reads rows, sharing the strings that repeat.
#[derive(Default)]
pub(crate) struct Reader {
    words: AHashMap<String, Shard>,
    namespaces: AHashSet<Arc<str>>,
}

/// A row without its body.
pub(crate) struct Head {
    pub(crate) revision: u64,
    pub(crate) resource: u32,
    pub(crate) key: ObjectKey,
    pub(crate) op: Op,
    pub(crate) durability: Durability,
    pub(crate) streams: smallvec::SmallVec<[super::StreamPosition; 2]>,
    uid: Uid,
    prev: u64,
    time_ms: i64,
}

/// Why a row cannot be read.
pub(crate) enum RowError {
    Sqlite(rusqlite::Error),
    Damaged(String),
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<rusqlite::types::FromSqlError> for RowError {
    fn from(error: rusqlite::types::FromSqlError) -> Self {
        Self::Sqlite(error.into())
    }
}

impl RowError {
    fn at_open(self, path: &Path) -> OpenError {
        match self {
            Self::Sqlite(source) => OpenError::sqlite(path, source),
            Self::Damaged(detail) => OpenError::damaged(path, detail),
        }
    }
}

impl From<RowError> for rusqlite::Error {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Sqlite(error) => error,
            RowError::Damaged(detail) => {
                Self::FromSqlConversionFailure(0, rusqlite::types::Type::Null, detail.into())
            }
        }
    }
}

impl Reader {
    pub(crate) fn head(&mut self, row: &Row<'_>, resources: &Resources) -> Result<Head, RowError> {
        let revision = row.get::<_, i64>(0)? as u64;
        let damaged = |what: &str| RowError::Damaged(format!("journal row {revision}: {what}"));
        let resource = row.get::<_, u32>(1)?;
        let name = resources.name(resource).ok_or_else(|| damaged("unknown resource"))?.clone();
        let namespace = self.intern(row.get_ref(2)?.as_str()?);
        let key = ObjectKey { resource: name, namespace, name: row.get_ref(3)?.as_str()?.into() };
        let deferred = row.get::<_, bool>(7)?;
        let streams = decode_streams(row.get_ref(9)?.as_str()?, |word| self.shard(word))
            .ok_or_else(|| damaged("unreadable streams"))?;
        Ok(Head {
            revision,
            resource,
            key,
            op: op_of(row.get(6)?).ok_or_else(|| damaged("unknown operation"))?,
            durability: if deferred { Durability::Deferred } else { Durability::Durable },
            streams,
            uid: Uid(row.get_ref(4)?.as_str()?.into()),
            prev: row.get::<_, i64>(5)? as u64,
            time_ms: row.get(8)?,
        })
    }

    fn intern(&mut self, namespace: &str) -> Arc<str> {
        if let Some(known) = self.namespaces.get(namespace) {
            return Arc::clone(known);
        }
        let new: Arc<str> = namespace.into();
        self.namespaces.insert(Arc::clone(&new));
        new
    }

    fn shard(&mut self, word: &str) -> Option<Shard> {
        let Some(name) = word.strip_prefix("node~") else { return Shard::of_word(word) };
        if let Some(shard) = self.words.get(name) {
            return Some(shard.clone());
        }
        let shard = Shard::Node(NodeName(name.into()));
        self.words.insert(name.to_owned(), shard.clone());
        Some(shard)
    }
}

impl Head {
    fn body_len(&self, row: &Row<'_>) -> rusqlite::Result<u64> {
        Ok(row.get_ref(10)?.as_blob()?.len() as u64)
    }

    pub(crate) fn with_body(self, row: &Row<'_>) -> rusqlite::Result<Change> {
        Ok(Change {
            revision: Revision(self.revision),
            prev: Revision(self.prev),
            key: self.key,
            uid: self.uid,
            op: self.op,
            durability: self.durability,
            streams: self.streams,
            time_ms: self.time_ms,
            body: Bytes::copy_from_slice(row.get_ref(10)?.as_blob()?),
        })
    }
}
