//! Everything at once: clients that write all the time, faults of every kind at moments that a seed chooses, and at the
//! end the question whether what clients were told, what is stored, what a reader of the exchange heard and what runs fit.
//!
//! For five minutes, or as long as `CHAOS_SECONDS` says; `SEED` repeats a schedule: `CHAOS_SECONDS=3600 SEED=1 tests/run chaos`.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]
#![expect(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]

mod chaos {
    pub mod clients;
    pub mod ending;
    pub mod faults;
    pub mod follower;
    pub mod schedule;
}

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chaos::clients::{Kind, NAMESPACE, Shared, Writer};
use chaos::faults::Undo;
use chaos::follower::{Followed, Follower};
use chaos::schedule::{From, Round, Schedule};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use warren_broker::{BrokerConfig, QueueType, RabbitFabric};
use warren_process::Tasks;
use warren_tests::cluster::Route;
use warren_tests::proxy::Proxy;
use warren_tests::running::Running;
use warren_tests::{Cluster, Disk, Options, RabbitMq, Role, Runtime};

const SECONDS: u64 = 300;
const NODES: usize = 3;
/// They run containers; the others are simulated.
const DOCKER: [&str; 2] = ["node-1", AMQP_ONLY];
/// Has nothing but the broker, and no port.
const AMQP_ONLY: &str = "node-3";
/// More than the history of a run.
const DISK: &str = "size=256m";
/// From the end of a fault to writes of every kind of client.
pub const RECOVERS: Duration = Duration::from_secs(60);
/// From the last fault to a cluster at rest.
pub const SETTLES: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_whatever_happens() {
    let seed = number("SEED").unwrap_or_else(rand::random::<u64>);
    let length = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(SECONDS));
    println!("SEED={seed} CHAOS_SECONDS={}", length.as_secs());
    let mut world = World::new().await;
    let load = world.load(seed).await;
    let begin = Instant::now();
    let agents = world.agents();
    for round in Schedule::new(seed, agents) {
        if begin.elapsed() > length {
            break;
        }
        world.round(begin, &round).await;
    }
    world.stop(load, begin).await;
}

/// The cluster goes before what it stands on.
pub struct World {
    docker_events: Running,
    cluster: Cluster,
    rabbit: RabbitMq,
    disk: Disk,
    folder: TempDir,
    proxies: BTreeMap<(Role, From), Proxy>,
    clients: Proxy,
    shared: Arc<Shared>,
    /// Stopped past their leases, as these processes, until then.
    stopped: Vec<(Role, u32, Instant)>,
    /// Of the clients that go by the broker.
    tasks: Tasks,
    backups: u32,
    restores: usize,
    injected: BTreeMap<String, usize>,
    /// From the end of a round's faults to the next write that was acknowledged, and the round.
    outages: Vec<(Duration, String)>,
    ended_by_themselves: Vec<String>,
}

struct Load {
    writers: Vec<JoinHandle<()>>,
    follower: JoinHandle<()>,
    told: Arc<Mutex<Followed>>,
}

impl World {
    async fn new() -> Self {
        let disk = Disk::mount(DISK);
        let options = Options { nodes: NODES, split: true, ..Options::default() };
        let mut cluster = Cluster::prepare(options);
        let data = disk.path().join("data");
        std::fs::create_dir(&data).unwrap();
        symlink(&data, cluster.data_dir()).unwrap();
        let rabbit = cluster.start_rabbitmq().await;
        let roles = cluster.roles().into_iter().chain([Role::Standby]);
        let mut proxies = BTreeMap::new();
        for role in roles {
            let node = match &role {
                Role::Agent(node) => node.as_str(),
                _ => "",
            };
            let broker = Proxy::to(rabbit.amqp_port()).await;
            let server = Proxy::to(cluster.port()).await;
            let amqp_only = node == AMQP_ONLY;
            let route = Route {
                server: Some(server.port()),
                broker: Some(broker.port()),
                runtime: DOCKER.contains(&node).then_some(Runtime::Docker),
                amqp_only,
            };
            if amqp_only {
                // It is of this cluster, so that its containers are found.
                let own = cluster.own_folder(&role);
                std::fs::create_dir(&own).unwrap();
                std::fs::copy(data.join("cluster-id"), own.join("cluster-id")).unwrap();
            }
            cluster.route(role.clone(), route);
            proxies.insert((role.clone(), From::Broker), broker);
            proxies.insert((role, From::Server), server);
        }
        let clients = Proxy::to(cluster.port()).await;
        cluster.start_all();
        cluster.start(&Role::Standby);
        cluster.wait_ready();
        cluster.wait_consumers(&rabbit).await;
        cluster.kubectl(["create", "namespace", NAMESPACE]).ok();
        let docker_events = docker_events(&cluster);
        let mut world = Self {
            docker_events,
            cluster,
            rabbit,
            disk,
            folder: TempDir::with_prefix("warren-backups-").unwrap(),
            proxies,
            clients,
            shared: Arc::default(),
            stopped: Vec::new(),
            tasks: Tasks::new(),
            backups: 0,
            restores: 0,
            injected: BTreeMap::new(),
            outages: Vec::new(),
            ended_by_themselves: Vec::new(),
        };
        world.backup().unwrap();
        world
    }

    fn agents(&self) -> Vec<Role> {
        self.cluster.node_names().into_iter().map(Role::Agent).collect()
    }

    /// By way of the clients' own proxy.
    async fn client(&self) -> kube::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = kube::config::Kubeconfig::read_from(self.cluster.kubeconfig()).unwrap();
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = config.unwrap();
        let address = format!("https://127.0.0.1:{}", self.clients.port());
        config.cluster_url = address.parse().unwrap();
        kube::Client::try_from(config).unwrap()
    }

    /// By way of `warren.api`.
    fn client_by_broker(&self) -> kube::Client {
        let url = self.rabbit.amqp_url("admin").parse().unwrap();
        let config =
            BrokerConfig { url, name: "a client".to_owned(), queues: QueueType::default() };
        warren_client::over_amqp(RabbitFabric::new(config, "server", &self.tasks).api())
    }

    async fn load(&mut self, seed: u64) -> Load {
        let kinds = [Kind::ConfigMaps, Kind::ConfigMaps, Kind::Deployments, Kind::Pods];
        let mut writers = Vec::new();
        for (number, kind) in kinds.into_iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            let writer = Writer::new(kind, number, seed, self.client().await, shared);
            writers.push(tokio::spawn(writer.run()));
        }
        let (shared, client) = (Arc::clone(&self.shared), self.client_by_broker());
        let writer = Writer::by_broker(Kind::ConfigMaps, writers.len(), seed, client, shared);
        writers.push(tokio::spawn(writer.run()));
        let follower =
            Follower::start(self.rabbit.amqp_url("admin"), self.cluster.client().await).await;
        let told = Arc::clone(&follower.told);
        let load = Load { writers, follower: tokio::spawn(follower.run()), told };
        self.writes_go_on(10).await;
        load
    }

    async fn round(&mut self, begin: Instant, round: &Round) {
        let mut undo = Vec::new();
        let mut said = Vec::new();
        let started = Instant::now();
        for fault in &round.faults {
            match self.begin(fault).await {
                Ok(how) => {
                    *self.injected.entry(fault.kind()).or_default() += 1;
                    said.push(format!("{fault:?}"));
                    undo.push(how);
                }
                Err(why) => said.push(format!("not {fault:?} ({why:#})")),
            }
        }
        let said = said.join(", ");
        println!(
            "{:5.1} s: {said}, for {:?}",
            started.duration_since(begin).as_secs_f64(),
            round.hold
        );
        let down = undo.iter().filter_map(|undo| match undo {
            Undo::Start(role) => Some(role.clone()),
            _ => None,
        });
        let down: Vec<_> = down.collect();
        while started.elapsed() < round.hold {
            self.supervise(&down);
            tokio::time::sleep(LOOK).await;
        }
        for how in undo {
            self.end(how).await;
        }
        let took = self.writes_go_on(5).await;
        self.supervise(&[]);
        println!("         writes go on after {took:?}");
        self.outages.push((took, said));
    }

    /// Waits until more is written than could have been on its way.
    async fn writes_go_on(&mut self, writes: usize) -> Duration {
        let (before, start) = (self.shared.done(), Instant::now());
        while self.shared.done() < before + writes {
            assert!(start.elapsed() < RECOVERS, "no writes after {RECOVERS:?}");
            self.supervise(&[]);
            tokio::time::sleep(LOOK).await;
        }
        start.elapsed()
    }

    async fn stop(self, load: Load, begin: Instant) {
        self.shared.over.store(true, Ordering::Relaxed);
        for writer in load.writers {
            writer.await.unwrap();
        }
        let took = begin.elapsed();
        let tasks = self.tasks.clone();
        self.ending(&load.told, took).await;
        load.follower.abort();
        tasks.shutdown().trigger();
    }
}

/// Every start and every death of a container of this cluster, from now on.
fn docker_events(cluster: &Cluster) -> Running {
    let id = std::fs::read_to_string(cluster.data_dir().join("cluster-id")).unwrap();
    let mut command = Command::new("docker");
    command.args(["events", "--format", "{{json .}}", "--filter", "type=container"]);
    command.args(["--filter", "event=start", "--filter", "event=die", "--filter"]);
    command.arg(format!("label=io.warren.cluster={}", id.trim()));
    cluster.going_on(command)
}
