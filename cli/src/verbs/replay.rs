//! `warren replay`: what `warren events -f -o json` has recorded, into a fresh server.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::connection::{Call, escape};
use super::discovery::{Discovery, Resource};
use super::{Connection, ConnectionArgs, Failure};

mod player;

use player::{Action, Change, Key, Player};

/// As long as a line of a watch may be.
const MAX_LINE: usize = 32 << 20;
/// Reasons that are told; of the others, how many there are.
const MOST_TOLD: usize = 20;
const JSON: &str = "application/json";

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren events -f --since 0 -o json > log     record, from what there is\n  warren replay log --kubeconfig \
                  fresh/kubeconfig/admin.conf\n  warren replay log --speed 10 --force\n\nReplay into `warren apiserver` alone: controllers \
                  and nodes would act on what they see, beside the log."
)]
pub(crate) struct Args {
    /// The log: a watch event a line, as JSON. `-` is standard input.
    #[arg(value_name = "FILE")]
    file: String,
    /// With the recorded pauses, divided by this: 1 as recorded, 10 ten times as fast. Else as fast as possible.
    #[arg(long, value_name = "FACTOR", value_parser = speed)]
    speed: Option<f64>,
    /// Also into a server that has objects of its own.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

fn speed(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    match (0.001..=1_000_000.0).contains(&factor) {
        true => Ok(factor),
        false => Err("must be between 0.001 and 1000000".to_owned()),
    }
}

#[derive(Debug, Default)]
struct Count {
    lines: usize,
    requests: usize,
    unchanged: usize,
    own: usize,
    /// Why a line was not replayed, or not wholly: how often, and the first of its kind.
    failed: BTreeMap<String, (usize, String)>,
    failures: usize,
}

impl Count {
    fn failure(&mut self, about: &str, why: String) {
        self.failures += 1;
        let entry = self.failed.entry(why).or_insert_with(|| (0, about.to_owned()));
        entry.0 += 1;
    }
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let mut input: Box<dyn BufRead> = match args.file.as_str() {
        "-" => Box::new(std::io::stdin().lock()),
        path => {
            let file = std::fs::File::open(path).with_context(|| format!("{path:?}"))?;
            Box::new(std::io::BufReader::new(file))
        }
    };
    let connection = Connection::open(&args.connection).await?;
    let discovery = Discovery::read(&connection).await?;
    if !args.force
        && let Some(found) = not_fresh(&connection, &discovery).await?
    {
        bail!("the server is not fresh: it has {found}; --force replays all the same");
    }
    let list = connection.get("/api/v1/namespaces").await?;
    let names = list["items"].as_array().into_iter().flatten();
    let names = names.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned));
    let replay = Replay { connection: &connection, discovery: &discovery };
    let (mut player, mut count) = (Player::new(names), Count::default());
    let mut before: Option<Timestamp> = None;
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        if std::io::Read::take(&mut input, MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        if line.len() >= MAX_LINE {
            bail!("line {number}: over {MAX_LINE} bytes");
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let event: Value = match serde_json::from_slice(&line) {
            Ok(event) => event,
            Err(error) => {
                count.lines += 1;
                count.failure(&format!("line {number}"), format!("no JSON: {error}"));
                continue;
            }
        };
        if event["type"] == "BOOKMARK" {
            continue;
        }
        count.lines += 1;
        let time = event["time"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        if let (Some(factor), Some(time)) = (args.speed, time) {
            let pause =
                before.and_then(|before| Duration::try_from(time.duration_since(before)).ok());
            tokio::time::sleep(pause.unwrap_or_default().div_f64(factor)).await;
            before = Some(before.map_or(time, |before| before.max(time)));
        }
        match player.event(&event) {
            Ok(change) => replay.change(&mut player, change, &mut count).await?,
            Err(error) => count.failure(&format!("line {number}"), error.to_string()),
        }
    }
    summary(&count)
}

fn summary(count: &Count) -> Result<()> {
    let Count { lines, requests, unchanged, own, failed, failures } = count;
    crate::say!(
        "{lines} changes read: {requests} requests; {unchanged} changed nothing that a client writes; {own} are the server's own"
    );
    if *failures == 0 {
        return Ok(());
    }
    for (why, (times, first)) in failed.iter().take(MOST_TOLD) {
        let more = if *times > 1 { format!(" (and {} more)", times - 1) } else { String::new() };
        crate::note!("{first}: {why}{more}");
    }
    if failed.len() > MOST_TOLD {
        crate::note!("and {} other reasons", failed.len() - MOST_TOLD);
    }
    bail!("{failures} requests or lines were not replayed");
}

struct Replay<'a> {
    connection: &'a Connection,
    discovery: &'a Discovery,
}

impl Replay<'_> {
    /// A server that cannot be reached ends it; what it refuses is counted.
    async fn change(&self, player: &mut Player, change: Change, count: &mut Count) -> Result<()> {
        let Change { key, uid, actions } = change;
        if is_servers_own(&key) {
            count.own += 1;
            return Ok(());
        }
        if actions.is_empty() {
            count.unchanged += 1;
            return Ok(());
        }
        let object = json!({"apiVersion": key.api_version, "kind": key.kind});
        let resource = match self.discovery.of_object(&object) {
            Ok(resource) => resource,
            Err(error) => {
                count.failure(&key.to_string(), error.to_string());
                return Ok(());
            }
        };
        for action in actions {
            count.requests += 1;
            match self.act(resource, &key, &action).await {
                Ok(answer) => {
                    if matches!(action, Action::Create(_)) {
                        player.has(&uid, answer["metadata"]["uid"].as_str().unwrap_or_default());
                    }
                }
                Err(error @ Failure::Unreachable { .. }) => return Err(error.into()),
                Err(error) => count.failure(&key.to_string(), error.to_string()),
            }
        }
        Ok(())
    }

    async fn act(&self, resource: &Resource, key: &Key, action: &Action) -> Result<Value, Failure> {
        let collection = resource.path(Some(&key.namespace));
        let path = format!("{collection}/{}", escape(&key.name));
        match action {
            Action::MakeNamespace(name) => {
                let object =
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                let made = self.send(Method::POST, "/api/v1/namespaces", &object).await;
                unless(made, 409)
            }
            Action::Create(object) => match self.send(Method::POST, &collection, object).await {
                // Of what every cluster has, the recorded form is taken.
                Err(Failure::Status { code: 409, status })
                    if status["reason"] == "AlreadyExists" =>
                {
                    self.send(Method::PUT, &path, object).await
                }
                created => created,
            },
            Action::Update(object) => self.send(Method::PUT, &path, object).await,
            Action::Status(object) => {
                self.send(Method::PUT, &format!("{path}/status"), object).await
            }
            Action::Bind(node) => {
                let binding = json!({"apiVersion": "v1", "kind": "Binding",
                    "metadata": {"name": key.name, "namespace": key.namespace},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
                self.send(Method::POST, &format!("{path}/binding"), &binding).await
            }
            Action::Delete(grace) => {
                let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions",
                    "propagationPolicy": "Background"});
                if let Some(seconds) = grace {
                    options["gracePeriodSeconds"] = (*seconds).into();
                }
                // It may have gone with the request before: a server that nobody helps ends what nothing holds.
                unless(self.send(Method::DELETE, &path, &options).await, 404)
            }
            Action::Finalize(object) => {
                unless(self.send(Method::PUT, &format!("{path}/finalize"), object).await, 404)
            }
        }
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = body.to_string().into_bytes();
        let call = Call { content_type: Some(JSON), body, ..Call::new(method, path) };
        self.connection.call(call).await.map(|(_, answer)| answer)
    }
}

/// That answer is as good.
fn unless(answer: Result<Value, Failure>, wanted: u16) -> Result<Value, Failure> {
    match answer {
        Err(Failure::Status { code, status }) if code == wanted => Ok(status),
        answer => answer,
    }
}

/// What the server keeps by itself: the way to the API, and heartbeats.
fn is_servers_own(key: &Key) -> bool {
    match key.kind.as_str() {
        "Lease" => true,
        "Service" | "Endpoints" | "EndpointSlice" => {
            key.namespace == "default" && key.name.starts_with("kubernetes")
        }
        _ => false,
    }
}

/// An object that not every cluster has. Nodes may be there, and what is recorded about all of them.
async fn not_fresh(connection: &Connection, discovery: &Discovery) -> Result<Option<String>> {
    for resource in discovery.all() {
        let skipped = ["nodes", "events", "priorityclasses", "namespaces"];
        let can = |verb: &str| resource.verbs.iter().any(|known| known == verb);
        // What is only shown (usage of nodes and pods) is no object.
        if !can("list") || !can("create") || skipped.contains(&&*resource.plural) {
            continue;
        }
        let list = connection.get(&format!("{}?limit=100", resource.path(None))).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let text =
                |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
            let key = Key {
                api_version: String::new(),
                kind: resource.kind.clone(),
                namespace: text("namespace"),
                name: text("name"),
            };
            let of_the_cluster = key.namespace.starts_with("kube-") || key.name == "default";
            if !of_the_cluster && !is_servers_own(&key) {
                return Ok(Some(key.to_string()));
            }
        }
    }
    Ok(None)
}
