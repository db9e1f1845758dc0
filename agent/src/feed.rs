//! Feeds the manager: the node's pods, from its queue and from the API, kept on disk before they are acknowledged.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::{mpsc, oneshot};
use warren_broker::consume::reason;
use warren_broker::{
    Ack, Delivery, Event, EventType, Fabric, Present, Stream, Subscription, leaves_hops,
};
use warren_process::trace::Step;

use crate::commands::{Command, Commands, Local};
use crate::context::Context;
use crate::desired::{Desired, Effect, revision};
use crate::keep::{Keep, KeepError, until_kept};
use crate::mirror::{self, Mirrors};
use crate::network::EventSink;
use crate::pod::manager::{Change, Message, Source};
use crate::pod::spec;
use crate::provisional::{SharedLog, Since, typed};
use crate::status_writer::StatusWriter;
use listing::{Listing, answer, saw};

mod listing;
mod stored;

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
                Delivery::Present(present, ack) => {
                    Box::pin(self.present(&present)).await;
                    ack.ack().await;
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
                    tracing::info!(node = %node, reason, "no events come by the fabric");
                    // It may be the queue alone that is gone; the server declares it anew.
                    heads.ask_soon(true);
                }
            }
        }
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
                    until_kept("an adopted pod", || self.keep.put_pod(&uid, body.clone())).await;
                }
                let effect = desired.upsert(&self.context.node.0, *pod);
                self.apply(effect).await;
                self.tell(Change::Mirrored(uid)).await;
                let _ = done.send(());
            }
            Local::Gone(uid, done) => {
                until_kept("the end of a pod", || self.keep.delete_pod(&uid)).await;
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
                until_kept("an event", || self.store(&event, &pod, keeps)).await;
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
                    if crate::node::is_taken_for_lost(&node) {
                        self.context.tell_again.notify_one();
                    }
                }
                self.sinks.iter().for_each(|sink| sink.event(&event));
            }
            _ => self.sinks.iter().for_each(|sink| sink.event(&event)),
        }
        ack.ack().await;
        self.hop(Step::Acknowledged, &event);
    }

    /// What a pod that comes next refers to: the API need not be asked for it.
    async fn present(&self, present: &Present) {
        // A hint: whoever lacks it asks.
        if &*present.key.resource.resource == "configmaps"
            && let Ok(map) = serde_json::from_slice(&present.object)
        {
            self.context.objects.brought(&present.key.namespace, &present.key.name, map).await;
        }
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

async fn finish(handing: &mut Option<BoxFuture<'static, ()>>) {
    if let Some(handing) = handing {
        handing.await;
    }
}
