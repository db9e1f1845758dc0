//! What should run here: the node's pods, from its queue and from the API, kept on disk before they are acknowledged.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use warren_api::Revision;
use warren_broker::consume::reason;
use warren_broker::{Ack, Delivery, Event, EventType, Fabric, Subscription, leaves_hops};
use warren_process::trace::Step;

use crate::commands::{Command, Commands};
use crate::context::Context;
use crate::keep::{Keep, KeepError};
use crate::mirror::{self, Mirrors};
use crate::network::EventSink;
use crate::pod::manager::{Change, Message, Source};
use crate::pod::spec;
use crate::status_writer::StatusWriter;

/// Between tries to list the node's pods; doubled, up to the last, half of it chance.
const LIST_FIRST: Duration = Duration::from_millis(200);
const LIST_LAST: Duration = Duration::from_secs(10);

/// Ended pods that are remembered: four times the deliveries (256) that may come again after a lost connection.
const ENDED: usize = 1024;

/// The pods that the API has for this node, by uid: a pure map that says what a change means.
#[doc(hidden)]
#[derive(Default)]
pub struct Desired {
    pods: HashMap<Arc<str>, Known>,
    /// Everything up to here was in the list that was read last.
    listed: Revision,
    /// Pods that were ours and are not any more, the oldest first: what is delivered again after a lost connection must
    /// not bring them back.
    ended: VecDeque<Arc<str>>,
}

struct Known {
    namespace: Arc<str>,
    name: Arc<str>,
    revision: Revision,
    mirror: bool,
}

#[doc(hidden)]
#[derive(Debug, PartialEq)]
pub enum Effect {
    Run(Arc<Pod>),
    /// With the last body, where there is one.
    End(Arc<str>, Option<Arc<Pod>>),
    MirrorSeen(Arc<Pod>),
    MirrorGone {
        namespace: Arc<str>,
        name: Arc<str>,
        uid: Arc<str>,
    },
}

impl Desired {
    /// Whether this was known already, and more: an event that comes again. Neither the disk nor the pods hear of it.
    pub fn is_old(&self, uid: &str, revision: Revision) -> bool {
        revision <= self.listed
            || self.pods.get(uid).is_some_and(|known| known.revision > revision)
            || self.ended.iter().any(|ended| **ended == *uid)
    }

    /// A pod was added or changed. A pod of another node is one that we must not run (any more).
    pub fn upsert(&mut self, node: &str, mut pod: Pod) -> Option<Effect> {
        let reference = spec::pod_ref(&pod);
        if reference.uid.is_empty() {
            return None;
        }
        if spec::spec(&pod).node_name.as_deref() != Some(node) {
            return self.remove(&reference.uid, None);
        }
        let revision = revision(&pod);
        if let Some(known) = self.pods.get(&reference.uid)
            && known.revision > revision
        {
            return None;
        }
        let mirror = mirror::mirrors(&pod).is_some();
        let known =
            Known { namespace: reference.namespace, name: reference.name, revision, mirror };
        self.pods.insert(reference.uid, known);
        // Who wrote which field is nothing to a node, and as large as the rest.
        pod.metadata.managed_fields = None;
        let pod = Arc::new(pod);
        Some(if mirror { Effect::MirrorSeen(pod) } else { Effect::Run(pod) })
    }

    pub fn remove(&mut self, uid: &str, last: Option<Pod>) -> Option<Effect> {
        let (owned, known) = self.pods.remove_entry(uid)?;
        self.ended.push_back(owned);
        if self.ended.len() > ENDED {
            self.ended.pop_front();
        }
        Some(if known.mirror {
            Effect::MirrorGone { namespace: known.namespace, name: known.name, uid: uid.into() }
        } else {
            Effect::End(uid.into(), last.map(Arc::new))
        })
    }

    /// The API was listed, as of a revision: only the differences. A list is the truth, also where it is older than what
    /// was seen: the database was restored.
    pub fn replace(&mut self, node: &str, pods: Vec<Pod>, at: Revision) -> Vec<Effect> {
        self.listed = at;
        let listed: std::collections::HashSet<String> =
            pods.iter().filter_map(|p| p.metadata.uid.clone()).collect();
        let mut gone: Vec<_> =
            self.pods.keys().filter(|uid| !listed.contains(&***uid)).cloned().collect();
        gone.sort();
        let mut effects: Vec<Effect> =
            gone.iter().filter_map(|uid| self.remove(uid, None)).collect();
        // What came before the list is old by its revision. What comes after it is true: a pod that a restore has taken off
        // this node may be bound to it again.
        self.ended.clear();
        for pod in pods {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let known = self.pods.get_mut(uid);
            let at = revision(&pod);
            if known.as_ref().is_some_and(|known| known.revision == at) {
                continue;
            }
            if let Some(known) = known {
                known.revision = at;
            }
            effects.extend(self.upsert(node, pod));
        }
        effects
    }
}

fn revision(pod: &Pod) -> Revision {
    let text = pod.metadata.resource_version.as_deref();
    text.and_then(|rv| rv.parse().ok()).unwrap_or_default()
}

/// Feeds the manager from disk, from the API and from the node's queue. Never ends.
pub(crate) struct Feed {
    pub context: Arc<Context>,
    pub fabric: Arc<dyn Fabric>,
    pub keep: Arc<dyn Keep>,
    pub mirrors: Mirrors,
    pub writer: StatusWriter,
    pub sinks: Vec<Arc<dyn EventSink>>,
    pub manager: mpsc::Sender<Message>,
    pub commands: Commands,
}

impl Feed {
    pub(crate) async fn run(self) {
        let mut desired = Desired::default();
        let node = self.context.node.0.clone();
        Box::pin(self.stored(&node, &mut desired)).await;
        let mut subscriber =
            self.fabric.subscribe(Subscription::Node(self.context.node.clone())).await;
        let heads = &self.context.heads;
        loop {
            heads.want(subscriber.wants_heads());
            let delivery = tokio::select! {
                delivery = subscriber.next() => delivery,
                told = heads.told() => {
                    subscriber.heads(told);
                    continue;
                }
            };
            match delivery {
                Delivery::Event(event, ack) => {
                    // What a delivery needs is there while it is worked on, not as long as the node is.
                    self.hop(Step::Delivered, &event);
                    Box::pin(self.event(&mut desired, event, ack)).await;
                }
                Delivery::Relist { streams, reason, .. } => {
                    tracing::debug!(node = %node, reason, "listing the node's pods");
                    if reason == reason::HEAD {
                        heads.ask_soon(true);
                    }
                    let at = Box::pin(self.list(&mut desired)).await;
                    subscriber.listed(&streams, at);
                    if reason == reason::EPOCH {
                        self.context.restored.notify_one();
                    }
                }
                Delivery::Reconnected { .. } => heads.ask_soon(false),
                Delivery::Command { body, publisher, repeated, reply, imitation, ack, .. } => {
                    let command = Command { body, publisher, repeated, reply, imitation, ack };
                    self.commands.hand_in(command).await;
                }
                Delivery::Down { reason } => {
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
        match self.keep.pods().await {
            Ok(pods) => {
                let known = !pods.is_empty();
                for bytes in pods {
                    match serde_json::from_slice::<Pod>(&bytes) {
                        Ok(mut pod) => {
                            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                            if let Some(status) = since.remove(uid) {
                                pod.status = Some(Arc::unwrap_or_clone(status));
                            }
                            let effect = desired.upsert(node, pod);
                            self.apply(effect).await;
                        }
                        Err(error) => tracing::warn!(%error, "a stored pod cannot be read"),
                    }
                }
                if known {
                    tracing::info!(node = %node, "running what is on disk until the API answers");
                }
            }
            Err(error) => tracing::error!(%error, "the stored pods cannot be read"),
        }
    }

    async fn list(&self, desired: &mut Desired) -> Revision {
        let node = self.context.node.0.clone();
        let mut wait = LIST_FIRST;
        loop {
            match self.context.api.pods(&node).await {
                Ok((pods, revision)) => {
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
                    let ending = self.context.index.pods(Some(&node));
                    let ending = ending.iter().map(|entry| &*entry.pod);
                    self.context.objects.keep_for(pods.iter().chain(ending)).await;
                    self.mirrors.listed(pods.iter().filter(|p| mirror::mirrors(p).is_some()));
                    for effect in desired.replace(&node, pods, revision) {
                        self.apply(Some(effect)).await;
                    }
                    self.context.objects.forget_all();
                    self.sinks.iter().for_each(|sink| sink.relist());
                    // What is not on disk a restart would not know.
                    self.tell(Change::Complete(kept.is_ok().then_some(revision))).await;
                    self.writer.wake();
                    return revision;
                }
                Err(error) => {
                    tracing::debug!(node = %node, %error, "the node's pods cannot be listed yet");
                    tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
                    wait = (wait * 2).min(LIST_LAST);
                }
            }
        }
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
            Some(Effect::Run(pod)) => self.tell(Change::Upsert(pod, Source::Api)).await,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, node: &str, rv: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "namespace": "ns", "uid": uid, "resourceVersion": rv},
            "spec": {"nodeName": node, "containers": []},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_that_a_list_ended_may_come_again() {
        let mut desired = Desired::default();
        let run = |effect: Option<Effect>| matches!(effect, Some(Effect::Run(_)));
        assert!(run(desired.upsert("n", pod("a", "n", "5"))));
        // The backup has the pod without a node.
        let effects = desired.replace("n", Vec::new(), Revision(1_000));
        assert!(matches!(effects[..], [Effect::End(..)]));
        assert!(desired.is_old("a", Revision(6)), "of before the list");
        assert!(!desired.is_old("a", Revision(1_001)), "bound here again");
        assert!(run(desired.upsert("n", pod("a", "n", "1001"))));
        // What a deletion ended comes no more.
        desired.remove("a", None);
        assert!(desired.is_old("a", Revision(1_002)));
    }

    #[test]
    fn what_changes_mean() {
        let mut desired = Desired::default();
        let run = |effect: Option<Effect>| matches!(effect, Some(Effect::Run(_)));
        assert!(run(desired.upsert("n", pod("a", "n", "5"))));
        assert_eq!(desired.upsert("n", pod("a", "n", "4")), None, "older");
        assert!(run(desired.upsert("n", pod("a", "n", "6"))));
        assert_eq!(desired.upsert("n", pod("b", "other", "7")), None, "never ours");
        assert!(matches!(desired.upsert("n", pod("a", "other", "8")), Some(Effect::End(..))));
        assert_eq!(desired.remove("a", None), None, "gone already");
        desired.upsert("n", pod("c", "n", "9"));
        desired.upsert("n", pod("d", "n", "9"));
        let listed = vec![pod("c", "n", "9"), pod("e", "n", "10")];
        let effects = desired.replace("n", listed, Revision(10));
        assert_eq!(effects.len(), 2, "{effects:?}");
        assert!(effects.contains(&Effect::End("d".into(), None)));
        // The database was restored: what the API has is older than what was told, and is to be told again.
        let effects = desired.replace("n", vec![pod("c", "n", "2")], Revision(1_000));
        assert!(effects.iter().any(|e| matches!(e, Effect::Run(pod) if revision(pod).0 == 2)));
    }

    #[test]
    fn what_comes_again_is_old() {
        let mut desired = Desired::default();
        let at = Revision;
        desired.upsert("n", pod("a", "n", "5"));
        for (uid, revision, old) in
            [("a", 4, true), ("a", 5, false), ("a", 6, false), ("b", 1, false)]
        {
            assert_eq!(desired.is_old(uid, at(revision)), old, "{uid} {revision}");
        }
        desired.remove("a", None);
        assert!(desired.is_old("a", at(5)), "it has ended");
        desired.replace("n", vec![pod("b", "n", "20")], at(30));
        assert!(desired.is_old("c", at(30)), "the list would have it");
        assert!(!desired.is_old("c", at(31)));
        assert!(desired.is_old("a", at(30)), "it had ended by then");
        assert!(!desired.is_old("a", at(31)), "a restore took it off, and it is bound here again");
        // The database was restored.
        desired.replace("n", vec![pod("a", "n", "3")], at(1_000));
        assert!(!desired.is_old("a", at(1_001)), "the list is the truth");
        for n in 0..=ENDED {
            desired.upsert("n", pod(&format!("p{n}"), "n", "2000"));
            desired.remove(&format!("p{n}"), None);
        }
        assert_eq!(desired.ended.len(), ENDED, "bounded");
    }
}
