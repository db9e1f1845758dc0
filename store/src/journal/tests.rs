use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::smallvec;
use tempfile::TempDir;

use super::writer::Faults;
use super::*;

mod commits;
mod compaction;
mod crash;
mod model;
mod opening;
mod trouble;

fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(pods(), "default", name)
}

fn body(text: &str) -> Body {
    let json = format!(r#"{{"metadata":{{"resourceVersion":""}},"text":"{text}"}}"#).into_bytes();
    Body { json, hole: 32 }
}

fn write(name: &str, op: Op) -> Write {
    Write {
        key: key(name),
        uid: Uid("u".into()),
        op,
        durability: Durability::Durable,
        shards: smallvec![Shard::Unscheduled],
        body: body(name),
    }
}

fn deferred(name: &str) -> Item {
    item(Write { durability: Durability::Deferred, ..write(name, Op::Modified) })
}

fn item(write: Write) -> Item {
    Item { expects: vec![], writes: vec![write] }
}

fn expecting(name: &str, expected: Expected, op: Op) -> Item {
    Item { expects: vec![(key(name), expected)], writes: vec![write(name, op)] }
}

type Seen = Arc<Mutex<Vec<Vec<Arc<Change>>>>>;

/// A journal in a folder of its own, and what `on_commit` has seen.
struct Bench {
    journal: Journal,
    loaded: Loaded,
    seen: Seen,
    faults: Faults,
    fatal: Arc<Mutex<Vec<String>>>,
    // Goes last.
    dir: TempDir,
}

fn bench() -> Bench {
    open_in(tempfile::tempdir().unwrap(), Options::default())
}

fn open_in(dir: TempDir, options: Options) -> Bench {
    open_watched(dir, options, |_| {})
}

fn open_watched(
    dir: TempDir,
    options: Options,
    mut on_commit: impl FnMut(&Batch) + Send + 'static,
) -> Bench {
    let (seen, fatal, faults) =
        (Seen::default(), Arc::<Mutex<Vec<String>>>::default(), Faults::default());
    let (into, ended) = (Arc::clone(&seen), Arc::clone(&fatal));
    let hooks = Hooks {
        fatal: Box::new(move |reason| ended.lock().push(reason.to_owned())),
        faults: faults.clone(),
    };
    let on_commit = Box::new(move |batch: &Batch| {
        into.lock().push(batch.to_vec());
        on_commit(batch);
    });
    let path = dir.path().join("warren.db");
    let (journal, loaded) = Journal::open_with(&path, options, on_commit, hooks).unwrap();
    Bench { journal, loaded, seen, faults, fatal, dir }
}

impl Bench {
    async fn reopen(self, options: Options) -> Bench {
        self.journal.close().await;
        open_in(self.dir, options)
    }

    async fn commit(&self, item: Item) -> Arc<Change> {
        Arc::clone(&self.journal.commit(item).await.unwrap()[0])
    }

    fn revisions(&self, after: u64) -> Vec<u64> {
        let history = self.journal.history(Revision(after), None, 1000).unwrap();
        history.iter().map(|change| change.revision.0).collect()
    }

    /// Rows on disk, history or not.
    fn rows(&self) -> Vec<u64> {
        let read = |connection: &rusqlite::Connection| {
            let mut statement = connection.prepare("SELECT rv FROM journal ORDER BY rv")?;
            let rows = statement.query_map([], |row| row.get::<_, i64>(0))?;
            rows.map(|rv| rv.map(|rv| rv as u64)).collect::<Result<Vec<_>, _>>()
        };
        self.journal.shared().with_reader(read).unwrap()
    }
}

/// Waits for what another thread does.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
