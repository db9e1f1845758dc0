//! Starting and stopping the server.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use warren_api::Registry;
use warren_broker::{BrokerConfig, Fabric};
use warren_process::trace::Trace;
use warren_process::{Clock, Readiness, SystemClock, Tasks};
use warren_store::{Journal, OpenError, Options, WallClock};

use crate::admission::{AddressRange, DefaultTolerations, PortRange};
use crate::api::{Api, Settings};
use crate::authn::User;
use crate::cache::Cache;
use crate::degraded::Looked;
use crate::discovery::Documents;
use crate::fabric::{Backlog, EmbeddedFabric, NodeStreams};
use crate::flow::{Flow, MAX_MUTATING, MAX_READING};
use crate::local::LocalService;
use crate::metrics::Metrics;
use crate::read::Snapshots;
use crate::readers::Readers;
use crate::subresource::{Nodes, Proxied};
use crate::{bootstrap, events, fabric, hops, restored, serve};

/// Certificates and keys, from a file or at hand.
#[derive(Clone, Debug)]
pub enum Pem {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Pem {
    pub(crate) fn read(&self) -> Result<Vec<u8>, StartError> {
        match self {
            Pem::File(path) => std::fs::read(path)
                .map_err(|source| StartError::File { path: path.clone(), source }),
            Pem::Bytes(bytes) => Ok(bytes.clone()),
        }
    }

    pub(crate) fn unusable(&self, why: &dyn Display) -> StartError {
        let what = match self {
            Pem::File(path) => path.display().to_string(),
            Pem::Bytes(_) => "the PEM text given".to_owned(),
        };
        StartError::Tls { what, why: why.to_string() }
    }
}

/// The server's own certificate, and the CA whose client certificates are believed.
#[derive(Clone, Debug)]
pub struct Tls {
    pub client_ca: Pem,
    pub certificate: Pem,
    pub key: Pem,
}

/// How the server shows itself at the nodes' ports; their certificates must come from `Tls::client_ca`.
#[derive(Clone, Debug)]
pub struct NodeClient {
    pub certificate: Pem,
    pub key: Pem,
}

#[derive(Clone)]
pub struct Config {
    pub database: PathBuf,
    /// Port 0 takes any.
    pub listen: SocketAddr,
    pub tls: Tls,
    pub node_client: Option<NodeClient>,
    /// Without it the fabric is within this process only.
    pub broker: Option<BrokerConfig>,
    /// Where pods reach the API, for the Service `kubernetes`; without it that Service has no endpoints.
    pub advertise: Option<IpAddr>,
    pub service_range: AddressRange,
    pub node_ports: PortRange,
    /// How long pods stay on a node that is not ready, or not reachable, unless they say so themselves.
    pub tolerations: DefaultTolerations,
    /// Whether only this machine can reach the API: then commands without an identity may manage pods.
    pub loopback_only: bool,
    pub journal: Options,
    pub clock: Arc<dyn Clock>,
    pub readiness: Readiness,
}

impl Config {
    /// With the defaults of `docs/architecture.md`.
    pub fn new(database: PathBuf, listen: SocketAddr, tls: Tls) -> Self {
        let ip = listen.ip();
        Self {
            database,
            listen,
            tls,
            node_client: None,
            broker: None,
            advertise: (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip),
            service_range: AddressRange::DEFAULT,
            node_ports: PortRange::default(),
            tolerations: DefaultTolerations::default(),
            loopback_only: ip.is_loopback(),
            journal: Options::default(),
            clock: Arc::new(SystemClock),
            readiness: Readiness::new(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot use {what}: {why}")]
    Tls { what: String, why: String },
    #[error("cannot open the database")]
    Database(#[from] OpenError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot create the objects that every cluster has: {0}")]
    Bootstrap(warren_api::Status),
    #[error("starting was interrupted")]
    Interrupted,
}

/// A running server; its tasks are the supervisor's.
#[derive(Clone)]
pub struct Server {
    api: Arc<Api>,
    address: SocketAddr,
}

impl Server {
    /// Opens the database, loads it, and listens. When this answers, requests are served. The server ends with the
    /// supervisor's shutdown.
    pub async fn start(config: Config, tasks: &Tasks) -> Result<Self, StartError> {
        let tls = serve::tls_config(&config.tls)?;
        let nodes = Nodes::new(&config)?;
        let ready = config.readiness.check("database");
        let registry = Registry::builtin();
        let cache = Arc::new(Cache::new(registry));
        let node_streams = Arc::new(NodeStreams::default());
        let (fed, sorted) = (Arc::clone(&cache), Arc::clone(&node_streams));
        let trace = Trace::new("apiserver", config.listen.to_string());
        let committed = trace.clone();
        let (path, mut options) = (config.database.clone(), config.journal.clone());
        let outbox_bytes = options.outbox_bytes;
        let backlog: Arc<Mutex<Backlog>> = Arc::default();
        // Without a relay nothing is before it.
        let before_relay = config.broker.is_some().then(|| Arc::clone(&backlog));
        let clock = Arc::clone(&config.clock);
        options.clock = WallClock(Arc::new(move || clock.now().as_millisecond()));
        let opened = tokio::task::spawn_blocking(move || {
            let applied = Arc::clone(&fed);
            let left = before_relay.clone();
            let on_commit = move |batch: &warren_store::Batch| {
                hops::committed(&committed, batch);
                if let Some(backlog) = &before_relay {
                    let mut backlog = backlog.lock();
                    for change in batch.iter().filter(|change| fabric::is_published(change)) {
                        backlog.push(change.revision, change.body.len() as u64, change.time_ms);
                    }
                }
                applied.apply(batch);
                sorted.deliver(batch);
            };
            let (journal, loaded) = Journal::open(&path, options, on_commit)?;
            fed.load(&loaded);
            // Nothing is committed before this answers.
            if let Some(backlog) = left {
                let mut backlog = backlog.lock();
                let counted = journal.sizes(journal.relay_cursor(), |revision, of, bytes, time| {
                    if fabric::is_published_resource(of) {
                        backlog.push(revision, bytes, time);
                    }
                });
                if let Err(error) = counted {
                    tracing::warn!(%error, "what waits for the broker cannot be counted");
                }
            }
            Ok::<_, OpenError>((journal, restored::is_fresh(&loaded)))
        });
        let (journal, is_restored) = opened.await.map_err(|_| StartError::Interrupted)??;
        ready.ready();
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let api = Arc::new(Api {
            registry,
            cache,
            node_streams,
            journal,
            flow: Flow::new(MAX_READING, MAX_MUTATING),
            clock: config.clock,
            settings: Settings {
                service_range: config.service_range,
                node_ports: config.node_ports,
                tolerations: config.tolerations,
                loopback_only: config.loopback_only,
                outbox_bytes,
            },
            snapshots: Snapshots::default(),
            nodes,
            proxied: Proxied::default(),
            readiness: config.readiness,
            trace,
            questions: hops::Questions::default(),
            held: restored::Held::default(),
            discovery: Documents::of(registry),
            metrics: Metrics::default(),
            broker: Default::default(),
            backlog,
            readers: Readers::default(),
            looked: Looked::default(),
            shutdown: tasks.shutdown().clone(),
            tasks: tasks.clone(),
        });
        restored::start(&api, is_restored).await.map_err(StartError::Bootstrap)?;
        bootstrap::ensure(&api, config.advertise, address.port())
            .await
            .map_err(StartError::Bootstrap)?;
        tasks.spawn_critical("apiserver", serve::accept(Arc::clone(&api), listener, tls));
        match config.broker {
            Some(broker) => {
                let check = api.readiness.check("broker");
                crate::broker::start(&api, broker, check);
            }
            None => tasks.spawn("no-relay", fabric::without_relay(Arc::clone(&api))),
        }
        let kept = bootstrap::keep(Arc::clone(&api), config.advertise, address.port());
        tasks.spawn("bootstrap", kept);
        tasks.spawn("events-ttl", events::expire(Arc::clone(&api)));
        tracing::info!(%address, revision = %api.cache.revision(), "the API is served");
        Ok(Self { api, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API for a client in this process.
    pub fn local_service(&self, user: User) -> LocalService {
        LocalService { api: Arc::clone(&self.api), user: Arc::new(user) }
    }

    /// Events for readers in this process.
    pub fn fabric(&self) -> Arc<dyn Fabric> {
        Arc::new(EmbeddedFabric::new(Arc::clone(&self.api)))
    }

    pub fn readiness(&self) -> Readiness {
        self.api.readiness.clone()
    }

    /// Commits what waits and closes the database; call it after the supervisor's tasks have ended.
    pub async fn close(&self) {
        self.api.journal.close().await;
    }
}
