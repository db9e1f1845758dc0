//! `warren delete`.

use std::time::Duration;

use anyhow::{Result, bail};
use http::Method;
use serde_json::{Value, json};

use super::apply::target_namespace;
use super::connection::{Call, escape};
use super::discovery::{Discovery, Resource};
use super::get::Scope;
use super::{Connection, ConnectionArgs, files};

/// How often a deletion is looked at until the object is gone.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren delete pod web-1\n  warren delete deploy/web svc/web\n  \
                        warren delete -f folder/\n  warren delete pods -l app=web"
)]
pub(crate) struct Args {
    /// KIND NAME…, or KIND/NAME…
    #[arg(value_name = "KIND|KIND/NAME", required_unless_present = "files")]
    words: Vec<String>,
    /// The objects of files, folders, or `-` for standard input.
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "words")]
    files: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// All objects of the kind in the namespace.
    #[arg(long)]
    all: bool,
    /// Seconds for the pod's containers to end; 0 kills them at once.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Say nothing about objects that are not there.
    #[arg(long)]
    ignore_not_found: bool,
    /// Come back at once and not when the objects are gone.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for objects to be gone.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    #[command(flatten)]
    connection: ConnectionArgs,
}

struct Target<'a> {
    resource: &'a Resource,
    path: String,
    name: String,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let manifests = if args.files.is_empty() { vec![] } else { files::read(&args.files)? };
    let connection = Connection::open(&args.connection).await?;
    let discovery = Discovery::read(&connection).await?;
    let mut targets = Vec::new();
    let default_namespace = connection.namespace().to_owned();
    let namespace = args.scope.namespace(&connection).unwrap_or(&default_namespace).to_owned();
    // The reverse of how they were made: what is inside goes before what holds it.
    for manifest in manifests.iter().rev() {
        let resource = discovery.of_object(&manifest.object)?;
        let own = target_namespace(None, &manifest.object, &connection)?;
        let name = manifest.object["metadata"]["name"].as_str().unwrap_or_default();
        targets.push(Target::new(resource, &own, name)?);
    }
    if let Some(first) = args.words.first() {
        if first.contains('/') {
            for word in &args.words {
                let Some((kind, name)) = word.split_once('/') else {
                    bail!("kind/name and names cannot be mixed: {word:?}");
                };
                for resource in discovery.find(kind)? {
                    targets.push(Target::new(resource, &namespace, name)?);
                }
            }
        } else {
            for kind in first.split(',') {
                for resource in discovery.find(kind)? {
                    for name in &args.words[1..] {
                        targets.push(Target::new(resource, &namespace, name)?);
                    }
                    if args.words.len() == 1 {
                        targets.extend(selected(args, &connection, resource).await?);
                    }
                }
            }
        }
    }
    let mut failed = 0;
    for target in &targets {
        if let Err(error) = delete(args, &connection, target).await {
            if targets.len() == 1 {
                return Err(error);
            }
            failed += 1;
            crate::note!("{error:#}");
        }
    }
    if failed > 0 {
        bail!("{failed} of {} objects were not deleted", targets.len());
    }
    if targets.is_empty() {
        crate::note!("No resources found.");
    }
    Ok(())
}

impl<'a> Target<'a> {
    fn new(resource: &'a Resource, namespace: &str, name: &str) -> Result<Self> {
        if name.is_empty() {
            bail!("{}: a name is required", resource.label());
        }
        let path = format!("{}/{}", resource.path(Some(namespace)), escape(name));
        Ok(Self { resource, path, name: name.to_owned() })
    }
}

async fn selected<'a>(
    args: &Args,
    connection: &Connection,
    resource: &'a Resource,
) -> Result<Vec<Target<'a>>> {
    if !args.all && !args.scope.selects() {
        bail!("resource(s) were provided, but no name was specified; use --all or -l");
    }
    let path = resource.path(args.scope.namespace(connection));
    let list = connection.get(&format!("{path}?{}", args.scope.query().join("&"))).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .map(|object| {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            Target::new(resource, text("namespace"), text("name"))
        })
        .collect()
}

async fn delete(args: &Args, connection: &Connection, target: &Target<'_>) -> Result<()> {
    let mut options =
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if let Some(seconds) = args.grace_period {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let call = Call {
        content_type: Some("application/json"),
        body: serde_json::to_vec(&options)?,
        ..Call::new(Method::DELETE, &target.path)
    };
    let answer = match connection.call(call).await {
        Ok((_, answer)) => answer,
        Err(error) if error.is_not_found() && args.ignore_not_found => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    crate::say!("{} {:?} deleted", target.resource.label(), target.name);
    if args.no_wait {
        return Ok(());
    }
    let uid = [&answer["details"]["uid"], &answer["metadata"]["uid"]]
        .into_iter()
        .find_map(Value::as_str)
        .map(str::to_owned);
    let gone = async {
        loop {
            match connection.get(&target.path).await {
                Err(error) if error.is_not_found() => return Ok(()),
                // The name is taken again: the one that was deleted is gone.
                Ok(object)
                    if uid.as_deref().is_some_and(|uid| object["metadata"]["uid"] != uid) =>
                {
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(args.timeout), gone).await {
        Ok(result) => Ok(result?),
        Err(_) => {
            bail!("timed out waiting for {}/{} to be gone", target.resource.label(), target.name)
        }
    }
}
