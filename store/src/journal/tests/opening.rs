use std::path::Path;

use rusqlite::Connection;

use super::*;

fn open(path: &Path) -> Result<(Journal, Loaded), OpenError> {
    Journal::open(path, Options::default(), |_| {})
}

#[tokio::test]
async fn a_newer_database_is_refused_and_not_touched() {
    let bench = bench();
    bench.journal.close().await;
    let path = bench.dir.path().join("warren.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("newer release (schema 99"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn what_is_not_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
    let garbage = dir.path().join("garbage.db");
    std::fs::write(&garbage, [b'g'; 8192]).unwrap();
    for path in [foreign, garbage] {
        let error = open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_damaged_row_is_named() {
    let bench = bench();
    bench.commit(item(write("a", Op::Added))).await;
    bench.journal.close().await;
    let path = bench.dir.path().join("warren.db");
    for (sql, wanted) in [
        ("UPDATE journal SET streams = 'x'", "journal row 1: unreadable streams"),
        ("UPDATE journal SET op = 7, streams = '0 -'", "journal row 1: unknown operation"),
        ("UPDATE journal SET resource = 9", "journal row 1: unknown resource"),
    ] {
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let error = open(&path).unwrap_err();
        let OpenError::Damaged { detail, .. } = &error else { panic!("{error}") };
        assert_eq!(detail, wanted);
    }
}

#[tokio::test]
async fn a_second_owner_is_refused() {
    let bench = bench();
    let path = bench.dir.path().join("warren.db");
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    bench.commit(item(write("a", Op::Added))).await;
    // Dropping the last handle lets go as well.
    drop(bench.journal);
    assert_eq!(open(&path).unwrap().1.objects.len(), 1);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    // Also root cannot create a file here.
    let error = open(Path::new("/proc/warren.db")).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    assert_eq!(error.to_string(), "cannot create or lock the database /proc/warren.db");
    let missing = tempfile::tempdir().unwrap().path().join("no/such/folder/warren.db");
    assert!(matches!(open(&missing), Err(OpenError::Io { .. })));
}

#[tokio::test]
async fn the_files_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bench = bench();
    bench.commit(item(write("a", Op::Added))).await;
    for name in ["warren.db", "warren.db-wal", "warren.db-shm", "warren.db-lock"] {
        let mode = std::fs::metadata(bench.dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_log_without_its_database_is_damage() {
    let bench = bench();
    bench.commit(item(write("a", Op::Added))).await;
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        std::fs::copy(bench.dir.path().join(name), dir.path().join(name)).unwrap();
    };
    let path = dir.path().join("warren.db");
    copy("warren.db-wal");
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    std::fs::write(&path, "").unwrap();
    assert!(matches!(open(&path), Err(OpenError::Damaged { .. })));
    copy("warren.db");
    assert_eq!(open(&path).unwrap().1.objects.len(), 1);
}
