//! What must hold, all along and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use warren_api::{GroupResource, NodeName, Revision};
use warren_broker::Event;
use warren_broker::envelope::{Incoming, Message, decode};
use warren_broker::relay::MAX_ATTEMPTS;

use super::machine::running;
use super::process::{Heard, resources};
use super::world::World;

/// What a reader was shown: it never goes back in time within an epoch.
#[derive(Default)]
pub struct Shadow {
    epoch: u64,
    newest: BTreeMap<(String, String, String), Revision>,
    ended: BTreeSet<Arc<str>>,
}

impl Shadow {
    pub fn epoch(&mut self, epoch: u64) {
        if epoch > self.epoch {
            *self = Self { epoch, ..Self::default() };
        }
    }

    /// The reader is another process, which has seen nothing.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    pub fn heard(&mut self, epoch: u64, change: &Heard, event: Option<&Event>) -> Option<String> {
        let (plural, namespace, name, revision) = change;
        if epoch < self.epoch {
            return None;
        }
        let key = ((*plural).to_owned(), namespace.clone(), name.clone());
        let newest = self.newest.entry(key).or_default();
        let at = revision.or(event.map(|event| event.revision)).unwrap_or(*newest);
        let known = *newest;
        *newest = known.max(at);
        (at < known).then(|| format!("{plural} {namespace}/{name} goes back from {known} to {at}"))
    }

    pub fn runs(&mut self, epoch: u64, pod: &Pod) -> Option<String> {
        if epoch < self.epoch {
            return None;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let revision = pod.metadata.resource_version.as_ref()?.parse().ok()?;
        if self.ended.contains(uid) {
            return Some(format!("pod {name} ({uid}) was deleted and is to run again"));
        }
        let key = ("pods".to_owned(), String::new(), uid.to_owned());
        let newest = self.newest.entry(key).or_default();
        let known = *newest;
        *newest = known.max(revision);
        (revision < known).then(|| format!("pod {name} goes back from {known} to {revision}"))
    }

    pub fn begins(&mut self, uid: &str) {
        self.ended.remove(uid);
    }

    pub fn ended(&mut self, epoch: u64, uid: &Arc<str>) {
        if epoch >= self.epoch {
            self.ended.insert(uid.clone());
        }
    }
}

/// What the broker has said of the relay's messages, from outside the relay.
#[derive(Default)]
pub struct Told {
    sent: BTreeMap<u64, Incoming>,
    refusals: BTreeMap<Revision, u32>,
    /// Confirmed, or refused as often as the relay tries.
    settled: BTreeSet<Revision>,
    floor: Revision,
}

impl Told {
    /// Tags of a connection begin at 1.
    pub fn sent(&mut self, tag: u64, message: &Message) {
        let body = bytes::Bytes::from(message.body.clone());
        let incoming = decode(&message.properties, &body).expect("the server's own message");
        self.sent.insert(tag, incoming);
    }

    pub fn confirmed(&mut self, tag: u64, acked: bool) {
        match self.sent.remove(&tag) {
            Some(Incoming::Event(event)) => {
                let refusals = self.refusals.entry(event.revision).or_default();
                *refusals += u32::from(!acked);
                if acked || *refusals >= MAX_ATTEMPTS {
                    self.settled.insert(event.revision);
                }
            }
            Some(Incoming::Floor { floor, .. }) => self.floor = self.floor.max(floor),
            Some(Incoming::Present { .. }) | None => {}
        }
    }

    /// The first revision that the cursor must not pass.
    pub fn advances(&mut self, to: Revision, passed: Vec<Revision>) -> Option<Revision> {
        let open = |at: &Revision| *at > self.floor && !self.settled.contains(at);
        let open = passed.into_iter().find(open);
        self.settled = self.settled.split_off(&Revision(to.0 + 1));
        self.refusals = self.refusals.split_off(&Revision(to.0 + 1));
        open
    }

    /// Another process or database: revisions may come again.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

impl World {
    /// After something has changed in a node's runtime.
    pub fn check_runs(&mut self, node: usize, uid: &Arc<str>) {
        let Some((pod, observed)) = self.machines[node].pods.get(uid) else { return };
        let (name, ready) =
            (pod.to_string(), observed.sandboxes.iter().filter(|s| s.ready).count());
        let mut names = BTreeSet::new();
        let twice = running(observed).any(|container| !names.insert(container.name.clone()));
        let runs = names.len();
        if ready > 1 {
            self.violate(format!("pod {name} ({uid}) has two sandboxes on n{node}"));
        }
        if twice {
            self.violate(format!("a container of pod {name} ({uid}) runs twice on n{node}"));
        }
        if runs > 0 && self.machines[node].over.contains(uid) {
            self.violate(format!("pod {name} ({uid}) has ended on n{node} and runs again"));
        }
        let there = |other: &super::machine::Machine| running(&other.observed(uid)).count() > 0;
        let others = self.machines.iter().enumerate();
        let elsewhere = others.filter(|(at, other)| *at != node && there(other)).count();
        if runs > 0 && elsewhere > 0 {
            self.violate(format!("pod {name} ({uid}) runs on two nodes"));
        }
    }

    /// Everything is as the server has it, and runs; the first thing that is not so.
    pub fn difference(&self) -> Option<String> {
        self.stale().or_else(|| (0..self.agents.len()).find_map(|node| self.difference_of(node)))
    }

    /// All is published, and every reader has it as the server has; the first thing that is not so.
    pub fn stale(&self) -> Option<String> {
        let server = &self.server;
        if self.server.cursor != server.disk.last {
            let (cursor, last) = (server.cursor, server.disk.last);
            return Some(format!("published up to {cursor}, committed up to {last}"));
        }
        for (at, process) in self.processes.iter().enumerate() {
            for resource in resources() {
                let wanted: BTreeMap<String, String> = server
                    .list(&resource, None)
                    .into_iter()
                    .map(|(key, stored)| {
                        (format!("{}/{}", key.namespace, key.name), stored.revision.to_string())
                    })
                    .collect();
                let has = process.shows(&resource);
                if wanted != has {
                    return Some(format!(
                        "process {at} shows other {resource}: {has:?}, the server has {wanted:?}"
                    ));
                }
            }
        }
        (0..self.agents.len()).find_map(|node| self.stale_at(node))
    }

    fn stale_at(&self, node: usize) -> Option<String> {
        let name = &self.agents[node].node;
        let bound = NodeName(name.as_str().into());
        let keep = &self.machines[node].keep;
        let pods = self.server.list(&GroupResource::new("", "pods"), Some(&bound));
        let mut known = BTreeSet::new();
        for (key, stored) in &pods {
            let uid = stored.object.str_at(&["metadata", "uid"]);
            known.insert(uid);
            if keep.get(uid) != Some(&stored.body) {
                return Some(format!("{name} has not kept {key} as it is at {}", stored.revision));
            }
        }
        let kept = keep.keys().find(|uid| !known.contains(&***uid));
        kept.map(|uid| format!("{name} keeps {uid}, which is not its own"))
    }

    fn difference_of(&self, node: usize) -> Option<String> {
        let name = &self.agents[node].node;
        let machine = &self.machines[node];
        let bound = NodeName(name.as_str().into());
        let pods = self.server.list(&GroupResource::new("", "pods"), Some(&bound));
        let mut known = BTreeSet::new();
        for (key, stored) in &pods {
            let object = &stored.object;
            let uid = object.str_at(&["metadata", "uid"]);
            known.insert(uid.to_owned());
            if object.is_being_deleted() {
                return Some(format!("{key} does not end on {name}"));
            }
            let observed = machine.observed(uid);
            let phase = object.str_at(&["status", "phase"]);
            let runs = running(&observed).count();
            match phase {
                "Succeeded" | "Failed" if runs > 0 => {
                    return Some(format!("{key} is {phase} and runs on {name}"));
                }
                "Succeeded" | "Failed" => {}
                _ if runs != 1 => {
                    return Some(format!("{key} is {phase:?} and does not run on {name}"));
                }
                "Running" => {}
                _ => return Some(format!("{key} runs on {name} and is {phase:?}")),
            }
        }
        let foreign = machine.pods.iter().find(|(uid, _)| !known.contains(&***uid));
        foreign.map(|(uid, (pod, _))| format!("{name} has {pod} ({uid}), which is not its own"))
    }

    /// What should run runs: Deployments have their pods, Jobs have ended.
    pub fn unfinished(&self) -> Option<String> {
        let number = |object: &warren_api::Object, path: &[&str]| {
            object.at(path).and_then(serde_json::Value::as_i64).unwrap_or(0)
        };
        for (key, stored) in self.server.list(&GroupResource::new("apps", "deployments"), None) {
            let wanted = number(&stored.object, &["spec", "replicas"]);
            let ready = number(&stored.object, &["status", "readyReplicas"]);
            let all = number(&stored.object, &["status", "replicas"]);
            if wanted != ready || all != wanted {
                return Some(format!("{key} has {ready} of {wanted} ready, {all} in all"));
            }
        }
        for (key, stored) in self.server.list(&GroupResource::new("batch", "jobs"), None) {
            let (wanted, done) = (
                number(&stored.object, &["spec", "completions"]),
                number(&stored.object, &["status", "succeeded"]),
            );
            if wanted != done {
                return Some(format!("{key} has succeeded {done} times of {wanted}"));
            }
        }
        for (key, stored) in self.server.list(&GroupResource::new("", "pods"), None) {
            if stored.object.str_at(&["spec", "nodeName"]).is_empty() {
                return Some(format!("{key} has no node"));
            }
        }
        let all = &self.server.disk.objects;
        let uids: BTreeSet<&str> =
            all.values().map(|stored| stored.object.str_at(&["metadata", "uid"])).collect();
        let orphan = all.iter().find(|(_, stored)| {
            let owners = stored.object.at(&["metadata", "ownerReferences"]);
            let owner = owners.and_then(|owners| owners[0]["uid"].as_str());
            owner.is_some_and(|owner| !uids.contains(owner))
        });
        orphan.map(|(key, _)| format!("{key} outlives its owner"))
    }
}
