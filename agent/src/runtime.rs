//! What a node needs of a container runtime: one small trait, one contract-test suite ([`contract`]).
//!
//! A runtime knows no pods beyond the [`PodRef`] that it keeps with every sandbox and container, so that an agent finds
//! its containers again after a restart. Everything is level-triggered: a [`RuntimeEvent`] says where to look.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

#[cfg(test)]
pub(crate) mod contract;
pub(crate) mod dial;
pub mod docker;
pub mod simulated;

/// How many runtime events may wait for an agent. Beyond it the runtime drops them and sends one
/// [`RuntimeEvent::Relist`] instead.
pub const EVENT_BUFFER: usize = 1024;
/// Chunks of a log or of a stream that may wait for a slow reader (about 16 KiB each); the writer then blocks.
pub const STREAM_BUFFER: usize = 16;

/// The pod that a sandbox or container belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An id that the runtime gave.
pub type Id = Arc<str>;

/// The holder of a pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    pub id: Id,
    /// 0 for the pod's first sandbox, then counting up.
    pub attempt: u32,
    pub ready: bool,
    /// `None` on the host's network, and where there is none (yet).
    pub ip: Option<IpAddr>,
    pub created_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running {
        started_at: Timestamp,
    },
    Exited(Exit),
    /// The runtime knows that it is there, but not how it is.
    Unknown,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: Id,
    pub name: Arc<str>,
    pub sandbox: Id,
    /// The restart count that this container was made for.
    pub attempt: u32,
    pub image: Arc<str>,
    /// As it stands in `status.containerStatuses[].imageID`.
    pub image_id: Arc<str>,
    /// [`ContainerConfig::hash`] of what it was made from.
    pub hash: u64,
    pub created_at: Timestamp,
    pub state: State,
}

impl Container {
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// All that a runtime has of one pod: dead sandboxes and containers too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

impl Observed {
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }

    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().max_by_key(|s| s.attempt)
    }

    /// The newest container of that name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| &*c.name == name).max_by_key(|c| c.attempt)
    }
}

#[derive(Clone, Debug, Default)]
pub struct PortMapping {
    pub container_port: u16,
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
    /// `tcp`, `udp`, `sctp`
    pub protocol: &'static str,
}

#[derive(Clone, Debug)]
pub struct SandboxConfig {
    pub pod: PodRef,
    pub attempt: u32,
    pub hostname: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_process_namespace: bool,
    pub ports: Vec<PortMapping>,
    pub dns: Dns,
    /// `(address, name)`
    pub host_aliases: Vec<(String, String)>,
    pub sysctls: BTreeMap<String, String>,
    /// The pod's own; a simulated runtime takes delays and faults from them.
    pub annotations: Arc<BTreeMap<String, String>>,
}

/// Empty lists leave the runtime's own resolver in place.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub host_path: String,
    pub container_path: String,
    pub read_only: bool,
    /// `None`, `HostToContainer`, `Bidirectional` of the API as `private`, `rslave`, `rshared`.
    pub propagation: Option<&'static str>,
}

#[derive(Clone, Debug, Default)]
pub struct Security {
    pub user: Option<String>,
    pub groups: Vec<i64>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub run_as_non_root: bool,
    /// `Unconfined` asks for no seccomp profile.
    pub seccomp_unconfined: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a cpu; `None` leaves it unbounded.
    pub cpu_limit_millis: Option<i64>,
    pub cpu_request_millis: Option<i64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    pub oom_score_adj: i64,
}

#[derive(Clone, Debug)]
pub struct ContainerConfig {
    pub pod: PodRef,
    pub name: Arc<str>,
    pub attempt: u32,
    pub image: Arc<str>,
    /// Replaces the image's entrypoint where not empty.
    pub command: Vec<String>,
    /// Replaces the image's command where not empty; the image's is dropped where `command` is given.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub mounts: Vec<Mount>,
    pub limits: Limits,
    pub security: Security,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// Told to the runtime, so that it can stop the container in kind by itself.
    pub stop_signal: Option<String>,
    pub hash: u64,
    /// Where in the container a message about its end may be written, and the file of the host that is mounted there.
    pub termination_message: Option<Mount>,
    /// A container that runs, whose processes this one sees as its own; `None` for its own alone. What the pod shares
    /// with all its containers, or with the machine, goes before.
    pub target: Option<Id>,
    pub annotations: Arc<BTreeMap<String, String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    pub names: Vec<String>,
    pub size_bytes: i64,
    /// The image's own user: a number, a name, empty for root.
    pub user: String,
}

/// Where an image came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub image: Image,
    /// `None` where it was there already.
    pub took: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    #[error("{0}")]
    InvalidImageName(String),
    #[error("Container image \"{0}\" is not present with pull policy of Never")]
    ImageNeverPull(String),
    #[error("Failed to pull image \"{image}\": {reason}")]
    ImagePull { image: String, reason: String },
    /// The container was made, its process could not be started.
    #[error("{0}")]
    Start(String),
    #[error("{what} {id} is not there")]
    NotFound { what: &'static str, id: String },
    /// The configuration is refused, by the runtime or by us; trying again does not help until it changes.
    #[error("{0}")]
    Refused(String),
    /// The runtime does not answer.
    #[error("the container runtime is not reachable: {0}")]
    Unreachable(String),
    #[error("{operation}: {reason}")]
    Failed { operation: &'static str, reason: String },
}

impl RuntimeError {
    /// The reason of a waiting container.
    pub fn waiting_reason(&self) -> &'static str {
        match self {
            RuntimeError::InvalidImageName(_) => "InvalidImageName",
            RuntimeError::ImageNeverPull(_) => "ErrImageNeverPull",
            RuntimeError::ImagePull { .. } => "ErrImagePull",
            RuntimeError::Start(_) => "RunContainerError",
            RuntimeError::Refused(_) => "CreateContainerError",
            RuntimeError::NotFound { .. }
            | RuntimeError::Unreachable(_)
            | RuntimeError::Failed { .. } => "CreateContainerError",
        }
    }
}

pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Something about this pod's sandbox or containers changed.
    Pod(Arc<str>),
    /// Events were or may have been lost.
    Relist,
    /// The runtime does not answer since now; a relist follows when it does.
    Down(String),
}

#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub follow: bool,
    /// `None` for all.
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// `None` for both.
    pub stream: Option<Channel>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub channel: Channel,
    pub data: Bytes,
}

/// Ends when the log (or the followed container) has ended, or with an error.
pub type OutputStream = mpsc::Receiver<Result<Output>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    pub command: Vec<String>,
    pub stdin: bool,
    pub tty: bool,
}

#[derive(Clone, Debug)]
pub enum Input {
    Data(Bytes),
    Resize(TerminalSize),
    /// The client closed its side.
    Close,
}

/// A process (exec) or a container (attach) that is talked to. Dropping `input` closes its standard input; dropping
/// `output` lets go of it, the process itself goes on.
pub struct Session {
    pub input: mpsc::Sender<Input>,
    pub output: OutputStream,
    /// The exit code, after the output ended; of an attach it is 0.
    pub exit: tokio::sync::oneshot::Receiver<Result<i32>>,
}

/// Bytes both ways; shutting down the writing end closes that direction only.
pub trait TwoWay: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> TwoWay for T {}

/// A TCP connection into a pod, or what stands for one.
pub type Connection = Box<dyn TwoWay>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    pub cpu_nanos: u64,
    pub memory_working_set: u64,
    pub memory_usage: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `docker`
    pub name: String,
    pub version: String,
}

/// A container runtime, as one node sees it: a handle sees the sandboxes and containers of its own cluster and node
/// and never touches another's.
///
/// Every method may be called again after an error or a crash: creating what is there (same pod, name, attempt)
/// answers what is there; starting what runs, stopping what stopped and removing what is gone answer `Ok`.
#[async_trait]
pub trait Runtime: Send + Sync {
    async fn version(&self) -> Result<Version>;

    /// What there is of every pod of this node.
    async fn pods(&self) -> Result<Vec<(PodRef, Observed)>>;
    /// What there is of one pod.
    async fn pod(&self, uid: &str) -> Result<Observed>;

    /// Creates and starts a sandbox; it is ready when this answers.
    async fn create_sandbox(&self, config: SandboxConfig) -> Result<Sandbox>;
    /// Kills what holds the network namespace and what runs in it, and removes the sandbox.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;

    /// Makes sure that an image is there.
    /// `begins` is called where the image has to be pulled, once, before that.
    async fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        begins: &(dyn Fn() + Send + Sync),
    ) -> Result<Pulled>;
    async fn images(&self) -> Result<Vec<Image>>;

    async fn create_container(
        &self,
        sandbox: &Sandbox,
        host_network: bool,
        config: ContainerConfig,
    ) -> Result<Id>;
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Answers when the container has ended: `signal` (TERM by default), after `grace` KILL.
    async fn stop_container(&self, id: &str, signal: Option<&str>, grace: Duration) -> Result<()>;
    /// Kills it where it runs.
    async fn remove_container(&self, id: &str) -> Result<()>;

    /// The runtime's events from now on. Only one reader at a time; a new one ends the one before.
    fn events(&self) -> mpsc::Receiver<RuntimeEvent>;

    async fn logs(&self, id: &str, options: LogOptions) -> Result<OutputStream>;
    async fn exec(&self, id: &str, options: ExecOptions) -> Result<Session>;
    async fn attach(&self, id: &str, stdin: bool, tty: bool) -> Result<Session>;
    async fn stats(&self, id: &str) -> Result<ContainerStats>;

    /// Connects to a TCP port on the loopback of a pod's network.
    async fn connect(&self, sandbox: &Sandbox, host_network: bool, port: u16)
    -> Result<Connection>;

    /// What a probe of the network would find, where there is no network: `None` asks it for real.
    fn simulated_probe(&self, id: &str) -> Option<bool> {
        let _ = id;
        None
    }
}

/// Runs a command to its end with a bound on time and output; what a probe or a hook needs.
///
/// The output is cut after `limit` bytes. `None`: it did not end in time (and may go on in the container).
pub async fn run(
    runtime: &dyn Runtime,
    id: &str,
    command: Vec<String>,
    timeout: Duration,
    limit: usize,
) -> Result<Option<(i32, String)>> {
    let options = ExecOptions { command, stdin: false, tty: false };
    let whole = async {
        let mut session = runtime.exec(id, options).await?;
        let mut text = Vec::new();
        while let Some(output) = session.output.recv().await {
            let data = output?.data;
            let room = limit.saturating_sub(text.len()).min(data.len());
            text.extend_from_slice(&data[..room]);
        }
        let code = session.exit.await.unwrap_or_else(|_| {
            Err(RuntimeError::Failed { operation: "exec", reason: "the session was lost".into() })
        })?;
        Ok((code, String::from_utf8_lossy(&text).into_owned()))
    };
    match tokio::time::timeout(timeout, whole).await {
        Ok(result) => result.map(Some),
        Err(_) => Ok(None),
    }
}
