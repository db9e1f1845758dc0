//! Controllers and the scheduler: `decide` (pure), then `execute`.
//!
//! [`start`] runs them on one [`InformerSet`], so that a process has one subscription.

mod caches;
mod deployment;
mod endpoints;
mod events;
mod execute;
mod garbage;
mod job;
pub mod names;
mod namespace;
mod nodelifecycle;
pub mod plan;
mod podgc;
mod pods;
mod queue;
mod replicaset;
mod runner;
pub mod scheduler;
mod serviceaccount;
#[doc(hidden)]
pub mod simulation;
#[cfg(test)]
mod world;

use std::sync::Arc;
use std::time::Duration;

use warren_client::{Connection, InformerSet, Leadership};
use warren_process::trace::Trace;
use warren_process::{Clock, SystemClock, Tasks};

pub use caches::Key;
pub use queue::WorkQueue;
pub use runner::Metrics;

use caches::Caches;
use events::Recorder;
use runner::Context;

/// Starts one controller: it registers with the caches and spawns its workers.
type Start = fn(&Context, &Tasks);

/// Every controller by the name it is switched with.
const ALL: &[(&str, Start)] = &[
    ("deployment", deployment::start),
    ("endpoints", endpoints::start),
    ("garbage", garbage::start),
    ("job", job::start),
    ("namespace", namespace::start),
    ("nodelifecycle", nodelifecycle::start),
    ("podgc", podgc::start),
    ("replicaset", replicaset::start),
    ("scheduler", scheduler::start_shared),
    ("serviceaccount", serviceaccount::start),
];

/// The names of all controllers, in order.
pub fn all() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

/// What runs, and how.
#[derive(Clone)]
pub struct Config {
    /// Tells this process from others that run now; a part of its queue's name.
    pub instance: String,
    /// Those not to run, by the names that [`all`] gives.
    pub disabled: Vec<String>,
    pub clock: Arc<dyn Clock>,
    /// After so long without a heartbeat a node counts as lost: `node-monitor-grace-period`.
    pub node_grace: Duration,
    /// While this process does not lead, its caches are filled and nothing is done.
    pub leadership: Leadership,
}

impl Config {
    /// Kubernetes' own.
    pub const NODE_GRACE: Duration = Duration::from_secs(40);
}

impl Default for Config {
    fn default() -> Self {
        let instance = format!("{:016x}", rand::random::<u64>());
        let (disabled, clock) = (Vec::new(), Arc::new(SystemClock));
        let leadership = Leadership::always();
        Self { instance, disabled, clock, node_grace: Self::NODE_GRACE, leadership }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no controller named {name:?}; there are: {}", all().collect::<Vec<_>>().join(", "))]
    UnknownController { name: String },
}

/// Starts all controllers that are not disabled. They work until shutdown; the API may come later, and may go and come.
pub fn start(
    connection: Connection,
    config: Config,
    tasks: &Tasks,
) -> Result<Arc<Metrics>, ConfigError> {
    if let Some(name) = config.disabled.iter().find(|name| all().all(|known| known != *name)) {
        return Err(ConfigError::UnknownController { name: name.clone() });
    }
    let (leader, watches) = (config.leadership, connection.watches);
    let client = leader.fenced(connection.client.clone());
    let trace = Trace::new("controllers", config.instance.as_str());
    // Who stands by may answer as well: it writes nothing.
    warren_client::answer_questions(connection.client.clone(), trace.clone(), tasks);
    let mut set = InformerSet::new(connection, "controllers", config.instance);
    set.traced(trace.clone());
    let context = Context {
        caches: Caches::new(&mut set),
        graph: garbage::Graph::new(&mut set),
        recorder: Recorder::start(client.clone(), Arc::clone(&config.clock), tasks),
        client,
        watches,
        clock: config.clock,
        metrics: Arc::new(Metrics::of(trace.clone())),
        node_grace: config.node_grace,
        leader,
        trace,
    };
    for (name, start) in ALL {
        if config.disabled.iter().any(|disabled| disabled == name) {
            tracing::info!(controller = name, "disabled");
        } else {
            start(&context, tasks);
        }
    }
    set.run(tasks);
    Ok(context.metrics)
}
