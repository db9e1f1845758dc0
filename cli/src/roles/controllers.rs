//! `warren controllers`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use warren_broker::accounts::Account;
use warren_client::{Campaign, Connection, Leadership, Place};
use warren_controllers::Config;
use warren_process::{Metrics, Tasks, serve_metrics};

use super::{CommonArgs, QueuesArgs};
use crate::files::DataDir;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    controllers: ControllerArgs,
    /// The kubeconfig; else controllers.conf of the data folder.
    #[arg(long, env = "WARREN_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The API, in place of the one that the kubeconfig names.
    #[arg(long, env = "WARREN_SERVER", value_name = "URL")]
    server: Option<String>,
    /// RabbitMQ, as amqp://host:port; account and password come from the data folder unless the address has them.
    /// Of a RabbitMQ cluster several, with commas between. Without it changes come by HTTP watch.
    #[arg(long, env = "WARREN_BROKER", value_name = "URL")]
    broker: Option<String>,
    #[command(flatten)]
    queues: QueuesArgs,
    /// Requests go by the broker as well: neither a kubeconfig nor a way to the API is needed.
    #[arg(long, env = "WARREN_AMQP_ONLY", requires = "broker", conflicts_with_all = ["kubeconfig", "server"])]
    amqp_only: bool,
    /// Where metrics are served, in plain HTTP and for everybody who reaches it; nowhere where not given.
    #[arg(long, env = "WARREN_METRICS_BIND", value_name = "ADDRESS:PORT")]
    metrics_bind: Option<SocketAddr>,
    /// Whether to act only while no other process of these does. With a broker the next one acts within two seconds;
    /// without, a Lease is renewed every two seconds, and the next one acts within fifteen.
    #[arg(long, env = "WARREN_LEADER_ELECT", value_name = "BOOL", default_value_t = true, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    leader_elect: bool,
}

/// What the Lease and the leader's queue are called.
const LEASE: (&str, &str) = ("kube-system", "warren-controllers");
const QUEUE: &str = "controllers";

/// What the controllers are told, alone and in `warren up`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ControllerArgs {
    /// Controllers not to run, separated by commas.
    #[arg(long = "disable-controllers", value_name = "NAMES", value_delimiter = ',')]
    disabled: Vec<String>,
    /// After so many seconds without a heartbeat a node counts as lost.
    #[arg(long, env = "WARREN_NODE_MONITOR_GRACE_PERIOD", value_name = "SECONDS", default_value = "40s", value_parser = seconds)]
    node_monitor_grace_period: Duration,
}

/// Seconds, with or without the unit: `40` or `40s`; from one second to a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: u64 = text
        .strip_suffix('s')
        .unwrap_or(text)
        .parse()
        .map_err(|_| "must be seconds, as 40 or 40s".to_owned())?;
    if (1..=86_400).contains(&number) {
        Ok(Duration::from_secs(number))
    } else {
        Err("must be between 1s and 86400s".to_owned())
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    super::run(&args.common, async |tasks| {
        let data = DataDir::new(&args.common.data_dir);
        let account = Account::Controllers;
        let instance = format!("{:016x}", rand::random::<u64>());
        let host = crate::pki::hostname().unwrap_or_else(|| "localhost".to_owned());
        let identity = format!("{host}_{instance}");
        let broker = args.broker.as_deref().map(|url| {
            let queues = args.queues.queue_type();
            crate::accounts::fabric(&data, url, &account, "controllers", queues, &tasks)
        });
        let broker = broker.transpose()?;
        let metrics = Metrics::new();
        if let Some(counted) = broker.clone() {
            metrics.families(move || counted.metrics().families());
        }
        let queue = broker.as_ref().filter(|_| args.leader_elect);
        let queue = queue.map(|fabric| fabric.leader_queue(QUEUE, &identity));
        let connection = match broker {
            Some(fabric) if args.amqp_only => crate::accounts::over_amqp(fabric, &account)?,
            broker => {
                let path =
                    args.kubeconfig.clone().unwrap_or_else(|| data.kubeconfig("controllers"));
                let client = super::client(&path, args.server.as_deref()).await?;
                match broker {
                    Some(fabric) => Connection::with_fallback(client, Arc::new(fabric)),
                    None => Connection::over_http(client),
                }
            }
        };
        let leadership = match args.leader_elect {
            true => {
                let (namespace, name) = LEASE;
                let lease = Place { namespace: namespace.to_owned(), name: name.to_owned() };
                let client = connection.client.clone();
                Campaign { client, lease, identity, queue }.start(&tasks)
            }
            false => Leadership::always(),
        };
        let elected = leadership.clone();
        metrics.families(move || elected.families());
        let config = Config { instance, leadership, ..Config::default() };
        let counted = start(connection, config, &args.controllers, &tasks)?;
        metrics.families(move || counted.families());
        if let Some(listen) = args.metrics_bind {
            let served = serve_metrics(listen, metrics, &tasks).await;
            let address = served.with_context(|| format!("--metrics-bind {listen}"))?;
            tracing::info!(%address, "metrics are served");
        }
        Ok((None, ()))
    })
}

pub(crate) fn start(
    connection: Connection,
    config: Config,
    args: &ControllerArgs,
    tasks: &Tasks,
) -> Result<Arc<warren_controllers::Metrics>> {
    let config = Config {
        disabled: args.disabled.clone(),
        node_grace: args.node_monitor_grace_period,
        ..config
    };
    warren_controllers::start(connection, config, tasks).context("the controllers cannot start")
}
