//! Concurrent clients on few objects, a server that is killed at random moments, and the question whether what they were
//! told can be true: every answer, every list, every stream of every watch.
//!
//! `LINEARIZABLE_SECONDS` says for how long (20 by itself), `SEED` what the clients choose.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]
#![expect(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]

mod linearizable {
    pub mod watcher;
    pub mod wire;
    pub mod worker;
}

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use http::Method;
use linearizable::watcher::{FORMS, Form, Watcher};
use linearizable::wire::{NAMESPACE, RESOURCES, Resource, call, revision};
use linearizable::worker::{Run, Worker, selection};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use warren_tests::cluster::SOON;
use warren_tests::history::streams::{Kind, Session, Told, Truth};
use warren_tests::history::{self, Change, Listing, Op, Outcome, Record, Selection};
use warren_tests::{Cluster, Options, Role};

const WORKERS: usize = 8;
/// Those that begin anywhere and leave soon, of each resource.
const DIPPERS: usize = 2;
/// From anywhere up to the end, when all is at rest.
const REPLAYS: usize = 60;
/// The last object of each resource.
const END: &str = "end";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_and_streams_are_of_one_order() {
    let seed = number("SEED").unwrap_or_else(rand::random::<u64>);
    println!("SEED={seed}");
    let mut cluster = Cluster::up(Options::default());
    let world = World::begin(&cluster, seed).await;
    let kills = world.go_on(&mut cluster).await;
    let history = world.end(&cluster).await;

    println!("{history}; {kills} kills; SEED={seed}");
    assert_eq!(history.strange, Vec::<String>::new());
    let wrong = history.wrong();
    assert!(wrong.is_empty(), "{} violations: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    history.is_enough();
    assert!(kills > 2, "too few kills");
}

struct World {
    seed: u64,
    run: Arc<Run>,
    over: Arc<AtomicBool>,
    last: watch::Sender<u64>,
    workers: Vec<JoinHandle<Worker>>,
    followers: Vec<JoinHandle<Watcher>>,
    dippers: Vec<JoinHandle<Watcher>>,
}

impl World {
    fn random(&self, number: usize) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_add(number as u64))
    }

    async fn begin(cluster: &Cluster, seed: u64) -> Self {
        let client = cluster.client().await;
        let body = json!({"metadata": {"name": NAMESPACE}});
        let made = call(&client, Method::POST, "/api/v1/namespaces", &body).await;
        assert!(matches!(made, Some((201, _))), "{made:?}");
        let listed = call(&client, Method::GET, &Resource::Events.path(), &Value::Null).await;
        let first = revision(&listed.unwrap().1["metadata"]);
        let run = Run { begin: Instant::now(), first, newest: AtomicU64::new(first) };
        let mut world = Self {
            seed,
            run: Arc::new(run),
            over: Arc::default(),
            last: watch::channel(0).0,
            workers: vec![],
            followers: vec![],
            dippers: vec![],
        };
        world.watch(cluster).await;
        for number in 0..WORKERS {
            let client = cluster.client().await;
            let mut worker =
                Worker::new(number, client, Arc::clone(&world.run), world.random(number));
            let over = Arc::clone(&world.over);
            world.workers.push(tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    worker.step().await;
                }
                worker
            }));
        }
        world
    }

    /// The first follower of each resource watches all of it as objects: that is the truth.
    async fn watch(&mut self, cluster: &Cluster) {
        let red = Selection::Colour("red".to_owned());
        for resource in RESOURCES {
            let mut wanted = vec![
                (Form::Object, Selection::All),
                (Form::Object, Selection::NotColour("blue".to_owned())),
                (Form::Object, Selection::Key(format!("{}/a", resource.name()))),
            ];
            wanted.extend(FORMS.map(|form| (form, red.clone())));
            wanted.push((Form::Table, Selection::All));
            for (form, selection) in wanted {
                let client = cluster.client().await;
                let watcher = Watcher::new(client, Arc::clone(&self.run), resource, form);
                self.followers.push(tokio::spawn(watcher.follow(selection, self.last.subscribe())));
            }
            for _ in 0..DIPPERS {
                let client = cluster.client().await;
                let watcher = Watcher::new(client, Arc::clone(&self.run), resource, Form::Object);
                let random = self.random(1000 + self.dippers.len());
                self.dippers.push(tokio::spawn(watcher.dip(random, Arc::clone(&self.over))));
            }
        }
    }

    /// Kills the server at random moments until the time is over.
    async fn go_on(&self, cluster: &mut Cluster) -> usize {
        let time = Duration::from_secs(number("LINEARIZABLE_SECONDS").unwrap_or(20));
        let (mut random, mut kills) = (self.random(2000), 0);
        while self.run.begin.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(random.random_range(300..5000))).await;
            tokio::task::block_in_place(|| {
                cluster.kill9(&Role::Up);
                cluster.start(&Role::Up);
                cluster.wait_ready();
            });
            kills += 1;
        }
        kills
    }

    async fn end(mut self, cluster: &Cluster) -> History {
        self.over.store(true, Ordering::Relaxed);
        let mut history = History::default();
        for worker in std::mem::take(&mut self.workers) {
            history.worker(worker.await.unwrap());
        }
        let client = cluster.client().await;
        let mut ending = Worker::new(WORKERS, client, Arc::clone(&self.run), self.random(WORKERS));
        for resource in RESOURCES {
            assert!(matches!(ending.act(resource, END, Op::Create).await, Outcome::Is(_)));
        }
        history.worker(ending);
        let last = self.run.newest.load(Ordering::Relaxed);
        self.last.send_replace(last);
        let watchers = self.followers.drain(..).chain(self.dippers.drain(..));
        for watcher in watchers.collect::<Vec<_>>() {
            let watcher = tokio::time::timeout(SOON, watcher).await.expect("it sees the end");
            history.watcher(watcher.unwrap());
        }
        self.replay(cluster, last, &mut history).await;
        history
    }

    async fn replay(&self, cluster: &Cluster, last: u64, history: &mut History) {
        let mut random = self.random(3000);
        let client = cluster.client().await;
        let replays: Vec<_> = (0..REPLAYS)
            .map(|number| {
                let resource = RESOURCES[number % RESOURCES.len()];
                let form = FORMS[number % FORMS.len()];
                let selection = selection(&mut random, resource);
                let from = random.random_range(self.run.first..last);
                let mut watcher =
                    Watcher::new(client.clone(), Arc::clone(&self.run), resource, form);
                async move {
                    watcher.replay(&selection, from, last).await;
                    watcher
                }
            })
            .collect();
        let done: Vec<Watcher> =
            futures::stream::iter(replays).buffer_unordered(REPLAYS / 4).collect().await;
        done.into_iter().for_each(|watcher| history.watcher(watcher));
    }
}

/// All that was told.
#[derive(Default)]
struct History {
    records: Vec<Record>,
    listings: Vec<Listing>,
    sessions: Vec<(Form, Resource, Session)>,
    /// As the first follower of each resource has it.
    changes: Vec<Change>,
    truths: usize,
    expired: usize,
    strange: Vec<String>,
}

impl History {
    fn worker(&mut self, worker: Worker) {
        self.records.extend(worker.records);
        self.listings.extend(worker.listings);
        self.strange.extend(worker.strange);
    }

    fn watcher(&mut self, watcher: Watcher) {
        let is_all = |session: &Session| session.selection == Selection::All;
        let is_truth = watcher.form == Form::Object
            && watcher.sessions.first().is_some_and(|(_, _, session)| is_all(session))
            && self.truths < RESOURCES.len()
            && !self.changes.iter().any(|change| change.is_of(watcher.resource.name()));
        if is_truth {
            self.truths += 1;
            assert_eq!(watcher.expired, 0, "who is never behind never loses history");
            let told = watcher.sessions.iter().flat_map(|(_, _, session)| &session.told);
            self.changes.extend(told.filter_map(|told| match told {
                Told::Event { kind, key, state } => Some(Change {
                    revision: state.revision,
                    key: key.clone(),
                    state: state.clone(),
                    gone: *kind == Kind::Deleted,
                }),
                Told::Bookmark(_) | Told::InitialEnd(_) => None,
            }));
        }
        self.sessions.extend(watcher.sessions);
        self.expired += watcher.expired;
        self.strange.extend(watcher.strange);
    }

    fn wrong(&self) -> Vec<String> {
        let mut changes = self.changes.clone();
        // Each resource's are in the order in which they were told, which this keeps where it is wrong.
        let mut wrong: Vec<String> = Vec::new();
        for resource in RESOURCES {
            let own: Vec<u64> =
                changes.iter().filter(|c| c.is_of(resource.name())).map(|c| c.revision).collect();
            if !own.is_sorted_by(|a, b| a < b) {
                wrong.push(format!("the watch of {} is out of order", resource.name()));
            }
        }
        changes.sort_by_key(|change| change.revision);
        wrong.extend(history::check(&changes, &self.records, &self.listings));
        for resource in RESOURCES {
            let mut truth = Truth::of(resource.name(), &changes);
            let own = self.sessions.iter().filter(|(_, of, _)| *of == resource);
            wrong.extend(own.flat_map(|(_, _, session)| truth.check(session)));
        }
        wrong
    }

    /// That something was compared, of everything.
    fn is_enough(&self) {
        assert!(self.changes.len() > 100 && self.listings.len() > 10, "{self}");
        let answered = |wanted: &dyn Fn(&Outcome) -> bool| {
            self.records.iter().filter(|record| wanted(&record.outcome)).count()
        };
        assert!(answered(&|o| matches!(o, Outcome::Conflict)) > 10, "{self}");
        assert!(answered(&|o| matches!(o, Outcome::Gone(_))) > 10, "{self}");
        for form in FORMS {
            let told = self.sessions.iter().filter(|(of, ..)| *of == form);
            let told: Vec<&Told> = told.flat_map(|(_, _, session)| &session.told).collect();
            assert!(told.iter().any(|told| matches!(told, Told::Bookmark(_))), "{form:?}: {self}");
            assert!(
                told.iter().any(|told| matches!(told, Told::InitialEnd(_))),
                "{form:?}: {self}"
            );
            assert!(told.len() > 100, "{form:?}: {self}");
        }
    }
}

impl std::fmt::Display for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unknown = self.records.iter().filter(|r| r.outcome == Outcome::Unknown).count();
        let events: usize = self.sessions.iter().map(|(_, _, session)| session.told.len()).sum();
        let mut forms = BTreeMap::<Form, usize>::new();
        for (form, ..) in &self.sessions {
            *forms.entry(*form).or_default() += 1;
        }
        write!(
            f,
            "{} operations, {unknown} without an answer; {} lists; {} changes; {} streams {forms:?} \
             with {events} events and bookmarks, {} refused with 410",
            self.records.len(),
            self.listings.len(),
            self.changes.len(),
            self.sessions.len(),
            self.expired
        )
    }
}
