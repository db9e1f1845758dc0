//! `warren up`: a whole cluster in one process.

use anyhow::Result;
use warren_apiserver::User;
use warren_client::Connection;

use super::apiserver::ServerArgs;
use super::controllers::ControllerArgs;
use super::{CommonArgs, claim, names_of, url_of};
use crate::files::DataDir;
use crate::init::{identities, kubeconfigs};

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren up                                    one node, Docker\n  \
                        warren up --runtime simulated --nodes 100    a hundred nodes without machines\n  \
                        warren up --broker amqp://admin:secret@127.0.0.1:5672"
)]
pub(crate) struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    controllers: ControllerArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    super::run(&args.common, async |tasks| {
        let data = DataDir::new(&args.common.data_dir);
        data.prepare()?;
        let lock = claim(&data, "apiserver")?;
        let identities = identities(&data, &[], &names_of(args.server.bind, &args.server.names))?;
        crate::accounts::ensure(&data, &[])?;
        let server = super::apiserver::start(&data, &args.server, &identities, &tasks).await?;
        let url = url_of(server.address());
        kubeconfigs(&data, &url, &identities)?;
        crate::say!("api          {url}");
        let client = warren_client::in_process(server.local_service(User::controllers()));
        let connection = Connection::new(client, server.fabric());
        super::controllers::start(connection, &args.controllers, &tasks)?;
        crate::say!("controllers  in this process");
        Ok((Some(server), lock))
    })
}
