//! Puts the parts of one agent together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use warren_api::NodeName;
use warren_broker::Fabric;
use warren_process::trace::Trace;
use warren_process::{Clock, Tasks};
use warren_store::{KeyValue, OpenError};

use crate::api::SharedApi;
use crate::autonomy::Autonomy;
use crate::claim;
use crate::commands::{self, Commands};
use crate::config::Config;
use crate::context::Context;
use crate::events::Events;
use crate::feed::Feed;
use crate::keep::{Forgetful, Keep};
use crate::manifests::{self, StaticSource};
use crate::mirror::Mirrors;
use crate::network::EventSink;
use crate::node::{self, Machine};
use crate::objects::{Kept, Objects, Seal};
use crate::pod::index::PodIndex;
use crate::pod::manager::{self, Manager};
use crate::pod::spec::NodeFields;
use crate::provisional::Logs;
use crate::runtime::Runtime;
use crate::status_writer::StatusWriter;
use crate::volume::Volumes;

/// Questions to the manifests folder that may wait.
const ASKS: usize = 16;
/// What commands do by themselves, and the feed has not done yet.
const LOCALS: usize = 16;

/// What an agent works with. All of it may be shared by the agents of a process, but for the runtime, of which each
/// node has its own handle.
pub struct AgentDeps {
    /// [`crate::api::KubeApi`]; it may have no client yet.
    pub api: SharedApi,
    pub fabric: Arc<dyn Fabric>,
    pub runtime: Arc<dyn Runtime>,
    /// The scheme of container ids in statuses: `docker`, `simulated`.
    pub runtime_name: &'static str,
    pub clock: Arc<dyn Clock>,
    pub index: PodIndex,
    /// What was done without the API.
    pub logs: Logs,
    /// Who else wants the events of the node's queue.
    pub sinks: Vec<Arc<dyn EventSink>>,
    /// Where the ways of changes are remembered.
    pub trace: Trace,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot make the agent's folder {}: {reason}", path.display())]
    Folder { path: PathBuf, reason: String },
    #[error(transparent)]
    Store(OpenError),
    #[error(
        "{0}; to begin anew, move it and its -wal away: what the API has is asked for again, but statuses that it was not \
         told yet and commands that were carried out without it are lost"
    )]
    Damaged(OpenError),
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { .. } => Self::Damaged(error),
            error => Self::Store(error),
        }
    }
}

/// A running agent. Dropping it stops nothing; shutdown of its tasks does, and that leaves the containers as they are.
pub struct Agent {
    pub node: NodeName,
    pub index: PodIndex,
    ready: watch::Receiver<bool>,
}

impl Agent {
    /// Starts all parts. Pods from disk and from the manifests folder run while the API is not reachable.
    ///
    /// # Errors
    /// The agent's folder or its database cannot be used.
    pub async fn start(config: Config, deps: AgentDeps, tasks: &Tasks) -> Result<Self, StartError> {
        let AgentDeps { api, fabric, runtime, runtime_name, clock, index, logs, sinks, trace } =
            deps;
        let node = NodeName(config.node.as_str().into());
        let trace = trace.of(Arc::clone(&node.0));
        let (keep, kept): (Arc<dyn Keep>, _) = match &config.dir {
            Some(dir) => {
                let error = |e: std::io::Error| StartError::Folder {
                    path: dir.clone(),
                    reason: e.to_string(),
                };
                tokio::fs::create_dir_all(dir).await.map_err(error)?;
                let seal = Seal::open(dir).map_err(error)?;
                let keep: Arc<dyn Keep> = Arc::new(KeyValue::open(&dir.join("agent.db"))?);
                (Arc::clone(&keep), Some(Kept { keep, seal }))
            }
            None => (Arc::new(Forgetful::default()), None),
        };
        let machine = if config.simulated {
            Machine::simulated(&config.capacity)
        } else {
            Machine::measure(&config.capacity, config.dir.as_deref())
        };
        let fields = NodeFields {
            host_ip: config.address.to_string().into(),
            cpu_millis: machine.cpu_millis,
            memory_bytes: machine.memory_bytes,
            ephemeral_storage_bytes: machine.ephemeral_storage_bytes,
        };
        let key = kept.as_ref().filter(|_| config.contested).map(|kept| kept.seal.identity);
        let instance = key.map(|key| claim::instance(&key, &machine.boot_id));
        let lease = Duration::from_secs(u64::from(config.lease_seconds.max(0).unsigned_abs()));
        let vigil = Arc::new(claim::Vigil::new(
            instance.as_ref().map(|_| lease),
            Arc::clone(&clock),
            tasks.shutdown().clone(),
        ));
        let volumes = match &config.dir {
            Some(dir) if !config.simulated => Volumes::new(dir.clone()),
            _ => Volumes::none(),
        };
        let events = Events::start(
            Arc::clone(&api),
            node.clone(),
            Arc::clone(&clock),
            config.normal_events,
            tasks,
        );
        let on_disk = config.dir.is_some().then(|| Arc::clone(&keep));
        let autonomy = Autonomy::load(config.autonomous, on_disk).await;
        let context = Arc::new(Context {
            node: node.clone(),
            host_ip: config.address,
            fields: RwLock::new(fields),
            api: Arc::clone(&api),
            runtime,
            runtime_name,
            objects: Objects::kept_in(Arc::clone(&api), kept),
            volumes,
            events,
            heads: Default::default(),
            agreed: Default::default(),
            restored: Default::default(),
            tell_again: Default::default(),
            index: index.clone(),
            clock,
            instance,
            vigil: Arc::clone(&vigil),
            autonomy,
            api_answers: tokio::sync::Notify::new(),
            tasks: tasks.clone(),
            trace: trace.clone(),
            config,
        });
        let mirrors = Mirrors::default();
        let writer = StatusWriter::start(
            Arc::clone(&api),
            &node.0,
            Arc::clone(&keep),
            mirrors.clone(),
            vigil,
            trace,
            tasks,
        );
        let (to_manager, inbox) = mpsc::channel(manager::INBOX);
        let (down, runtime_down) = watch::channel(None);
        until_shutdown(tasks, "runtime-back", tell_when_back(runtime_down.clone(), sinks.clone()));
        let manager = Manager::new(Arc::clone(&context), writer.clone(), to_manager.clone(), down);
        tasks.spawn("pods", manager.run(inbox));

        let (is_claimed, claimed) = watch::channel(false);
        let asking = Arc::clone(&context);
        until_shutdown(tasks, "claim", async move {
            if let Some(instance) = &asking.instance {
                claim::claim(&asking.api, &asking.node.0, instance, lease).await;
                is_claimed.send_replace(true);
                asking.vigil.run(&asking.api, &asking.node.0, instance, lease).await;
            }
            is_claimed.send_replace(true);
            std::future::pending().await
        });
        let (is_read, read) = oneshot::channel();
        let folder = match context.config.manifests.clone() {
            Some(dir) => {
                mirrors.start(Arc::clone(&api), to_manager.clone(), tasks);
                let (asks, questions) = mpsc::channel(ASKS);
                let parts = manifests::Parts {
                    context: Arc::clone(&context),
                    keep: Arc::clone(&keep),
                    mirrors: mirrors.clone(),
                    writer: writer.clone(),
                    manager: to_manager.clone(),
                    dir,
                };
                let following = after(claimed.clone(), manifests::run(parts, questions, is_read));
                until_shutdown(tasks, "manifests", following);
                Some(StaticSource(asks))
            }
            None => {
                let _ = is_read.send(());
                None
            }
        };
        let log = logs.add();
        let (to_feed, local) = mpsc::channel(LOCALS);
        let (is_loaded, loaded) = oneshot::channel();
        let commands = Commands::start(commands::Parts {
            context: Arc::clone(&context),
            fabric: Arc::clone(&fabric),
            folder,
            keep: Arc::clone(&keep),
            log: Arc::clone(&log),
            feed: to_feed,
            loaded,
        });
        let feed = Feed {
            context: Arc::clone(&context),
            fabric,
            keep,
            mirrors,
            writer,
            sinks,
            manager: to_manager,
            commands,
            log,
            local,
            loaded: is_loaded,
        };
        let (is_ready, ready) = watch::channel(false);
        let may_start = claimed.clone();
        until_shutdown(
            tasks,
            "desired",
            after(may_start, async move {
                // Orphans are ended only when all that is wanted is known: the folder comes first.
                let _ = read.await;
                let _ = is_ready.send(true);
                feed.run().await;
            }),
        );
        until_shutdown(tasks, "node", after(claimed, node::run(context, machine, runtime_down)));
        Ok(Self { node, index, ready })
    }

    /// Waits until the manifests folder was read and the node's queue is followed.
    pub async fn ready(&mut self) {
        let _ = self.ready.wait_for(|ready| *ready).await;
    }
}

/// Tells the network when the container runtime answers again after a silence.
async fn tell_when_back(
    mut runtime_down: watch::Receiver<Option<String>>,
    sinks: Vec<Arc<dyn EventSink>>,
) {
    loop {
        if runtime_down.wait_for(Option::is_some).await.is_err() {
            break;
        }
        if runtime_down.wait_for(Option::is_none).await.is_err() {
            break;
        }
        sinks.iter().for_each(|sink| sink.runtime_back());
    }
    // Nobody says it any more: shutdown is near.
    std::future::pending().await
}

/// What two agents of one node must not both do.
async fn after(mut claimed: watch::Receiver<bool>, task: impl Future<Output = ()>) {
    if claimed.wait_for(|claimed| *claimed).await.is_ok() {
        task.await;
    }
}

/// Runs a task that never ends by itself, until shutdown. Nothing that it does needs to be finished.
fn until_shutdown(
    tasks: &Tasks,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let shutdown = tasks.shutdown().clone();
    // On the heap by itself: in the task it would be there twice, as what is captured and as what is polled.
    let task = Box::pin(task);
    tasks.spawn(name, async move {
        tokio::select! {
            () = task => {}
            () = shutdown.draining() => {}
        }
    });
}

#[cfg(test)]
mod tests;
