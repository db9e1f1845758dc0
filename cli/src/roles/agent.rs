//! `warren agent`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use warren_agent::api::KubeApi;
use warren_agent::network::EventSink;
use warren_agent::network::service::{self, ServiceProxy};
use warren_agent::pod::index::PodIndex;
use warren_agent::runtime::Runtime;
use warren_agent::runtime::docker::{DockerConfig, DockerRuntime};
use warren_agent::runtime::simulated::Simulation;
use warren_agent::server::{ServerError, ServerSettings};
use warren_agent::{Agent, AgentDeps, Config, Logs};
use warren_apiserver::AddressRange;
use warren_broker::accounts::Account;
use warren_broker::{Fabric, QueueType};
use warren_client::Connection;
use warren_process::trace::Trace;
use warren_process::{Metrics, SystemClock, Tasks};

use super::{CommonArgs, claim, names_of};
use crate::files::{DataDir, write_atomically};
use crate::init::{check_node_name, cluster_id, default_node_name};
use crate::pki::{Leaf, Material, Pki};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// The node's name.
    #[arg(long, env = "WARREN_NODE_NAME", value_name = "NAME", default_value_t = default_node_name())]
    node_name: String,
    #[command(flatten)]
    agent: AgentArgs,
    /// Where the node's own port listens; the API server comes there for logs and exec. Port 0 takes any.
    #[arg(
        long,
        env = "WARREN_NODE_BIND",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:10250"
    )]
    bind: SocketAddr,
    /// The addresses of Services, as the API server is told.
    #[arg(long, env = "WARREN_SERVICE_CIDR", value_name = "CIDR", default_value = "10.96.0.0/16", value_parser = super::service_range)]
    service_cidr: AddressRange,
    /// The folder of static pods; there are none where not given.
    #[arg(long, env = "WARREN_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// The kubeconfig; else node-<name>.conf of the data folder.
    #[arg(long, env = "WARREN_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The API, in place of the one that the kubeconfig names.
    #[arg(long, env = "WARREN_SERVER", value_name = "URL")]
    server: Option<String>,
    /// RabbitMQ, as amqp://host:port; account and password come from the data folder unless the address has them.
    /// Of a RabbitMQ cluster several, with commas between. Without it changes come by HTTP watch.
    #[arg(long, env = "WARREN_BROKER", value_name = "URL")]
    broker: Option<String>,
    /// Requests go by the broker as well: neither a kubeconfig nor a certificate nor a way to the API is needed, and there
    /// is no port of the node's own, so no logs, exec and port-forward. Of --bind, the address is the node's.
    #[arg(long, env = "WARREN_AMQP_ONLY", requires = "broker", conflicts_with_all = ["kubeconfig", "server"])]
    amqp_only: bool,
}

/// What an agent is told, alone and in `warren up`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AgentArgs {
    /// What runs containers; `simulated` is a node without a machine.
    #[arg(long, env = "WARREN_RUNTIME", value_enum, default_value = "docker")]
    pub(crate) runtime: RuntimeKind,
    /// How many pods the node takes.
    #[arg(long, env = "WARREN_MAX_PODS", value_name = "N", default_value_t = 110)]
    pub(crate) max_pods: u32,
    /// So long a node's heartbeat counts; it comes four times as often.
    #[arg(long, env = "WARREN_NODE_LEASE_DURATION_SECONDS", value_name = "SECONDS", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=3600))]
    node_lease_duration_seconds: u16,
    /// Marks the node with the annotation warren.dev/autonomous: nothing is evicted from it while nobody hears of it.
    /// Without this option the node's annotation is left as it is.
    #[arg(long, env = "WARREN_AUTONOMOUS")]
    pub(crate) autonomous: bool,
    /// The image that holds a pod's namespaces; `images/build.sh pause` makes it.
    #[arg(
        long,
        env = "WARREN_PAUSE_IMAGE",
        value_name = "IMAGE",
        default_value = "warren/pause:1"
    )]
    pub(crate) pause_image: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RuntimeKind {
    Docker,
    Simulated,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    check_node_name(&args.node_name)?;
    super::run(&args.common, async |tasks| {
        let data = DataDir::new(&args.common.data_dir);
        data.prepare()?;
        let lock = claim(&data, &format!("agent-{}", args.node_name))?;
        let name = &args.node_name;
        let metrics = Metrics::new();
        let account = Account::Node(warren_api::NodeName(name.as_str().into()));
        let broker = args.broker.as_deref().map(|url| {
            // It declares none.
            let queues = QueueType::default();
            crate::accounts::fabric(&data, url, &account, &format!("agent {name}"), queues, &tasks)
        });
        let broker = broker.transpose()?;
        if let Some(counted) = broker.clone() {
            metrics.families(move || counted.metrics().families());
        }
        let names = std::slice::from_ref(name);
        let crew = Crew::new(&data, &args.agent, args.service_cidr, names, &tasks)?;
        let (connection, port) = match broker {
            Some(fabric) if args.amqp_only => {
                let no_port = SocketAddr::new(args.bind.ip(), 0);
                (crate::accounts::over_amqp(fabric, &account)?, no_port)
            }
            broker => {
                let kubeconfig = args.kubeconfig.clone();
                let path = kubeconfig.unwrap_or_else(|| data.kubeconfig(&format!("node-{name}")));
                let client = super::client(&path, args.server.as_deref()).await?;
                let connection = match broker {
                    Some(fabric) => Connection::with_fallback(client, Arc::new(fabric)),
                    None => Connection::over_http(client),
                };
                let pki = Pki::open(&data, jiff::Timestamp::now())?;
                let (material, _) = pki.ensure(&Leaf::node(name, &names_of(args.bind, &[])))?;
                let ca = pki.ca_path();
                // Others wait for its lock.
                drop(pki);
                let listen = args.bind;
                let port = crew.open_port(listen, ca, &material, metrics, "--bind", &tasks).await?;
                (connection, port)
            }
        };
        crew.start(name, connection, args.manifests.clone(), port, &tasks).await?;
        Ok((None, lock))
    })
}

/// What the agents of a process share.
pub(crate) struct Crew {
    data: DataDir,
    cluster: String,
    args: AgentArgs,
    /// The API is in this process as well.
    with_api: bool,
    service_cidr: AddressRange,
    /// All nodes of this process.
    names: BTreeSet<String>,
    index: PodIndex,
    logs: Logs,
    simulation: Option<Simulation>,
    /// One for all nodes of the process.
    trace: Trace,
    /// One for the host; made with the first node that has real pods.
    services: OnceLock<Arc<ServiceProxy>>,
}

impl Crew {
    pub(crate) fn new(
        data: &DataDir,
        args: &AgentArgs,
        service_cidr: AddressRange,
        names: &[String],
        tasks: &Tasks,
    ) -> Result<Self> {
        let simulated = args.runtime == RuntimeKind::Simulated;
        Ok(Self {
            data: data.clone(),
            cluster: cluster_id(data)?,
            args: args.clone(),
            service_cidr,
            names: names.iter().cloned().collect(),
            index: PodIndex::default(),
            logs: Logs::default(),
            trace: Trace::new("agent", names.first().map_or("", String::as_str)),
            services: OnceLock::new(),
            with_api: false,
            simulation: simulated.then(|| Simulation::new(Arc::new(SystemClock), tasks)),
        })
    }

    /// Opens the port through which the API server reaches all nodes of this process; answers where it is.
    pub(crate) async fn open_port(
        &self,
        listen: SocketAddr,
        ca: PathBuf,
        material: &Material,
        metrics: Metrics,
        option: &str,
        tasks: &Tasks,
    ) -> Result<SocketAddr> {
        let (certificate, key) = (material.certificate.clone(), material.key.clone());
        let simulated = self.simulation.is_some();
        let settings = ServerSettings { listen, ca, certificate, key, simulated };
        let (shown, trace) = ((self.index.clone(), self.logs.clone()), self.trace.clone());
        let bound = warren_agent::server::start(&settings, shown, metrics, trace, tasks).await;
        bound.map_err(|error| {
            let hint = match &error {
                ServerError::Listen { source, .. } => super::cannot_listen(source, option),
                ServerError::Tls { .. } => "the node's port cannot be served".to_owned(),
            };
            anyhow::Error::from(error).context(hint)
        })
    }

    /// Of a process that is the whole cluster.
    pub(crate) fn beside_the_api(mut self) -> Self {
        self.with_api = true;
        self
    }

    /// Starts one node's agent; `port` is where the process's own port listens.
    pub(crate) async fn start(
        &self,
        name: &str,
        connection: Connection,
        manifests: Option<PathBuf>,
        port: SocketAddr,
        tasks: &Tasks,
    ) -> Result<()> {
        let fabric: Arc<dyn Fabric> = connection.fabric;
        let (mut config, runtime, runtime_name): (Config, Arc<dyn Runtime>, _) =
            match &self.simulation {
                Some(simulation) => {
                    (Config::simulated(&self.cluster, name), simulation.node(name), "simulated")
                }
                None => {
                    let docker = DockerConfig::new(&self.cluster, name, &self.args.pause_image);
                    let runtime = DockerRuntime::new(docker, tasks)
                        .context("DOCKER_HOST is no address of a Docker daemon")?;
                    (Config::new(&self.cluster, name), runtime, "docker")
                }
            };
        config.manifests = manifests;
        // Simulated nodes keep nothing: there may be thousands, and what they ran is gone with the process.
        config.dir = (!config.simulated).then(|| self.data.path().join("agents").join(name));
        config.address = port.ip();
        config.port = port.port();
        config.autonomous = self.args.autonomous;
        config.capacity.pods = self.args.max_pods;
        config.contested &= !self.with_api;
        config.lease_seconds = self.args.node_lease_duration_seconds.into();
        config.heartbeat = Duration::from_secs(self.args.node_lease_duration_seconds.into()) / 4;
        let sinks: Vec<Arc<dyn EventSink>> = match config.simulated {
            true => Vec::new(),
            false => vec![self.services(&connection.client, tasks)?],
        };
        let deps = AgentDeps {
            api: Arc::new(KubeApi::new(connection.client)),
            fabric,
            runtime,
            runtime_name,
            clock: Arc::new(SystemClock),
            index: self.index.clone(),
            logs: self.logs.clone(),
            sinks,
            trace: self.trace.clone(),
        };
        Agent::start(config, deps, tasks)
            .await
            .map(drop)
            .with_context(|| format!("the agent of node {name} cannot start"))
    }
    fn services(&self, client: &kube::Client, tasks: &Tasks) -> Result<Arc<ServiceProxy>> {
        if let Some(services) = self.services.get() {
            return Ok(Arc::clone(services));
        }
        let table = format!("warren-{}", self.cluster);
        // Whoever takes the cluster down finds the table by it.
        let path = self.data.path().join("nft-table");
        write_atomically(&path, table.as_bytes(), 0o644)?;
        let config = service::Config {
            table,
            service_cidr: self.service_cidr.to_string(),
            nodes: self.names.clone(),
        };
        let services = ServiceProxy::start(config, client.clone(), tasks);
        Ok(Arc::clone(self.services.get_or_init(|| services)))
    }
}
