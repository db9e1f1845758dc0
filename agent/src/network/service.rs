//! Services on this host: their addresses and node ports lead to ready pods, by maps in an nftables table of our own.
//!
//! The maps are kept up to date by differences, each in one nftables transaction, so that no connection meets a
//! half-written state. Nothing outside the table is touched, but for one rule in Docker's chain for its users'
//! rules (without it Docker drops what arrives for a pod from outside) and the kernel's `route_localnet`, which
//! `127.0.0.1:<node port>` needs and a rule of the table guards.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use warren_broker::{Event, EventType};
use warren_process::Tasks;

use self::rules::{Elements, Key, World};
use super::EventSink;

mod rules;

/// Changes that come together are written together.
const GATHER: Duration = Duration::from_millis(3);
/// How often somebody else's flush of the table, or of Docker's chain, is looked for.
const CHECK: Duration = Duration::from_secs(10);
/// The longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// What stays wrong is told at first and then so often: every ten minutes in the end.
const TOLD_EVERY: u32 = 20;
/// nft takes milliseconds; a hanging one must not stop us forever.
const NFT_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Config {
    /// The table's name; agents of different clusters on one host take different ones.
    pub table: String,
    /// As in `10.96.0.0/16`.
    pub service_cidr: String,
    /// The nodes of this host, for traffic policy `Local`.
    pub nodes: BTreeSet<String>,
}

/// Why services do not work.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("cannot run nft (package nftables)")]
    Spawn(#[from] std::io::Error),
    #[error("nft did not end within {} s", NFT_TIMEOUT.as_secs())]
    Hangs,
    #[error("nft refused the rules: {0}")]
    Refused(String),
    #[error("cannot list {what}")]
    List { what: &'static str, source: kube::Error },
}

/// The service proxy of a host. One is enough for all agents of a process.
pub struct ServiceProxy {
    world: Mutex<World>,
    relist: Mutex<bool>,
    /// The host's own settings are to be looked at now.
    look: AtomicBool,
    changed: Notify,
}

impl ServiceProxy {
    /// Starts the task that keeps the table; it lists once and then follows [`EventSink`]. When it ends, the table stays:
    /// containers go on while an agent is away.
    pub fn start(config: Config, client: Client, tasks: &Tasks) -> Arc<Self> {
        let proxy = Arc::new(Self {
            world: Mutex::default(),
            relist: Mutex::new(true),
            look: AtomicBool::new(false),
            changed: Notify::new(),
        });
        let (worker, shutdown) = (Arc::clone(&proxy), tasks.shutdown().clone());
        tasks.spawn("services", async move {
            tokio::select! {
                () = worker.run(&config, &client) => {}
                () = shutdown.draining() => {}
            }
        });
        proxy
    }

    async fn run(&self, config: &Config, client: &Client) {
        let mut applied: Option<Elements> = None;
        let mut wait = Duration::from_millis(200);
        let (mut looked, mut failures) = (Instant::now(), 0u32);
        loop {
            match self.step(config, client, &mut applied).await {
                Ok(()) => (wait, failures) = (Duration::from_millis(200), 0),
                Err(error) => {
                    applied = None;
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    if failures.is_multiple_of(TOLD_EVERY) {
                        tracing::warn!(%error, source, "services are not up to date; trying until they are");
                    } else {
                        tracing::debug!(%error, source, retry_in = ?wait, "services are not up to date");
                    }
                    failures = failures.wrapping_add(1);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                    continue;
                }
            }
            if tokio::time::timeout_at(looked + CHECK, self.changed.notified()).await.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
            if self.look.swap(false, Ordering::Relaxed) || looked.elapsed() >= CHECK {
                looked = Instant::now();
                if is_there(&config.table).await {
                    prepare_host(&config.service_cidr).await;
                } else {
                    applied = None;
                }
            }
        }
    }

    async fn step(
        &self,
        config: &Config,
        client: &Client,
        applied: &mut Option<Elements>,
    ) -> Result<(), ServiceError> {
        let relist = std::mem::take(&mut *self.relist.lock());
        if relist && let Err(error) = self.list(client).await {
            *self.relist.lock() = true;
            return Err(error);
        }
        let wanted = rules::elements(&self.world.lock(), &config.nodes);
        match applied {
            Some(old) => {
                if let Some(script) = rules::difference(&config.table, old, &wanted) {
                    nft(&script).await?;
                }
            }
            None => {
                prepare_host(&config.service_cidr).await;
                let bridged = bridged_frames_are_filtered();
                nft(&rules::whole(&config.table, &config.service_cidr, bridged, &wanted)).await?;
            }
        }
        *applied = Some(wanted);
        Ok(())
    }

    async fn list(&self, client: &Client) -> Result<(), ServiceError> {
        let params = ListParams::default();
        let services = Api::<Service>::all(client.clone()).list(&params).await;
        let services =
            services.map_err(|source| ServiceError::List { what: "services", source })?;
        let slices = Api::<EndpointSlice>::all(client.clone()).list(&params).await;
        let slices =
            slices.map_err(|source| ServiceError::List { what: "endpointslices", source })?;
        *self.world.lock() = World {
            services: services.items.into_iter().map(|s| (key(&s), s)).collect(),
            slices: slices.items.into_iter().map(|s| (key(&s), s)).collect(),
        };
        Ok(())
    }
}

impl EventSink for ServiceProxy {
    fn event(&self, event: &Event) {
        let mut world = self.world.lock();
        match (&*event.key.resource.group, &*event.key.resource.resource) {
            ("", "services") => upsert(&mut world.services, event),
            ("discovery.k8s.io", "endpointslices") => upsert(&mut world.slices, event),
            _ => return,
        }
        drop(world);
        self.changed.notify_one();
    }

    fn relist(&self) {
        *self.relist.lock() = true;
        self.changed.notify_one();
    }

    fn runtime_back(&self) {
        self.look.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

fn upsert<K: DeserializeOwned>(objects: &mut std::collections::BTreeMap<Key, K>, event: &Event) {
    let key = (event.key.namespace.to_string(), event.key.name.to_string());
    if event.event_type == EventType::Deleted {
        objects.remove(&key);
        return;
    }
    match serde_json::from_slice(&event.object) {
        Ok(object) => {
            objects.insert(key, object);
        }
        Err(error) => tracing::warn!(object = %event.key, %error, "an event cannot be read"),
    }
}

fn key<K: Resource<Scope = NamespaceResourceScope>>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Whether bridged frames pass netfilter (module br_netfilter, which dockerd loads where it can).
fn bridged_frames_are_filtered() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
    setting.is_ok_and(|value| value.trim() == "1")
}

/// What the rules need outside their table. Failures are logged: services inside the host work without. What is there
/// is left as it is, so this may be done again and again.
async fn prepare_host(service_cidr: &str) {
    for setting in ["ipv4/ip_forward", "ipv4/conf/all/route_localnet"] {
        let path = format!("/proc/sys/net/{setting}");
        let is_on = std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1");
        if !is_on && let Err(error) = std::fs::write(&path, "1") {
            tracing::warn!(path, %error, "cannot set a kernel setting that services need");
        }
    }
    // No iptables, no such chain: Docker filters nothing here, or not yet.
    if !succeeds("iptables", &["-n", "-L", "DOCKER-USER"]).await {
        return;
    }
    for range in [["--ctorigdst", service_cidr], ["--ctorigdstport", "30000:32767"]] {
        let rule = [
            &["-m", "conntrack", "--ctstate", "DNAT"][..],
            &range,
            &["-m", "comment", "--comment", "warren services", "-j", "ACCEPT"],
        ]
        .concat();
        let has = |verb: &'static str| [&[verb, "DOCKER-USER"][..], &rule].concat();
        if !succeeds("iptables", &has("-C")).await && !succeeds("iptables", &has("-I")).await {
            tracing::warn!("cannot tell Docker to let connections to services pass");
        }
    }
}

async fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = tokio::process::Command::new(program);
    command.args(["-w", "5"]).args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    matches!(tokio::time::timeout(NFT_TIMEOUT, command.status()).await, Ok(Ok(s)) if s.success())
}

async fn is_there(table: &str) -> bool {
    let mut command = tokio::process::Command::new("nft");
    command.args(["list", "chain", "ip", table, "services"]).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    matches!(tokio::time::timeout(NFT_TIMEOUT, command.status()).await, Ok(Ok(s)) if s.success())
}

/// Runs one transaction.
async fn nft(script: &str) -> Result<(), ServiceError> {
    let mut command = tokio::process::Command::new("nft");
    command.args(["-f", "-"]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let run = async {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A refusing nft may close its input early; its own words come from stderr.
            let _ = stdin.write_all(script.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output =
        tokio::time::timeout(NFT_TIMEOUT, run).await.map_err(|_| ServiceError::Hangs)??;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut said = said.lines().take(4).collect::<Vec<_>>().join("; ");
    if said.contains("Operation not permitted") {
        said.push_str(" (Services need root)");
    }
    Err(ServiceError::Refused(said))
}
