//! `warren trace`: the way of an object's last changes through server, broker, controllers and node.

use anyhow::{Context as _, Result, bail};
use warren_process::trace::Story;

use super::connection::escape;
use super::discovery::Discovery;
use super::{Connection, ConnectionArgs};
use crate::output::Columns;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren trace pod/web -n shop       every step of the pod, one a line, with the milliseconds since the one \
                  before\n  warren trace deployment/web -o json\n\nServer, controllers and agents each remember their last 10,000 \
                  steps. Times are those of the machine where it happened."
)]
pub(crate) struct Args {
    /// What to trace, as pod/web.
    #[arg(value_name = "KIND/NAME")]
    object: String,
    /// Its namespace; the kubeconfig's where not given.
    #[arg(short, long)]
    namespace: Option<String>,
    /// `json` prints all that is known.
    #[arg(short, long, value_parser = ["json"])]
    output: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let Some((kind, name)) = args.object.split_once('/').filter(|(_, name)| !name.is_empty())
    else {
        bail!("{:?} is no KIND/NAME, as pod/web", args.object);
    };
    let connection = Connection::open(&args.connection).await?;
    let discovery = Discovery::read(&connection).await?;
    let [resource] = discovery.find(kind)?[..] else { bail!("{kind:?} is more than one kind") };
    let namespace = args.namespace.as_deref().unwrap_or(connection.namespace());
    let namespace = if resource.namespaced { namespace } else { "" };
    let path = format!(
        "/debug/hops?group={}&resource={}&namespace={}&name={}",
        escape(&resource.group),
        escape(&resource.plural),
        escape(namespace),
        escape(name)
    );
    let answer = connection.get(&path).await?;
    if args.output.is_some() {
        crate::say!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let story: Story = serde_json::from_value(answer).context("the server's answer")?;
    let told = story.told();
    let header = ["TIME (UTC)", "MS", "WHO", "STEP", "REVISION", "DETAIL"].map(str::to_owned);
    let mut rows = vec![header.to_vec()];
    rows.extend(told.iter().map(warren_process::trace::Told::row));
    if !told.is_empty() {
        for line in Columns::default().lines(&rows) {
            crate::say!("{line}");
        }
    }
    for note in story.notes() {
        crate::note!("{note}");
    }
    if told.is_empty() {
        bail!("nobody remembers anything of {kind} {name:?}; -n names another namespace");
    }
    Ok(())
}
