//! What people and programs put on a node's queue: handed to the API under their own identity, or refused with a reason.
//! An autonomous node acts first where there is no API ([`provisional`]), and hands in what it did when there is one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use warren_api::manifest;
use warren_api::{NodeName, Registry, Status, Uid};
use warren_broker::{Ack, Fabric, ReplyTo};
use warren_process::Seldom;

use crate::api::{ApiError, SharedApi};
use crate::context::Context;
use crate::events::Level;
use crate::keep::Keep;
use crate::manifests::StaticSource;
use crate::pod::memory::Backoff;
use crate::provisional::{Acted, Record, SharedLog};

use crate::wish::{self, Wish};
use grant::{refusal, success};

mod grant;
mod offline;

/// Commands that wait to be handed in; the queue is not read further meanwhile.
const WAITING: usize = 64;
const NO_EVENT: &str = "it has the form of an event, and the server did not send it";
/// An Event is a change like any other, which a queue of somebody's may bring back here as another such message: what is
/// said of them is said so often.
const NO_EVENT_TOLD_EVERY: Duration = Duration::from_secs(600);
const RETRY: Backoff = Backoff { first: Duration::from_millis(300), last: Duration::from_secs(10) };
/// An autonomous node does not wait longer for an API before it acts by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// Nor for one answer. What is asked may still be done; asking again is harmless.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Command {
    pub body: Bytes,
    pub message_id: Option<String>,
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

/// What that task works with.
pub(crate) struct Parts {
    pub context: Arc<Context>,
    pub fabric: Arc<dyn Fabric>,
    pub folder: Option<StaticSource>,
    pub keep: Arc<dyn Keep>,
    pub log: SharedLog,
    /// What is done before the API knows of it.
    pub feed: mpsc::Sender<Local>,
    /// Told when the log was read from disk.
    pub loaded: oneshot::Receiver<()>,
}

/// What a command does on this node before the API knows of it, or because the API does.
pub(crate) enum Local {
    /// The pod is wanted, as it is here.
    Run(Arc<Pod>),
    /// A pod that runs is another now.
    Change(Arc<Pod>),
    End(Arc<str>),
    /// The API has it, under the uid that it has here. Answered when that is on disk.
    Adopted(Box<Pod>, oneshot::Sender<()>),
    /// The API has it no more. Answered when that is on disk.
    Gone(Arc<str>, oneshot::Sender<()>),
    /// What was done to it does not count: the API's word does.
    Undo(Arc<str>),
}

impl Commands {
    pub(crate) fn start(parts: Parts) -> Self {
        let (send, receive) = mpsc::channel(WAITING);
        let Parts { context, fabric, folder, keep, log, feed, loaded } = parts;
        let tasks = context.tasks.clone();
        let worker = Worker {
            api: Arc::clone(&context.api),
            node: context.node.to_string(),
            context,
            fabric,
            folder,
            keep,
            log,
            feed,
            registry: Registry::builtin(),
            log_lines: Seldom::default(),
            imitations: Seldom::new(NO_EVENT_TOLD_EVERY),
            failures: 0,
            again: Instant::now(),
        };
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("node-commands", async move {
            tokio::select! {
                () = worker.run(receive, loaded) => {}
                () = shutdown.draining() => {}
            }
        });
        Self(send)
    }

    pub(crate) async fn hand_in(self, command: Command) {
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

struct Worker {
    context: Arc<Context>,
    api: SharedApi,
    fabric: Arc<dyn Fabric>,
    node: String,
    folder: Option<StaticSource>,
    keep: Arc<dyn Keep>,
    log: SharedLog,
    feed: mpsc::Sender<Local>,
    registry: Registry,
    log_lines: Seldom,
    /// Events about what is dressed as one.
    imitations: Seldom,
    /// The API was asked about the log in vain so often, and is asked again then.
    failures: u32,
    again: Instant,
}

/// What is known of a message beside its body.
struct Said<'a> {
    publisher: Option<&'a str>,
    reply: Option<&'a ReplyTo>,
    content: String,
    has_id: bool,
}

impl Worker {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, loaded: oneshot::Receiver<()>) {
        let _ = loaded.await;
        self.stop_manifests().await;
        loop {
            let waits = !self.log.lock().is_empty();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => {
                        // A process that was stopped looks first whether it still is the node.
                        self.context.vigil.may_act().await;
                        self.command(command).await;
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(self.again), if waits => self.settle().await,
                () = self.context.api_answers.notified(), if waits => self.settle().await,
            }
        }
    }

    async fn command(&mut self, command: Command) {
        let Command { body, message_id, publisher, repeated, reply, imitation, ack } = command;
        let said = Said {
            publisher: publisher.as_deref(),
            reply: reply.as_ref(),
            content: content(publisher.as_deref(), message_id.as_deref(), &body),
            has_id: message_id.is_some(),
        };
        let done = match imitation {
            true => Err(Status::bad_request(NO_EVENT)),
            false => self.take(&body, repeated, &said).await,
        };
        let answer = match &done {
            Ok(status) => status.clone(),
            Err(status) => Some(status.to_json()),
        };
        if let (Some(to), Some(status)) = (&reply, answer) {
            self.reply(to, &status).await;
        }
        match done {
            Ok(_) => ack.ack().await,
            Err(Status { message: reason, .. }) => {
                // Whoever has it dead-lettered logs the reason.
                tracing::debug!(node = %self.node, publisher, %reason, "a command was refused");
                if !imitation || self.imitations.pass("imitation").is_some() {
                    let by = publisher.as_deref().unwrap_or("somebody without an account");
                    let message = format!("A message of {by} on this node's queue: {reason}");
                    self.tell_node("CommandRefused", &message);
                }
                ack.reject(reason).await;
            }
        }
    }

    async fn reply(&self, to: &ReplyTo, status: &Value) {
        if let Err(error) = self.fabric.reply(to, status).await
            && let Some(left_out) = self.log_lines.pass("not answered")
        {
            let error = error.report();
            tracing::warn!(node = %self.node, %error, left_out, "a command was not answered");
        }
    }

    fn tell_node(&self, reason: &str, message: &str) {
        let events = &self.context.events;
        events.node(&self.context.node, Level::Warning, reason, message);
    }

    /// The answer is that of the last wish, as the server's; `None` where it follows when the API has heard of it.
    async fn take(
        &mut self,
        body: &[u8],
        repeated: bool,
        said: &Said<'_>,
    ) -> Result<Option<Value>, Status> {
        let by = identity(said.publisher);
        let mut last = Some(success(200, Value::Null));
        let wishes = wish::read(&self.registry, &self.node, body).map_err(Status::bad_request)?;
        let count = wishes.len();
        for (n, wish) in wishes.into_iter().enumerate() {
            let content = format!("{}/{n}", said.content);
            let known = self.log.lock().knows(&content);
            if wish.makes_another() && (repeated || known) {
                if let Some(left_out) = self.log_lines.pass(manifest::MADE_ALREADY) {
                    let made = manifest::MADE_ALREADY;
                    tracing::info!(node = %self.node, said.publisher, left_out, "{made}");
                }
                let mut status = success(200, Value::Null);
                status["message"] = manifest::MADE_ALREADY.into();
                last = Some(status);
                continue;
            }
            if known && said.has_id {
                // It was done, and not acknowledged yet.
                last = None;
                continue;
            }
            let uid = self.new_uid(&wish);
            last = match self.online(&wish, uid.as_deref(), &by).await {
                Some(Ok(status)) => Some(status),
                Some(Err(error)) => return Err(refusal(error)),
                None => {
                    let uid = uid.unwrap_or_default();
                    let reply = said.reply.filter(|_| n + 1 == count);
                    self.offline(wish, &uid, content, said.publisher, reply).await?;
                    None
                }
            };
        }
        Ok(last)
    }

    /// `None`: the API does not answer, and the node acts by itself.
    async fn online(
        &mut self,
        wish: &Wish,
        uid: Option<&str>,
        by: &String,
    ) -> Option<Result<Value, ApiError>> {
        if let Wish::Start(name) = wish {
            self.starts(name).await;
            return Some(self.start(name).await);
        }
        let since = Instant::now();
        let mut failures = 0;
        loop {
            let (waits, full) = {
                let log = self.log.lock();
                (!log.is_empty(), log.is_full())
            };
            let alone = self.context.autonomy.acts_alone() && !full;
            if waits && alone {
                // What was said before has not been heard yet.
                return None;
            }
            if waits {
                self.settle().await;
                if !self.log.lock().is_empty() {
                    tokio::time::sleep_until(self.again).await;
                }
                continue;
            }
            match self.within(alone, self.grant(wish, uid, by)).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(node = %self.node, %error, "a command waits for the API");
                    if alone && since.elapsed() >= PATIENCE {
                        return None;
                    }
                    failures += 1;
                    let wait = RETRY.after(failures);
                    let left = PATIENCE.saturating_sub(since.elapsed());
                    tokio::time::sleep(if alone { wait.min(left) } else { wait }).await;
                }
                result => return Some(result),
            }
        }
    }

    /// Who can do without the API waits for one answer for a while only.
    async fn within<T>(
        &self,
        bounded: bool,
        asking: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        if !bounded {
            return asking.await;
        }
        match tokio::time::timeout(ANSWER_WITHIN, asking).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::Unreachable(format!("no answer within {ANSWER_WITHIN:?}"))),
        }
    }

    /// Nodes that may act first say from the beginning which pod they mean: an answer may be lost.
    fn new_uid(&self, wish: &Wish) -> Option<String> {
        let acts = self.context.autonomy.acts_alone() && matches!(wish, Wish::Apply(_));
        let node = NodeName(self.node.as_str().into());
        acts.then(|| Uid::of_node(&node, rand::random()).to_string())
    }
}

/// By which a message is known when it comes again.
fn content(publisher: Option<&str>, message_id: Option<&str>, body: &[u8]) -> String {
    let said = message_id.map_or(body, str::as_bytes);
    let mut hash = Sha256::new();
    hash.update(publisher.unwrap_or_default());
    hash.update([0, u8::from(message_id.is_some())]);
    hash.update(said);
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
