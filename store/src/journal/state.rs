//! What is kept in memory: the writer's own, and what it shares with readers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ahash::AHashMap;
use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;
use smallvec::SmallVec;
use warren_api::{GroupResource, ObjectKey, Revision, Shard};

use super::Stats;
use super::queue::Queue;

/// Where the newest row of a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) revision: u64,
    /// The object's last row in the history, 0 where there is none: the `prev` of its next row on disk.
    pub(crate) history: u64,
    /// A deferred row of it on disk, which goes with its next row; 0 for none.
    pub(crate) deferred_row: u64,
}

/// Resources and the small numbers that stand for them in the tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    /// Index = id − 1.
    names: Vec<GroupResource>,
    ids: AHashMap<GroupResource, u32>,
}

impl Resources {
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn id(&self, name: &GroupResource) -> Option<u32> {
        self.ids.get(name).copied()
    }

    pub(crate) fn name(&self, id: u32) -> Option<&GroupResource> {
        self.names.get((id as usize).checked_sub(1)?)
    }

    pub(crate) fn push(&mut self, name: GroupResource) -> u32 {
        let id = self.names.len() as u32 + 1;
        self.ids.insert(name.clone(), id);
        self.names.push(name);
        id
    }

    /// Forgets those that were pushed after there were `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        for name in self.names.drain(len..) {
            self.ids.remove(&name);
        }
    }

    /// Names with an id above `len`, with their ids.
    pub(crate) fn since(&self, len: usize) -> impl Iterator<Item = (u32, &GroupResource)> {
        (len as u32 + 1..).zip(self.names.iter().skip(len))
    }
}

pub(crate) type Heads = AHashMap<(u32, Shard), u64>;

/// The writer's own.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) epoch: u64,
    pub(crate) current: AHashMap<ObjectKey, Entry>,
    /// The last revision that was given out.
    pub(crate) last: u64,
    /// Up to where revisions may be given out without a word to the disk.
    pub(crate) mark: u64,
    pub(crate) floor: u64,
    pub(crate) swept: u64,
    pub(crate) cursor: u64,
    /// Rows of the history above `swept`, and the bytes of their bodies.
    pub(crate) history_rows: u64,
    pub(crate) history_bytes: u64,
}

/// Between the handles and the writer.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) epoch: u64,
    pub(crate) queue: Queue,
    pub(crate) visible: AtomicU64,
    pub(crate) floor: AtomicU64,
    pub(crate) cursor: AtomicU64,
    /// The cursor is ahead of the disk, and the writer knows.
    pub(crate) cursor_dirty: AtomicBool,
    /// Only the writer writes.
    pub(crate) resources: RwLock<Resources>,
    pub(crate) heads: RwLock<Heads>,
    pub(crate) readers: Mutex<Vec<Connection>>,
    pub(crate) stats: Mutex<Stats>,
}

impl Shared {
    pub(crate) fn new(path: &Path, state: &State, resources: Resources, heads: Heads) -> Self {
        Self {
            path: path.to_owned(),
            epoch: state.epoch,
            queue: Queue::default(),
            visible: AtomicU64::new(state.last),
            floor: AtomicU64::new(state.floor),
            cursor: AtomicU64::new(state.cursor),
            cursor_dirty: AtomicBool::new(false),
            resources: RwLock::new(resources),
            heads: RwLock::new(heads),
            readers: Mutex::default(),
            stats: Mutex::default(),
        }
    }

    pub(crate) fn visible(&self) -> Revision {
        Revision(self.visible.load(Ordering::Acquire))
    }

    pub(crate) fn floor(&self) -> Revision {
        Revision(self.floor.load(Ordering::Acquire))
    }

    pub(crate) fn raise_floor(&self, floor: u64) {
        self.floor.fetch_max(floor, Ordering::AcqRel);
    }

    pub(crate) fn cursor(&self) -> Revision {
        Revision(self.cursor.load(Ordering::Acquire))
    }

    pub(crate) fn set_cursor(&self, confirmed: Revision) {
        let confirmed = confirmed.0.min(self.visible().0);
        if self.cursor.fetch_max(confirmed, Ordering::AcqRel) < confirmed
            && !self.cursor_dirty.swap(true, Ordering::AcqRel)
        {
            self.queue.nudge();
        }
    }

    pub(crate) fn head(&self, resource: &GroupResource, shard: &Shard) -> Revision {
        let Some(id) = self.resources.read().id(resource) else { return Revision(0) };
        Revision(self.heads.read().get(&(id, shard.clone())).copied().unwrap_or(0))
    }

    pub(crate) fn heads(&self, shards: &[Shard]) -> Vec<(GroupResource, Shard, Revision)> {
        let (resources, heads) = (self.resources.read(), self.heads.read());
        let of_resource = |(id, name): (u32, &GroupResource)| {
            let head = |shard: &Shard| Some(Revision(*heads.get(&(id, shard.clone()))?));
            let found = |shard: &Shard| Some((name.clone(), shard.clone(), head(shard)?));
            shards.iter().filter_map(found).collect::<SmallVec<[_; 2]>>()
        };
        resources.since(0).flat_map(of_resource).collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        let size = |suffix: &str| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(suffix);
            std::fs::metadata(name).map_or(0, |m| m.len())
        };
        let waiting = self.queue.waiting();

        Stats { waiting, wal_bytes: size("-wal"), database_bytes: size(""), ..*self.stats.lock() }
    }
}
