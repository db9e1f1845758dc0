//! A process of controllers: real informers that the world feeds, real decisions, and what `warren-controllers`' runner and
//! executor do around them: one plan for a key at a time, nothing decided before the caches show what was written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use warren_api::{GroupResource, ObjectKey, Revision};
use warren_broker::Event;
use warren_client::testing::Fed;
use warren_client::{Cached, Change, Informer};
use warren_controllers::Key;
use warren_controllers::plan::{Plan, Resource, Target, Write, controller_of};
use warren_controllers::simulation::{Owner, Seen, collect};

use super::server::{Answer, HELD, Request};
use answers::writes;
use follow::{follow, left_work, owned_work, owner_work};

#[path = "process/answers.rs"]
mod answers;
#[path = "process/follow.rs"]
mod follow;

/// As `node-monitor-grace-period`.
const GRACE: Duration = Duration::from_secs(40);
/// How long a key waits for its own writes to come round.
const ROUND_TRIP: u64 = 5_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Deployment(String, String),
    ReplicaSet(String, String),
    Job(String, String),
    Node(String),
    PodGc,
    Schedule,
    /// Plural, namespace and name of what is owned.
    Collect(&'static str, String, String),
}

/// A plan that is being carried out.
struct Running {
    /// An answer to another plan of the same key is none to this.
    id: u64,
    /// In which it was decided.
    term: u64,
    steps: VecDeque<Request>,
    revisions: BTreeMap<String, Revision>,
    exists: bool,
    again: Option<u64>,
    collects: Option<ObjectMeta>,
}

/// What the caches must show before a key is looked at again.
struct Expected {
    revision: Revision,
    plural: String,
    until: u64,
}

/// What is sent for a plan.
pub struct Sent {
    pub work: Work,
    pub plan: u64,
    pub term: u64,
    pub request: Request,
}

/// What to send, and when to look at which key again.
pub type Decided = (Vec<Sent>, Vec<(Work, u64)>);

type Dirty = Arc<Mutex<BTreeSet<Work>>>;
/// What the informers' handlers heard: plural, namespace, name, and the revision that is there now.
pub type Heard = (&'static str, String, String, Option<Revision>);

pub struct Process {
    pub up: bool,
    /// Stopped with SIGSTOP until then.
    pub stopped: bool,
    pub run: u64,
    pub term: Option<u64>,
    pub deployments: Fed<Deployment>,
    pub replica_sets: Fed<ReplicaSet>,
    pub jobs: Fed<Job>,
    pub pods: Fed<Pod>,
    pub nodes: Fed<Node>,
    pub listed: BTreeSet<GroupResource>,
    pub beats: BTreeMap<String, u64>,
    pub beats_since: Option<u64>,
    pub heard: Arc<Mutex<Vec<Heard>>>,
    dirty: Dirty,
    running: BTreeMap<Work, Running>,
    expected: BTreeMap<Work, Vec<Expected>>,
    missing: BTreeMap<String, Timestamp>,
    assumed: BTreeMap<String, String>,
    plans: u64,
    pub decisions: u64,
}

pub fn resources() -> Vec<GroupResource> {
    [
        ("apps", "deployments"),
        ("apps", "replicasets"),
        ("batch", "jobs"),
        ("", "nodes"),
        ("", "pods"),
    ]
    .map(|(group, plural)| GroupResource::new(group, plural))
    .into()
}

fn name(meta: &ObjectMeta) -> (String, String) {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn sorted<K: Cached + kube::Resource<DynamicType = ()>>(fed: &Fed<K>) -> Vec<Arc<K>> {
    let mut all = fed.informer().store().state();
    all.sort_by_cached_key(|object| name(object.meta()));
    all
}

impl Process {
    pub fn new(run: u64) -> Self {
        let (deployments, jobs) = (Fed::default(), Fed::default());
        let replica_sets = Fed::<ReplicaSet>::default();
        let (pods, nodes) = (Fed::<Pod>::default(), Fed::default());
        let (dirty, heard) = (Dirty::default(), Arc::<Mutex<Vec<Heard>>>::default());
        let sets = replica_sets.informer().clone();
        follow(
            &deployments,
            "deployments",
            &heard,
            &dirty,
            move |change: &Change<Deployment>, dirty| {
                left_work(change, "replicasets", &sets, dirty);
                if let Some(any) = change.any() {
                    let (namespace, name) = name(&any.metadata);
                    dirty.insert(Work::Deployment(namespace, name));
                }
            },
        );
        let of_sets = pods.informer().clone();
        follow(
            &replica_sets,
            "replicasets",
            &heard,
            &dirty,
            move |change: &Change<ReplicaSet>, dirty| {
                left_work(change, "pods", &of_sets, dirty);
                if let Some(any) = change.any() {
                    let (namespace, name) = name(&any.metadata);
                    dirty.insert(Work::ReplicaSet(namespace, name));
                }
                owner_work(change, dirty);
                owned_work("replicasets", change, dirty);
            },
        );
        let of_jobs = pods.informer().clone();
        follow(&jobs, "jobs", &heard, &dirty, move |change: &Change<Job>, dirty| {
            left_work(change, "pods", &of_jobs, dirty);
            if let Some(any) = change.any() {
                let (namespace, name) = name(&any.metadata);
                dirty.insert(Work::Job(namespace, name));
            }
        });
        let sets = replica_sets.informer().clone();
        follow(&pods, "pods", &heard, &dirty, move |change: &Change<Pod>, dirty| {
            owner_work(change, dirty);
            owned_work("pods", change, dirty);
            dirty.insert(Work::Schedule);
            let going =
                change.new.as_ref().is_some_and(|p| p.metadata.deletion_timestamp.is_some());
            if going {
                dirty.insert(Work::PodGc);
            }
            if let (Some(old), None) = (&change.old, &change.new)
                && let Some(owner) = controller_of(&old.metadata)
                && let Some(set) = sets.get(&name(&old.metadata).0, &owner.name)
                && let Some(owner) = controller_of(&set.metadata)
            {
                dirty.insert(Work::Deployment(name(&old.metadata).0, owner.name.clone()));
            }
        });
        follow(&nodes, "nodes", &heard, &dirty, |change: &Change<Node>, dirty| {
            if let Some(any) = change.any() {
                dirty.insert(Work::Node(name(&any.metadata).1));
            }
            dirty.insert(Work::Schedule);
            dirty.insert(Work::PodGc);
        });
        Self {
            up: true,
            stopped: false,
            run,
            term: None,
            deployments,
            replica_sets,
            jobs,
            pods,
            nodes,
            listed: BTreeSet::new(),
            beats: BTreeMap::new(),
            beats_since: None,
            heard,
            dirty,
            running: BTreeMap::new(),
            expected: BTreeMap::new(),
            missing: BTreeMap::new(),
            assumed: BTreeMap::new(),
            plans: 0,
            decisions: 0,
        }
    }

    pub fn event(&mut self, event: &Event) {
        let fed = match &*event.key.resource.resource {
            "deployments" => self.deployments.event(event),
            "replicasets" => self.replica_sets.event(event),
            "jobs" => self.jobs.event(event),
            "pods" => self.pods.event(event),
            "nodes" => self.nodes.event(event),
            _ => Ok(()),
        };
        fed.expect("the server's objects can be read");
    }

    pub fn replace(&mut self, resource: &GroupResource, at: Revision, bodies: &[bytes::Bytes]) {
        let raw = |body: &bytes::Bytes| {
            let text = String::from_utf8(body.to_vec()).expect("JSON is UTF-8");
            RawValue::from_string(text).expect("the server's objects are JSON")
        };
        let items: Vec<Box<RawValue>> = bodies.iter().map(raw).collect();
        match &*resource.resource {
            "deployments" => self.deployments.listed(at, &items),
            "replicasets" => self.replica_sets.listed(at, &items),
            "jobs" => self.jobs.listed(at, &items),
            "pods" => self.pods.listed(at, &items),
            "nodes" => self.nodes.listed(at, &items),
            _ => {}
        }
        self.listed.insert(resource.clone());
    }

    /// Whether it may decide: it leads, and its caches are filled.
    pub fn acts(&self) -> bool {
        self.up && !self.stopped && self.term.is_some() && self.listed.len() == resources().len()
    }

    pub fn mark(&self, work: Work) {
        self.dirty.lock().insert(work);
    }

    /// It leads from now on: everything is looked at.
    pub fn lead(&mut self, term: u64) {
        self.term = Some(term);
        let mut dirty = self.dirty.lock();
        for deployment in sorted(&self.deployments) {
            let (namespace, name) = name(&deployment.metadata);
            dirty.insert(Work::Deployment(namespace, name));
        }
        for set in sorted(&self.replica_sets) {
            let (namespace, name) = name(&set.metadata);
            dirty.insert(Work::ReplicaSet(namespace.clone(), name.clone()));
            dirty.insert(Work::Collect("replicasets", namespace, name));
        }
        for job in sorted(&self.jobs) {
            let (namespace, name) = name(&job.metadata);
            dirty.insert(Work::Job(namespace, name));
        }
        for pod in sorted(&self.pods) {
            if controller_of(&pod.metadata).is_some() {
                let (namespace, name) = name(&pod.metadata);
                dirty.insert(Work::Collect("pods", namespace, name));
            }
        }
        for node in sorted(&self.nodes) {
            dirty.insert(Work::Node(name(&node.metadata).1));
        }
        dirty.extend([Work::PodGc, Work::Schedule]);
    }

    /// Another leads. What was decided is written no more.
    pub fn step_down(&mut self) {
        self.term = None;
        self.running.clear();
        self.assumed.clear();
    }

    fn seen(&self, plural: &str) -> Option<Revision> {
        match plural {
            "deployments" => self.deployments.informer().seen(),
            "replicasets" => self.replica_sets.informer().seen(),
            "jobs" => self.jobs.informer().seen(),
            "pods" => self.pods.informer().seen(),
            "nodes" => self.nodes.informer().seen(),
            _ => Some(Revision(u64::MAX)),
        }
    }

    /// Decides about all keys that are marked and may be decided now: what to send for each, and when to look again.
    pub fn decide(&mut self, now: Timestamp, ms: u64) -> Decided {
        let (mut send, mut again) = (Vec::new(), Vec::new());
        let Some(term) = self.term.filter(|_| self.acts()) else { return (send, again) };
        // What is gone may have left something behind.
        let marked = std::mem::take(&mut *self.dirty.lock());
        if marked.is_empty() {
            return (send, again);
        }
        let (deployments, replica_sets) = (sorted(&self.deployments), sorted(&self.replica_sets));
        let (jobs, pods, nodes) = (sorted(&self.jobs), sorted(&self.pods), sorted(&self.nodes));
        let seen = Seen {
            now,
            deployments: &deployments,
            replica_sets: &replica_sets,
            jobs: &jobs,
            pods: &pods,
            nodes: &nodes,
        };
        for work in marked {
            let waits = self.expected.get(&work).is_some_and(|all| {
                let open = |e: &Expected| {
                    ms < e.until && self.seen(&e.plural).is_none_or(|seen| seen < e.revision)
                };
                all.iter().any(open)
            });
            if waits || self.running.contains_key(&work) {
                again.push((work, 20));
                continue;
            }
            self.expected.remove(&work);
            self.decisions += 1;
            let running = self.plan(&work, &seen);
            match running {
                Ok(mut running) => {
                    if let Some(request) = running.steps.front().cloned() {
                        self.plans += 1;
                        (running.id, running.term) = (self.plans, term);
                        send.push(Sent { work: work.clone(), plan: self.plans, term, request });
                        self.running.insert(work, running);
                    }
                }
                Err(Some(after)) => again.push((work, after)),
                Err(None) => {}
            }
        }
        (send, again)
    }

    /// `Err` where there is nothing to do, with the time after which to look again.
    fn plan(&mut self, work: &Work, seen: &Seen<'_>) -> Result<Running, Option<u64>> {
        let (now, pods, nodes) = (seen.now, seen.pods, seen.nodes);
        let plan = match work {
            Work::Deployment(namespace, name) => seen.deployment(&Key::new(namespace, name)),
            Work::ReplicaSet(namespace, name) => seen.replica_set(&Key::new(namespace, name)),
            Work::Job(namespace, name) => seen.job(&Key::new(namespace, name)),
            Work::Node(name) => {
                let created = |node: &&Arc<Node>| node.metadata.name.as_deref() == Some(name);
                let created = nodes.iter().find(created);
                let created = created.and_then(|n| Some(n.metadata.creation_timestamp.as_ref()?.0));
                let at = |at: u64| super::world::timestamp(at);
                let beat = self.beats.get(name).map(|beat| at(*beat));
                let heard = self
                    .beats_since
                    .map(|since| beat.max(created).unwrap_or(at(since)).max(at(since)));
                seen.node(name, heard, GRACE)
            }
            Work::PodGc => {
                let there = |name: &str| {
                    nodes.iter().any(|node| node.metadata.name.as_deref() == Some(name))
                };
                let named: BTreeSet<String> =
                    pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
                self.missing.retain(|node, _| named.contains(node) && !there(node));
                for node in named.into_iter().filter(|node| !there(node)) {
                    self.missing.entry(node).or_insert(now);
                }
                seen.pod_gc(&self.missing)
            }
            Work::Schedule => {
                let waits =
                    |pod: &Arc<Pod>| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
                let waiting: BTreeSet<&str> = pods
                    .iter()
                    .filter(|pod| waits(pod))
                    .filter_map(|pod| pod.metadata.uid.as_deref())
                    .collect();
                self.assumed.retain(|uid, _| waiting.contains(uid.as_str()));
                let mut steps = VecDeque::new();
                for decision in seen.schedule(&self.assumed) {
                    let target = Target::of(&*decision.pod);
                    match decision.node {
                        Ok(node) => {
                            self.assumed.insert(target.uid.clone(), node.clone());
                            steps.push_back(Request::Bind { target, node });
                        }
                        Err(explanation) => steps.extend(explanation.map(Request::Write)),
                    }
                }
                if steps.is_empty() {
                    return Err(None);
                }
                return Ok(Running {
                    id: 0,
                    term: 0,
                    steps,
                    revisions: BTreeMap::new(),
                    exists: false,
                    again: None,
                    collects: None,
                });
            }
            Work::Collect(plural, namespace, name) => {
                return self.ask_for_owner(plural, namespace, name, seen).ok_or(None);
            }
        };
        let again = plan.again_after.map(|after| after.as_millis() as u64);
        if plan.steps.is_empty() {
            return Err(again);
        }
        let steps = writes(&plan);
        Ok(Running {
            id: 0,
            term: 0,
            steps,
            revisions: BTreeMap::new(),
            exists: false,
            again,
            collects: None,
        })
    }

    /// Where the cache has no owner of that uid, the API is asked.
    fn ask_for_owner(
        &self,
        plural: &str,
        namespace: &str,
        of: &str,
        seen: &Seen<'_>,
    ) -> Option<Running> {
        let meta = match plural {
            "pods" => self.pods.informer().get(namespace, of)?.metadata.clone(),
            _ => self.replica_sets.informer().get(namespace, of)?.metadata.clone(),
        };
        let owner = controller_of(&meta).filter(|_| meta.deletion_timestamp.is_none())?;
        fn has<K: kube::Resource>(all: &[Arc<K>], uid: &str) -> bool {
            all.iter().any(|object| object.meta().uid.as_deref() == Some(uid))
        }
        let (group, owners, there) = match owner.kind.as_str() {
            "Deployment" => ("apps", "deployments", has(seen.deployments, &owner.uid)),
            "ReplicaSet" => ("apps", "replicasets", has(seen.replica_sets, &owner.uid)),
            _ => ("batch", "jobs", has(seen.jobs, &owner.uid)),
        };
        if there {
            return None;
        }
        let key = ObjectKey::new(GroupResource::new(group, owners), namespace, owner.name.as_str());
        Some(Running {
            id: 0,
            term: 0,
            steps: [Request::Get(key)].into(),
            revisions: BTreeMap::new(),
            exists: false,
            again: None,
            collects: Some(meta),
        })
    }
}

impl Process {
    /// Names and revisions of what the cache has.
    pub fn shows(&self, resource: &GroupResource) -> BTreeMap<String, String> {
        fn all<K: Cached + kube::Resource<DynamicType = ()>>(
            fed: &Fed<K>,
        ) -> BTreeMap<String, String> {
            let of = |object: Arc<K>| {
                let (namespace, name) = name(object.meta());
                let revision = object.meta().resource_version.clone().unwrap_or_default();
                (format!("{namespace}/{name}"), revision)
            };
            fed.informer().store().state().into_iter().map(of).collect()
        }
        match &*resource.resource {
            "deployments" => all(&self.deployments),
            "replicasets" => all(&self.replica_sets),
            "jobs" => all(&self.jobs),
            "pods" => all(&self.pods),
            _ => all(&self.nodes),
        }
    }
}
