//! Containers through a Docker daemon.
//!
//! A pause container holds a pod's network (and IPC) namespace, the others join it. Everything that we make carries the
//! labels of its cluster and node; nothing else is ever looked at, let alone touched. State comes from the daemon's
//! event stream.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, NetworkCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, ListContainersOptions, ListNetworksOptions, RemoveContainerOptions,
    StatsOptions, StopContainerOptions,
};
use futures::StreamExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use warren_process::Tasks;

use super::{
    Connection, Container, ContainerConfig, ContainerStats, EVENT_BUFFER, ExecOptions, Id, Image,
    LogOptions, Observed, OutputStream, PodRef, PullPolicy, Pulled, Result, Runtime, RuntimeError,
    RuntimeEvent, Sandbox, SandboxConfig, Session, Version,
};

mod config;
mod connect;
mod daemon;
mod events;
mod image;
mod leaked;
mod session;

use config::label;
use daemon::Daemon;

/// Containers that are made or started at once: the daemon gains nothing from more.
const PARALLEL: usize = 8;
/// Inspections at once during a relist.
const INSPECTIONS: usize = 8;
/// The daemon answers anything but a stop or a pull within this.
const TIMEOUT_SECONDS: u64 = 120;

#[derive(Clone, Debug)]
pub struct DockerConfig {
    pub cluster: String,
    pub node: String,
    /// `unix:///…` or `tcp://…`; `None` takes what the environment says (`DOCKER_HOST`), else the usual socket.
    pub host: Option<String>,
    /// Holds the namespaces. It must be there: it is not pulled from anywhere.
    pub pause_image: String,
    /// Bytes of one log file; three are kept.
    pub log_bytes: u64,
}

impl DockerConfig {
    pub fn new(cluster: &str, node: &str, pause_image: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            host: None,
            pause_image: pause_image.to_owned(),
            log_bytes: 10 << 20,
        }
    }
}

/// One node's view of a daemon.
pub struct DockerRuntime {
    daemon: Arc<Daemon>,
    config: DockerConfig,
    tasks: Tasks,
    working: Semaphore,
    pulling: image::Pulls,
    /// The kernel lets us lower `oom_score_adj`; found out with the first sandbox.
    may_protect: AtomicBool,
    network_made: tokio::sync::Mutex<bool>,
    /// Ends the present reader of events when another one comes.
    reader: Mutex<Option<tokio_util::sync::CancellationToken>>,
}

impl DockerRuntime {
    /// Does not talk to the daemon yet: it may come later.
    ///
    /// # Errors
    /// The address of the daemon is no address.
    pub fn new(config: DockerConfig, tasks: &Tasks) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            daemon: Arc::new(Daemon::new(config.host.clone())?),
            config,
            tasks: tasks.clone(),
            working: Semaphore::new(PARALLEL),
            pulling: image::Pulls::default(),
            may_protect: AtomicBool::new(true),
            network_made: tokio::sync::Mutex::new(false),
            reader: Mutex::new(None),
        }))
    }

    fn docker(&self) -> Result<&Docker> {
        self.daemon.client()
    }

    /// The cluster's bridge network on this machine; the nodes of a cluster on one daemon share it.
    pub fn network(&self) -> String {
        format!("warren-{}", self.config.cluster)
    }

    /// Agents that start together may each make one, for the daemon takes any number of networks of one name, and then
    /// refuses the name as ambiguous: the oldest stays, and whoever finds another that nobody uses removes it.
    async fn ensure_network(&self) -> Result<()> {
        let mut made = self.network_made.lock().await;
        if *made {
            return Ok(());
        }
        let mut found = self.networks().await?;
        if found.is_empty() {
            let labels = HashMap::from([(label::CLUSTER.to_owned(), self.config.cluster.clone())]);
            let request = NetworkCreateRequest {
                name: self.network(),
                driver: Some("bridge".into()),
                labels: Some(labels),
                ..NetworkCreateRequest::default()
            };
            match self.docker()?.create_network(request).await {
                Ok(_) => {}
                Err(error) if status(&error) == Some(409) => {}
                Err(error) => return Err(failed("create network", error)),
            }
            found = self.networks().await?;
        }
        for (_, other) in found.iter().skip(1) {
            match self.docker()?.remove_network(other).await {
                Ok(()) => {}
                Err(error) if status(&error) == Some(404) => {}
                Err(error) => return Err(failed("remove a second network", error)),
            }
        }
        *made = true;
        Ok(())
    }

    /// All networks of our name, the oldest first: when each was made, and its id.
    async fn networks(&self) -> Result<Vec<(Option<Timestamp>, String)>> {
        let name = self.network();
        let filters = HashMap::from([("name".to_owned(), vec![name.clone()])]);
        let options = ListNetworksOptions { filters: Some(filters) };
        let list = self.docker()?.list_networks(Some(options)).await;
        let list = list.map_err(|e| failed("list networks", e))?;
        // The filter takes parts of names as well.
        let ours = list.into_iter().filter(|n| n.name.as_ref() == Some(&name));
        let made = |created: Option<String>| created?.parse().ok();
        let mut ours: Vec<_> = ours.filter_map(|n| Some((made(n.created), n.id?))).collect();
        ours.sort();
        Ok(ours)
    }

    /// Ours only: cluster and node, and what else is asked for.
    async fn ids(&self, more: &[(&str, &str)]) -> Result<Vec<String>> {
        let own = [(label::CLUSTER, &*self.config.cluster), (label::NODE, &*self.config.node)];
        let labels = own.iter().chain(more).map(|(k, v)| format!("{k}={v}")).collect();
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), labels)])),
            ..ListContainersOptions::default()
        };
        let list = self.docker()?.list_containers(Some(options)).await;
        let list = list.map_err(|e| failed("list containers", e))?;
        Ok(list.into_iter().filter_map(|c| c.id).collect())
    }

    async fn inspect(&self, ids: Vec<String>) -> Result<Vec<ContainerInspectResponse>> {
        let inspected = futures::stream::iter(ids).map(|id| async move {
            match self.docker()?.inspect_container(&id, None).await {
                Ok(found) => Ok(Some(found)),
                // It went meanwhile.
                Err(error) if status(&error) == Some(404) => Ok(None),
                Err(error) => Err(failed("inspect container", error)),
            }
        });
        let all: Vec<Result<Option<_>>> = inspected.buffered(INSPECTIONS).collect().await;
        all.into_iter().filter_map(Result::transpose).collect()
    }

    /// Creates a container, or finds the one that an earlier try has made.
    async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<Id> {
        let options = CreateContainerOptions {
            name: Some(name.to_owned()),
            ..CreateContainerOptions::default()
        };
        let created = self.docker()?.create_container(Some(options), body).await;
        match created {
            Ok(created) => Ok(created.id.into()),
            Err(error) if status(&error) == Some(409) => {
                let found = self.docker()?.inspect_container(name, None).await;
                let found = found.map_err(|e| failed("inspect container", e))?;
                let labels = found.config.and_then(|c| c.labels).unwrap_or_default();
                if labels.get(label::CLUSTER) != Some(&self.config.cluster)
                    || labels.get(label::NODE) != Some(&self.config.node)
                {
                    return Err(RuntimeError::Refused(format!(
                        "the container name {name:?} is taken by a container that is not this node's"
                    )));
                }
                Ok(found.id.unwrap_or_default().into())
            }
            Err(error) => Err(failed("create container", error)),
        }
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let options =
            RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        match self.docker()?.remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            // Gone, or on its way.
            Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
            Err(error) => Err(failed("remove container", error)),
        }
    }

    async fn start(&self, id: &str) -> Result<()> {
        match self.docker()?.start_container(id, None).await {
            Ok(()) => Ok(()),
            Err(error) if status(&error) == Some(404) => {
                Err(RuntimeError::NotFound { what: "container", id: id.to_owned() })
            }
            Err(Error::DockerResponseServerError { message, .. }) => {
                if leaked::is_in_the_way(&message) {
                    let id = id.to_owned();
                    let _ = tokio::task::spawn_blocking(move || leaked::end(&id)).await;
                }
                Err(RuntimeError::Start(message))
            }
            Err(error) => Err(failed("start container", error)),
        }
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    async fn version(&self) -> Result<Version> {
        let version = self.docker()?.version().await.map_err(|e| failed("version", e))?;
        Ok(Version { name: "docker".into(), version: version.version.unwrap_or_default() })
    }

    async fn pods(&self) -> Result<Vec<(PodRef, Observed)>> {
        let mut pods: HashMap<PodRef, Observed> = HashMap::new();
        for found in self.inspect(self.ids(&[]).await?).await? {
            let Some(pod) = config::pod_ref(&found) else { continue };
            config::add(pods.entry(pod).or_default(), &found);
        }
        Ok(pods.into_iter().collect())
    }

    async fn pod(&self, uid: &str) -> Result<Observed> {
        let mut observed = Observed::default();
        for found in self.inspect(self.ids(&[(label::UID, uid)]).await?).await? {
            config::add(&mut observed, &found);
        }
        Ok(observed)
    }

    async fn create_sandbox(&self, sandbox: SandboxConfig) -> Result<Sandbox> {
        let _turn = self.working.acquire().await;
        if !sandbox.host_network {
            self.ensure_network().await?;
        }
        let name = config::name(&sandbox.pod, "POD", sandbox.attempt);
        let protect = self.may_protect.load(Ordering::Relaxed);
        let body = config::sandbox(&self.config, &self.network(), &sandbox, protect);
        let mut id = match self.create(&name, body).await {
            Err(RuntimeError::Failed { reason, .. }) if reason.contains("No such image") => {
                return Err(RuntimeError::Refused(format!(
                    "the pause image {:?} is not there: build it with images/build.sh pause",
                    self.config.pause_image
                )));
            }
            // Somebody removed the network, or made a second one.
            Err(error) if error.to_string().contains("network") => {
                *self.network_made.lock().await = false;
                return Err(error);
            }
            result => result?,
        };
        if let Err(error) = self.start(&id).await {
            self.remove(&id).await?;
            if error.to_string().contains("network") {
                *self.network_made.lock().await = false;
            }
            if !protect {
                return Err(error);
            }
            // What forbids a lower score is told in several ways, or not at all: without it is the test.
            let body = config::sandbox(&self.config, &self.network(), &sandbox, false);
            id = self.create(&name, body).await?;
            if self.start(&id).await.is_err() {
                self.remove(&id).await?;
                return Err(error);
            }
            if self.may_protect.swap(false, Ordering::Relaxed) {
                tracing::warn!(
                    %error,
                    "this machine does not let oom_score_adj be lowered: containers run without it"
                );
            }
        }
        let found = self.docker()?.inspect_container(&id, None).await;
        let found = found.map_err(|e| failed("inspect container", e))?;
        if !sandbox.host_network {
            let bridge = config::bridge_of(&found);
            let _ = tokio::task::spawn_blocking(|| bridge.map(let_back_in)).await;
        }
        let made = config::sandbox_of(&found);
        made.ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: id.to_string() })
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        // What still runs in its namespace loses it: it goes first. Its remains stay, for their logs.
        for found in self.inspect(self.ids(&[(label::SANDBOX, id)]).await?).await? {
            let running = found.state.as_ref().and_then(|s| s.running) == Some(true);
            if let Some(id) = found.id.filter(|_| running) {
                self.stop_container(&id, None, Duration::ZERO).await?;
            }
        }
        self.remove(id).await
    }

    async fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        begins: &(dyn Fn() + Send + Sync),
    ) -> Result<Pulled> {
        image::ensure(self.docker()?, &self.pulling, image, policy, begins).await
    }

    async fn images(&self) -> Result<Vec<Image>> {
        let options = None::<bollard::query_parameters::ListImagesOptions>;
        let list =
            self.docker()?.list_images(options).await.map_err(|e| failed("list images", e))?;
        let images = list.into_iter().map(|image| Image {
            id: image.id,
            names: image.repo_tags.into_iter().chain(image.repo_digests).collect(),
            size_bytes: image.size,
            user: String::new(),
        });
        Ok(images.collect())
    }

    async fn create_container(
        &self,
        sandbox: &Sandbox,
        _host_network: bool,
        container: ContainerConfig,
    ) -> Result<Id> {
        let _turn = self.working.acquire().await;
        let name = config::name(&container.pod, &container.name, container.attempt);
        let protect = self.may_protect.load(Ordering::Relaxed);
        let holder = self.docker()?.inspect_container(&sandbox.id, None).await;
        let holder = holder.map_err(|e| failed("inspect sandbox", e))?;
        let body = config::container(&self.config, &sandbox.id, &holder, &container, protect)?;
        self.create(&name, body).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let _turn = self.working.acquire().await;
        self.start(id).await
    }

    async fn stop_container(&self, id: &str, signal: Option<&str>, grace: Duration) -> Result<()> {
        // The container was made with its signal; only another one has to be named.
        let _ = signal;
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptions { t: Some(seconds), ..StopContainerOptions::default() };
        let patience = grace.saturating_add(Duration::from_secs(30));
        let docker = self.docker()?.clone().with_timeout(patience);
        match docker.stop_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if matches!(status(&error), Some(304 | 404)) => Ok(()),
            Err(error) => Err(failed("stop container", error)),
        }
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.remove(id).await
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (send, receive) = mpsc::channel(EVENT_BUFFER);
        let stop = tokio_util::sync::CancellationToken::new();
        if let Some(before) = self.reader.lock().replace(stop.clone()) {
            before.cancel();
        }
        let (daemon, config) = (Arc::clone(&self.daemon), self.config.clone());
        let shutdown = self.tasks.shutdown().clone();
        self.tasks.spawn("docker-events", async move {
            tokio::select! {
                () = events::follow(&daemon, config, send) => {}
                () = stop.cancelled() => {}
                () = shutdown.draining() => {}
            }
        });
        receive
    }

    async fn logs(&self, id: &str, options: LogOptions) -> Result<OutputStream> {
        session::logs(self.docker()?, &self.tasks, id, options).await
    }

    async fn exec(&self, id: &str, options: ExecOptions) -> Result<Session> {
        session::exec(self.docker()?, &self.tasks, id, options).await
    }

    async fn attach(&self, id: &str, stdin: bool, tty: bool) -> Result<Session> {
        session::attach(self.docker()?, &self.tasks, id, stdin, tty).await
    }

    async fn connect(
        &self,
        sandbox: &Sandbox,
        host_network: bool,
        port: u16,
    ) -> Result<Connection> {
        if host_network {
            return connect::connect(None, None, port).await;
        }
        let found = self.docker()?.inspect_container(&sandbox.id, None).await;
        let found = found.map_err(|e| failed("inspect sandbox", e))?;
        let namespace = found.network_settings.and_then(|network| network.sandbox_key);
        let namespace = namespace.filter(|path| !path.is_empty()).ok_or_else(|| {
            let reason = "it has no network namespace".to_owned();
            RuntimeError::Failed { operation: "connect to the pod", reason }
        })?;
        connect::connect(Some(namespace), sandbox.ip, port).await
    }

    async fn stats(&self, id: &str) -> Result<ContainerStats> {
        let options = StatsOptions { stream: false, one_shot: true };
        let mut stream = std::pin::pin!(self.docker()?.stats(id, Some(options)));
        let stats = match stream.next().await {
            Some(stats) => stats.map_err(|e| failed("stats", e))?,
            None => return Ok(ContainerStats::default()),
        };
        let cpu = stats.cpu_stats.and_then(|c| c.cpu_usage).and_then(|u| u.total_usage);
        let memory = stats.memory_stats.unwrap_or_default();
        let usage = memory.usage.unwrap_or(0);
        let details = memory.stats.unwrap_or_default();
        let inactive = ["inactive_file", "total_inactive_file"];
        let inactive = inactive.iter().find_map(|name| details.get(*name)).copied().unwrap_or(0);
        Ok(ContainerStats {
            cpu_nanos: cpu.unwrap_or(0),
            memory_usage: usage,
            memory_working_set: usage.saturating_sub(inactive),
        })
    }
}

/// Lets a frame leave a bridge by the port that it came in by: a pod that meets itself through a service. Netfilter
/// turns its frame round on the bridge, without the detour by the host, where bridged frames are filtered.
fn let_back_in(bridge: String) {
    let ports = std::fs::read_dir(format!("/sys/class/net/{bridge}/brif"));
    for port in ports.into_iter().flatten().flatten() {
        let setting = port.path().join("hairpin_mode");
        if let Err(error) = std::fs::write(&setting, "1") {
            // The port may be gone by now.
            tracing::debug!(setting = %setting.display(), %error, "not set");
        }
    }
}

fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// An answer of the daemon is a failure of the call, anything else a daemon that does not answer.
fn failed(operation: &'static str, error: Error) -> RuntimeError {
    match error {
        Error::DockerResponseServerError { status_code: 404, message } => {
            RuntimeError::Failed { operation, reason: message }
        }
        Error::DockerResponseServerError { status_code: 400, message } => {
            RuntimeError::Refused(message)
        }
        Error::DockerResponseServerError { message, .. } => {
            RuntimeError::Failed { operation, reason: message }
        }
        other => RuntimeError::Unreachable(innermost(&other)),
    }
}

/// The client says no more than that it cannot connect; why, its source knows.
fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
