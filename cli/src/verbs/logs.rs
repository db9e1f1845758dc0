//! `warren logs`.

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

use super::connection::{Call, escape};
use super::discovery::Discovery;
use super::{Connection, ConnectionArgs};

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren logs web-1\n  warren logs -f deploy/web --tail 10\n  warren logs web-1 -c sidecar -p"
)]
pub(crate) struct Args {
    /// The pod; or `KIND/NAME` of what has pods, as `deploy/web`, for one of them.
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
    let pod = pod_of(&connection, namespace, &args.pod).await?;
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
        escape(&pod),
        query.join("&")
    );
    let call = Call { accept: "*/*", ..Call::new(Method::GET, &path) };
    let mut body = connection.send(call).await?.into_body().into_data_stream();
    while let Some(chunk) = body.try_next().await? {
        crate::output::raw(&chunk);
    }
    Ok(())
}

/// The pod that is meant: its name, or the first by name of those that an object selects.
async fn pod_of(connection: &Connection, namespace: &str, word: &str) -> Result<String> {
    let Some((kind, name)) = word.split_once('/') else { return Ok(word.to_owned()) };
    let discovery = Discovery::read(connection).await?;
    let resource = discovery.find(kind)?[0];
    if resource.plural == "pods" {
        return Ok(name.to_owned());
    }
    let path = format!("{}/{}", resource.path(Some(namespace)), escape(name));
    let object = connection.get(&path).await?;
    let Some(selector) = selector(&object) else {
        bail!("{} has no pods: logs are of a pod, or of what selects pods", resource.label());
    };
    let path = format!(
        "/api/v1/namespaces/{}/pods?labelSelector={}",
        escape(namespace),
        escape(&selector)
    );
    let list = connection.get(&path).await?;
    let names = list["items"].as_array().into_iter().flatten();
    let mut names: Vec<_> = names.filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    names.sort_unstable();
    let first = names.first().with_context(|| format!("{word} has no pods now"))?;
    if names.len() > 1 {
        crate::note!("Found {} pods, using pod/{first}", names.len());
    }
    Ok((*first).to_owned())
}

/// Of a workload (`matchLabels`) or of a Service.
fn selector(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels = selector["matchLabels"].as_object().or_else(|| selector.as_object())?;
    let parts: Option<Vec<_>> =
        labels.iter().map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    parts.filter(|parts| !parts.is_empty()).map(|parts| parts.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_selects_pods() {
        for (spec, expected) in [
            (
                json!({"selector": {"matchLabels": {"app": "web", "tier": "a"}}}),
                Some("app=web,tier=a"),
            ),
            (json!({"selector": {"app": "web"}}), Some("app=web")),
            (json!({"selector": {}}), None),
            (json!({}), None),
        ] {
            assert_eq!(selector(&json!({"spec": spec})).as_deref(), expected, "{spec}");
        }
    }
}
