//! `warren apiserver`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use warren_apiserver::{
    AddressRange, Config, DefaultTolerations, NodeClient, Pem, Server, StartError, Tls,
};
use warren_process::Tasks;

use super::{CommonArgs, QueuesArgs, claim, names_of, url_of};
use crate::files::DataDir;
use crate::init::{Identities, identities, kubeconfigs};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// What the API is told, alone and in `warren up`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// Where the API listens; port 0 takes any. Other than on loopback, anonymous commands are refused.
    #[arg(
        long,
        env = "WARREN_BIND",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:6443"
    )]
    pub(crate) bind: SocketAddr,
    /// RabbitMQ, as amqp://host:port; account and password come from the data folder unless the address has them. The
    /// broker learns of those accounts from <data>/broker/rabbitmq/definitions.json (rabbitmqctl import_definitions).
    /// Of a RabbitMQ cluster several, with commas between: where one is lost, the next is tried.
    #[arg(long, env = "WARREN_BROKER", value_name = "URL")]
    pub(crate) broker: Option<String>,
    #[command(flatten)]
    pub(crate) queues: QueuesArgs,
    /// More names or addresses in the API's certificate.
    #[arg(long = "san", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// The addresses of Services; between /12 and /28. Those that were given out before stay.
    #[arg(long, env = "WARREN_SERVICE_CIDR", value_name = "CIDR", default_value = "10.96.0.0/16", value_parser = super::service_range)]
    pub(crate) service_cidr: AddressRange,
    /// How long a pod stays on a node that is not ready, unless it says so itself.
    #[arg(
        long,
        env = "WARREN_DEFAULT_NOT_READY_TOLERATION_SECONDS",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    default_not_ready_toleration_seconds: u32,
    /// How long a pod stays on a node that nobody hears of, unless it says so itself.
    #[arg(
        long,
        env = "WARREN_DEFAULT_UNREACHABLE_TOLERATION_SECONDS",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    default_unreachable_toleration_seconds: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    super::run(&args.common, async |tasks| {
        let data = DataDir::new(&args.common.data_dir);
        data.prepare()?;
        let lock = claim(&data, "apiserver")?;
        let identities = identities(&data, &[], &names_of(args.server.bind, &args.server.names))?;
        let server = start(&data, &args.server, &identities, &tasks).await?;
        kubeconfigs(&data, &url_of(server.address()), &identities)?;
        Ok((Some(server), lock))
    })
}

/// Starts the API of this data folder.
pub(crate) async fn start(
    data: &DataDir,
    args: &ServerArgs,
    identities: &Identities,
    tasks: &Tasks,
) -> Result<Server> {
    let database = data.database();
    if let Some(dir) = database.parent() {
        crate::files::make_dir(dir)?;
    }
    let file = |path: &std::path::Path| Pem::File(path.to_owned());
    let tls = Tls {
        client_ca: file(&identities.ca),
        certificate: file(&identities.apiserver.certificate),
        key: file(&identities.apiserver.key),
    };
    let mut config = Config::new(database.clone(), args.bind, tls);
    config.service_range = args.service_cidr;
    config.tolerations = DefaultTolerations {
        not_ready: args.default_not_ready_toleration_seconds,
        unreachable: args.default_unreachable_toleration_seconds,
    };
    config.node_client = Some(NodeClient {
        certificate: file(&identities.apiserver_node.certificate),
        key: file(&identities.apiserver_node.key),
    });
    if let Some(url) = &args.broker {
        let account = warren_broker::accounts::Account::Server;
        let broker = crate::accounts::broker_config(data, url, &account, "apiserver")?;
        let queues = args.queues.queue_type();
        config.broker = Some(warren_broker::BrokerConfig { queues, ..broker });
    }
    Server::start(config, tasks)
        .await
        .map_err(|error| {
            let hint = match &error {
                StartError::Listen { source, .. } => super::cannot_listen(source, "--bind"),
                StartError::Database(_) => format!("the database is {}", database.display()),
                _ => "starting the API".to_owned(),
            };
            anyhow::Error::from(error).context(hint)
        })
        .context("the API server cannot start")
}
