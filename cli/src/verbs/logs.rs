//! `warren logs`.

use anyhow::Result;
use futures::TryStreamExt;
use http::Method;
use http_body_util::BodyExt;

use super::connection::{Call, escape};
use super::{Connection, ConnectionArgs};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The pod; `pod/NAME` is understood as well.
    pod: String,
    /// The container; needed where the pod has several.
    #[arg(short, long)]
    container: Option<String>,
    /// The namespace; else that of the kubeconfig, else `default`.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Go on as lines come.
    #[arg(short, long)]
    follow: bool,
    /// The last so many lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Of the container that ran before the present one.
    #[arg(short, long)]
    previous: bool,
    /// The time before each line.
    #[arg(long)]
    timestamps: bool,
    /// Of the last so many seconds.
    #[arg(long, value_name = "SECONDS")]
    since: Option<u64>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let connection = Connection::open(&args.connection).await?;
    let namespace = args.namespace.as_deref().unwrap_or_else(|| connection.namespace());
    let pod = args.pod.split_once('/').map_or(args.pod.as_str(), |(_, name)| name);
    let mut query = Vec::new();
    query.extend(args.container.iter().map(|name| format!("container={}", escape(name))));
    query.extend(args.tail.map(|lines| format!("tailLines={lines}")));
    query.extend(args.since.map(|seconds| format!("sinceSeconds={seconds}")));
    for (name, wanted) in
        [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)]
    {
        query.extend(wanted.then(|| format!("{name}=true")));
    }
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/log?{}",
        escape(namespace),
        escape(pod),
        query.join("&")
    );
    let call = Call { accept: "*/*", ..Call::new(Method::GET, &path) };
    let mut body = connection.send(call).await?.into_body().into_data_stream();
    while let Some(chunk) = body.try_next().await? {
        crate::output::raw(&chunk);
    }
    Ok(())
}
