//! `warren get`.

use anyhow::{Result, bail};
use futures::{StreamExt, TryStreamExt};
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

use super::connection::{Call, escape};
use super::discovery::{Discovery, Resource};
use super::{Connection, ConnectionArgs, Failure};
use crate::output::{Columns, cell};

pub(super) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Wide,
    Yaml,
    Json,
    Name,
}

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES:\n  warren get pods\n  warren get deploy/web -o yaml\n  warren get pods,services -A\n  \
                        warren get pods -l app=web -w"
)]
pub(crate) struct Args {
    /// A kind by any of its names, several with commas, `all`, or kind/name.
    #[arg(value_name = "KIND")]
    kinds: String,
    /// Names of objects; all where none is given.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// How to print; a table where not given.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    /// Print changes as they come, until interrupted.
    #[arg(short, long)]
    watch: bool,
    /// Leave the headers of the table out.
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which objects of a kind.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Scope {
    /// The namespace; else that of the kubeconfig, else `default`.
    #[arg(short, long, conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Labels, as in `app=web,tier!=db` or `app in (a,b)`.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Fields, as in `metadata.name=x` or `status.phase=Running`.
    #[arg(long)]
    field_selector: Option<String>,
}

impl Scope {
    /// `None` for all namespaces.
    pub(super) fn namespace<'a>(&'a self, connection: &'a Connection) -> Option<&'a str> {
        if self.all_namespaces {
            return None;
        }
        Some(self.namespace.as_deref().unwrap_or_else(|| connection.namespace()))
    }

    pub(super) fn selects(&self) -> bool {
        self.selector.is_some() || self.field_selector.is_some()
    }

    /// The query's parts that select.
    pub(super) fn query(&self) -> Vec<String> {
        let part = |name: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("{name}={}", escape(value)))
        };
        let parts =
            [part("labelSelector", &self.selector), part("fieldSelector", &self.field_selector)];
        parts.into_iter().flatten().collect()
    }
}

/// A path to one object or to a collection of them.
struct Target<'a> {
    resource: &'a Resource,
    name: Option<String>,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let connection = Connection::open(&args.connection).await?;
    let discovery = Discovery::read(&connection).await?;
    let targets = targets(&discovery, &args.kinds, &args.names)?;
    if args.watch && targets.len() != 1 {
        bail!("a watch is of one kind, or of one object");
    }
    if args.scope.all_namespaces && targets.iter().any(|target| target.name.is_some()) {
        bail!("a resource cannot be retrieved by name across all namespaces");
    }
    match args.output {
        None | Some(Format::Wide) => tables(args, &connection, &targets).await,
        Some(format) => objects(args, &connection, &targets, format).await,
    }
}

/// From `KIND[,KIND] [NAME…]` or `KIND/NAME [KIND/NAME…]`.
fn targets<'a>(discovery: &'a Discovery, kinds: &str, names: &[String]) -> Result<Vec<Target<'a>>> {
    let mut found = Vec::new();
    if kinds.contains('/') {
        for word in std::iter::once(kinds).chain(names.iter().map(String::as_str)) {
            let Some((kind, name)) = word.split_once('/') else {
                bail!("there is no need to mix kind/name with names: {word:?}");
            };
            for resource in discovery.find(kind)? {
                found.push(Target { resource, name: Some(name.to_owned()) });
            }
        }
        return Ok(found);
    }
    for kind in kinds.split(',') {
        for resource in discovery.find(kind)? {
            if names.is_empty() {
                found.push(Target { resource, name: None });
            }
            for name in names {
                found.push(Target { resource, name: Some(name.clone()) });
            }
        }
    }
    Ok(found)
}

impl Target<'_> {
    fn path(&self, args: &Args, connection: &Connection) -> String {
        let mut path = self.resource.path(args.scope.namespace(connection));
        let mut query = Vec::new();
        match &self.name {
            Some(name) => path = format!("{path}/{}", escape(name)),
            None => query = args.scope.query(),
        }
        if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
    }
}

async fn tables(args: &Args, connection: &Connection, targets: &[Target<'_>]) -> Result<()> {
    let several = targets.iter().any(|target| target.resource.kind != targets[0].resource.kind);
    let mut empty = true;
    let mut failure = None;
    let mut index = 0;
    while index < targets.len() {
        // Rows of one kind stand in one table, however many names were asked for.
        let resource = targets[index].resource;
        let mut printer = Printer::new(args, several.then(|| resource.label()));
        let mut version = String::new();
        while index < targets.len() && targets[index].resource == resource {
            match connection.get_as(&targets[index].path(args, connection), TABLE).await {
                Ok(table) => {
                    version =
                        table["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
                    printer.add(&table);
                }
                Err(error) => failure = Some(report(failure, error)),
            }
            index += 1;
        }
        if !empty && !printer.rows.is_empty() {
            crate::say!("");
        }
        empty &= !printer.print();
        if args.watch && failure.is_none() {
            return watch_tables(args, connection, &targets[index - 1], printer, version).await;
        }
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    if empty {
        let place = match args.scope.namespace(connection) {
            Some(namespace) if targets[0].resource.namespaced => {
                format!(" in {namespace} namespace")
            }
            _ => String::new(),
        };
        crate::note!("No resources found{place}.");
    }
    Ok(())
}

/// Of several failures all are told, the last one as the command's own.
fn report(before: Option<Failure>, failure: Failure) -> Failure {
    if let Some(before) = before {
        crate::note!("{before}");
    }
    failure
}

async fn watch_tables(
    args: &Args,
    connection: &Connection,
    target: &Target<'_>,
    mut printer: Printer,
    version: String,
) -> Result<()> {
    let mut path = target.resource.path(args.scope.namespace(connection));
    let mut query = args.scope.query();
    if let Some(name) = &target.name {
        query.push(format!("fieldSelector=metadata.name%3D{}", escape(name)));
    }
    query.push(format!("watch=1&resourceVersion={}", escape(&version)));
    path = format!("{path}?{}", query.join("&"));
    let mut events = watch(connection, &path, TABLE).await?;
    while let Some(event) = events.try_next().await? {
        if event["type"] == "BOOKMARK" {
            continue;
        }
        printer.add(&event["object"]);
        printer.print();
    }
    Ok(())
}

/// The events of a watch; one of type ERROR ends it with its status as the failure.
pub(super) async fn watch(
    connection: &Connection,
    path: &str,
    accept: &str,
) -> Result<futures::stream::BoxStream<'static, Result<Value>>, Failure> {
    use tokio_util::codec::{FramedRead, LinesCodec};
    use tokio_util::compat::FuturesAsyncReadCompatExt;
    /// One event carries one object; the server bounds those at some megabytes.
    const MAX_LINE: usize = 32 * 1024 * 1024;

    let answer = connection.send(Call { accept, ..Call::new(Method::GET, path) }).await?;
    let body = answer.into_body().into_data_stream();
    let reader = body.map_err(std::io::Error::other).into_async_read().compat();
    let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE));
    let events = lines.map(|line| {
        let event: Value = serde_json::from_str(&line?)?;
        if event["type"] == "ERROR" {
            let status = event["object"].clone();
            let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(500);
            return Err(Failure::Status { code, status }.into());
        }
        Ok(event)
    });
    Ok(events.boxed())
}

struct Printer {
    wide: bool,
    headers: bool,
    with_namespace: bool,
    prefix: Option<String>,
    columns: Columns,
    definitions: Vec<Value>,
    rows: Vec<Vec<String>>,
}

impl Printer {
    fn new(args: &Args, prefix: Option<String>) -> Self {
        Self {
            wide: args.output == Some(Format::Wide),
            headers: !args.no_headers,
            with_namespace: args.scope.all_namespaces,
            prefix,
            columns: Columns::default(),
            definitions: vec![],
            rows: vec![],
        }
    }

    fn add(&mut self, table: &Value) {
        // Only the first table of a watch has definitions.
        if let Some(definitions) = table["columnDefinitions"].as_array()
            && self.definitions.is_empty()
            && !definitions.is_empty()
        {
            self.definitions = definitions.clone();
        }
        let shown: Vec<bool> = self
            .definitions
            .iter()
            .map(|column| self.wide || column["priority"].as_i64().unwrap_or(0) == 0)
            .collect();
        for row in table["rows"].as_array().into_iter().flatten() {
            let metadata = &row["object"]["metadata"];
            let mut cells: Vec<String> = row["cells"]
                .as_array()
                .into_iter()
                .flatten()
                .zip(&shown)
                .filter(|(_, shown)| **shown)
                .map(|(value, _)| cell(value))
                .collect();
            if let (Some(prefix), Some(first)) = (&self.prefix, cells.first_mut()) {
                *first = format!("{prefix}/{first}");
            }
            if self.with_namespace {
                cells.insert(0, metadata["namespace"].as_str().unwrap_or_default().to_owned());
            }
            self.rows.push(cells);
        }
    }

    /// Prints what came since the last time; answers whether there was anything.
    fn print(&mut self) -> bool {
        if self.rows.is_empty() {
            return false;
        }
        let mut rows = std::mem::take(&mut self.rows);
        if std::mem::take(&mut self.headers) {
            let shown = self
                .definitions
                .iter()
                .filter(|column| self.wide || column["priority"].as_i64().unwrap_or(0) == 0)
                .map(|column| column["name"].as_str().unwrap_or_default().to_uppercase());
            let namespace = self.with_namespace.then(|| "NAMESPACE".to_owned());
            rows.insert(0, namespace.into_iter().chain(shown).collect());
        }
        for line in self.columns.lines(&rows) {
            crate::say!("{line}");
        }
        true
    }
}

async fn objects(
    args: &Args,
    connection: &Connection,
    targets: &[Target<'_>],
    format: Format,
) -> Result<()> {
    let single = targets.len() == 1 && targets[0].name.is_some();
    let mut items = Vec::new();
    let mut failure = None;
    let mut version = String::new();
    for target in targets {
        match connection.get(&target.path(args, connection)).await {
            Ok(object) if target.name.is_some() => items.push((target.resource, object)),
            Ok(mut list) => {
                version = list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
                let api_version = list["apiVersion"].clone();
                if let Value::Array(found) = list["items"].take() {
                    // In a list the objects' own kind is left out on the wire.
                    items.extend(found.into_iter().map(|mut object| {
                        object["apiVersion"] = api_version.clone();
                        object["kind"] = target.resource.kind.clone().into();
                        (target.resource, object)
                    }));
                }
            }
            Err(error) => failure = Some(report(failure, error)),
        }
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    match format {
        Format::Name => {
            for (resource, object) in &items {
                name_line(resource, object);
            }
        }
        _ if single => document(&items.remove(0).1, format)?,
        _ if args.watch => {
            for (_, object) in &items {
                document(object, format)?;
            }
        }
        _ => {
            let items: Vec<Value> = items.into_iter().map(|(_, object)| object).collect();
            let list = serde_json::json!({
                "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items
            });
            document(&list, format)?;
        }
    }
    if !args.watch {
        return Ok(());
    }
    let target = &targets[0];
    let mut query = args.scope.query();
    if let Some(name) = &target.name {
        query.push(format!("fieldSelector=metadata.name%3D{}", escape(name)));
    }
    query.push(format!("watch=1&resourceVersion={}", escape(&version)));
    let path =
        format!("{}?{}", target.resource.path(args.scope.namespace(connection)), query.join("&"));
    let mut events = watch(connection, &path, "application/json").await?;
    while let Some(event) = events.try_next().await? {
        match format {
            _ if event["type"] == "BOOKMARK" => {}
            Format::Name => name_line(target.resource, &event["object"]),
            _ => document(&event["object"], format)?,
        }
    }
    Ok(())
}

fn name_line(resource: &Resource, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    crate::say!("{}/{name}", resource.label());
}

fn document(object: &Value, format: Format) -> Result<()> {
    // Who manages which field is for programs; people ask for it with kubectl's --show-managed-fields.
    let mut object = object.clone();
    let strip = |object: &mut Value| {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    };
    strip(&mut object);
    if object["kind"] == "List" {
        object["items"].as_array_mut().into_iter().flatten().for_each(strip);
    }
    match format {
        Format::Yaml => {
            let text = warren_api::yaml::to_string(&object)?;
            crate::output::raw(format!("---\n{text}").trim_start_matches("---\n").as_bytes());
        }
        _ => crate::say!("{}", serde_json::to_string_pretty(&object)?),
    }
    Ok(())
}
