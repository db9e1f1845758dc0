//! Feeds the manager: the node's pods, from its queue and from the API, kept on disk before they are acknowledged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use tokio::sync::{mpsc, oneshot};
use warren_api::Revision;
use warren_broker::consume::reason;
use warren_broker::{
    Ack, Delivery, Event, EventType, Fabric, Stream, Subscriber, Subscription, leaves_hops,
};
use warren_process::trace::Step;

use crate::api::PodList;
use crate::commands::{Command, Commands, Local};
use crate::context::Context;
use crate::desired::{Desired, Effect, revision};
use crate::keep::{Keep, KeepError};
use crate::mirror::{self, Mirrors};
use crate::network::EventSink;
use crate::pod::manager::{Change, Message, Source};
use crate::pod::spec;
use crate::provisional::{Log, SharedLog, Since, typed};
use crate::status_writer::StatusWriter;

/// Between tries to list the node's pods; doubled, up to the last, half of it chance.
const LIST_FIRST: Duration = Duration::from_millis(200);
const LIST_LAST: Duration = Duration::from_secs(10);
/// Lists that are older than what came meanwhile are asked for again so often: the API goes back behind a restore only.
const STALE_LISTS: u32 = 3;

/// Never ends.
pub(crate) struct Feed {
    pub context: Arc<Context>,
    pub fabric: Arc<dyn Fabric>,
    pub keep: Arc<dyn Keep>,
    pub mirrors: Mirrors,
    pub writer: StatusWriter,
    pub sinks: Vec<Arc<dyn EventSink>>,
    pub manager: mpsc::Sender<Message>,
    pub commands: Commands,
    /// What commands did without the API.
    pub log: SharedLog,
    /// What they do now.
    pub local: mpsc::Receiver<Local>,
    /// Told when the log was read from disk.
    pub loaded: oneshot::Sender<()>,
}

/// A list that is being asked for, and of which streams.
struct Listing {
    streams: Vec<Stream>,
    answer: BoxFuture<'static, PodList>,
    /// The newest that was applied since it was asked for.
    newest: Revision,
    stale: u32,
    /// An agent that was stopped waits for it.
    awaited: bool,
    /// The API has another database.
    restored: bool,
}

impl Feed {
    pub(crate) async fn run(mut self) {
        let mut desired = Desired::default();
        let node = self.context.node.0.clone();
        Box::pin(self.stored(&node, &mut desired)).await;
        let (idle, _) = oneshot::channel();
        let _ = std::mem::replace(&mut self.loaded, idle).send(());
        let mut subscriber =
            self.fabric.subscribe(Subscription::Node(self.context.node.clone())).await;
        let mut listing: Option<Listing> = None;
        // A list that was asked for while another one was under way.
        let mut next: Option<Vec<Stream>> = None;
        let (mut awaited, mut restored) = (false, false);
        let mut handing: Option<BoxFuture<'static, ()>> = None;
        let context = Arc::clone(&self.context);
        let heads = &context.heads;
        loop {
            if listing.is_none() {
                listing = next.take().map(|streams| self.ask(streams));
                if let Some(listing) = &mut listing {
                    listing.awaited = std::mem::take(&mut awaited);
                    listing.restored = std::mem::take(&mut restored);
                }
            }
            // Who can do without the API reads on while nobody answers: events and commands wait there.
            let alone = listing.is_none() || context.autonomy.acts_alone();
            let reads = handing.is_none() && alone;
            heads.want(subscriber.wants_heads());
            let delivery = tokio::select! {
                delivery = subscriber.next(), if reads => delivery,
                told = heads.told(), if listing.is_none() => {
                    subscriber.heads(told);
                    continue;
                }
                list = answer(&mut listing), if listing.is_some() => {
                    let done = listing.take();
                    listing = Box::pin(self.answered(&mut desired, &mut *subscriber, done, list)).await;
                    continue;
                }
                () = context.vigil.asks_for_a_list() => {
                    (next, awaited) = (Some(Vec::new()), true);
                    continue;
                }
                () = finish(&mut handing), if handing.is_some() => {
                    handing = None;
                    continue;
                }
                Some(local) = self.local.recv() => {
                    let lists = Box::pin(self.local(&mut desired, &mut listing, local)).await;
                    if lists {
                        next = Some(Vec::new());
                    }
                    continue;
                }
            };
            match delivery {
                Delivery::Event(event, ack) => {
                    // What a delivery needs is there while it is worked on, not as long as the node is.
                    self.hop(Step::Delivered, &event);
                    saw(&mut listing, event.revision);
                    Box::pin(self.event(&mut desired, event, ack)).await;
                }
                Delivery::Relist { streams, reason, .. } => {
                    tracing::debug!(node = %node, reason, "listing the node's pods");
                    if reason == reason::HEAD {
                        heads.ask_soon(true);
                    }
                    restored |= reason == reason::EPOCH;
                    next = Some(match next.take() {
                        Some(before) if !before.is_empty() && !streams.is_empty() => {
                            [before, streams].concat()
                        }
                        // All of them.
                        Some(_) => Vec::new(),
                        None => streams,
                    });
                }
                Delivery::Reconnected { .. } => heads.ask_soon(false),
                Delivery::Command {
                    body,
                    message_id,
                    publisher,
                    repeated,
                    reply,
                    imitation,
                    ack,
                    ..
                } => {
                    let command =
                        Command { body, message_id, publisher, repeated, reply, imitation, ack };
                    // Not waited for: who carries it out may wait for this task.
                    handing = Some(self.commands.clone().hand_in(command).boxed());
                }
                Delivery::Down { reason, .. } => {
                    tracing::info!(node = %node, reason, "the fabric is out of reach");
                    // It may be the queue alone that is gone; the server declares it anew.
                    heads.ask_soon(true);
                }
            }
        }
    }

    /// What is on disk runs first: a cold start needs nobody.
    async fn stored(&self, node: &str, desired: &mut Desired) {
        // What has become of them since the API was last heard.
        let mut since: HashMap<_, _> = self.writer.restore().await.into_iter().collect();
        let pods = match self.keep.pods().await {
            Ok(pods) => pods,
            Err(error) => {
                tracing::error!(%error, "the stored pods cannot be read");
                Vec::new()
            }
        };
        let mut stored: Vec<Pod> = Vec::with_capacity(pods.len());
        for bytes in pods {
            match serde_json::from_slice(&bytes) {
                Ok(pod) => stored.push(pod),
                Err(error) => tracing::warn!(%error, "a stored pod cannot be read"),
            }
        }
        let adopted: HashSet<String> =
            stored.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        let log = Log::load(&self.keep, &adopted).await;
        let begun = log.begun();
        *self.log.lock() = log;
        let known = !stored.is_empty() || !begun.is_empty();
        for mut pod in stored {
            with_status(&mut pod, &mut since);
            let last = pod.clone();
            let effect = desired.upsert(node, pod);
            let uid = last.metadata.uid.as_deref().unwrap_or_default();
            if effect.is_some() && self.since(uid) == Some(Since::Ended) {
                // Its containers may be there still.
                self.tell(Change::Ended(Arc::new(last))).await;
            } else {
                self.apply(effect).await;
            }
        }
        for (body, wanted) in begun {
            match typed(&body) {
                Ok(mut pod) => {
                    with_status(&mut pod, &mut since);
                    let pod = Arc::new(pod);
                    self.tell(match wanted {
                        true => Change::Upsert(pod, Source::Api),
                        false => Change::Ended(pod),
                    })
                    .await;
                }
                Err(error) => tracing::warn!(%error, "a provisional pod cannot be read"),
            }
        }
        if known {
            tracing::info!(node = %node, "running what is on disk until the API answers");
        }
    }

    /// Asks until there is an answer.
    fn ask(&self, streams: Vec<Stream>) -> Listing {
        let context = Arc::clone(&self.context);
        let answer = async move {
            let node = context.node.0.clone();
            let mut wait = LIST_FIRST;
            loop {
                match context.api.pods(&node).await {
                    Ok(answer) => return answer,
                    Err(error) => {
                        tracing::debug!(node = %node, %error, "the node's pods cannot be listed yet");
                        tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
                        wait = (wait * 2).min(LIST_LAST);
                    }
                }
            }
        };
        Listing {
            streams,
            answer: answer.boxed(),
            newest: Revision(0),
            stale: 0,
            awaited: false,
            restored: false,
        }
    }

    /// Takes a list over, or asks again where it is older than what came meanwhile.
    async fn answered(
        &self,
        desired: &mut Desired,
        subscriber: &mut dyn Subscriber,
        listing: Option<Listing>,
        list: PodList,
    ) -> Option<Listing> {
        let at = list.at;
        let Listing { streams, newest, stale, awaited, restored, .. } = listing?;
        if at < newest && stale < STALE_LISTS {
            return Some(Listing { stale: stale + 1, awaited, restored, ..self.ask(streams) });
        }
        self.listed(desired, list).await;
        if awaited {
            self.context.vigil.listed();
        }
        subscriber.listed(&streams, at);
        if restored {
            self.context.restored.notify_one();
        }
        None
    }

    async fn listed(&self, desired: &mut Desired, list: PodList) {
        let (listed, PodList { pods, at, .. }) = (list.listed(), list);
        let bodies: Vec<(String, Bytes)> = pods
            .iter()
            .filter(|p| mirror::mirrors(p).is_none())
            .filter_map(|p| {
                let body = serde_json::to_vec(p).ok()?;
                Some((p.metadata.uid.clone()?, Bytes::from(body)))
            })
            .collect();
        let kept = self.keep.replace_pods(bodies).await;
        if let Err(error) = &kept {
            tracing::error!(%error, "the pods of this node are not on disk");
        }
        // Pods that are on their way out may still need theirs.
        let ending = self.context.index.pods(Some(&self.context.node.0));
        let ending = ending.iter().map(|entry| &*entry.pod);
        self.context.objects.keep_for(pods.iter().chain(ending)).await;
        self.mirrors.listed(pods.iter().filter(|p| mirror::mirrors(p).is_some()));
        for effect in desired.replace(&self.context.node.0, pods, at) {
            self.apply(Some(effect)).await;
        }
        self.context.objects.forget_all();
        self.sinks.iter().for_each(|sink| sink.relist());
        // What is not on disk a restart would not know.
        self.tell(Change::Complete(listed.filter(|_| kept.is_ok()))).await;
        self.writer.wake();
        self.context.api_answers.notify_one();
    }

    /// What a command does here. Answers whether the API must be listed.
    async fn local(
        &self,
        desired: &mut Desired,
        listing: &mut Option<Listing>,
        local: Local,
    ) -> bool {
        match local {
            Local::Run(pod) => self.tell(Change::Upsert(pod, Source::Api)).await,
            Local::Change(pod) => {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                let begun = || self.log.lock().begun();
                let is_begun = |(pod, wanted): &(Box<warren_api::Object>, bool)| {
                    *wanted && pod.str_at(&["metadata", "uid"]) == uid
                };
                // The API may have ended it before.
                if desired.has(uid) || begun().iter().any(is_begun) {
                    self.tell(Change::Upsert(pod, Source::Api)).await;
                }
            }
            Local::End(uid) => self.tell(Change::Remove(uid, None)).await,
            Local::Adopted(pod, done) => {
                saw(listing, revision(&pod));
                let uid = Arc::<str>::from(pod.metadata.uid.as_deref().unwrap_or_default());
                if let Ok(body) = serde_json::to_vec(&pod) {
                    let body = Bytes::from(body);
                    while let Err(error) = self.keep.put_pod(&uid, body.clone()).await {
                        tracing::error!(%error, "an adopted pod cannot be kept; trying until it can");
                        tokio::time::sleep(LIST_FIRST).await;
                    }
                }
                let effect = desired.upsert(&self.context.node.0, *pod);
                self.apply(effect).await;
                self.tell(Change::Mirrored(uid)).await;
                let _ = done.send(());
            }
            Local::Gone(uid, done) => {
                while let Err(error) = self.keep.delete_pod(&uid).await {
                    tracing::error!(%error, "an ended pod is still kept; trying until it is not");
                    tokio::time::sleep(LIST_FIRST).await;
                }
                desired.remove(&uid, None);
                let _ = done.send(());
            }
            Local::Undo(uid) => {
                desired.again(&uid);
                return true;
            }
        }
        false
    }

    fn since(&self, uid: &str) -> Option<Since> {
        self.log.lock().since(uid)
    }

    async fn event(&self, desired: &mut Desired, event: Event, ack: Box<dyn Ack>) {
        let resource = (&*event.key.resource.group, &*event.key.resource.resource);
        match resource {
            ("", "pods") if desired.is_old(&event.uid.0, event.revision) => {}
            ("", "pods") => {
                let pod: Pod = match serde_json::from_slice(&event.object) {
                    Ok(pod) => pod,
                    Err(error) => {
                        ack.reject(format!("the pod cannot be read: {error}")).await;
                        return;
                    }
                };
                let ours = spec::spec(&pod).node_name.as_deref() == Some(&*self.context.node.0);
                let keeps = ours && event.event_type != EventType::Deleted;
                // Not given back where the disk fails: what follows would be applied before it.
                while let Err(error) = self.store(&event, &pod, keeps).await {
                    tracing::error!(%error, "an event cannot be kept; trying until it can");
                    tokio::time::sleep(LIST_FIRST).await;
                }
                let effect = match event.event_type {
                    EventType::Deleted => desired.remove(&event.uid.0, Some(pod)),
                    EventType::Added | EventType::Modified => {
                        desired.upsert(&self.context.node.0, pod)
                    }
                };
                self.apply(effect).await;
            }
            ("", kind @ ("configmaps" | "secrets")) => {
                let kind = kind.trim_end_matches('s');
                let (namespace, name) = (&event.key.namespace, &event.key.name);
                match event.event_type {
                    EventType::Deleted => {
                        self.context.objects.deleted(kind, namespace, name).await;
                    }
                    _ => self.context.objects.forget(kind, namespace, name),
                }
                let (namespace, name) =
                    (event.key.namespace.to_string(), event.key.name.to_string());
                self.tell(Change::Object(namespace, name)).await;
            }
            ("", "nodes") => {
                let own = *event.key.name == *self.context.node.0;
                if let (true, Ok(node)) = (own, serde_json::from_slice::<Node>(&event.object)) {
                    self.context.autonomy.saw(&node).await;
                }
                self.sinks.iter().for_each(|sink| sink.event(&event));
            }
            _ => self.sinks.iter().for_each(|sink| sink.event(&event)),
        }
        ack.ack().await;
        self.hop(Step::Acknowledged, &event);
    }

    fn hop(&self, step: Step, event: &Event) {
        if leaves_hops(&event.key) {
            self.context.trace.push(step, event.about(), "");
        }
    }

    async fn store(&self, event: &Event, pod: &Pod, keeps: bool) -> Result<(), KeepError> {
        if mirror::mirrors(pod).is_some() {
            Ok(())
        } else if keeps {
            self.keep.put_pod(&event.uid.0, event.object.clone()).await
        } else {
            self.keep.delete_pod(&event.uid.0).await
        }
    }

    async fn apply(&self, effect: Option<Effect>) {
        match effect {
            None => {}
            Some(Effect::Run(pod)) => {
                // What a command has made of it meanwhile counts until the API has heard of the command.
                let pod = match self.since(pod.metadata.uid.as_deref().unwrap_or_default()) {
                    None => pod,
                    Some(Since::Ended) => return,
                    Some(Since::Is(body)) => match typed(&body) {
                        Ok(mut body) => {
                            body.status.clone_from(&pod.status);
                            Arc::new(body)
                        }
                        Err(_) => pod,
                    },
                };
                self.tell(Change::Upsert(pod, Source::Api)).await;
            }
            Some(Effect::End(uid, last)) => self.tell(Change::Remove(uid, last)).await,
            Some(Effect::MirrorSeen(pod)) => {
                self.mirrors.saw(&pod);
                self.writer.wake();
                if let (Some(uid), Some(status)) = (mirror::mirrors(&pod), &pod.status) {
                    self.tell(Change::Told(uid.into(), Arc::new(status.clone()))).await;
                }
            }
            Some(Effect::MirrorGone { namespace, name, uid }) => {
                self.mirrors.gone(&namespace, &name, &uid);
            }
        }
    }

    async fn tell(&self, change: Change) {
        let _ = self.manager.send(Message::Change(change)).await;
    }
}

/// The answer to a list that is being asked for. Cancellation safe.
async fn answer(listing: &mut Option<Listing>) -> PodList {
    match listing {
        Some(listing) => (&mut listing.answer).await,
        None => std::future::pending().await,
    }
}

async fn finish(handing: &mut Option<BoxFuture<'static, ()>>) {
    if let Some(handing) = handing {
        handing.await;
    }
}

fn saw(listing: &mut Option<Listing>, revision: Revision) {
    if let Some(listing) = listing {
        listing.newest = listing.newest.max(revision);
    }
}

fn with_status(pod: &mut Pod, since: &mut HashMap<Arc<str>, Arc<PodStatus>>) {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if let Some(status) = since.remove(uid) {
        pod.status = Some(Arc::unwrap_or_clone(status));
    }
}
