use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::smallvec;
use tempfile::TempDir;

use super::*;

pub(super) fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

pub(super) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(pods(), "default", name)
}

pub(super) fn body(text: &str) -> Body {
    let json = format!(r#"{{"metadata":{{"resourceVersion":""}},"text":"{text}"}}"#).into_bytes();
    Body { json, hole: 32 }
}

pub(super) fn write(name: &str, op: Op) -> Write {
    Write {
        key: key(name),
        uid: Uid("u".into()),
        op,
        durability: Durability::Durable,
        shards: smallvec![Shard::Unscheduled],
        body: body(name),
    }
}

pub(super) fn item(write: Write) -> Item {
    Item { expects: vec![], writes: vec![write] }
}

pub(super) fn expecting(name: &str, expected: Expected, op: Op) -> Item {
    Item { expects: vec![(key(name), expected)], writes: vec![write(name, op)] }
}

/// A journal in a folder of its own, and what `on_commit` has seen.
pub(super) struct Bench {
    pub(super) dir: TempDir,
    pub(super) journal: Journal,
    pub(super) loaded: Loaded,
    pub(super) seen: Arc<Mutex<Vec<Vec<Arc<Change>>>>>,
    pub(super) faults: Arc<Mutex<VecDeque<rusqlite::Error>>>,
    pub(super) fatal: Arc<Mutex<Vec<String>>>,
}

pub(super) fn bench() -> Bench {
    open_in(tempfile::tempdir().unwrap(), Options::default())
}

pub(super) fn open_in(dir: TempDir, options: Options) -> Bench {
    let seen: Arc<Mutex<Vec<Vec<Arc<Change>>>>> = Arc::default();
    let fatal: Arc<Mutex<Vec<String>>> = Arc::default();
    let faults: Arc<Mutex<VecDeque<rusqlite::Error>>> = Arc::default();
    let (into, ended) = (Arc::clone(&seen), Arc::clone(&fatal));
    let hooks = Hooks {
        fatal: Box::new(move |reason| ended.lock().push(reason.to_owned())),
        faults: Arc::clone(&faults),
    };
    let on_commit = Box::new(move |batch: &Batch| into.lock().push(batch.to_vec()));
    let (journal, loaded) =
        Journal::open_with(&dir.path().join("warren.db"), options, on_commit, hooks).unwrap();
    Bench { dir, journal, loaded, seen, faults, fatal }
}

impl Bench {
    pub(super) async fn reopen(self, options: Options) -> Bench {
        self.journal.close().await;
        open_in(self.dir, options)
    }

    pub(super) async fn commit(&self, item: Item) -> Arc<Change> {
        Arc::clone(&self.journal.commit(item).await.unwrap()[0])
    }
}

#[tokio::test]
async fn a_write_is_answered_stored_and_loaded() {
    let bench = bench();
    assert!(bench.loaded.objects.is_empty());
    let added = bench.commit(expecting("a", Expected::Absent, Op::Added)).await;
    assert_eq!((added.revision, added.prev), (Revision(1), Revision(0)));
    assert_eq!(&added.body[..], br#"{"metadata":{"resourceVersion":"1"},"text":"a"}"#);
    let modified =
        bench.commit(expecting("a", Expected::Revision(added.revision), Op::Modified)).await;
    assert_eq!(modified.prev, added.revision);
    assert_eq!(modified.streams[0].prev, added.revision);
    assert_eq!(bench.journal.head(&pods(), &Shard::Unscheduled), modified.revision);

    let bench = bench.reopen(Options::default()).await;
    assert_eq!(bench.loaded.revision, Revision(2));
    assert_eq!(bench.loaded.epoch, 1);
    let [object] = &bench.loaded.objects[..] else { panic!("{:?}", bench.loaded.objects) };
    assert_eq!(format!("{object:?}"), format!("{modified:?}"));
    assert_eq!(bench.journal.head(&pods(), &Shard::Unscheduled), Revision(2));
    let history = bench.journal.history(Revision(0), None, 10).unwrap();
    assert_eq!(history.iter().map(|c| c.revision.0).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn expectations() {
    let bench = bench();
    let added = bench.commit(item(write("a", Op::Added))).await.revision;
    let table = [
        ("a", Expected::Absent, Some(Some(added))),
        ("a", Expected::Revision(Revision(99)), Some(Some(added))),
        ("a", Expected::Revision(added), None),
        ("a", Expected::Present, None),
        ("b", Expected::Present, Some(None)),
        ("b", Expected::Revision(added), Some(None)),
        ("b", Expected::Absent, None),
    ];
    for (name, expected, refused) in table {
        let item = Item { expects: vec![(key(name), expected)], writes: vec![] };
        let wanted = match refused {
            None => Ok(SmallVec::<[Revision; 1]>::new()),
            Some(actual) => Err(CommitError::Unexpected { key: key(name), expected, actual }),
        };
        let got = bench.journal.commit(item).await;
        assert_eq!(got.map(|c| c.iter().map(|c| c.revision).collect()), wanted);
    }
    assert_eq!(bench.journal.revision(), added);
}

#[tokio::test]
async fn an_invalid_write_is_refused() {
    let bench = bench();
    let mut no_hole = write("a", Op::Added);
    no_hole.body.hole = 5;
    let mut beyond = write("a", Op::Added);
    beyond.body.hole = beyond.body.json.len();
    let mut no_shard = write("a", Op::Added);
    no_shard.shards.clear();
    let mut large = write("a", Op::Added);
    large.body.json.resize(MAX_BODY_BYTES + 1, b' ');
    for write in [no_hole, beyond, no_shard, large] {
        let error = bench.journal.commit(item(write)).await.unwrap_err();
        assert!(matches!(error, CommitError::Invalid(_)), "{error}");
    }
}
