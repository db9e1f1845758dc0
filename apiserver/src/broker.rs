//! The server's side of RabbitMQ: the relay, the nodes' queues, and what comes as commands and as requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use warren_api::manifest::{self, Command, Manifest};
use warren_api::{GroupResource, NodeName, Object, Reason, Registry, Status};
use warren_broker::{BrokerConfig, Delivery, ServerLink};
use warren_process::{CheckHandle, Seldom};
use warren_store::Op;

use crate::api::{Api, handle};
use crate::authn::User;
use crate::cache::Scope;
use crate::degraded;
use crate::fabric::JournalOutbox;
use crate::response;
use crate::write::{MAX_BODY, collect};

mod api;

/// How often readiness looks at the link.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn start(api: &Arc<Api>, config: BrokerConfig, check: CheckHandle) {
    let link = ServerLink::start(config, &api.tasks);
    let _ = api.broker.set(link.clone());
    let (relay, outbox) =
        (link.relay().traced(api.trace.clone()), Arc::new(JournalOutbox::new(Arc::clone(api))));
    let shutdown = api.shutdown.clone();
    api.tasks.spawn_critical("relay", async move {
        relay.run(outbox, shutdown).await;
        Ok::<_, Infallible>(())
    });
    api.tasks.spawn("node-queues", node_queues(Arc::clone(api), link.clone()));
    api.tasks.spawn("commands", commands(Arc::clone(api), link.clone()));
    let (requests, handler) = (link.clone(), Arc::new(api::OverAmqp(Arc::clone(api))));
    api.tasks.spawn("requests", async move { requests.serve_api(handler).await });
    let (answers, shutdown) = (link.clone(), api.shutdown.clone());
    api.tasks.spawn("node-answers", async move {
        tokio::select! {
            () = answers.hand_on_answers() => {}
            () = shutdown.draining() => {}
        }
    });
    api.tasks.spawn("broker-readiness", watch_link(Arc::clone(api), check));
}

/// The broker's trouble is told, and takes nothing down.
async fn watch_link(api: Arc<Api>, check: CheckHandle) {
    loop {
        if let Some(link) = degraded::link(&api, None) {
            check.set(degraded::broker(&link));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = api.shutdown.draining() => return,
        }
    }
}

/// Declares a queue for each Node that is created, and removes it with the Node.
async fn node_queues(api: Arc<Api>, link: ServerLink) {
    let nodes = GroupResource::new("", "nodes");
    let mut head = api.cache.subscribe();
    loop {
        let (entries, mut cursor) = api.cache.list(&nodes, Scope::All);
        link.set_nodes(entries.iter().map(|e| NodeName(Arc::clone(&e.change.key.name))));
        // Until the tail is lost: then from the list again.
        while let Ok(changes) = api.cache.tail(cursor, 256) {
            if let Some(last) = changes.last() {
                cursor = last.revision;
            } else {
                tokio::select! {
                    changed = head.changed() => if changed.is_err() { return },
                    () = api.shutdown.draining() => return,
                }
            }
            for change in changes.iter().filter(|change| change.key.resource == nodes) {
                let name = NodeName(Arc::clone(&change.key.name));
                let done = match change.op {
                    Op::Added => link.declare_node(&name).await,
                    Op::Deleted => link.delete_node(&name).await,
                    Op::Modified => Ok(()),
                };
                match done {
                    Ok(()) => {}
                    // It is changed with the next connection; that there is none is told elsewhere, and once.
                    Err(error) if !link.status().connected => {
                        tracing::debug!(node = %name, %error, "a node's queue was not changed yet");
                    }
                    Err(error) => {
                        tracing::warn!(node = %name, %error, "a node's queue was not changed yet");
                    }
                }
            }
        }
    }
}

/// What people and programs ask for, done under their own identity.
async fn commands(api: Arc<Api>, link: ServerLink) {
    let mut reader = link.commands().await;
    let log = Seldom::default();
    loop {
        let delivery = tokio::select! {
            delivery = reader.next() => delivery,
            () = api.shutdown.draining() => return,
        };
        let Delivery::Command {
            body, publisher, repeated, routing_key, reply, imitation, ack, ..
        } = delivery
        else {
            continue;
        };
        let done = match imitation {
            true => Err(Status::bad_request(
                "it has the form of an event, and the server did not send it".to_owned(),
            )),
            false => execute(&api, &log, &body, repeated, publisher.as_deref(), &routing_key).await,
        };
        let status = match &done {
            Ok(status) => status.clone(),
            Err(status) => status.to_json(),
        };
        if let Some(to) = reply
            && let Err(error) = link.reply(&to, &status).await
        {
            tracing::debug!(%error, "nobody waits for the answer to a command");
        }
        match done {
            Ok(_) => ack.ack().await,
            // What may work later comes again; what never will goes to where somebody sees it.
            Err(status) if status.reason == Reason::ServiceUnavailable => drop(ack),
            Err(status) => ack.reject(status.message).await,
        }
    }
}

/// Does all that a message asks for, in its order, until one fails.
async fn execute(
    api: &Arc<Api>,
    log: &Seldom,
    body: &[u8],
    repeated: bool,
    publisher: Option<&str>,
    routing_key: &str,
) -> Result<Value, Status> {
    if body.len() > MAX_BODY {
        return Err(Status::new(Reason::RequestEntityTooLarge, "the message is too large"));
    }
    let commands = manifest::commands(&api.registry, body)
        .map_err(|error| Status::bad_request(error.to_string()))?;
    let user = Arc::new(User::broker(publisher));
    let mut last =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    for command in commands {
        if repeated && command.makes_another() {
            if let Some(left_out) = log.pass(manifest::MADE_ALREADY) {
                let made = manifest::MADE_ALREADY;
                tracing::info!(publisher, routing_key, left_out, "{made}");
            }
            last["message"] = manifest::MADE_ALREADY.into();
            continue;
        }
        last = match command {
            Command::Apply(manifest) => apply(api, &user, *manifest, routing_key).await?,
            Command::Delete { api_version, kind, namespace, name, uid } => {
                let path = path(api.registry, &api_version, &kind, namespace.as_deref(), &name)?;
                let options = match uid {
                    Some(uid) => json!({"preconditions": {"uid": uid}}),
                    None => Value::Null,
                };
                succeed(call(api, &user, Method::DELETE, &path, &options).await?)?
            }
            Command::StartManifest { name } => {
                return Err(Status::bad_request(format!(
                    "podname {name:?}: manifests lie on the nodes; publish it to a node's queue"
                )));
            }
        };
    }
    Ok(last)
}

/// Creates the object, or changes of it what is given: what the server and the scheduler have filled in stays. The routing key `apply` leaves the node to the scheduler;
/// another one is the node's name.
async fn apply(
    api: &Arc<Api>,
    user: &Arc<User>,
    manifest: Manifest,
    routing_key: &str,
) -> Result<Value, Status> {
    let mut object: Object = manifest.object;
    let is_pod = object.kind() == "Pod" && object.api_version() == "v1";
    if is_pod && routing_key != "apply" {
        let wanted = object.str_at(&["spec", "nodeName"]);
        if !wanted.is_empty() && wanted != routing_key {
            return Err(Status::bad_request(format!(
                "spec.nodeName: Invalid value: {wanted:?}: the routing key names node {routing_key:?}"
            )));
        }
        if api.cache.get(&GroupResource::new("", "nodes"), "", routing_key).is_none() {
            return Err(Status::bad_request(format!(
                "routing key: Not found: {routing_key:?}: it must be the name of a node, or \"apply\" to let the scheduler \
                 choose one"
            )));
        }
        object.set_at(&["spec", "nodeName"], routing_key);
    }
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
        object.remove_at(&["metadata", field]);
    }
    let (api_version, kind) = (object.api_version().to_owned(), object.kind().to_owned());
    let namespace = Some(object.namespace()).filter(|ns| !ns.is_empty()).map(str::to_owned);
    let name = object.name().to_owned();
    let path = path(api.registry, &api_version, &kind, namespace.as_deref(), &name)?;
    let (collection, _) = path.rsplit_once('/').unwrap_or((&path, ""));
    let value = Value::from(object);
    let created = call(api, user, Method::POST, collection, &value).await?;
    if created.0 != StatusCode::CONFLICT {
        return succeed(created);
    }
    let mut patch = value;
    if let Some(patch) = patch.as_object_mut() {
        patch.remove("status");
    }
    succeed(call(api, user, Method::PATCH, &path, &patch).await?)
}

fn path(
    registry: Registry,
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
) -> Result<String, Status> {
    let found = registry.by_kind(api_version, kind).ok_or_else(|| {
        Status::bad_request(format!("no matches for kind {kind:?} in version {api_version:?}"))
    })?;
    let root = if found.group().is_empty() { "api" } else { "apis" };
    let within = match found.is_namespaced() {
        true => format!("/namespaces/{}", escape(namespace.unwrap_or("default"))),
        false => String::new(),
    };
    Ok(format!("/{root}/{api_version}{within}/{}/{}", found.plural(), escape(name)))
}

/// A name as one segment of a path, whatever somebody wrote into it.
pub(crate) fn escape(name: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(byte.into()),
            byte => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

async fn call(
    api: &Arc<Api>,
    user: &Arc<User>,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<(StatusCode, Bytes), Status> {
    let is_patch = method == Method::PATCH;
    let body = if body.is_null() { Bytes::new() } else { crate::codec::bytes(body) };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(
            http::header::CONTENT_TYPE,
            match is_patch {
                true => "application/strategic-merge-patch+json",
                false => "application/json",
            },
        )
        .header(http::header::USER_AGENT, "warren-commands")
        .body(response::full(body))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    let answer = handle(Arc::clone(api), Some(Arc::clone(user)), request).await;
    let code = answer.status();
    Ok((code, collect(answer.into_body(), MAX_BODY).await?))
}

/// A failure's Status, whole; of a success what says so.
fn succeed((code, body): (StatusCode, Bytes)) -> Result<Value, Status> {
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if code.is_success() {
        let about = json!({
            "name": value["metadata"]["name"], "uid": value["metadata"]["uid"], "kind": value["kind"],
        });
        return Ok(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "code": code.as_u16(), "details": about,
        }));
    }
    let reason: Reason = serde_json::from_value(value["reason"].clone()).unwrap_or(match code {
        StatusCode::NOT_FOUND => Reason::NotFound,
        _ => Reason::InternalError,
    });
    Err(Status::new(reason, value["message"].as_str().unwrap_or(code.as_str())))
}
