use std::os::unix::process::ExitStatusExt;

use rusqlite::ffi;

use super::*;

fn sqlite(code: i32) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let bench = bench();
    bench.commit(item(write("before", Op::Added))).await;
    bench.faults.sql.lock().push("PRAGMA max_page_count = 30");
    let mut stored = 1;
    let error = loop {
        let mut more = write(&format!("p{stored}"), Op::Added);
        more.body.json.resize(16 << 10, b' ');
        match bench.journal.commit(item(more)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, CommitError::Storage("database or disk is full".to_owned()));
    assert_eq!(bench.seen.lock().iter().flatten().count(), stored);
    assert!(bench.journal.stats().failures > 0);
    // Heartbeats go on in memory.
    bench.commit(deferred("lease")).await;
    bench.faults.sql.lock().push("PRAGMA max_page_count = 100000");
    bench.commit(expecting("after", Expected::Absent, Op::Added)).await;
    assert!(bench.fatal.lock().is_empty());
    let bench = bench.reopen(Options::default()).await;
    assert_eq!(bench.loaded.objects.len(), stored + 2);
}

#[tokio::test]
async fn a_database_that_cannot_be_written_refuses_and_recovers() {
    let bench = bench();
    bench.faults.sql.lock().push("PRAGMA query_only = 1");
    let error = bench.journal.commit(item(write("a", Op::Added))).await.unwrap_err();
    assert!(matches!(error, CommitError::Storage(_)), "{error}");
    bench.faults.sql.lock().push("PRAGMA query_only = 0");
    let added = bench.commit(expecting("a", Expected::Absent, Op::Added)).await;
    assert_eq!(added.prev, Revision(0));
    assert_eq!(added.streams[0].prev, Revision(0), "the head did not move");
}

#[tokio::test]
async fn a_failed_commit_leaves_no_trace_in_memory() {
    let bench = bench();
    bench.commit(item(write("a", Op::Added))).await;
    bench.faults.errors.lock().push_back(sqlite(ffi::SQLITE_IOERR_WRITE));
    let lost = Item {
        expects: vec![],
        writes: vec![
            write("a", Op::Deleted),
            Write {
                key: ObjectKey::new(GroupResource::new("g", "new"), "", "n"),
                ..write("n", Op::Added)
            },
        ],
    };
    let error = bench.journal.commit(lost.clone()).await.unwrap_err();
    assert!(matches!(error, CommitError::Storage(_)), "{error}");
    let check = Item { expects: vec![(key("a"), Expected::Revision(Revision(1)))], writes: vec![] };
    bench.journal.commit(check).await.unwrap();
    assert_eq!(bench.journal.head(&pods(), &Shard::Unscheduled), Revision(1));
    assert_eq!(bench.rows(), [1]);
    // Its revisions are not given out again, nor are they missed.
    let changes = bench.journal.commit(lost).await.unwrap();
    assert!(changes[0].revision > Revision(3) && changes[0].prev == Revision(1));
    let bench = bench.reopen(Options::default()).await;
    assert_eq!(bench.loaded.objects.len(), 1);
}

#[tokio::test]
async fn a_failed_fsync_is_the_end() {
    for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC, ffi::SQLITE_CORRUPT] {
        let bench = bench();
        bench.commit(item(write("a", Op::Added))).await;
        bench.faults.errors.lock().push_back(sqlite(code));
        // Nobody is told that it was refused: it may be on disk.
        let error = bench.journal.commit(item(write("b", Op::Added))).await.unwrap_err();
        assert_eq!(error, CommitError::Closed);
        assert_eq!(bench.fatal.lock().len(), 1, "{code}");
        let error = bench.journal.commit(item(write("c", Op::Added))).await.unwrap_err();
        assert_eq!(error, CommitError::Closed);
    }
}

#[tokio::test]
async fn a_cache_that_cannot_follow_is_the_end() {
    let bench = open_watched(tempfile::tempdir().unwrap(), Options::default(), |_| {
        std::panic::resume_unwind(Box::new("the cache is broken"));
    });
    let error = bench.journal.commit(item(write("a", Op::Added))).await.unwrap_err();
    assert_eq!(error, CommitError::Closed);
    assert_eq!(bench.fatal.lock().len(), 1);
}

const FSYNC_CHILD: &str = "WARREN_TEST_FSYNC_CHILD";

#[test]
fn the_end_is_an_abort() {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "journal::tests::trouble::fsync_child"]).env(FSYNC_CHILD, "1");
    let output = child.output().unwrap();
    assert_eq!(output.status.signal(), Some(6), "{output:?}");
}

/// Not a test by itself.
#[tokio::test]
async fn fsync_child() {
    if std::env::var_os(FSYNC_CHILD).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hooks = Hooks::default();
    hooks.faults.errors.lock().push_back(sqlite(ffi::SQLITE_IOERR_FSYNC));
    let path = dir.path().join("warren.db");
    let opened = Journal::open_with(&path, Options::default(), Box::new(|_| {}), hooks);
    let _ = opened.unwrap().0.commit(item(write("a", Op::Added))).await;
}
