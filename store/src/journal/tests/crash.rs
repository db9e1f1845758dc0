//! A child process is killed while it commits.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

const CHILD: &str = "WARREN_TEST_CRASH_FOLDER";
const ROUNDS: usize = 6;

/// Not a test by itself: commits until it is killed, and prints what was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let options = Options { history_revisions: 200, ..Options::default() };
    let path = Path::new(&folder).join("warren.db");
    let (journal, loaded) = Journal::open(&path, options, |_| {}).unwrap();
    println!("\nopened {}", loaded.revision);
    let mut set = tokio::task::JoinSet::new();
    for task in 0..8 {
        let journal = journal.clone();
        set.spawn(async move {
            for n in 0u32.. {
                let name = format!("t{task}-{}", n % 7);
                let (item, durable) = match n % 5 {
                    0 => (deferred(&format!("lease-{task}")), false),
                    1 if n > 50 => (item(write(&name, Op::Deleted)), true),
                    _ => (item(write(&name, Op::Modified)), true),
                };
                let op = item.writes[0].op;
                let change = Arc::clone(&journal.commit(item).await.unwrap()[0]);
                journal.set_relay_cursor(change.revision);
                let line = format!("{durable} {op:?} {} {}\n", change.revision, change.key.name);
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    set.join_next().await;
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    // The newest durable answer for each key, over all rounds.
    let mut answered: HashMap<String, (u64, bool)> = HashMap::new();
    let mut highest = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::crash::child", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut count = 0;
        while let Some(Ok(line)) = lines.next() {
            let words: Vec<_> = line.split(' ').collect();
            let [durable, op, revision, name] = words[..] else { continue };
            let Ok(revision) = revision.parse::<u64>() else { continue };
            assert!(revision > 0);
            highest = highest.max(revision);
            if durable == "true" {
                let newest = answered.entry(name.to_owned()).or_default();
                *newest = (*newest).max((revision, op == "Deleted"));
            }
            count += 1;
            if count == 700 + 311 * round {
                child.kill().unwrap();
            }
        }
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "the child ended by itself after {count} answers");

        let path = dir.path().join("warren.db");
        let (journal, loaded) = Journal::open(&path, Options::default(), |_| {}).unwrap();
        assert!(loaded.revision.0 >= highest, "{} was used, {}", highest, loaded.revision);
        let there: HashMap<_, _> =
            loaded.objects.iter().map(|c| (c.key.name.to_string(), c.revision.0)).collect();
        for (name, (revision, deleted)) in &answered {
            match there.get(name) {
                Some(found) => assert!(found >= revision, "{name}: {found} < {revision}"),
                None if *deleted => {}
                // Deleted by a write that was committed and not answered.
                None => {
                    let history = journal.history(journal.floor(), None, MAX_HISTORY_LIMIT);
                    let gone = history.unwrap().iter().any(|c| {
                        &*c.key.name == name && c.op == Op::Deleted && c.revision.0 > *revision
                    });
                    assert!(gone, "{name} at {revision} is lost");
                }
            }
        }
        let history = journal.history(journal.floor(), None, MAX_HISTORY_LIMIT).unwrap();
        let last = history.last().unwrap();
        assert_eq!(journal.head(&pods(), &Shard::Unscheduled), last.revision);
        for pair in history.windows(2) {
            assert_eq!(pair[1].streams[0].prev, pair[0].revision);
        }
        assert!(journal.integrity_problems().unwrap().is_empty());
        journal.close().await;
    }
}
