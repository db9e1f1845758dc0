//! The shell around every controller: a queue, workers, writes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use warren_client::Leadership;
use warren_process::trace::{About, Step as Hop, Subject, Trace};
use warren_process::{Clock, Family, Tasks};

use crate::caches::{Caches, Key};
use crate::events::Recorder;
use crate::execute::{ExecuteError, Executed, Expected, describe, execute};
use crate::garbage::Graph;
use crate::plan::{Plan, Resource, Target, Write};
use crate::queue::WorkQueue;

/// Refusals logged at `warn`; what is ordinary (a lost race) is not.
const SLOW: Duration = Duration::from_secs(1);

pub(crate) trait Controller: Send + Sync + 'static {
    /// As it stands in the source of its Events: `replicaset-controller`.
    const NAME: &'static str;
    /// Group and plural of what its keys name.
    const RESOURCE: (&'static str, &'static str);

    /// Takes a snapshot for the key and decides. Does no I/O.
    fn plan(&self, now: Timestamp, key: &Key) -> Plan;

    /// What is to be written about a refusal, such as a condition.
    fn refused(&self, _now: Timestamp, _key: &Key, _message: &str) -> Option<Write> {
        None
    }
}

/// What all controllers share.
#[derive(Clone)]
pub(crate) struct Context {
    /// What it writes carries the term of `leader`.
    pub client: kube::Client,
    /// Whether the client can watch.
    pub watches: bool,
    pub leader: Leadership,
    pub caches: Caches,
    pub graph: Graph,
    pub recorder: Recorder,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    /// So long a node may be silent.
    pub node_grace: Duration,
    pub trace: Trace,
}

/// Counters over all controllers since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) trace: OnceLock<Trace>,
    pub decisions: AtomicU64,
    pub writes: AtomicU64,
    pub conflicts: AtomicU64,
    pub failures: AtomicU64,
}

impl Metrics {
    pub(crate) fn of(trace: Trace) -> Self {
        Self { trace: trace.into(), ..Self::default() }
    }

    pub fn families(&self) -> Vec<Family> {
        let counter = |name: &'static str, help, counter: &AtomicU64| {
            Family::counter(name, help).of(counter.load(Ordering::Relaxed))
        };
        let refused = "Writes that were refused or not answered.";
        let mut all = vec![
            counter("controllers_decisions", "Keys that were decided about.", &self.decisions),
            counter("controllers_writes", "Writes that plans asked for.", &self.writes),
            counter("controllers_conflicts", "Writes that lost a race.", &self.conflicts),
            counter("controllers_failures", refused, &self.failures),
        ];
        all.extend(self.trace.get().into_iter().flat_map(|trace| trace.families("controllers")));
        all
    }
}

struct Runner<C> {
    controller: C,
    context: Context,
    queue: WorkQueue<Key>,
    /// What earlier writes for a key have not shown in the caches yet.
    expected: Mutex<HashMap<Key, Vec<Expected>>>,
}

/// Runs a controller with so many workers, once the caches are filled and while this process leads, until shutdown. Until
/// it leads its queue fills with all that there is to look at.
pub(crate) fn run<C: Controller>(
    context: &Context,
    tasks: &Tasks,
    queue: WorkQueue<Key>,
    workers: usize,
    controller: C,
) {
    let expected = Mutex::default();
    let runner = Arc::new(Runner { controller, context: context.clone(), queue, expected });
    for _ in 0..workers {
        let (runner, shutdown) = (Arc::clone(&runner), tasks.shutdown().clone());
        tasks.spawn_critical(C::NAME, async move {
            tokio::select! {
                () = shutdown.draining() => {}
                () = runner.context.caches.synced() => {}
            }
            while !shutdown.is_draining() {
                // A plan that is begun is carried through, also during shutdown.
                let key = tokio::select! {
                    () = shutdown.draining() => break,
                    key = runner.queue.next() => key,
                };
                let turn = tokio::select! {
                    () = shutdown.draining() => break,
                    turn = runner.context.leader.turn() => turn,
                };
                Box::pin(turn.run(runner.work(&key))).await;
            }
            Ok::<_, Infallible>(())
        });
    }
}

impl<C: Controller> Runner<C> {
    async fn work(&self, key: &Key) {
        let expected = self.expected.lock().remove(key);
        if let Some(expected) = expected {
            self.context.caches.settled(&expected).await;
        }
        let metrics = &self.context.metrics;
        metrics.decisions.fetch_add(1, Ordering::Relaxed);
        let start = std::time::Instant::now();
        let now = self.context.clock.now();
        let plan = self.controller.plan(now, key);
        decided::<C>(&self.context.trace, key, &plan);
        for note in &plan.notes {
            self.context.recorder.record(C::NAME, note.clone());
        }
        let executed = self.execute(&plan).await;
        metrics.writes.fetch_add(plan.steps.len() as u64, Ordering::Relaxed);
        let mut expected = executed.expected;
        match executed.result {
            Ok(()) => {
                if let Some(after) = plan.again_after {
                    self.queue.add_after(key.clone(), after);
                }
                if start.elapsed() > SLOW {
                    let (controller, took) = (C::NAME, start.elapsed());
                    tracing::debug!(controller, %key, ?took, "slow");
                }
                self.remember(key, expected);
                self.queue.done(key);
            }
            Err(error) => {
                self.report(key, &error);
                if let ExecuteError::Refused { message, .. } = &error {
                    if let Some(note) = executed.failed.and_then(|step| step.refusal) {
                        let message = format!("{}{message}", note.message);
                        self.context
                            .recorder
                            .record(C::NAME, crate::plan::Note { message, ..note });
                    }
                    if let Some(write) = self.controller.refused(now, key, message) {
                        let plan = Plan { steps: vec![write.into()], ..Plan::default() };
                        expected.extend(self.execute(&plan).await.expected);
                    }
                }
                self.remember(key, expected);
                match error {
                    ExecuteError::Conflict { .. } => self.queue.raced(key),
                    _ => self.queue.failed(key),
                }
            }
        }
    }

    fn remember(&self, key: &Key, expected: Vec<Expected>) {
        if !expected.is_empty() {
            self.expected.lock().insert(key.clone(), expected);
        }
    }

    async fn execute(&self, plan: &Plan) -> Executed {
        execute(&self.context.client, plan, |step| {
            wrote(&self.context.trace, C::NAME, &step.write);
            if let Some(note) = &step.note {
                self.context.recorder.record(C::NAME, note.clone());
            }
        })
        .await
    }

    fn report(&self, key: &Key, error: &ExecuteError) {
        let metrics = &self.context.metrics;
        match error {
            ExecuteError::Conflict { .. } | ExecuteError::Exists { .. } => {
                metrics.conflicts.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(controller = C::NAME, %key, %error, "the cache was behind");
            }
            ExecuteError::Refused { .. } => {
                metrics.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(controller = C::NAME, %key, %error, "a write was refused");
            }
            ExecuteError::Unreachable { source, .. } => {
                metrics.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(controller = C::NAME, %key, %error, %source, "a write failed");
            }
        }
    }
}

/// A decision to do nothing is none to remember.
fn decided<C: Controller>(trace: &Trace, key: &Key, plan: &Plan) {
    let Some(first) = plan.steps.first() else { return };
    let more = match plan.steps.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let (group, resource) = C::RESOURCE;
    let subject = Subject::new(group, resource, key.namespace.clone(), key.name.clone());
    let about = About { subject, uid: Arc::default(), revision: 0 };
    trace.push(Hop::Decided, about, format!("{}: {}{more}", C::NAME, describe(&first.write)));
}

/// A write that has succeeded.
pub(crate) fn wrote(trace: &Trace, by: &str, write: &Write) {
    let (resource, namespace, name, uid, verb) = match write {
        Write::Create { resource, namespace, object } => {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            (resource, namespace.as_str(), name, "", "create")
        }
        Write::Patch { target, .. } => about_target(target, "patch"),
        Write::Replace { target, .. } => about_target(target, "replace"),
        Write::Delete { target, .. } => about_target(target, "delete"),
    };
    let group = resource.api_version.split_once('/').map_or("", |(group, _)| group);
    let subject = Subject::new(group, &*resource.plural, namespace, name);
    let about = About { subject, uid: uid.into(), revision: 0 };
    trace.push(Hop::Wrote, about, format!("{by}: {verb}"));
}

fn about_target<'a>(
    target: &'a Target,
    verb: &'static str,
) -> (&'a Resource, &'a str, &'a str, &'a str, &'static str) {
    (&target.resource, &target.namespace, &target.name, &target.uid, verb)
}
