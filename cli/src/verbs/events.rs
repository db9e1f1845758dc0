//! `warren events`: what happened, and with `-f` every change as it happens.

use anyhow::{Result, bail};
use futures::stream::{BoxStream, StreamExt, select_all};
use serde_json::Value;

use super::connection::escape;
use super::discovery::{Discovery, Resource};
use super::get::watch;
use super::{Connection, ConnectionArgs, Failure};
use crate::output::Columns;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren events                    the Events that the cluster recorded\n  \
                        warren events -f                 every change of every object, from now on\n  \
                        warren events -f pods,deploy -n shop\n  warren events -f --since 1200 -o json"
)]
pub(crate) struct Args {
    /// With -f: only these kinds, separated by commas. Leases are left out unless named.
    #[arg(value_name = "KINDS", requires = "follow")]
    kinds: Option<String>,
    /// Follow changes.
    #[arg(short, long)]
    follow: bool,
    /// One namespace; all where not given.
    #[arg(short, long)]
    namespace: Option<String>,
    /// With -f: begin after this resourceVersion, as far as the server remembers.
    #[arg(long, value_name = "RESOURCE_VERSION", requires = "follow")]
    since: Option<u64>,
    /// With -f: `json` prints whole watch events, one a line.
    #[arg(short, long, value_parser = ["json"], requires = "follow")]
    output: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let connection = Connection::open(&args.connection).await?;
    if args.follow { follow(args, &connection).await } else { recorded(args, &connection).await }
}

async fn recorded(args: &Args, connection: &Connection) -> Result<()> {
    let path = match &args.namespace {
        Some(namespace) => format!("/api/v1/namespaces/{}/events", escape(namespace)),
        None => "/api/v1/events".to_owned(),
    };
    let list = connection.get(&path).await?;
    let mut events = list["items"].as_array().cloned().unwrap_or_default();
    events.sort_by_key(seen);
    let header = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"].map(str::to_owned).to_vec();
    let mut rows = vec![header];
    rows.extend(events.iter().map(|event| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        vec![
            seen(event),
            text(&event["type"]),
            text(&event["reason"]),
            involved(event),
            message(event),
        ]
    }));
    if rows.len() == 1 {
        crate::note!("No events found.");
        return Ok(());
    }
    for line in Columns::default().lines(&rows) {
        crate::say!("{line}");
    }
    Ok(())
}

async fn follow(args: &Args, connection: &Connection) -> Result<()> {
    let discovery = Discovery::read(connection).await?;
    let resources = chosen(&discovery, args.kinds.as_deref(), args.namespace.is_some())?;
    let mut from = match args.since {
        Some(revision) => revision.to_string(),
        None => newest(connection, resources[0], args).await?,
    };
    let mut columns = Columns::default();
    loop {
        let mut streams: Vec<BoxStream<'static, Result<Value>>> = Vec::new();
        for resource in &resources {
            let path = resource.path(args.namespace.as_deref());
            let path = format!("{path}?watch=1&resourceVersion={from}");
            streams.push(watch(connection, &path, "application/json").await?);
        }
        let mut events = select_all(streams);
        let ended = loop {
            match events.next().await {
                None => break None,
                Some(Err(error)) => break Some(error),
                Some(Ok(event)) => {
                    if let Some(version) = event["object"]["metadata"]["resourceVersion"].as_str() {
                        version.clone_into(&mut from);
                    }
                    if event["type"] != "BOOKMARK" {
                        print(args, &mut columns, &event)?;
                    }
                }
            }
        };
        if let Some(error) = ended {
            match error.downcast_ref::<Failure>() {
                Some(failure) if failure.is_gone() => {
                    crate::note!(
                        "some changes may be missing: the server's history does not reach back so far"
                    );
                    from = newest(connection, resources[0], args).await?;
                }
                _ => return Err(error),
            }
        }
    }
}

fn chosen<'a>(
    discovery: &'a Discovery,
    kinds: Option<&str>,
    in_namespace: bool,
) -> Result<Vec<&'a Resource>> {
    let can_watch = |resource: &Resource| resource.verbs.iter().any(|verb| verb == "watch");
    let mut found: Vec<&Resource> = Vec::new();
    match kinds {
        Some(kinds) => {
            for kind in kinds.split(',') {
                found.extend(discovery.find(kind)?);
            }
        }
        None => found.extend(discovery.all().filter(|resource| resource.plural != "leases")),
    }
    found.retain(|resource| can_watch(resource) && (resource.namespaced || !in_namespace));
    if found.is_empty() {
        bail!("none of these kinds can be watched here");
    }
    Ok(found)
}

/// The revision is one for all kinds, so any list tells where "now" is.
async fn newest(connection: &Connection, resource: &Resource, args: &Args) -> Result<String> {
    let path = resource.path(args.namespace.as_deref());
    let list = connection.get(&format!("{path}?limit=1")).await?;
    Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned())
}

fn print(args: &Args, columns: &mut Columns, event: &Value) -> Result<()> {
    if args.output.is_some() {
        crate::say!("{}", serde_json::to_string(event)?);
        return Ok(());
    }
    let object = &event["object"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let name = match metadata["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{}", text(&metadata["name"])),
        None => text(&metadata["name"]),
    };
    let mut row =
        vec![text(&metadata["resourceVersion"]), text(&event["type"]), text(&object["kind"]), name];
    if object["kind"] == "Event" {
        row.push(format!("{} {}: {}", involved(object), text(&object["reason"]), message(object)));
    } else {
        row.extend(object["status"]["phase"].as_str().map(str::to_owned));
    }
    for line in columns.lines(&[row]) {
        crate::say!("{line}");
    }
    Ok(())
}

fn seen(event: &Value) -> String {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    times.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
}

fn involved(event: &Value) -> String {
    let object = &event["involvedObject"];
    let kind = object["kind"].as_str().unwrap_or_default().to_ascii_lowercase();
    format!("{kind}/{}", object["name"].as_str().unwrap_or_default())
}

fn message(event: &Value) -> String {
    event["message"].as_str().unwrap_or_default().trim().replace('\n', " ")
}
