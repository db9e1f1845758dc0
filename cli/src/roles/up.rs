//! `warren up`: a whole cluster in one process.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use warren_agent::api::LEASE_NAMESPACE;
use warren_apiserver::User;
use warren_broker::accounts::Account;
use warren_broker::{Fabric, RabbitFabric};
use warren_client::Connection;
use warren_process::{Metrics, Tasks};

use super::agent::{AgentArgs, Crew, RuntimeKind};
use super::apiserver::ServerArgs;
use super::controllers::ControllerArgs;
use super::{CommonArgs, claim, names_of, url_of};
use crate::files::{DataDir, make_dir};
use crate::init::{check_node_name, identities, kubeconfigs};

/// More nodes than one machine was ever seen to carry.
const MAX_NODES: u32 = 20_000;
/// How often nodes that are not Ready are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// After so long the nodes are not waited for any more; they may still come.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren up                                              one node, Docker\n  \
                  warren up --runtime simulated --nodes 100              a hundred nodes without machines\n  \
                  warren up --broker amqp://guest:guest@127.0.0.1:5672   on RabbitMQ, all with this account\n  \
                  warren up --broker amqp://127.0.0.1:5672               on RabbitMQ, accounts from the data folder"
)]
pub(crate) struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    controllers: ControllerArgs,
    #[command(flatten)]
    agent: AgentArgs,
    /// How many nodes.
    #[arg(long, env = "WARREN_NODES", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_NODES)))]
    nodes: u32,
    /// The nodes' names are this and a number from 1.
    #[arg(long, env = "WARREN_NODE_NAME_PREFIX", value_name = "TEXT", default_value = "node-")]
    node_name_prefix: String,
    /// Where the nodes' own port listens; one for all of them. Port 0 takes any.
    #[arg(
        long,
        env = "WARREN_NODE_BIND",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:0"
    )]
    node_bind: SocketAddr,
    /// The folder of static pods, of the first node; <data>/manifests where not given.
    #[arg(long, env = "WARREN_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let names: Vec<String> =
        (1..=args.nodes).map(|n| format!("{}{n}", args.node_name_prefix)).collect();
    for name in &names {
        check_node_name(name)?;
    }
    super::run(&args.common, async |tasks| {
        let (begin, started) = (Instant::now(), Timestamp::now());
        let data = DataDir::new(&args.common.data_dir);
        data.prepare()?;
        let lock = claim(&data, "apiserver")?;
        let manifests = args.manifests.clone().unwrap_or_else(|| data.manifests());
        make_dir(&manifests)?;
        // Nodes in this process need no certificates; the first has one, for whoever tries what a node may do.
        let first: Vec<String> = names.iter().take(1).cloned().collect();
        let identities =
            identities(&data, &first, &names_of(args.server.bind, &args.server.names))?;
        crate::accounts::ensure(&data, &first)?;
        let server = super::apiserver::start(&data, &args.server, &identities, &tasks).await?;
        let url = url_of(server.address());
        kubeconfigs(&data, &url, &identities)?;
        crate::say!("api          {url}");

        // The nodes' port serves those of the whole process but the API's, which has its own.
        let metrics = Metrics::new();
        let fabrics = fabrics(args, &data, &metrics, &tasks)?;
        let connect = |user: User| {
            let controllers = user.name == User::controllers().name;
            let client = warren_client::in_process(server.local_service(user));
            match &fabrics {
                Some(Fabrics { controllers: broker, .. }) if controllers => {
                    Connection::with_fallback(client, Arc::clone(broker))
                }
                Some(Fabrics { nodes: broker, .. }) => {
                    Connection::with_fallback(client, Arc::clone(broker))
                }
                None => Connection::new(client, server.fabric()),
            }
        };
        let controllers = super::controllers::start(
            connect(User::controllers()),
            // The only ones: they lead without an election.
            warren_controllers::Config::default(),
            &args.controllers,
            &tasks,
        )?;
        metrics.families(move || controllers.families());
        crate::say!("controllers  in this process");

        let crew = Crew::new(&data, &args.agent, args.server.service_cidr, &names, &tasks)?
            .beside_the_api();
        let port = match identities.node(names.first().map_or("", String::as_str)) {
            Some(node) => {
                let ca = identities.ca.clone();
                crew.open_port(args.node_bind, ca, node, metrics, "--node-bind", &tasks).await?
            }
            None => args.node_bind,
        };
        for (n, name) in names.iter().enumerate() {
            let folder = (n == 0).then(|| manifests.clone());
            crew.start(name, connect(User::node(name)), folder, port, &tasks).await?;
        }
        let runtime = match args.agent.runtime {
            RuntimeKind::Docker => "Docker",
            RuntimeKind::Simulated => "simulated",
        };
        crate::say!("nodes        {} starting ({runtime})", names.len());
        let ready = wait_ready(connect(User::controllers()).client, &names, started).await?;
        crate::say!(
            "nodes        {ready} of {} Ready after {:.1} s",
            names.len(),
            begin.elapsed().as_secs_f64()
        );
        let kubeconfig = data.kubeconfig("admin");
        let end = match args.agent.runtime {
            RuntimeKind::Docker => {
                "Ctrl-C ends this process; the pods go on, and the next `warren up` finds them"
            }
            RuntimeKind::Simulated => "Ctrl-C ends all of it; what is stored stays",
        };
        crate::say!(
            "\nTry next, in another terminal:\n\n  export KUBECONFIG={}\n  kubectl get nodes\n  kubectl create deployment \
             hello --image=warren/busybox:1 -- httpd -f -p 8080\n\nmanifests    {}\ndata         {}\n{end}",
            kubeconfig.display(),
            manifests.display(),
            data.path().display()
        );
        Ok((Some(server), lock))
    })
}

/// RabbitMQ as the readers in this process see it.
struct Fabrics {
    controllers: Arc<dyn Fabric>,
    nodes: Arc<dyn Fabric>,
}

/// The nodes read with the server's account, which may read all their queues, and so over one connection. What the
/// controllers declare only their own account may; where the address names an account, that is everybody's.
fn fabrics(
    args: &Args,
    data: &DataDir,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Result<Option<Fabrics>> {
    let Some(url) = &args.server.broker else { return Ok(None) };
    let fabric = |account: &Account, what: &str| -> Result<RabbitFabric> {
        crate::accounts::fabric(data, url, account, what, args.server.queues.queue_type(), tasks)
    };
    let nodes = fabric(&Account::Server, "up")?;
    let controllers = match crate::accounts::names_account(url) {
        true => nodes.clone(),
        false => fabric(&Account::Controllers, "up, controllers")?,
    };
    crate::say!(
        "broker       {}",
        crate::accounts::broker_config(data, url, &Account::Server, "")?.url
    );
    let counted = nodes.clone();
    metrics.families(move || counted.metrics().families());
    Ok(Some(Fabrics { controllers: Arc::new(controllers), nodes: Arc::new(nodes) }))
}

/// Waits until these nodes are Ready, or patience ends; answers how many are. What the database says of an earlier run
/// does not count: a node is Ready when it said so itself since `started`.
async fn wait_ready(client: kube::Client, names: &[String], started: Timestamp) -> Result<usize> {
    let nodes = kube::Api::<Node>::all(client.clone());
    let leases = kube::Api::<Lease>::namespaced(client, LEASE_NAMESPACE);
    let begin = Instant::now();
    let all = ListParams::default();
    loop {
        let fresh: HashSet<String> = (leases.list(&all).await.context("listing the leases")?.items)
            .into_iter()
            .filter(|lease| is_renewed(lease, started))
            .filter_map(|lease| lease.metadata.name)
            .collect();
        let mut ready = 0;
        if fresh.len() >= names.len() {
            let found = nodes.list(&all).await.context("listing the nodes")?;
            let ours = found.items.iter().filter(|node| {
                node.metadata.name.as_ref().is_some_and(|name| fresh.contains(name))
            });
            ready = ours.filter(|node| is_ready(node)).count();
        }
        if ready >= names.len() {
            return Ok(ready);
        }
        if begin.elapsed() > PATIENCE {
            crate::note!("not all nodes are Ready yet; `warren status` says what they wait for");
            return Ok(ready);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_renewed(lease: &Lease, since: Timestamp) -> bool {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
    renewed.is_some_and(|time| time.0 >= since)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
