//! Mirror pods: how static pods show in the API. What is deleted there is made again; what has no manifest is deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use warren_process::Tasks;

use crate::api::{ApiError, SharedApi};
use crate::pod::manager::{Change, Message};
use crate::pod::memory::Backoff;
use crate::pod::spec;

pub const SOURCE: &str = "kubernetes.io/config.source";
pub const HASH: &str = "kubernetes.io/config.hash";
pub const SEEN: &str = "kubernetes.io/config.seen";
pub const MIRROR: &str = "kubernetes.io/config.mirror";

const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(500), last: Duration::from_secs(15) };

/// A mirror that somebody deleted comes back after this: whoever waits for it to be gone (kubectl delete asks by name)
/// sees that it is.
const REST: Duration = Duration::from_secs(1);

/// The static pod (its uid) that a pod of the API mirrors.
pub fn mirrors(pod: &Pod) -> Option<&str> {
    spec::annotations(pod).get(MIRROR).map(String::as_str)
}

type Name = (String, String);

/// A mirror that should be there.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The uid of the static pod, which is the hash of its manifest.
    pub uid: Arc<str>,
    /// The pod as it is created, with its annotations.
    pub body: Arc<Value>,
}

/// A mirror that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub uid: Arc<str>,
    pub mirrors: Arc<str>,
    pub deleting: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Create(Name),
    Delete(Name, Arc<str>),
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<Name, Wanted>,
    seen: BTreeMap<Name, Seen>,
    /// Until when what somebody deleted stays away.
    resting: BTreeMap<Name, Instant>,
    /// The folder was read, so that what is not wanted is not wanted.
    read: bool,
    /// The API was listed, so that what was not seen is not there.
    listed: bool,
}

impl State {
    /// The steps that can be taken now. A mirror is deleted before it is made again.
    fn decide(&self, now: Instant) -> Vec<Step> {
        if !self.listed {
            return Vec::new();
        }
        let mut steps = Vec::new();
        for (name, seen) in &self.seen {
            let wanted = self.wanted.get(name);
            let right = wanted.is_some_and(|w| w.uid == seen.mirrors) && !seen.deleting;
            if !right && (self.read || wanted.is_some()) {
                steps.push(Step::Delete(name.clone(), seen.uid.clone()));
            }
        }
        for name in self.wanted.keys().filter(|n| !self.seen.contains_key(*n)) {
            if self.resting.get(name).is_none_or(|until| *until <= now) {
                steps.push(Step::Create(name.clone()));
            }
        }
        steps
    }

    /// When a rest ends.
    fn next(&self, now: Instant) -> Option<Instant> {
        self.resting.values().filter(|until| **until > now).min().copied()
    }

    fn gone(&mut self, name: &Name, uid: &str, now: Instant) -> bool {
        if self.seen.get(name).is_none_or(|seen| *seen.uid != *uid) {
            return false;
        }
        let seen = self.seen.remove(name);
        self.resting.retain(|_, until| *until > now);
        let right = self.wanted.get(name).zip(seen).is_some_and(|(w, s)| w.uid == s.mirrors);
        if right {
            self.resting.insert(name.clone(), now + REST);
        }
        true
    }
}

/// A handle; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Mirrors(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Mirrors {
    /// The uid of the pod in the API that mirrors a static pod.
    pub(crate) fn uid_of(&self, static_uid: &str) -> Option<Arc<str>> {
        let state = self.0.state.lock();
        state.seen.values().find(|s| *s.mirrors == *static_uid).map(|s| s.uid.clone())
    }

    /// All that should be there.
    pub(crate) fn set_wanted(&self, wanted: BTreeMap<Name, Wanted>) {
        let mut state = self.0.state.lock();
        state.wanted = wanted;
        state.read = true;
        self.0.changed.notify_one();
    }

    /// A mirror pod of this node, as the API has it.
    pub(crate) fn saw(&self, pod: &Pod) {
        let (Some(mirrors), reference) = (mirrors(pod), spec::pod_ref(pod)) else { return };
        let seen = Seen {
            uid: reference.uid,
            mirrors: mirrors.into(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
        };
        let name = (reference.namespace.to_string(), reference.name.to_string());
        self.0.state.lock().seen.insert(name, seen);
        self.0.changed.notify_one();
    }

    pub(crate) fn gone(&self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if self.0.state.lock().gone(&key, uid, Instant::now()) {
            self.0.changed.notify_one();
        }
    }

    /// The API was listed; these are all mirrors.
    pub(crate) fn listed<'a>(&self, pods: impl Iterator<Item = &'a Pod>) {
        self.0.state.lock().seen.clear();
        pods.for_each(|pod| self.saw(pod));
        self.0.state.lock().listed = true;
        self.0.changed.notify_one();
    }

    /// Starts the task that makes it so. The manager is told when a mirror has come: it has no status yet.
    pub(crate) fn start(
        &self,
        api: SharedApi,
        made: tokio::sync::mpsc::Sender<Message>,
        tasks: &Tasks,
    ) {
        let (shared, shutdown) = (Arc::clone(&self.0), tasks.shutdown().clone());
        let mirrors = self.clone();
        tasks.spawn("mirror-pods", async move {
            let work = async {
                let mut failures = 0;
                loop {
                    let now = Instant::now();
                    let (steps, next) = {
                        let state = shared.state.lock();
                        (state.decide(now), state.next(now))
                    };
                    if steps.is_empty() {
                        failures = 0;
                        let rested = async {
                            match next {
                                Some(next) => tokio::time::sleep_until(next).await,
                                None => std::future::pending().await,
                            }
                        };
                        tokio::select! {
                            () = shared.changed.notified() => {}
                            () = rested => {}
                        }
                        continue;
                    }
                    let mut failed = false;
                    for step in steps {
                        if let Err(error) = mirrors.take(&api, &step, &made).await {
                            tracing::info!(?step, %error, "a mirror pod cannot be kept up; again later");
                            failed = true;
                        }
                    }
                    if failed {
                        failures += 1;
                        tokio::time::sleep(BACKOFF.after(failures)).await;
                    }
                }
            };
            tokio::select! {
                () = work => {}
                () = shutdown.draining() => {}
            }
        });
    }

    async fn take(
        &self,
        api: &SharedApi,
        step: &Step,
        made: &tokio::sync::mpsc::Sender<Message>,
    ) -> Result<(), ApiError> {
        match step {
            Step::Create(name) => {
                let wanted = self.0.state.lock().wanted.get(name).cloned();
                let Some(wanted) = wanted else { return Ok(()) };
                let body = owned_by_node(api, (*wanted.body).clone()).await?;
                let mut result = api.create_pod(&body, None).await;
                if let Err(ApiError::NotFound(_)) = &result {
                    api.create_namespace(&name.0).await?;
                    result = api.create_pod(&body, None).await;
                }
                match result {
                    Ok(pod) => self.saw(&pod),
                    // Somebody was faster, we perhaps: look at what is there.
                    Err(ApiError::AlreadyExists(text)) => {
                        let there = api.pod(&name.0, &name.1).await?;
                        if mirrors(&there).is_none() {
                            return Err(ApiError::AlreadyExists(format!(
                                "{text}, and it is no mirror pod: the static pod does not show"
                            )));
                        }
                        self.saw(&there);
                    }
                    Err(error) => return Err(error),
                }
                let _ = made.send(Message::Change(Change::Mirrored(wanted.uid))).await;
            }
            Step::Delete((namespace, name), uid) => {
                match api.delete_pod(namespace, name, Some(uid), Some(0), None).await {
                    Ok(()) | Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => {
                        self.gone(namespace, name, uid);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// A mirror pod belongs to its Node, and goes with it. Waits for the Node: without it there is nothing to show.
async fn owned_by_node(api: &SharedApi, mut body: Value) -> Result<Value, ApiError> {
    let node = api.node(body["spec"]["nodeName"].as_str().unwrap_or_default()).await?;
    body["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "Node", "name": node.metadata.name, "uid": node.metadata.uid,
        "controller": true,
    }]);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let name = || ("ns".to_owned(), "web-n1".to_owned());
        let wanted = |uid: &str| Wanted { uid: uid.into(), body: Arc::default() };
        let seen =
            |mirrors: &str, deleting| Seen { uid: "api".into(), mirrors: mirrors.into(), deleting };
        let create = vec![Step::Create(name())];
        let delete = vec![Step::Delete(name(), "api".into())];
        for (want, see, read, listed, expected) in [
            (Some("a"), None, true, false, vec![]),
            (Some("a"), None, true, true, create),
            (Some("a"), Some(("a", false)), true, true, vec![]),
            (Some("a"), Some(("a", true)), true, true, delete.clone()),
            (Some("a"), Some(("b", false)), true, true, delete.clone()),
            (None, Some(("a", false)), true, true, delete),
            (None, Some(("a", false)), false, true, vec![]),
        ] {
            let state = State {
                wanted: want.map(|w| (name(), wanted(w))).into_iter().collect(),
                seen: see.map(|(m, d)| (name(), seen(m, d))).into_iter().collect(),
                read,
                listed,
                ..State::default()
            };
            assert_eq!(state.decide(Instant::now()), expected, "{want:?} {see:?} {read} {listed}");
        }
    }

    #[test]
    fn what_somebody_deleted_stays_away_for_a_moment() {
        let name = ("ns".to_owned(), "web-n1".to_owned());
        let now = Instant::now();
        for (manifest, rests) in [("a", true), ("b", false)] {
            let wanted = Wanted { uid: manifest.into(), body: Arc::default() };
            let seen = Seen { uid: "api".into(), mirrors: "a".into(), deleting: true };
            let mut state = State { read: true, listed: true, ..State::default() };
            state.wanted.insert(name.clone(), wanted);
            state.seen.insert(name.clone(), seen);
            assert!(!state.gone(&name, "another", now));
            assert!(state.gone(&name, "api", now));
            let create = vec![Step::Create(name.clone())];
            let at_once = if rests { vec![] } else { create.clone() };
            assert_eq!((state.decide(now), state.next(now)), (at_once, rests.then(|| now + REST)));
            assert_eq!((state.decide(now + REST), state.next(now + REST)), (create, None));
        }
    }
}
