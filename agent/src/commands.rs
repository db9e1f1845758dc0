//! What people and programs put on a node's queue: handed to the API under their own identity, or refused with a reason.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use warren_api::manifest::{self, Manifest};
use warren_api::validation::names;
use warren_api::{NodeName, Object, Reason, Registry, Status};
use warren_broker::{Ack, Fabric, ReplyTo};
use warren_process::Tasks;

use crate::api::{ApiError, SharedApi};
use crate::events::{Events, Level};
use crate::manifests::StaticSource;

/// Commands that wait to be handed in; the queue is not read further meanwhile.
const WAITING: usize = 64;
/// A larger message is refused.
const BODY_LIMIT: usize = 1 << 20;
const NO_EVENT: &str = "it has the form of an event, and the server did not send it";
const RETRY_FIRST: Duration = Duration::from_millis(300);
const RETRY_LAST: Duration = Duration::from_secs(10);

pub(crate) struct Command {
    pub body: Bytes,
    pub publisher: Option<String>,
    /// The same came before, without an id.
    pub repeated: bool,
    pub reply: Option<ReplyTo>,
    pub imitation: bool,
    pub ack: Box<dyn Ack>,
}

/// A handle on the task that hands commands in, in their order.
#[derive(Clone)]
pub(crate) struct Commands(mpsc::Sender<Command>);

impl Commands {
    pub(crate) fn start(
        api: SharedApi,
        fabric: Arc<dyn Fabric>,
        node: &str,
        folder: Option<StaticSource>,
        events: Events,
        tasks: &Tasks,
    ) -> Self {
        let (send, receive) = mpsc::channel(WAITING);
        let worker = Worker {
            api,
            fabric,
            node: node.to_owned(),
            folder,
            events,
            registry: Registry::builtin(),
        };
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("node-commands", async move {
            tokio::select! {
                () = worker.run(receive) => {}
                () = shutdown.draining() => {}
            }
        });
        Self(send)
    }

    pub(crate) async fn hand_in(&self, command: Command) {
        let _ = self.0.send(command).await;
    }
}

/// Whose command it is. An account is one that the broker vouched for.
pub(crate) fn identity(publisher: Option<&str>) -> String {
    match publisher {
        Some(account) => format!("system:broker:{account}"),
        None => "system:broker-anonymous".to_owned(),
    }
}

/// What a command wants of this node; pure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wish {
    Apply(Box<Object>),
    Delete { namespace: String, name: String, uid: Option<String> },
    Start(String),
}

impl Wish {
    fn makes_another(&self) -> bool {
        matches!(self, Self::Apply(object) if object.name().is_empty())
    }
}

/// Reads a message. `Err` says why nobody can use it.
pub(crate) fn read(registry: &Registry, node: &str, body: &[u8]) -> Result<Vec<Wish>, String> {
    if body.len() > BODY_LIMIT {
        return Err(format!("the message is larger than {BODY_LIMIT} bytes"));
    }
    let commands = manifest::commands(registry, body).map_err(|error| error.to_string())?;
    if commands.is_empty() {
        return Err("there is no object in the message".into());
    }
    commands.into_iter().map(|command| wish(node, command)).collect()
}

fn wish(node: &str, command: manifest::Command) -> Result<Wish, String> {
    match command {
        manifest::Command::Apply(manifest) => {
            let Manifest { mut object, .. } = *manifest;
            pod_only(object.str_at(&["apiVersion"]), object.str_at(&["kind"]))?;
            let wanted = object.str_at(&["spec", "nodeName"]);
            if !wanted.is_empty() && wanted != node {
                return Err(format!(
                    "spec.nodeName: Invalid value: {wanted:?}: this is the queue of node {node:?}"
                ));
            }
            if object.str_at(&["metadata", "namespace"]).is_empty() {
                object.set_at(&["metadata", "namespace"], "default");
            }
            if object.str_at(&["metadata", "name"]).is_empty()
                && object.str_at(&["metadata", "generateName"]).is_empty()
            {
                return Err(
                    "metadata.name: Required value: name or generateName is required".into()
                );
            }
            // An old copy of the object must not make the write fail.
            for field in
                ["resourceVersion", "uid", "managedFields", "creationTimestamp", "generation"]
            {
                object.remove_at(&["metadata", field]);
            }
            object.remove_at(&["status"]);
            object.set_at(&["spec", "nodeName"], node);
            check_namespace(object.str_at(&["metadata", "namespace"]))?;
            Ok(Wish::Apply(Box::new(object)))
        }
        manifest::Command::Delete { api_version, kind, namespace, name, uid } => {
            pod_only(&api_version, &kind)?;
            let namespace = namespace.unwrap_or_else(|| "default".into());
            check_namespace(&namespace)?;
            if let Some(why) = names::dns1123_subdomain(&name).into_iter().next() {
                return Err(format!("metadata.name: Invalid value: {name:?}: {why}"));
            }
            Ok(Wish::Delete { namespace, name, uid })
        }
        manifest::Command::StartManifest { name } => Ok(Wish::Start(name)),
    }
}

/// It becomes a part of a path.
fn check_namespace(namespace: &str) -> Result<(), String> {
    match names::dns1123_label(namespace).into_iter().next() {
        None => Ok(()),
        Some(why) => Err(format!("metadata.namespace: Invalid value: {namespace:?}: {why}")),
    }
}

fn pod_only(api_version: &str, kind: &str) -> Result<(), String> {
    if (api_version, kind) == ("v1", "Pod") {
        return Ok(());
    }
    Err(format!(
        "kind {kind:?} in version {api_version:?} is not taken on a node's queue: only Pods are"
    ))
}

struct Worker {
    api: SharedApi,
    fabric: Arc<dyn Fabric>,
    node: String,
    folder: Option<StaticSource>,
    events: Events,
    registry: Registry,
}

impl Worker {
    async fn run(self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            let Command { body, publisher, repeated, reply, imitation, ack } = command;
            let done = match imitation {
                true => Err(Status::bad_request(NO_EVENT)),
                false => self.take(&body, repeated, publisher.as_deref()).await,
            };
            if let Some(to) = reply {
                let status = match &done {
                    Ok(status) => status.clone(),
                    Err(status) => status.to_json(),
                };
                if let Err(error) = self.fabric.reply(&to, &status).await {
                    let error = error.report();
                    tracing::warn!(node = %self.node, %error, "a command was not answered");
                }
            }
            match done {
                Ok(_) => ack.ack().await,
                Err(Status { message: reason, .. }) => {
                    // Whoever has it dead-lettered logs the reason.
                    tracing::debug!(node = %self.node, publisher, %reason, "a command was refused");
                    let by = publisher.as_deref().unwrap_or("somebody without an account");
                    let message = format!("A message of {by} on this node's queue: {reason}");
                    let node = NodeName(self.node.as_str().into());
                    self.events.node(&node, Level::Warning, "CommandRefused", &message);
                    ack.reject(reason).await;
                }
            }
        }
    }

    /// The answer is that of the last wish, as the server's.
    async fn take(
        &self,
        body: &[u8],
        repeated: bool,
        publisher: Option<&str>,
    ) -> Result<Value, Status> {
        let by = identity(publisher);
        let mut last = success(200, Value::Null);
        for wish in read(&self.registry, &self.node, body).map_err(Status::bad_request)? {
            if repeated && wish.makes_another() {
                tracing::info!(node = %self.node, publisher, "{}", manifest::MADE_ALREADY);
                last["message"] = manifest::MADE_ALREADY.into();
                continue;
            }
            let mut wait = RETRY_FIRST;
            last = loop {
                match self.grant(&wish, &by).await {
                    Ok(status) => break status,
                    Err(error) if error.is_transient() => {
                        tracing::debug!(node = %self.node, %error, "a command waits for the API");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(RETRY_LAST);
                    }
                    Err(error) => return Err(refusal(error)),
                }
            };
        }
        Ok(last)
    }

    async fn grant(&self, wish: &Wish, by: &String) -> Result<Value, ApiError> {
        match wish {
            Wish::Start(name) => {
                let started = match &self.folder {
                    Some(folder) => folder.start(name).await,
                    None => false,
                };
                let missing = || {
                    ApiError::NotFound(format!(
                        "podname: Not found: {name:?}: there is no such pod in the manifests folder of node {:?}",
                        self.node
                    ))
                };
                let status = || success(200, json!({"name": name, "kind": "Pod"}));
                started.then(status).ok_or_else(missing)
            }
            Wish::Delete { namespace, name, uid } => {
                let found = match &self.folder {
                    Some(folder) => folder.find(name).await,
                    None => None,
                };
                let (namespace, name) = match &found {
                    Some((namespace, name)) => (namespace, name),
                    None => (namespace, name),
                };
                let delete = self.api.delete_pod(namespace, name, uid.as_deref(), None, Some(by));
                match delete.await {
                    // What should not be there is not.
                    Ok(()) | Err(ApiError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
                let status = success(200, json!({"name": name, "kind": "Pod"}));
                if let (Some(folder), Some((_, name))) = (&self.folder, &found) {
                    // The API let it happen; deleting the mirror alone would bring it back.
                    folder.stop(name).await;
                }
                Ok(status)
            }
            Wish::Apply(object) => {
                let body = Value::from((**object).clone());
                let name = object.str_at(&["metadata", "name"]);
                let (code, pod) = match self.api.create_pod(&body, Some(by)).await {
                    Ok(pod) => (201, pod),
                    Err(ApiError::AlreadyExists(_)) if !name.is_empty() => {
                        let namespace = object.str_at(&["metadata", "namespace"]);
                        let patch = json!({"metadata": body["metadata"], "spec": body["spec"]});
                        (200, self.api.patch_pod(namespace, name, &patch, Some(by)).await?)
                    }
                    Err(error) => return Err(error),
                };
                let meta = &pod.metadata;
                Ok(success(code, json!({"name": meta.name, "uid": meta.uid, "kind": "Pod"})))
            }
        }
    }
}

/// As the server answers what came to `warren.commands`.
fn success(code: u16, details: Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "code": code, "details": details,
    })
}

/// The API's refusal, with the reason that goes with its code.
fn refusal(error: ApiError) -> Status {
    match error {
        ApiError::NotFound(message) => Status::new(Reason::NotFound, message),
        ApiError::AlreadyExists(message) => Status::new(Reason::AlreadyExists, message),
        ApiError::Conflict(message) => Status::new(Reason::Conflict, message),
        ApiError::Unreachable(message) => Status::new(Reason::ServiceUnavailable, message),
        ApiError::Refused(code, message) => {
            let reason = match code {
                401 => Reason::Unauthorized,
                403 => Reason::Forbidden,
                413 => Reason::RequestEntityTooLarge,
                422 => Reason::Invalid,
                _ => Reason::BadRequest,
            };
            Status::new(reason, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let registry = Registry::builtin();
        let read = |text: &str| super::read(&registry, "n1", text.as_bytes());
        let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
        for text in [
            pod.to_owned(),
            format!(r#"{{"type":"ADDED","object":{pod}}}"#),
            format!(r#"{{"action":"add","podspec":{pod}}}"#),
        ] {
            let wishes = read(&text).unwrap();
            let [Wish::Apply(object)] = &wishes[..] else { panic!("{text}: {wishes:?}") };
            assert_eq!(object.str_at(&["spec", "nodeName"]), "n1");
            assert_eq!(object.str_at(&["metadata", "namespace"]), "default");
        }
        assert_eq!(read(r#"{"action":"add","podname":"x"}"#), Ok(vec![Wish::Start("x".into())]));
        assert!(matches!(
            &read(r#"{"action":"delete","podname":"x"}"#).unwrap()[..],
            [Wish::Delete { name, .. }] if name == "x"
        ));
        let foreign = pod.replace("\"containers\"", "\"nodeName\":\"n2\",\"containers\"");
        for (text, reason) in [
            (
                foreign.as_str(),
                "spec.nodeName: Invalid value: \"n2\": this is the queue of node \"n1\"",
            ),
            (
                "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"x\"}}",
                "is not taken on a node's queue: only Pods are",
            ),
            ("{]", ""),
            ("hello", ""),
            ("{\"kind\":\"Nonsense\",\"apiVersion\":\"v1\"}", "Nonsense"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
