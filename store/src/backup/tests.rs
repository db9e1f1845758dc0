use smallvec::smallvec;
use tempfile::TempDir;
use warren_api::{GroupResource, ObjectKey, Shard, Uid};

use super::*;
use crate::{Body, Durability, Expected, HistoryError, Item, Journal, Loaded, Op, Options, Write};

fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

async fn put(journal: &Journal, name: &str) -> u64 {
    let write = Write {
        key: ObjectKey::new(pods(), "default", name),
        uid: Uid("u".into()),
        op: Op::Modified,
        durability: Durability::Durable,
        shards: smallvec![Shard::Unscheduled],
        body: Body { json: br#"{"metadata":{"resourceVersion":""}}"#.to_vec(), hole: 32 },
    };
    journal.commit(Item { expects: vec![], writes: vec![write] }).await.unwrap()[0].revision.0
}

fn open(path: &Path) -> (Journal, Loaded) {
    Journal::open(path, Options::default(), |_| {}).unwrap()
}

fn names(loaded: &Loaded) -> Vec<&str> {
    let mut names: Vec<_> = loaded.objects.iter().map(|c| &*c.key.name).collect();
    names.sort_unstable();
    names
}

struct Files {
    _dir: TempDir,
    live: PathBuf,
    copy: PathBuf,
}

fn files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    Files { live: dir.path().join("warren.db"), copy: dir.path().join("copy.db"), _dir: dir }
}

#[tokio::test]
async fn a_restored_world_is_newer_than_the_one_it_replaces() {
    let files = files();
    let (journal, first) = open(&files.live);
    put(&journal, "a").await;
    let kept = put(&journal, "b").await;
    journal.backup(&files.copy).unwrap();
    put(&journal, "c").await;
    put(&journal, "b").await;
    journal.close().await;

    let restored = restore(&files.copy, &files.live).unwrap();
    assert!(restored.epoch > first.epoch);
    assert!(restored.revision.0 >= 4 + Revision::RESTORE_STEP);
    let (journal, loaded) = open(&files.live);
    assert_eq!(names(&loaded), ["a", "b"]);
    assert_eq!((loaded.epoch, loaded.revision), (restored.epoch, restored.revision));
    assert_eq!(journal.floor(), restored.revision);
    assert_eq!(journal.relay_cursor(), restored.revision);
    let old = journal.history(Revision(kept), None, 10);
    assert!(matches!(old, Err(HistoryError::Compacted { .. })));
    assert!(journal.history(restored.revision, None, 10).unwrap().is_empty());
    // The world goes on above it.
    let b = ObjectKey::new(pods(), "default", "b");
    let item = Item { expects: vec![(b, Expected::Revision(Revision(kept)))], writes: vec![] };
    journal.commit(item).await.unwrap();
    assert_eq!(put(&journal, "b").await, restored.revision.0 + 1);
    let history = journal.history(restored.revision, None, 10).unwrap();
    assert_eq!(history.len(), 1);
    journal.close().await;

    // What was replaced is still there, whole.
    let (_, before) = open(&beside(&files.live, ".before-restore"));
    assert_eq!(names(&before), ["a", "b", "c"]);
    // And the backup can be used again.
    let again = restore(&files.copy, &files.live).unwrap();
    assert!(again.epoch > restored.epoch && again.revision > restored.revision);
}

#[tokio::test]
async fn a_backup_is_made_while_the_journal_is_written() {
    let files = files();
    let (journal, _) = open(&files.live);
    let (writer, path) = (journal.clone(), files.copy.clone());
    let copying = tokio::task::spawn_blocking({
        let journal = journal.clone();
        move || (0..5).for_each(|_| journal.backup(&path).unwrap())
    });
    let mut last = 0;
    while !copying.is_finished() {
        last = put(&writer, &format!("p{}", last % 50)).await;
    }
    copying.await.unwrap();
    journal.close().await;
    let restored = restore(&files.copy, &beside(&files.live, ".new")).unwrap();
    assert!(restored.revision.0 >= Revision::RESTORE_STEP && last > 0);
}

#[tokio::test]
async fn a_restore_needs_no_old_database_and_minds_a_broken_one_not() {
    let files = files();
    let (journal, first) = open(&files.live);
    put(&journal, "a").await;
    journal.backup(&files.copy).unwrap();
    journal.close().await;
    std::fs::remove_file(&files.live).unwrap();
    let restored = restore(&files.copy, &files.live).unwrap();
    assert!(restored.epoch > first.epoch);
    std::fs::write(&files.live, "not a database at all").unwrap();
    restore(&files.copy, &files.live).unwrap();
    let (_journal, loaded) = open(&files.live);
    assert_eq!(names(&loaded), ["a"]);
}

#[tokio::test]
async fn a_bad_backup_changes_nothing() {
    let files = files();
    let (journal, _) = open(&files.live);
    put(&journal, "a").await;
    journal.backup(&files.copy).unwrap();
    let broken = beside(&files.copy, ".broken");
    let mut bytes = std::fs::read(&files.copy).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    std::fs::write(&broken, bytes).unwrap();
    // The server runs.
    assert!(matches!(
        restore(&files.copy, &files.live),
        Err(BackupError::Open(OpenError::InUse { .. }))
    ));
    journal.close().await;
    assert!(matches!(
        restore(&broken, &files.live),
        Err(BackupError::Open(OpenError::Damaged { .. }))
    ));
    let missing = beside(&files.copy, ".missing");
    assert!(matches!(restore(&missing, &files.live), Err(BackupError::Missing { .. })));
    assert!(!missing.exists());
    let (_journal, loaded) = open(&files.live);
    assert_eq!(names(&loaded), ["a"]);
}
