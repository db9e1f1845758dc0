//! How fast the journal commits and loads, beside raw SQLite on the same disk, in one run:
//! `cargo run --release -p warren-store --example commit_rate -- [objects] [folder]`
//!
//! Objects are 2.8 KB. Every answer is on disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use warren_api::{GroupResource, ObjectKey, Revision, Shard, Uid};
use warren_store::{Body, Durability, Expected, Item, Journal, Op, Options, Write};

const BODY_BYTES: usize = 2800;
const IN_FLIGHT: usize = 32;
const ONE_BY_ONE: usize = 5_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let objects: usize = args.next().map_or(Ok(50_000), |n| n.parse())?;
    let parent = args.next().unwrap_or_else(|| ".".to_owned());
    let folder = tempfile::tempdir_in(parent)?;
    let path = |name: &str| folder.path().join(name);

    raw(&path("raw-1.db"), ONE_BY_ONE, 1)?;
    raw(&path("raw-32.db"), objects, 32)?;

    create("journal, one by one", &path("one.db"), ONE_BY_ONE, 1).await?;
    create("journal, 32 in flight, creates", &path("many.db"), objects, IN_FLIGHT).await?;
    update("journal, 32 in flight, updates", &path("many.db"), objects, IN_FLIGHT).await?;
    load(&path("one.db"))?;
    load(&path("many.db"))?;
    Ok(())
}

/// SQLite alone, the body written once.
fn raw(path: &Path, objects: usize, per_transaction: usize) -> Result<(), Failure> {
    let mut connection = rusqlite::Connection::open(path)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE journal (rv INTEGER PRIMARY KEY, name TEXT, body BLOB);
         CREATE TABLE object (name TEXT PRIMARY KEY, rv INTEGER) WITHOUT ROWID;",
    )?;
    let body = vec![b'x'; BODY_BYTES];
    let started = Instant::now();
    let mut latencies = Vec::new();
    for first in (0..objects).step_by(per_transaction) {
        let begun = Instant::now();
        let transaction = connection.transaction()?;
        for n in first..(first + per_transaction).min(objects) {
            let name = name(n);
            transaction
                .prepare_cached("INSERT INTO journal VALUES (?1, ?2, ?3)")?
                .execute((n as i64, &name, &body))?;
            transaction
                .prepare_cached("INSERT INTO object VALUES (?1, ?2)")?
                .execute((&name, n as i64))?;
        }
        transaction.commit()?;
        latencies.push(begun.elapsed());
    }
    let what = format!("raw SQLite, {per_transaction} a transaction");
    report(&what, objects, started.elapsed(), latencies, None);
    Ok(())
}

async fn create(what: &str, path: &Path, objects: usize, in_flight: usize) -> Result<(), Failure> {
    let (journal, _) = Journal::open(path, Options::default(), |_| {})?;
    run(what, &journal, objects, in_flight, Expected::Absent, Op::Added).await?;
    journal.close().await;
    Ok(())
}

async fn update(what: &str, path: &Path, objects: usize, in_flight: usize) -> Result<(), Failure> {
    let (journal, _) = Journal::open(path, Options::default(), |_| {})?;
    let cursor = journal.clone();
    let follow = async move {
        loop {
            cursor.set_relay_cursor(cursor.revision());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = run(what, &journal, objects, in_flight, Expected::Present, Op::Modified) => done?,
        () = follow => {}
    }
    journal.close().await;
    Ok(())
}

async fn run(
    what: &str,
    journal: &Journal,
    objects: usize,
    in_flight: usize,
    expected: Expected,
    op: Op,
) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let before = journal.stats().transactions;
    let started = Instant::now();
    let writer = || {
        let (journal, next) = (journal.clone(), Arc::clone(&next));
        async move {
            let mut latencies = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= objects {
                    return Ok::<_, Failure>(latencies);
                }
                let item = item(n, expected, op);
                let begun = Instant::now();
                journal.commit(item).await?;
                latencies.push(begun.elapsed());
            }
        }
    };
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        set.spawn(writer());
    }
    let mut latencies = Vec::new();
    while let Some(done) = set.join_next().await {
        latencies.extend(done??);
    }
    let transactions = journal.stats().transactions - before;
    report(what, objects, started.elapsed(), latencies, Some(transactions));
    Ok(())
}

fn load(path: &Path) -> Result<(), Failure> {
    let started = Instant::now();
    let (_journal, loaded) = Journal::open(path, Options::default(), |_| {})?;
    let took = started.elapsed();
    println!("load of {} objects: {:.1} ms", loaded.objects.len(), took.as_secs_f64() * 1e3);
    assert!(loaded.revision > Revision(0), "nothing was loaded");
    Ok(())
}

fn report(
    what: &str,
    objects: usize,
    took: Duration,
    mut latencies: Vec<Duration>,
    transactions: Option<u64>,
) {
    latencies.sort_unstable();
    let at = |p: usize| latencies[(latencies.len() - 1) * p / 1000].as_secs_f64() * 1e3;
    let rate = objects as f64 / took.as_secs_f64();
    let each = transactions.map_or(String::new(), |t| {
        format!(", {:.1} items a transaction", objects as f64 / t as f64)
    });
    println!(
        "{what}: {rate:.0} objects/s, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms{each}",
        at(500),
        at(990),
        at(999)
    );
}

fn name(n: usize) -> String {
    format!("pod-{n:06}")
}

fn item(n: usize, expected: Expected, op: Op) -> Item {
    let key = ObjectKey::new(GroupResource::new("", "pods"), "default", name(n));
    let mut json = br#"{"metadata":{"resourceVersion":""},"text":""#.to_vec();
    json.resize(BODY_BYTES - 2, b'x');
    json.extend_from_slice(br#""}"#);
    let write = Write {
        key: key.clone(),
        uid: Uid("7b8e1c1e-0000-4000-8000-000000000000".into()),
        op,
        durability: Durability::Durable,
        shards: [Shard::Unscheduled].into_iter().collect(),
        body: Body { json, hole: 32 },
    };
    Item { expects: vec![(key, expected)], writes: vec![write] }
}
