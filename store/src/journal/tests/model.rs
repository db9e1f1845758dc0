//! Random work against a model of what the journal promises.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const HISTORY: u64 = 6;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    Commit {
        expect: Option<(usize, Guess)>,
        writes: Vec<(usize, Kind)>,
    },
    /// The relay has published up to so many tenths of what there is.
    Publish(u64),
    Close,
    /// The files are copied while the journal is open, and the copy is opened: a crash.
    Crash,
    /// The next transaction fails.
    Fail,
}

#[derive(Clone, Copy, Debug)]
enum Guess {
    Absent,
    Present,
    Right,
    Wrong,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Put,
    Move,
    Delete,
    Beat,
}

fn step() -> impl Strategy<Value = Step> {
    let guess = prop_oneof![
        1 => Just(Guess::Absent),
        1 => Just(Guess::Present),
        3 => Just(Guess::Right),
        1 => Just(Guess::Wrong),
    ];
    let kind = prop_oneof![
        4 => Just(Kind::Put),
        1 => Just(Kind::Move),
        1 => Just(Kind::Delete),
        3 => Just(Kind::Beat),
    ];
    let name = 0..NAMES.len();
    let commit = (
        proptest::option::of((name.clone(), guess)),
        proptest::collection::vec((name, kind), 1..4),
    );
    prop_oneof![
        12 => commit.prop_map(|(expect, writes)| Step::Commit { expect, writes }),
        2 => (0u64..=10).prop_map(Step::Publish),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
        1 => Just(Step::Fail),
    ]
}

#[derive(Clone, Debug, Default)]
struct Model {
    /// What the cache holds: revision, and whether it is on disk for sure.
    objects: BTreeMap<String, (u64, bool)>,
    /// What is on disk at least: the newest durable revision of each object that it has.
    durable: BTreeMap<String, u64>,
    history: Vec<(u64, String)>,
    heads: BTreeMap<String, u64>,
    last: u64,
}

fn node() -> Shard {
    Shard::Node(warren_api::NodeName("n".into()))
}

fn to_write((name, kind): (usize, Kind)) -> Write {
    let write = |op| write(NAMES[name], op);
    match kind {
        Kind::Put => write(Op::Modified),
        Kind::Move => {
            Write { shards: smallvec![node(), Shard::Unscheduled], ..write(Op::Modified) }
        }
        Kind::Delete => write(Op::Deleted),
        Kind::Beat => Write { durability: Durability::Deferred, ..write(Op::Modified) },
    }
}

impl Model {
    fn holds(&self, name: usize, guess: Guess) -> (Expected, bool) {
        let there = self.objects.get(NAMES[name]).map(|(revision, _)| *revision);
        match guess {
            Guess::Absent => (Expected::Absent, there.is_none()),
            Guess::Present => (Expected::Present, there.is_some()),
            Guess::Right => match there {
                Some(revision) => (Expected::Revision(Revision(revision)), true),
                None => (Expected::Absent, true),
            },
            Guess::Wrong => (Expected::Revision(Revision(u64::MAX / 4)), false),
        }
    }

    /// Takes the answer over and checks it on the way.
    fn apply(&mut self, writes: &[(usize, Kind)], changes: &[Arc<Change>]) {
        let all_beats = writes.iter().all(|(_, kind)| matches!(kind, Kind::Beat));
        assert_eq!(writes.len(), changes.len());
        for ((name, kind), change) in writes.iter().zip(changes) {
            let (name, revision) = (NAMES[*name].to_owned(), change.revision.0);
            assert!(revision > self.last, "{revision} after {}", self.last);
            self.last = revision;
            assert_eq!(change.prev.0, self.objects.get(&name).map_or(0, |(rv, _)| *rv));
            for position in &change.streams {
                let head = self.heads.get(&position.shard.word()).copied().unwrap_or(0);
                assert_eq!(position.prev.0, head);
            }
            if matches!(kind, Kind::Delete) {
                self.objects.remove(&name);
                self.durable.remove(&name);
            } else {
                self.objects.insert(name.clone(), (revision, !all_beats));
                if !all_beats {
                    self.durable.insert(name.clone(), revision);
                }
            }
            if !all_beats {
                for position in &change.streams {
                    self.heads.insert(position.shard.word(), revision);
                }
                self.history.push((revision, name));
            }
        }
    }

    fn check(&self, bench: &Bench) {
        for shard in [Shard::Unscheduled, node(), Shard::Every] {
            let head = self.heads.get(&shard.word()).copied().unwrap_or(0);
            assert_eq!(bench.journal.head(&pods(), &shard).0, head);
        }
        // The floor may rise meanwhile; then there is nothing to compare.
        let floor = bench.journal.floor();
        if let Ok(history) = bench.journal.history(floor, None, 1000) {
            let history: Vec<_> =
                history.iter().map(|c| (c.revision.0, c.key.name.to_string())).collect();
            let wanted: Vec<_> =
                self.history.iter().filter(|(rv, _)| *rv > floor.0).cloned().collect();
            assert_eq!(history, wanted);
            let promised = wanted.len() as u64 >= HISTORY.min(self.history.len() as u64);
            assert!(promised, "only {} changes are left", wanted.len());
        }
    }

    /// After a crash heartbeats may be lost, back to any older one or the last durable row.
    fn check_loaded(&mut self, loaded: &Loaded, crashed: bool) {
        assert!(loaded.revision.0 >= self.last);
        let mut found = BTreeMap::new();
        for change in &loaded.objects {
            let text = String::from_utf8_lossy(&change.body).into_owned();
            assert!(text.contains(&format!("\"resourceVersion\":\"{}\"", change.revision)));
            assert!(found.insert(change.key.name.to_string(), change.revision.0).is_none());
        }
        for (name, (revision, on_disk)) in self.objects.clone() {
            match found.remove(&name) {
                Some(there) if there == revision => {}
                Some(there) if crashed && !on_disk => {
                    assert!(there >= self.durable.get(&name).copied().unwrap_or(0));
                    self.objects.insert(name, (there, false));
                }
                None if crashed && !on_disk && !self.durable.contains_key(&name) => {
                    self.objects.remove(&name);
                }
                other => panic!("{name}: {other:?} in place of {revision}"),
            }
        }
        assert!(found.is_empty(), "deleted objects are back: {found:?}");
    }
}

fn options() -> Options {
    Options { history_revisions: HISTORY, ..Options::default() }
}

async fn crashed(bench: &Bench) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    // The writer is idle or in work of its own; the WAL is copied last, so that no page is newer than its WAL.
    for name in ["warren.db", "warren.db-wal"] {
        let _ = std::fs::copy(bench.dir.path().join(name), dir.path().join(name));
    }
    open_in(dir, options())
}

async fn run(steps: Vec<Step>) {
    let mut model = Model::default();
    let mut bench = open_in(tempfile::tempdir().unwrap(), options());
    for step in steps {
        match step {
            Step::Commit { expect, writes } => {
                let expected = expect.map(|(name, guess)| (name, model.holds(name, guess)));
                let item = Item {
                    expects: expected.iter().map(|(n, (e, _))| (key(NAMES[*n]), *e)).collect(),
                    writes: writes.iter().copied().map(to_write).collect(),
                };
                let holds = expected.is_none_or(|(_, (_, holds))| holds);
                match bench.journal.commit(item).await {
                    Ok(changes) => {
                        assert!(holds);
                        model.apply(&writes, &changes);
                    }
                    Err(CommitError::Unexpected { .. }) => assert!(!holds),
                    Err(error) => assert!(matches!(error, CommitError::Storage(_)), "{error}"),
                }
            }
            Step::Publish(tenths) => {
                bench.journal.set_relay_cursor(Revision(model.last * tenths / 10));
            }
            Step::Fail => {
                let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_WRITE);
                let error = rusqlite::Error::SqliteFailure(full, None);
                bench.faults.errors.lock().push_back(error);
            }
            Step::Close => {
                bench.faults.errors.lock().clear();
                bench = bench.reopen(options()).await;
                model.check_loaded(&bench.loaded, false);
            }
            Step::Crash => {
                bench.faults.errors.lock().clear();
                // Stands still while it is copied.
                let copy = {
                    let connection =
                        &rusqlite::Connection::open(bench.dir.path().join("warren.db"));
                    let connection = connection.as_ref().unwrap();
                    connection.busy_timeout(Duration::from_secs(9)).unwrap();
                    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                    let copy = crashed(&bench).await;
                    connection.execute_batch("ROLLBACK").unwrap();
                    copy
                };
                bench.journal.close().await;
                bench = copy;
                model.check_loaded(&bench.loaded, true);
                model.last = bench.loaded.revision.0;
            }
        }
        model.check(&bench);
    }
    assert!(bench.journal.integrity_problems().unwrap().is_empty());
    assert!(bench.fatal.lock().is_empty());
}

/// Each case is up to 60 transactions on a real disk. `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 48;
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_journal_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
