use super::*;

fn small(history_revisions: u64) -> Options {
    Options { history_revisions, ..Options::default() }
}

async fn settled(bench: &Bench, changes: u64) {
    let journal = bench.journal.clone();
    until("compaction", || journal.stats().history_changes == changes).await;
}

#[tokio::test]
async fn superseded_rows_below_the_floor_go() {
    let bench = open_in(tempfile::tempdir().unwrap(), small(2));
    bench.commit(item(write("kept", Op::Added))).await; // 1
    bench.commit(item(write("gone", Op::Added))).await; // 2
    bench.commit(item(write("gone", Op::Deleted))).await; // 3
    for _ in 4..=7 {
        bench.commit(item(write("busy", Op::Modified))).await;
    }
    assert_eq!(bench.rows(), [1, 2, 3, 4, 5, 6, 7], "nothing is published");
    bench.journal.set_relay_cursor(Revision(7));
    settled(&bench, 2).await;
    assert_eq!(bench.journal.floor(), Revision(5));
    // 5 stays: it is what 6 changed.
    assert_eq!(bench.rows(), [1, 5, 6, 7]);
    assert_eq!(bench.revisions(5), [6, 7]);
    let error = bench.journal.history(Revision(4), None, 10).unwrap_err();
    let HistoryError::Compacted { asked, floor } = error else { panic!("{error}") };
    assert_eq!((asked, floor), (Revision(4), Revision(5)));

    let bench = bench.reopen(small(2)).await;
    assert_eq!(bench.journal.floor(), Revision(5));
    assert_eq!(bench.journal.relay_cursor(), Revision(7));
    let mut loaded: Vec<_> = bench.loaded.objects.iter().map(|c| c.revision.0).collect();
    loaded.sort_unstable();
    assert_eq!(loaded, [1, 7]);
}

#[tokio::test]
async fn the_head_of_a_stream_survives_its_last_row() {
    let bench = open_in(tempfile::tempdir().unwrap(), small(1));
    let node = Shard::Node(warren_api::NodeName("rabbit-1".into()));
    let on_node = |op| Write { shards: smallvec![node.clone()], ..write("a", op) };
    bench.commit(item(on_node(Op::Added))).await;
    bench.commit(item(on_node(Op::Deleted))).await;
    for _ in 0..4 {
        bench.commit(item(write("b", Op::Modified))).await;
    }
    bench.journal.set_relay_cursor(Revision(6));
    settled(&bench, 1).await;
    assert_eq!(bench.rows(), [5, 6]);
    let bench = bench.reopen(small(1)).await;
    assert_eq!(bench.journal.head(&pods(), &node), Revision(2));
    assert_eq!(bench.journal.head(&pods(), &Shard::Unscheduled), Revision(6));
    let next = bench.commit(item(on_node(Op::Added))).await;
    assert_eq!(next.streams[0].prev, Revision(2));
}

#[tokio::test]
async fn a_backlog_at_its_bound_is_compacted_past_the_cursor() {
    let bytes = body("x").json.len() as u64 + 1;
    let options = Options { history_revisions: 100, outbox_bytes: 4 * bytes, ..Options::default() };
    let bench = open_in(tempfile::tempdir().unwrap(), options);
    for _ in 1..=9 {
        bench.commit(item(write("x", Op::Modified))).await;
    }
    until("compaction", || bench.rows() == [5, 6, 7, 8, 9]).await;
    assert_eq!(bench.journal.relay_cursor(), Revision(0));
    assert_eq!(bench.journal.floor(), Revision(5));
    assert!(matches!(
        bench.journal.history(Revision(0), None, 9),
        Err(HistoryError::Compacted { .. })
    ));
}

#[tokio::test]
async fn the_cursor_only_moves_forward_and_never_ahead() {
    let bench = bench();
    for _ in 0..3 {
        bench.commit(item(write("x", Op::Modified))).await;
    }
    for (set, is) in [(2, 2), (1, 2), (99, 3)] {
        bench.journal.set_relay_cursor(Revision(set));
        assert_eq!(bench.journal.relay_cursor(), Revision(is));
    }
}

#[tokio::test]
async fn the_cursor_is_on_disk_within_a_second_though_nobody_writes() {
    let bench = bench();
    bench.commit(item(write("x", Op::Added))).await;
    bench.journal.set_relay_cursor(Revision(1));
    let journal = bench.journal.clone();
    let stored = || {
        let sql = "SELECT value FROM meta WHERE name = 'cursor'";
        journal.shared().with_reader(|c| c.query_row(sql, [], |row| row.get::<_, i64>(0)))
    };
    until("the cursor is stored", || stored().unwrap() == 1).await;
}

/// Each is confirmed as soon as it is committed; what is not in the cursor on disk is published again after a crash.
#[tokio::test]
async fn under_load_the_cursor_goes_along_with_the_commits() {
    let bench = bench();
    let journal = bench.journal.clone();
    let stored = || {
        let sql = "SELECT value FROM meta WHERE name = 'cursor'";
        journal.shared().with_reader(|c| c.query_row(sql, [], |row| row.get::<_, i64>(0))).unwrap()
    };
    let start = std::time::Instant::now();
    while stored() == 0 {
        assert!(start.elapsed().as_millis() < 700, "nothing of it is on disk");
        bench.commit(item(write("x", Op::Modified))).await;
        bench.journal.set_relay_cursor(bench.journal.revision());
    }
}

#[tokio::test]
async fn free_pages_and_the_wal_are_given_back() {
    let bench = open_in(tempfile::tempdir().unwrap(), small(10));
    let mut large = write("x", Op::Modified);
    large.body.json.resize(1 << 20, b' ');
    for _ in 0..60 {
        bench.commit(item(large.clone())).await;
    }
    bench.journal.set_relay_cursor(bench.journal.revision());
    settled(&bench, 10).await;
    let journal = bench.journal.clone();
    // 11 rows of 1 MiB are left, and 16 MiB of free pages are kept.
    until("the file shrinks", || journal.stats().database_bytes < 32 << 20).await;
    until("the WAL is short", || journal.stats().wal_bytes < 65 << 20).await;
    assert!(bench.journal.integrity_problems().unwrap().is_empty());
}
