use std::sync::mpsc;

use super::*;

#[tokio::test]
async fn a_write_is_answered_stored_and_loaded() {
    let bench = bench();
    assert!(bench.loaded.objects.is_empty());
    let epoch = bench.loaded.epoch;
    let added = bench.commit(expecting("a", Expected::Absent, Op::Added)).await;
    assert_eq!((added.revision, added.prev), (Revision(1), Revision(0)));
    assert_eq!(&added.body[..], br#"{"metadata":{"resourceVersion":"1"},"text":"a"}"#);
    let modified =
        bench.commit(expecting("a", Expected::Revision(added.revision), Op::Modified)).await;
    assert_eq!(modified.prev, added.revision);
    assert_eq!(modified.streams[0].prev, added.revision);
    assert_eq!(bench.journal.head(&pods(), &Shard::Unscheduled), modified.revision);

    let bench = bench.reopen(Options::default()).await;
    assert_eq!((bench.loaded.revision, bench.loaded.epoch), (Revision(2), epoch));
    let [object] = &bench.loaded.objects[..] else { panic!("{:?}", bench.loaded.objects) };
    assert_eq!(format!("{object:?}"), format!("{modified:?}"));
    assert_eq!(bench.journal.head(&pods(), &Shard::Unscheduled), Revision(2));
    assert_eq!(bench.revisions(0), [1, 2]);
    assert_eq!(bench.revisions(1), [2]);
    let row = bench.journal.row(&key("a"), Revision(1)).unwrap().unwrap();
    assert_eq!(row.body, added.body);
    assert!(bench.journal.row(&key("b"), Revision(1)).unwrap().is_none());
    assert!(bench.journal.integrity_problems().unwrap().is_empty());
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
async fn an_item_is_all_or_nothing() {
    let bench = bench();
    let item = Item {
        expects: vec![(key("a"), Expected::Absent), (key("quota"), Expected::Present)],
        writes: vec![write("a", Op::Added), write("quota", Op::Modified)],
    };
    let error = bench.journal.commit(item.clone()).await.unwrap_err();
    let CommitError::Unexpected { key: at, .. } = error else { panic!("{error}") };
    assert_eq!(at, key("quota"));
    bench.commit(super::item(write("quota", Op::Added))).await;
    let changes = bench.journal.commit(item).await.unwrap();
    let revisions: Vec<_> = changes.iter().map(|c| (c.revision.0, c.prev.0)).collect();
    assert_eq!(revisions, [(2, 0), (3, 1)]);
}

#[tokio::test]
async fn a_deleted_object_is_gone_and_a_new_one_has_no_past() {
    let bench = bench();
    bench.commit(item(write("a", Op::Added))).await;
    let deleted = bench.commit(expecting("a", Expected::Present, Op::Deleted)).await;
    assert_eq!(deleted.prev, Revision(1));
    let bench = bench.reopen(Options::default()).await;
    assert!(bench.loaded.objects.is_empty());
    let added = bench.commit(expecting("a", Expected::Absent, Op::Added)).await;
    assert_eq!((added.revision, added.prev), (Revision(3), Revision(0)));
    let bench = bench.reopen(Options::default()).await;
    assert_eq!(bench.loaded.objects.len(), 1);
}

#[tokio::test]
async fn a_move_between_shards_is_one_change_of_both_streams() {
    let bench = bench();
    let node = Shard::Node(warren_api::NodeName("rabbit-1".into()));
    bench.commit(item(write("a", Op::Added))).await;
    bench.commit(item(write("b", Op::Added))).await;
    let shards = smallvec![node.clone(), Shard::Unscheduled];
    let moved = bench.commit(item(Write { shards, ..write("a", Op::Modified) })).await;
    let wanted = [
        StreamPosition { shard: node.clone(), prev: Revision(0) },
        StreamPosition { shard: Shard::Unscheduled, prev: Revision(2) },
        StreamPosition { shard: Shard::Every, prev: Revision(2) },
    ];
    assert_eq!(moved.streams[..], wanted);
    let bench = bench.reopen(Options::default()).await;
    let all = [node, Shard::Unscheduled, Shard::Every];
    for shard in &all {
        assert_eq!(bench.journal.head(&pods(), shard), moved.revision);
    }
    let heads = all.iter().map(|shard| (pods(), shard.clone(), moved.revision));
    assert_eq!(bench.journal.heads(&all), heads.collect::<Vec<_>>());
    assert_eq!(bench.journal.heads(&[Shard::All, Shard::None]), []);
    assert_eq!(bench.journal.head(&pods(), &Shard::All), Revision(0));
    assert_eq!(bench.journal.history(Revision(2), None, 9).unwrap()[0].streams[..], wanted);
}

/// Rows of earlier releases name the shards only.
#[tokio::test]
async fn the_stream_of_all_shards_is_derived_where_rows_do_not_name_it() {
    let bench = bench();
    bench.commit(item(write("a", Op::Added))).await;
    let last = bench.commit(item(write("b", Op::Added))).await;
    bench.journal.close().await;
    let dir = bench.dir;
    let connection = rusqlite::Connection::open(dir.path().join("warren.db")).unwrap();
    let sql = "UPDATE journal SET streams = substr(streams, 1, instr(streams, char(10)) - 1)";
    assert_eq!(connection.execute(sql, []).unwrap(), 2);
    drop(connection);
    let bench = open_in(dir, Options::default());
    assert_eq!(bench.journal.head(&pods(), &Shard::Every), last.revision);
    let next = bench.commit(item(write("c", Op::Added))).await;
    let every = next.streams.iter().find(|position| position.shard == Shard::Every).unwrap();
    assert_eq!(every.prev, last.revision);
}

#[tokio::test]
async fn history_of_one_resource() {
    let bench = bench();
    let nodes = GroupResource::new("", "nodes");
    let node = Write { key: ObjectKey::new(nodes.clone(), "", "n"), ..write("n", Op::Added) };
    bench.commit(item(write("a", Op::Added))).await;
    bench.commit(item(node)).await;
    bench.commit(item(write("b", Op::Added))).await;
    let of = |resource: &GroupResource| {
        let history = bench.journal.history(Revision(0), Some(resource), 10).unwrap();
        history.iter().map(|c| c.revision.0).collect::<Vec<_>>()
    };
    assert_eq!(of(&nodes), [2]);
    assert_eq!(of(&pods()), [1, 3]);
    assert!(of(&GroupResource::new("x", "unknown")).is_empty());
    assert_eq!(bench.journal.history(Revision(0), None, 2).unwrap().len(), 2);
}

/// Opens a journal whose writer stands still in its first batch until the sender is used or dropped.
fn open_held() -> (Bench, mpsc::Sender<()>) {
    let (release, held) = mpsc::channel::<()>();
    let mut held = Some(held);
    let on_commit = move |_: &Batch| {
        if let Some(held) = held.take() {
            let _ = held.recv();
        }
    };
    (open_watched(tempfile::tempdir().unwrap(), Options::default(), on_commit), release)
}

/// Puts items into the queue while the writer stands still, then lets it go.
async fn commit_together(
    bench: &Bench,
    release: mpsc::Sender<()>,
    items: Vec<Item>,
) -> Vec<Result<Vec<u64>, CommitError>> {
    let queue = &bench.journal.shared().queue;
    let first = queue.push(item(write("first", Op::Added))).await.unwrap();
    let seen = Arc::clone(&bench.seen);
    until("the writer is in its first batch", || seen.lock().len() == 1).await;
    let mut answers = Vec::new();
    for item in items {
        answers.push(queue.push(item).await.unwrap());
    }
    release.send(()).unwrap();
    first.await.unwrap().unwrap();
    let mut results = Vec::new();
    for answer in answers {
        let changes = answer.await.unwrap();
        results.push(changes.map(|changes| changes.iter().map(|c| c.revision.0).collect()));
    }
    results
}

#[tokio::test]
async fn what_waits_together_is_one_transaction_and_one_batch() {
    let (bench, release) = open_held();
    let items = (0..32).map(|n| item(write(&format!("p{n}"), Op::Added))).collect();
    let results = commit_together(&bench, release, items).await;
    let wanted: Vec<_> = (2..=33).map(|rv| Ok(vec![rv])).collect();
    assert_eq!(results, wanted);
    assert_eq!(bench.journal.stats().transactions, 2);
    let seen = bench.seen.lock();
    let batches: Vec<Vec<u64>> =
        seen.iter().map(|b| b.iter().map(|c| c.revision.0).collect()).collect();
    assert_eq!(batches, [vec![1], (2..=33).collect()]);
}

#[tokio::test]
async fn an_item_that_fails_leaves_its_batch_alone() {
    let (bench, release) = open_held();
    let items = vec![
        expecting("a", Expected::Absent, Op::Added),
        // Lost the race against the one before it in the same batch.
        expecting("a", Expected::Absent, Op::Added),
        expecting("a", Expected::Revision(Revision(2)), Op::Modified),
    ];
    let results = commit_together(&bench, release, items).await;
    assert_eq!(results[0], Ok(vec![2]));
    assert!(matches!(results[1], Err(CommitError::Unexpected { .. })), "{results:?}");
    assert_eq!(results[2], Ok(vec![3]));
}

#[tokio::test]
async fn what_does_not_fit_on_the_disk_does_not_take_its_batch_with_it() {
    let (bench, release) = open_held();
    bench.faults.sql.lock().push("PRAGMA max_page_count = 40");
    let mut large = write("large", Op::Added);
    large.body.json.resize(1 << 20, b' ');
    let items = vec![item(write("a", Op::Added)), item(large), item(write("b", Op::Added))];
    let results = commit_together(&bench, release, items).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    assert!(matches!(results[1], Err(CommitError::Storage(_))), "{results:?}");
    let bench = bench.reopen(Options::default()).await;
    let mut names: Vec<_> = bench.loaded.objects.iter().map(|c| &*c.key.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "first"]);
    for object in &bench.loaded.objects {
        // The second attempt filled the hole once.
        let text = String::from_utf8_lossy(&object.body).into_owned();
        assert!(text.contains(&format!("\"{}\"", object.revision)), "{text}");
    }
}

#[tokio::test]
async fn the_cache_sees_revisions_in_order_and_before_the_answers() {
    let bench = bench();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (journal, seen) = (bench.journal.clone(), Arc::clone(&bench.seen));
            async move {
                for n in 0..20 {
                    let item = if n % 3 == 0 {
                        deferred(&format!("lease-{task}"))
                    } else {
                        item(write(&format!("p-{task}-{n}"), Op::Added))
                    };
                    let revision = journal.commit(item).await.unwrap()[0].revision;
                    let seen = seen.lock();
                    assert!(seen.iter().flatten().any(|c| c.revision == revision));
                    assert!(journal.revision() >= revision);
                }
            }
        })
        .collect();
    futures_join(tasks).await;
    let seen = bench.seen.lock();
    let revisions: Vec<_> = seen.iter().flatten().map(|c| c.revision.0).collect();
    assert_eq!(revisions, (1..=320).collect::<Vec<_>>());
    assert!(seen.iter().all(|batch| !batch.is_empty()));
}

async fn futures_join(tasks: Vec<impl Future<Output = ()> + Send + 'static>) {
    let mut set = tokio::task::JoinSet::new();
    for task in tasks {
        set.spawn(task);
    }
    while let Some(done) = set.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_heartbeat_is_seen_at_once_but_is_no_history() {
    let bench = bench();
    bench.commit(item(write("lease", Op::Added))).await;
    let beat = bench.commit(deferred("lease")).await;
    assert_eq!((beat.revision, beat.prev), (Revision(2), Revision(1)));
    assert_eq!(beat.durability, Durability::Deferred);
    assert_eq!(bench.journal.head(&pods(), &Shard::Unscheduled), Revision(1));
    assert_eq!(bench.rows(), [1]);
    let beat = bench.commit(expecting("lease", Expected::Revision(beat.revision), Op::Modified));
    let after = beat.await;
    // Watches saw the heartbeat, the history did not.
    assert_eq!((after.revision, after.prev), (Revision(3), Revision(2)));
    let history = bench.journal.history(Revision(0), None, 10).unwrap();
    let revisions: Vec<_> = history.iter().map(|c| (c.revision.0, c.prev.0)).collect();
    assert_eq!(revisions, [(1, 0), (3, 1)]);
}

#[tokio::test]
async fn the_newest_heartbeat_of_each_object_is_on_disk_after_closing() {
    let bench = bench();
    bench.commit(item(write("a", Op::Added))).await;
    for name in ["a", "b", "a", "b", "a"] {
        bench.commit(deferred(name)).await;
    }
    let bench = bench.reopen(Options::default()).await;
    assert_eq!(bench.rows(), [1, 5, 6]);
    assert_eq!(bench.revisions(0), [1]);
    let mut loaded: Vec<_> =
        bench.loaded.objects.iter().map(|c| (&*c.key.name, c.revision.0, c.durability)).collect();
    loaded.sort_unstable_by_key(|(name, ..)| *name);
    assert_eq!(loaded, [("a", 6, Durability::Deferred), ("b", 5, Durability::Deferred)]);
    // The next row of an object takes the deferred one with it.
    bench.commit(item(write("b", Op::Modified))).await;
    bench.commit(expecting("a", Expected::Revision(Revision(6)), Op::Deleted)).await;
    assert_eq!(bench.rows(), [1, 7, 8]);
    let bench = bench.reopen(Options::default()).await;
    assert_eq!(bench.loaded.objects.len(), 1);
    let history = bench.journal.history(Revision(0), None, 10).unwrap();
    let revisions: Vec<_> = history.iter().map(|c| (c.revision.0, c.prev.0)).collect();
    assert_eq!(revisions, [(1, 0), (7, 0), (8, 1)]);
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

#[tokio::test]
async fn a_closed_journal_says_so() {
    let bench = bench();
    let waiting = bench.journal.shared().queue.push(item(write("a", Op::Added))).await.unwrap();
    bench.journal.close().await;
    // What waited was committed.
    assert!(waiting.await.unwrap().is_ok());
    let error = bench.journal.commit(item(write("b", Op::Added))).await.unwrap_err();
    assert_eq!(error, CommitError::Closed);
    bench.journal.close().await;
}
