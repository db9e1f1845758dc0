//! The server: the real preparation of writes, and a model of the journal that says what `warren-store` says: expectations,
//! revisions, stream heads, history with a floor, the relay's cursor (in memory and on disk), backups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use smallvec::SmallVec;
use warren_api::{
    Fence, GroupResource, Kind, Listed, NodeName, Object, ObjectKey, Registry, Revision, Shard,
    Subresource, Uid, patch, schema,
};
use warren_apiserver::restored::{Hold, Waits};
use warren_apiserver::simulation::{Intent, Prepared, Propagation, holds};
use warren_broker::heads::Asked;
use warren_broker::{Event, EventType, Heads, Stream};
use warren_controllers::plan::{Resource, Target, Write};

/// What a restore adds to the revision.
const RESTORE_STEP: u64 = Revision::RESTORE_STEP;
/// Namespace and name of the controllers' Lease.
pub const LEASE: (&str, &str) = ("kube-system", "warren-controllers");
/// How a write of a term that is over is answered.
pub const OVER: &str = "the term is over";
/// How a binding is answered while the pod may run since before a restore.
pub const HELD: &str = "MayRunElsewhere";

#[derive(Clone)]
pub struct Stored {
    pub revision: Revision,
    pub object: Arc<Object>,
    pub body: Bytes,
    shard: Shard,
}

/// What is on disk.
#[derive(Clone)]
pub struct Disk {
    pub epoch: u64,
    pub last: Revision,
    pub floor: Revision,
    pub cursor: Revision,
    pub objects: BTreeMap<ObjectKey, Stored>,
    history: BTreeMap<Revision, Arc<Event>>,
    heads: BTreeMap<Stream, Revision>,
    /// What the nodes' leases say of the lists that they agree with.
    pub leases: BTreeMap<String, Option<Listed>>,
    hold: Hold,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Write(Write),
    /// A strategic merge of a pod's status, then where `delete` is set the end of the pod.
    Status {
        target: Target,
        patch: Value,
        delete: bool,
    },
    Bind {
        target: Target,
        node: String,
    },
    /// Whether there is an object of this uid: `(uid, is being deleted)` of what has the name.
    Get(ObjectKey),
    /// A node's heartbeat, which may ask where the node's streams stand.
    Beat {
        node: String,
        asked: Option<String>,
    },
    /// Where the streams stand.
    Heads(String),
    /// Reads the controllers' Lease, or changes it.
    Lease(Option<Value>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Done {
        revision: Option<Revision>,
        going: bool,
    },
    Found(Option<(String, bool)>),
    /// Where the streams stand, if that was asked.
    Told(Option<String>),
    Object(Bytes),
    Refused {
        code: u16,
        message: String,
    },
    /// The server is away, or the answer was lost.
    Nobody,
}

pub struct Server {
    pub up: bool,
    pub disk: Disk,
    /// The cursor that is not on disk yet.
    pub cursor: Revision,
    uids: u64,
    pub commits: u64,
    pub fenced: u64,
    /// Epoch, term and holder of the last write of a leader.
    led: (u64, u64, String),
    /// Pods that a restore has taken off their nodes, and that are bound again.
    pub rebound: Vec<String>,
    /// What must not be.
    pub wrong: Option<String>,
    /// Nodes that there are: the server declares their queues.
    pub nodes: BTreeSet<String>,
    restored: Timestamp,
}

pub fn kind(group: &str, plural: &str) -> &'static dyn Kind {
    let found = Registry::builtin().by_group_resource(&GroupResource::new(group, plural));
    found.expect("a kind of the registry")
}

pub fn key_of(target: &Target) -> ObjectKey {
    let group = target.resource.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    ObjectKey::new(
        GroupResource::new(group, &*target.resource.plural),
        target.namespace.as_str(),
        target.name.as_str(),
    )
}

fn refused(status: &warren_api::Status) -> Answer {
    let json = status.to_json();
    let code = json["code"].as_u64().unwrap_or(500) as u16;
    let message = format!("{} {}", json["reason"], json["message"]);
    Answer::Refused { code, message }
}

fn no(code: u16, why: &str) -> Answer {
    Answer::Refused { code, message: why.to_owned() }
}

impl Server {
    pub fn new() -> Self {
        let disk = Disk {
            epoch: 1_000,
            last: Revision(0),
            floor: Revision(0),
            cursor: Revision(0),
            objects: BTreeMap::new(),
            leases: BTreeMap::new(),
            hold: Hold::default(),
            history: BTreeMap::new(),
            heads: BTreeMap::new(),
        };
        Self {
            up: true,
            disk,
            cursor: Revision(0),
            uids: 0,
            commits: 0,
            fenced: 0,
            led: (0, 0, String::new()),
            rebound: Vec::new(),
            wrong: None,
            nodes: BTreeSet::new(),
            restored: Timestamp::UNIX_EPOCH,
        }
    }

    pub fn handle(&mut self, request: &Request, fence: Option<&Fence>, now: Timestamp) -> Answer {
        if let Some(fence) = fence {
            let lease = self.disk.objects.get(&fence.key());
            if !holds(fence, lease.map(|stored| &*stored.body)) {
                self.fenced += 1;
                return no(409, OVER);
            }
        }
        let before = self.disk.last;
        let answer = self.answer(request, now);
        if let Some(fence) = fence
            && self.disk.last > before
        {
            self.check_term(fence);
        }
        answer
    }

    /// What a leader wrote was of the term that the Lease says, and terms do not come again.
    fn check_term(&mut self, fence: &Fence) {
        let lease = self.disk.objects.get(&fence.key()).map(|stored| &stored.object);
        let term = lease.and_then(|l| l.at(&["spec", "leaseTransitions"])?.as_u64());
        let holder = lease.map(|lease| lease.str_at(&["spec", "holderIdentity"]));
        if term != Some(fence.term) || holder != Some(&*fence.holder) {
            self.wrong.get_or_insert(format!(
                "{fence} wrote {}, where {holder:?} holds the Lease at {term:?}",
                self.disk.last
            ));
        }
        let (epoch, last, who) = &self.led;
        if *epoch == self.disk.epoch
            && (fence.term < *last || fence.term == *last && fence.holder != *who)
        {
            let wrong = format!("{fence} wrote {}, after {who} at {last}", self.disk.last);
            self.wrong.get_or_insert(wrong);
        }
        self.led = (self.disk.epoch, fence.term, fence.holder.clone());
    }

    fn answer(&mut self, request: &Request, now: Timestamp) -> Answer {
        match request {
            Request::Write(write) => self.write(write, now),
            Request::Status { target, patch, delete } => {
                let answer = self.status(target, patch, now);
                match (&answer, delete) {
                    (Answer::Done { .. }, true) => self.delete(target, None, Some(0), None, now),
                    (Answer::Refused { code, .. }, true) if !matches!(code, 404 | 409) => {
                        self.delete(target, None, Some(0), None, now)
                    }
                    _ => answer,
                }
            }
            Request::Bind { target, node } => self.bind(target, node, now),
            Request::Get(key) => Answer::Found(self.disk.objects.get(key).map(|stored| {
                let uid = stored.object.str_at(&["metadata", "uid"]).to_owned();
                (uid, stored.object.is_being_deleted())
            })),
            Request::Beat { asked, .. } => {
                Answer::Told(asked.as_ref().map(|asked| self.heads(asked)))
            }
            Request::Heads(asked) => Answer::Told(Some(self.heads(asked))),
            Request::Lease(change) => self.lease(change.as_ref(), now),
        }
    }

    /// As the API tells of its streams, and as it writes that down.
    fn heads(&self, asked: &str) -> String {
        let asked = Asked::parse(asked).expect("readers ask as the server reads it");
        let wanted = |stream: &Stream| match &asked {
            Asked::Node { name, .. } => match &stream.shard {
                Shard::All => true,
                Shard::Node(of) => of == name,
                _ => false,
            },
            Asked::Resources(all) => stream.shard == Shard::Every && all.contains(&stream.resource),
        };
        let heads = self.disk.heads.iter().filter(|(stream, _)| wanted(stream));
        let streams = heads.map(|(stream, head)| (stream.clone(), *head)).collect();
        Heads { epoch: self.disk.epoch, published: self.cursor, streams }.to_string()
    }

    fn lease(&mut self, change: Option<&Value>, now: Timestamp) -> Answer {
        let resource =
            Resource { api_version: "coordination.k8s.io/v1".into(), plural: "leases".into() };
        let (namespace, name) = LEASE;
        let target = Target {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: String::new(),
        };
        let answer = match change {
            Some(change) if change["metadata"]["resourceVersion"] == "" => {
                let object = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": name, "namespace": namespace}, "spec": change["spec"]});
                self.create(&target, &object, now)
            }
            Some(change) => self.update(&target, None, now, |old| {
                patch::merge(old, change).map_err(|error| error.to_string())
            }),
            None => Answer::Done { revision: None, going: false },
        };
        match (answer, self.disk.objects.get(&key_of(&target))) {
            (Answer::Done { .. }, Some(stored)) => Answer::Object(stored.body.clone()),
            (Answer::Done { .. }, None) => no(404, "NotFound"),
            (refused, _) => refused,
        }
    }

    fn write(&mut self, write: &Write, now: Timestamp) -> Answer {
        match write {
            Write::Create { resource, namespace, object } => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let target = Target {
                    resource: resource.clone(),
                    namespace: namespace.clone(),
                    name,
                    uid: String::new(),
                };
                self.create(&target, object, now)
            }
            Write::Patch { target, subresource, resource_version, patch } => {
                let subresource = subresource.map(|_| Subresource::Status);
                let mut patch = patch.clone();
                if let Some(version) = resource_version {
                    patch["metadata"]["resourceVersion"] = json!(version);
                }
                self.update(target, subresource, now, |old| {
                    patch::merge(old, &patch).map_err(|error| error.to_string())
                })
            }
            Write::Replace { target, subresource, object } => {
                let subresource = subresource.map(|_| Subresource::Status);
                self.update(target, subresource, now, |_| Ok(object.clone()))
            }
            Write::Delete { target, resource_version, grace_seconds, propagation } => {
                let version = resource_version.as_deref();
                self.delete(target, version, *grace_seconds, *propagation, now)
            }
        }
    }

    fn create(&mut self, target: &Target, object: &Value, now: Timestamp) -> Answer {
        let key = key_of(target);
        let kind = kind(&key.resource.group, &key.resource.resource);
        if self.disk.objects.contains_key(&key) {
            return no(409, "AlreadyExists");
        }
        self.uids += 1;
        let uid = format!("{:08x}-0000-4000-8000-{:012x}", self.disk.epoch, self.uids);
        let object = serde_json::from_value::<Object>(object.clone()).unwrap_or_default();
        match intent(kind, &key, None, now).create(object, &uid) {
            Ok(object) => self.commit(key, kind, object, EventType::Added),
            Err(status) => refused(&status),
        }
    }

    fn update(
        &mut self,
        target: &Target,
        subresource: Option<Subresource>,
        now: Timestamp,
        change: impl FnOnce(Value) -> Result<Value, String>,
    ) -> Answer {
        let key = key_of(target);
        let kind = kind(&key.resource.group, &key.resource.resource);
        let Some(stored) = self.disk.objects.get(&key) else { return no(404, "NotFound") };
        let old = Arc::clone(&stored.object);
        if !target.uid.is_empty() && old.str_at(&["metadata", "uid"]) != target.uid {
            return no(409, "another object of that name");
        }
        let new = match change(Value::from((*old).clone())) {
            Ok(Value::Object(new)) => Object(new),
            Ok(_) => return no(400, "not an object"),
            Err(error) => return no(422, &error),
        };
        match intent(kind, &key, subresource, now).update(&old, new) {
            Ok(prepared) => self.store(key, kind, prepared),
            Err(status) => refused(&status),
        }
    }

    fn status(&mut self, target: &Target, patch: &Value, now: Timestamp) -> Answer {
        self.update(target, Some(Subresource::Status), now, |old| {
            patch::strategic(schema::builtin(), "core/v1.Pod", old, patch)
                .map_err(|error| error.to_string())
        })
    }

    fn delete(
        &mut self,
        target: &Target,
        version: Option<&str>,
        grace: Option<i64>,
        propagation: Option<&str>,
        now: Timestamp,
    ) -> Answer {
        let key = key_of(target);
        let kind = kind(&key.resource.group, &key.resource.resource);
        let Some(stored) = self.disk.objects.get(&key) else { return no(404, "NotFound") };
        let old = Arc::clone(&stored.object);
        let propagation = propagation.map(|word| match word {
            "Foreground" => Propagation::Foreground,
            "Orphan" => Propagation::Orphan,
            _ => Propagation::Background,
        });
        let uid = (!target.uid.is_empty()).then_some(target.uid.as_str());
        match intent(kind, &key, None, now).delete(&old, uid, version, grace, propagation) {
            Ok(prepared) => self.store(key, kind, prepared),
            Err(status) => refused(&status),
        }
    }

    /// As `pods/binding`.
    fn bind(&mut self, target: &Target, node: &str, now: Timestamp) -> Answer {
        let key = key_of(target);
        let pods = kind("", "pods");
        let Some(stored) = self.disk.objects.get(&key) else { return no(404, "NotFound") };
        let leases = self.disk.leases.iter().map(|(node, listed)| (node.clone(), *listed));
        let up = now.duration_since(self.restored).unsigned_abs();
        if self.disk.hold.pods.contains(&target.uid)
            && self.disk.hold.waits(up, leases) != Waits::ForNothing
        {
            return no(409, HELD);
        }
        let old = &stored.object;
        if old.str_at(&["metadata", "uid"]) != target.uid
            || old.is_being_deleted()
            || !old.str_at(&["spec", "nodeName"]).is_empty()
        {
            return no(409, "Conflict");
        }
        if self.disk.hold.pods.remove(&target.uid) {
            self.rebound.push(target.uid.clone());
        }
        let mut new = (**old).clone();
        new.set_at(&["spec", "nodeName"], node);
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition =
            json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now});
        new.set_at(&["status", "conditions"], vec![condition]);
        self.commit(key, pods, new, EventType::Modified)
    }

    fn store(&mut self, key: ObjectKey, kind: &'static dyn Kind, prepared: Prepared) -> Answer {
        match prepared {
            Prepared::Unchanged => {
                let revision = self.disk.objects.get(&key).map(|stored| stored.revision);
                Answer::Done { revision, going: false }
            }
            Prepared::Store(object) => self.commit(key, kind, object, EventType::Modified),
            Prepared::Remove(object) => self.commit(key, kind, object, EventType::Deleted),
        }
    }

    /// One row: the next revision, and where each stream of it stood.
    fn commit(
        &mut self,
        key: ObjectKey,
        kind: &'static dyn Kind,
        mut object: Object,
        event_type: EventType,
    ) -> Answer {
        let disk = &mut self.disk;
        disk.last.0 += 1;
        self.commits += 1;
        let revision = disk.last;
        object.set_at(&["metadata", "resourceVersion"], revision.to_string());
        let shard = kind.shard(&object);
        let mut shards: SmallVec<[Shard; 2]> = SmallVec::new();
        shards.push(shard.clone());
        let left = disk.objects.get(&key).map(|old| old.shard.clone());
        shards.extend(left.filter(|left| *left != shard));
        shards.push(Shard::Every);
        let mut positions: SmallVec<[(Shard, Revision); 2]> = SmallVec::new();
        for shard in shards {
            let stream = Stream { resource: key.resource.clone(), shard: shard.clone() };
            let prev = disk.heads.insert(stream, revision).unwrap_or_default();
            positions.push((shard, prev));
        }
        let body = Bytes::from(serde_json::to_vec(&object).expect("JSON values are JSON"));
        let uid = object.uid().unwrap_or_else(|| Uid("".into()));
        let event = Event {
            epoch: disk.epoch,
            revision,
            uid,
            key: key.clone(),
            event_type,
            shards: positions,
            object: body.clone(),
            brings: Vec::new(),
        };
        disk.history.insert(revision, Arc::new(event));
        let going = object.is_being_deleted();
        if &*key.resource.resource == "nodes" {
            match event_type {
                EventType::Deleted => self.nodes.remove(&*key.name),
                _ => self.nodes.insert(key.name.to_string()),
            };
        }
        if event_type == EventType::Deleted {
            disk.objects.remove(&key);
            return Answer::Done { revision: Some(revision), going: false };
        }
        let stored = Stored { revision, object: Arc::new(object), body, shard };
        disk.objects.insert(key, stored);
        Answer::Done { revision: Some(revision), going }
    }

    /// What the relay reads.
    pub fn read(&self, after: Revision, limit: usize) -> Result<Vec<Event>, Revision> {
        if after < self.disk.floor {
            return Err(self.disk.floor);
        }
        let newer = self.disk.history.range(Revision(after.0 + 1)..);
        Ok(newer.take(limit).map(|(_, event)| (**event).clone()).collect())
    }

    /// The revisions after one and up to another that are in the history.
    pub fn between(&self, after: Revision, to: Revision) -> Vec<Revision> {
        let range = Revision(after.0 + 1)..=to.max(Revision(after.0 + 1));
        self.disk.history.range(range).map(|(at, _)| *at).filter(|at| *at <= to).collect()
    }

    /// The objects of a resource, of one node where it is given.
    pub fn list(
        &self,
        resource: &GroupResource,
        node: Option<&NodeName>,
    ) -> Vec<(ObjectKey, Stored)> {
        let wanted = |(key, stored): &(&ObjectKey, &Stored)| {
            key.resource == *resource
                && node.is_none_or(|node| stored.object.str_at(&["spec", "nodeName"]) == &*node.0)
        };
        let all = self.disk.objects.iter().filter(wanted);
        all.map(|(key, stored)| (key.clone(), stored.clone())).collect()
    }

    /// History is given up, also what was not published.
    pub fn compact(&mut self) {
        self.disk.floor = self.disk.last;
        self.disk.history.clear();
    }

    /// What is not on disk is gone.
    pub fn crash(&mut self) {
        self.up = false;
        self.cursor = self.disk.cursor;
    }

    /// Another database, older, becomes a new incarnation of this one. The epoch goes by the clock as well; where the disk
    /// of before is lost, nothing says how far its revisions had come.
    pub fn restore(&mut self, backup: Disk, is_lost: bool, now: Timestamp) {
        let epoch = self.disk.epoch.max(backup.epoch) + 1;
        let newest = if is_lost { backup.last } else { self.disk.last.max(backup.last) };
        let last = Revision(newest.0 + RESTORE_STEP);
        let without_node = backup.objects.iter().filter(|(key, stored)| {
            &*key.resource.resource == "pods"
                && stored.object.str_at(&["spec", "nodeName"]).is_empty()
        });
        let uid = |stored: &Stored| stored.object.str_at(&["metadata", "uid"]).to_owned();
        let pods = without_node.map(|(_, stored)| uid(stored)).collect();
        let hold = Hold { epoch, at: last, pods };
        self.restored = now;
        self.disk = Disk { epoch, last, floor: last, cursor: last, hold, ..backup };
        self.disk.history.clear();
        self.cursor = last;
        let nodes = self.disk.objects.keys().filter(|key| &*key.resource.resource == "nodes");
        self.nodes = nodes.map(|key| key.name.to_string()).collect();
    }
}

fn intent<'a>(
    kind: &'static dyn Kind,
    key: &'a ObjectKey,
    subresource: Option<Subresource>,
    now: Timestamp,
) -> Intent<'a> {
    Intent { kind, namespace: &key.namespace, subresource, now, manager: "simulation" }
}
