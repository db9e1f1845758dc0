//! `warren apply`: server-side apply of files.

use anyhow::{Context, Result, bail};
use http::Method;

use super::connection::{Call, escape};
use super::discovery::Discovery;
use super::files::{self, Manifest};
use super::{Connection, ConnectionArgs, Failure};

const FIELD_MANAGER: &str = "warren";

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren apply -f manifests/examples/hello.yaml\n  warren apply -f folder/\n  \
                        generate | warren apply -f -"
)]
pub(crate) struct Args {
    /// Files, folders, or `-` for standard input.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<String>,
    /// The namespace of objects that name none.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Take fields that another manager owns.
    #[arg(long)]
    force_conflicts: bool,
    /// Let the server check everything and store nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let manifests = files::read(&args.files)?;
    let connection = Connection::open(&args.connection).await?;
    let discovery = Discovery::read(&connection).await?;
    let mut failed = 0;
    for manifest in &manifests {
        if let Err(error) = apply(args, &connection, &discovery, manifest).await {
            if manifests.len() == 1 {
                return Err(error);
            }
            failed += 1;
            crate::note!("{error:#}");
        }
    }
    if failed > 0 {
        bail!("{failed} of {} objects were not applied", manifests.len());
    }
    Ok(())
}

async fn apply(
    args: &Args,
    connection: &Connection,
    discovery: &Discovery,
    manifest: &Manifest,
) -> Result<()> {
    let mut object = manifest.object.clone();
    let resource = discovery.of_object(&object).with_context(|| manifest.source.clone())?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        bail!("{}: metadata.name: Required value", manifest.source);
    }
    let namespace = target_namespace(args.namespace.as_deref(), &object, connection)
        .with_context(|| manifest.source.clone())?;
    if resource.namespaced {
        object["metadata"]["namespace"] = namespace.clone().into();
    }
    if manifest.is_v0 && !args.dry_run {
        make_namespace(connection, &namespace).await.map_err(|error| in_file(manifest, error))?;
    }
    let path = format!("{}/{}", resource.path(Some(&namespace)), escape(&name));
    let before = match connection.get(&path).await {
        Ok(object) => Some(object),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(in_file(manifest, error)),
    };
    let mut query = format!("?fieldManager={FIELD_MANAGER}&fieldValidation=Strict");
    if args.force_conflicts {
        query.push_str("&force=true");
    }
    if args.dry_run {
        query.push_str("&dryRun=All");
    }
    let path = format!("{path}{query}");
    let call = Call {
        content_type: Some("application/apply-patch+yaml"),
        body: serde_json::to_vec(&object)?,
        ..Call::new(Method::PATCH, &path)
    };
    let (_, after) = connection.call(call).await.map_err(|error| in_file(manifest, error))?;
    let did = match before {
        None => "created",
        Some(before)
            if before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
                && !args.dry_run =>
        {
            "unchanged"
        }
        Some(_) => "configured",
    };
    let dry = if args.dry_run { " (server dry run)" } else { "" };
    crate::say!("{}/{name} {did}{dry}", resource.label());
    Ok(())
}

/// As that form promises.
async fn make_namespace(connection: &Connection, name: &str) -> Result<(), Failure> {
    match connection.get(&format!("/api/v1/namespaces/{}", escape(name))).await {
        Err(error) if error.is_not_found() => {}
        other => return other.map(drop),
    }
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
    });
    let call = Call {
        content_type: Some("application/json"),
        body: object.to_string().into_bytes(),
        ..Call::new(Method::POST, "/api/v1/namespaces")
    };
    match connection.call(call).await {
        Err(Failure::Status { code: 409, .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The object's own, which must be that of the command line where both are given.
pub(super) fn target_namespace(
    asked: Option<&str>,
    object: &serde_json::Value,
    connection: &Connection,
) -> Result<String> {
    let own = object["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty());
    match (asked, own) {
        (Some(asked), Some(own)) if asked != own => bail!(
            "the namespace from the provided object {own:?} does not match the namespace {asked:?}. You must pass \
             '--namespace={own}' to perform this operation."
        ),
        (Some(namespace), _) | (None, Some(namespace)) => Ok(namespace.to_owned()),
        (None, None) => Ok(connection.namespace().to_owned()),
    }
}

fn in_file(manifest: &Manifest, failure: Failure) -> anyhow::Error {
    let hint = match &failure {
        Failure::Status { code: 409, .. } => " (--force-conflicts takes the fields)",
        _ => "",
    };
    anyhow::anyhow!("{}: {failure}{hint}", manifest.source)
}
