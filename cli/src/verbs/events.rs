//! `warren events`: what happened, and with `-f` every change as it happens.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::stream::{SelectAll, StreamExt};
use serde_json::Value;

use self::source::{Source, Told};
use super::connection::escape;
use super::discovery::{Discovery, Resource};
use super::{Connection, ConnectionArgs};
use crate::output::Columns;

mod source;

/// There is a watch for each kind, and a change told late is better than one told out of order: events wait until no
/// other came for the first of these times, and not longer than the second.
const QUIET: Duration = Duration::from_millis(50);
const LONGEST_HELD: Duration = Duration::from_millis(500);
const MOST_HELD: usize = 10_000;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren events                    the Events that the cluster recorded\n  \
                        warren events -f                 every change of every object, from now on\n  \
                        warren events -f pods,deploy -n shop\n  warren events -f pods --node rabbit-1 --verb added,deleted\n  \
                        warren events -f --since 0 -o json > log     for `warren replay`"
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
    /// With -f: only these changes, separated by commas: added, modified, deleted.
    #[arg(long = "verb", value_name = "VERBS", value_delimiter = ',', requires = "follow", value_parser = ["added", "modified", "deleted"])]
    verbs: Vec<String>,
    /// With -f: only what concerns a node: the node, its pods, and the Events that it wrote.
    #[arg(long, value_name = "NAME", requires = "follow")]
    node: Option<String>,
    /// With -f: begin after this resourceVersion, as far as the server remembers; 0 begins with what there is.
    #[arg(long, value_name = "RESOURCE_VERSION", requires = "follow")]
    since: Option<u64>,
    /// With -f: `json` prints whole watch events, one a line, each with the time at which it came.
    #[arg(short, long, value_parser = ["json"], requires = "follow")]
    output: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let connection = Connection::open(&args.connection).await?;
    if !args.follow {
        return recorded(args, &connection).await;
    }
    // Of all kinds some are deprecated, and nobody asked for those.
    let watches = Connection::open_once(&args.connection, args.kinds.is_some()).await?;
    follow(args, &connection, &watches).await
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

async fn follow(args: &Args, connection: &Connection, watches: &Connection) -> Result<()> {
    let discovery = Discovery::read(connection).await?;
    let resources = chosen(&discovery, args.kinds.as_deref(), args.namespace.is_some())?;
    let namespace = args.namespace.as_deref();
    let begin = match args.since {
        Some(0) => 0,
        since => {
            let at = source::newest(watches, &resources[0].path(namespace)).await?;
            if let Some(since) = since.filter(|since| *since > at) {
                crate::note!("{}", behind(since, at));
            }
            since.unwrap_or(at).min(at)
        }
    };
    let mut sources = SelectAll::new();
    for resource in resources {
        let source = Source::open(watches, resource, namespace, begin).await?;
        sources.push(
            futures::stream::unfold(source, |mut source| async {
                let told = source.next().await?;
                Some(((source.resource(), told), source))
            })
            .boxed_local(),
        );
    }
    let mut columns = Columns::default();
    let mut held = Held::default();
    let mut away = 0_usize;
    let mut is_behind = false;
    loop {
        let next = match held.wait() {
            None => sources.next().await,
            Some(wait) => match tokio::time::timeout(wait, sources.next()).await {
                Ok(next) => next,
                Err(_) => {
                    print_all(args, &mut columns, &held.take())?;
                    continue;
                }
            },
        };
        let Some((resource, told)) = next else { return Ok(()) };
        match told {
            Told::Event(event) if wants(args, &event) => {
                is_behind = false;
                held.events.push(timed(event));
                held.since.get_or_insert_with(Instant::now);
                if held.events.len() >= MOST_HELD {
                    print_all(args, &mut columns, &held.take())?;
                }
            }
            Told::Event(_) => {}
            // The kinds' watches go and come one after another; it is one server.
            Told::Away(reason) => {
                away += 1;
                if away == 1 {
                    crate::note!("waiting for the server: {reason}");
                }
            }
            Told::Back => {
                away = away.saturating_sub(1);
                if away == 0 {
                    crate::note!("the server is back: going on where it was");
                }
            }
            // Each kind's watch finds out; it is one server.
            Told::Missed { after, up_to } if up_to < after => {
                if !std::mem::replace(&mut is_behind, true) {
                    crate::note!("{}", behind(after, up_to));
                }
            }
            Told::Missed { after, up_to } => {
                let kind = &resource.plural;
                crate::note!(
                    "changes of {kind} after revision {after} and up to {up_to} may be missing: the server's history \
                     does not have them"
                );
            }
            Told::Failed(error) => {
                print_all(args, &mut columns, &held.take())?;
                return Err(error);
            }
        }
    }
}

/// What is told where the server does not have the revision that was asked for.
fn behind(after: u64, at: u64) -> String {
    format!(
        "the server is only at revision {at}, before {after} (after a restore, say): following it from {at} on"
    )
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
        // Events are served in two groups, and would be told twice.
        None => {
            found.extend(discovery.all().filter(|resource| {
                resource.plural != "leases" && resource.group != "events.k8s.io"
            }))
        }
    }
    found.retain(|resource| can_watch(resource) && (resource.namespaced || !in_namespace));
    if found.is_empty() {
        bail!("none of these kinds can be watched here");
    }
    Ok(found)
}

/// Events of several watches, kept for a moment so that they can be told in their order.
#[derive(Default)]
struct Held {
    events: Vec<Value>,
    since: Option<Instant>,
}

impl Held {
    /// How long to wait for more; `None` where nothing is held.
    fn wait(&self) -> Option<Duration> {
        Some(QUIET.min(LONGEST_HELD.saturating_sub(self.since?.elapsed())))
    }

    /// All of them, in the order of the changes.
    fn take(&mut self) -> Vec<Value> {
        self.since = None;
        let mut events = std::mem::take(&mut self.events);
        events.sort_by_key(revision);
        events
    }
}

fn revision(event: &Value) -> u64 {
    let version = event["object"]["metadata"]["resourceVersion"].as_str();
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn wants(args: &Args, event: &Value) -> bool {
    let verb = event["type"].as_str().unwrap_or_default().to_ascii_lowercase();
    verb != "bookmark"
        && (args.verbs.is_empty() || args.verbs.contains(&verb))
        && args.node.as_deref().is_none_or(|node| concerns(&event["object"], node))
}

fn concerns(object: &Value, node: &str) -> bool {
    match object["kind"].as_str() {
        Some("Pod") => object["spec"]["nodeName"] == node,
        Some("Node") => object["metadata"]["name"] == node,
        Some("Event") => {
            object["source"]["host"] == node
                || object["reportingInstance"] == node
                || object["involvedObject"]["kind"] == "Node"
                    && object["involvedObject"]["name"] == node
        }
        _ => false,
    }
}

/// For who replays it later.
fn timed(mut event: Value) -> Value {
    event["time"] = format!("{:.6}", jiff::Timestamp::now()).into();
    event
}

fn print_all(args: &Args, columns: &mut Columns, events: &[Value]) -> Result<()> {
    if args.output.is_some() {
        for event in events {
            crate::say!("{}", serde_json::to_string(event)?);
        }
        return Ok(());
    }
    let rows: Vec<_> = events.iter().map(row).collect();
    for line in columns.lines(&rows) {
        crate::say!("{line}");
    }
    Ok(())
}

fn row(event: &Value) -> Vec<String> {
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
    row
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_concerns_a_node() {
        for (object, wanted) in [
            (json!({"kind": "Pod", "spec": {"nodeName": "n"}}), true),
            (json!({"kind": "Pod", "spec": {"nodeName": "m"}}), false),
            (json!({"kind": "Pod", "spec": {}}), false),
            (json!({"kind": "Node", "metadata": {"name": "n"}}), true),
            (json!({"kind": "Node", "metadata": {"name": "m"}}), false),
            (json!({"kind": "Event", "source": {"host": "n"}}), true),
            (json!({"kind": "Event", "involvedObject": {"kind": "Node", "name": "n"}}), true),
            (json!({"kind": "Event", "involvedObject": {"kind": "Pod", "name": "n"}}), false),
            (json!({"kind": "ConfigMap", "metadata": {"name": "n"}}), false),
        ] {
            assert_eq!(concerns(&object, "n"), wanted, "{object}");
        }
    }

    #[test]
    fn what_is_held_comes_in_the_order_of_the_changes() {
        let event = |version: &str| json!({"object": {"metadata": {"resourceVersion": version}}});
        let mut held = Held::default();
        assert_eq!(held.wait(), None);
        held.events = vec![event("10"), event("9"), event("100")];
        held.since = Some(Instant::now());
        assert!(held.wait().is_some_and(|wait| wait <= QUIET));
        assert_eq!(held.take().iter().map(revision).collect::<Vec<_>>(), [9, 10, 100]);
        assert_eq!(held.wait(), None);
    }
}
