//! Deployment: moves ReplicaSets from one template to the next.

mod rollout;
mod scale;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet,
};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};
use warren_process::Tasks;

use crate::caches::{Key, owners};
use crate::plan::{
    Plan, Resource, Step, Target, Write, adopt, controller_of, controller_reference,
    merge_difference, normal, release, status_patch, warning,
};
use crate::queue::WorkQueue;
use crate::runner::{Context, Controller, run};
use crate::{names, pods};

const WORKERS: usize = 8;

const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that its ReplicaSets do not get.
const OWN_ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

pub(crate) struct Snapshot<'a> {
    pub deployment: &'a Deployment,
    /// Those that it controls and those that nothing controls, of its namespace.
    pub replica_sets: &'a [Arc<ReplicaSet>],
    /// The pods of those ReplicaSets.
    pub pods: &'a [Arc<Pod>],
}

/// How many there may be of a Deployment.
#[derive(Clone, Copy, Debug)]
struct Limits {
    replicas: i32,
    surge: i32,
    unavailable: i32,
    rolling: bool,
}

impl Limits {
    fn of(spec: &DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        let rolling = strategy.and_then(|s| s.type_.as_deref()) != Some("Recreate");
        if !rolling {
            return Self { replicas, surge: 0, unavailable: replicas, rolling };
        }
        let rolling_update = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let scaled = |value: Option<&IntOrString>, up: bool| match value {
            Some(IntOrString::Int(n)) => (*n).max(0),
            Some(IntOrString::String(text)) => percent(text, replicas, up),
            None => percent("25%", replicas, up),
        };
        let surge = scaled(rolling_update.and_then(|r| r.max_surge.as_ref()), true);
        let unavailable = scaled(rolling_update.and_then(|r| r.max_unavailable.as_ref()), false);
        // Both zero would never move; rounding can make them so.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { replicas, surge, unavailable: unavailable.min(replicas), rolling }
    }

    fn most(self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    fn least_available(self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// `30%` of a number, rounded up or down. What is no percentage counts as none.
fn percent(text: &str, of: i32, up: bool) -> i32 {
    let share = text.strip_suffix('%').and_then(|n| n.parse::<i64>().ok()).unwrap_or(0).max(0);
    let product = share.saturating_mul(i64::from(of));
    i32::try_from(if up { product.saturating_add(99) / 100 } else { product / 100 })
        .unwrap_or(i32::MAX)
}

/// A ReplicaSet, and what is to become of it.
#[derive(Clone)]
struct Set {
    rs: Arc<ReplicaSet>,
    /// `spec.replicas` as they shall be.
    replicas: i32,
    annotations: BTreeMap<String, String>,
    min_ready_seconds: Option<i32>,
}

/// Of what people may have written: each may be as large as a number can be.
fn total(counts: impl Iterator<Item = i32>) -> i32 {
    counts.fold(0, i32::saturating_add)
}

impl Set {
    fn new(rs: &Arc<ReplicaSet>) -> Self {
        let spec = rs.spec.as_ref();
        Self {
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            annotations: rs.metadata.annotations.clone().unwrap_or_default(),
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds),
            rs: Arc::clone(rs),
        }
    }

    fn name(&self) -> &str {
        self.rs.metadata.name.as_deref().unwrap_or_default()
    }

    /// As the API has it now.
    fn before(&self) -> i32 {
        self.rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    /// Pods there are.
    fn actual(&self) -> i32 {
        self.rs.status.as_ref().map_or(0, |status| status.replicas)
    }

    fn ready(&self) -> i32 {
        self.rs.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
    }

    /// Pods that serve, those not counted that are to go already: the status may lag behind the spec.
    fn available(&self) -> i32 {
        let status = self.rs.status.as_ref().and_then(|status| status.available_replicas);
        status.unwrap_or(0).min(self.before())
    }

    fn revision(&self) -> i64 {
        self.annotations.get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn created(&self) -> Option<Timestamp> {
        self.rs.metadata.creation_timestamp.as_ref().map(|time| time.0)
    }

    fn number(&self, annotation: &str) -> Option<i32> {
        self.annotations.get(annotation)?.parse().ok()
    }

    fn mark(&mut self, limits: Limits) {
        self.annotations.insert(DESIRED.to_owned(), limits.replicas.to_string());
        self.annotations.insert(MAX.to_owned(), limits.most().to_string());
    }

    fn write(&self) -> Option<Write> {
        let old = json!({
            "metadata": {"annotations": self.rs.metadata.annotations.clone().unwrap_or_default()},
            "spec": {
                "replicas": self.rs.spec.as_ref().and_then(|spec| spec.replicas),
                "minReadySeconds": self.rs.spec.as_ref().and_then(|spec| spec.min_ready_seconds),
            },
        });
        let new = json!({
            "metadata": {"annotations": self.annotations},
            "spec": {"replicas": self.replicas, "minReadySeconds": self.min_ready_seconds},
        });
        Some(Write::Patch {
            target: Target::of(&*self.rs),
            subresource: None,
            resource_version: self.rs.metadata.resource_version.clone(),
            patch: merge_difference(&old, &new)?,
        })
    }
}

/// A decision on its way.
struct Work<'a> {
    now: Timestamp,
    snapshot: &'a Snapshot<'a>,
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    limits: Limits,
    /// The one of the present template.
    new: Option<Set>,
    /// All others, oldest first.
    old: Vec<Set>,
    conditions: Vec<DeploymentCondition>,
    collisions: Option<i32>,
    plan: Plan,
}

pub(crate) fn decide(now: Timestamp, snapshot: &Snapshot<'_>) -> Plan {
    let deployment = snapshot.deployment;
    let Some(spec) = &deployment.spec else { return Plan::default() };
    let Some(selector) = pods::selector(&spec.selector) else {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        let notes = vec![warning(deployment, "SelectingAll", message)];
        return Plan { notes, ..Plan::default() };
    };
    let deleting = deployment.metadata.deletion_timestamp.is_some();
    let status = deployment.status.clone().unwrap_or_default();
    let mut work = Work {
        now,
        snapshot,
        deployment,
        spec,
        limits: Limits::of(spec),
        new: None,
        old: Vec::new(),
        conditions: status.conditions.unwrap_or_default(),
        collisions: status.collision_count,
        plan: Plan::default(),
    };
    for rs in snapshot.replica_sets {
        let is_match = pods::matches(&selector, &**rs);
        match controller_of(&rs.metadata) {
            Some(owner) if Some(&owner.uid) == deployment.metadata.uid.as_ref() => {
                if is_match || deleting {
                    work.old.push(Set::new(rs));
                } else {
                    work.plan.push(release(deployment, &**rs));
                }
            }
            None if is_match && !deleting && rs.metadata.deletion_timestamp.is_none() => {
                work.plan.push(adopt(deployment, &**rs));
                work.old.push(Set::new(rs));
            }
            _ => {}
        }
    }
    work.old.sort_by_cached_key(|set| (set.created(), set.name().to_owned()));
    // The oldest of equals, so that all who look choose the same.
    let is_new = |set: &Set| same_template(&spec.template, &set.rs);
    work.new = work.old.iter().position(is_new).map(|at| work.old.remove(at));

    if deleting {
        work.status(None);
        return work.plan;
    }
    work.paused_condition();
    if spec.paused == Some(true) {
        work.scale();
        work.clean_up();
    } else if work.was_scaled() {
        work.scale();
    } else if work.limits.rolling {
        work.roll();
    } else {
        work.recreate();
    }
    work.finish();
    work.plan
}

/// Whether a ReplicaSet was made of the template, its hash label apart.
fn same_template(template: &PodTemplateSpec, rs: &ReplicaSet) -> bool {
    let Some(other) = rs.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return false;
    };
    let bare = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let meta = template.metadata.get_or_insert_default();
        meta.creation_timestamp = None;
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        template
    };
    bare(template) == bare(other)
}

impl Work<'_> {
    fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    /// A ReplicaSet for the template that has none, or its annotations brought up to date.
    fn need_new(&mut self) {
        let newest = self.old.iter().map(Set::revision).max().unwrap_or(0).saturating_add(1);
        let own: BTreeMap<String, String> = self
            .deployment
            .metadata
            .annotations
            .iter()
            .flatten()
            .filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if let Some(set) = &mut self.new {
            let had = set.revision();
            set.annotations.extend(own);
            if had < newest {
                // An older template is wanted again (undo): it becomes the newest revision.
                if had > 0 {
                    let history = set.annotations.entry(REVISION_HISTORY.to_owned()).or_default();
                    let before = std::mem::take(history);
                    *history =
                        if before.is_empty() { had.to_string() } else { format!("{before},{had}") };
                }
                set.annotations.insert(REVISION.to_owned(), newest.to_string());
            }
            set.mark(self.limits);
            set.min_ready_seconds =
                self.spec.min_ready_seconds.or(set.min_ready_seconds.map(|_| 0));
            if !self.conditions.iter().any(|c| c.type_ == "Progressing")
                && self.spec.progress_deadline_seconds.is_some()
            {
                let message = format!("Found new replica set \"{}\"", set.name());
                self.progressing("True", "FoundNewReplicaSet", message);
            }
            return;
        }
        self.create_new(newest, own);
    }

    fn create_new(&mut self, revision: i64, annotations: BTreeMap<String, String>) {
        let meta = &self.deployment.metadata;
        let (name, namespace) = (
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
        );
        let json = serde_json::to_value(&self.spec.template).unwrap_or(Value::Null);
        // A name that another template's ReplicaSet has is a collision of hashes; the next count gives another.
        let mut collisions = self.collisions.unwrap_or(0);
        let (hash, child) = loop {
            let hash = names::template_hash(&json, collisions);
            let child = format!("{name}-{hash}");
            let taken = |rs: &&Arc<ReplicaSet>| rs.metadata.name.as_deref() == Some(&child);
            if !self.snapshot.replica_sets.iter().any(|rs| taken(&rs)) {
                break (hash, child);
            }
            collisions = collisions.saturating_add(1);
            self.collisions = Some(collisions);
        };
        let there = total(self.old.iter().map(|set| set.replicas));
        let replicas = if self.limits.rolling {
            self.limits.replicas.min((self.limits.most() - there).max(0))
        } else {
            self.limits.replicas
        };
        let mut annotations = annotations;
        annotations.insert(REVISION.to_owned(), revision.to_string());
        annotations.insert(DESIRED.to_owned(), self.limits.replicas.to_string());
        annotations.insert(MAX.to_owned(), self.limits.most().to_string());
        let mut template = json;
        template["metadata"]["labels"][HASH_LABEL] = json!(hash);
        let mut selector = serde_json::to_value(&self.spec.selector).unwrap_or(Value::Null);
        selector["matchLabels"][HASH_LABEL] = json!(hash);
        let mut spec = json!({"replicas": replicas, "selector": selector, "template": template});
        if let Some(seconds) = self.spec.min_ready_seconds {
            spec["minReadySeconds"] = json!(seconds);
        }
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": child,
                "namespace": namespace,
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [controller_reference(self.deployment)],
            },
            "spec": spec,
        });
        let resource = Resource::of::<ReplicaSet>();
        let write = Write::Create { resource, namespace: namespace.to_owned(), object };
        let mut step = Step::from(write).or_warn(warning(
            self.deployment,
            "ReplicaSetCreateError",
            format!("Failed to create new replica set \"{child}\": "),
        ));
        if replicas > 0 {
            let message = format!("Scaled up replica set {child} from 0 to {replicas}");
            step = step.note(normal(self.deployment, "ScalingReplicaSet", message));
        }
        self.plan.push(step);
        if self.spec.progress_deadline_seconds.is_some() {
            let message = format!("Created new replica set \"{child}\"");
            self.progressing("True", "NewReplicaSetCreated", message);
        }
        self.annotate_revision(revision);
    }

    /// The Deployment's own revision follows its newest ReplicaSet's.
    fn annotate_revision(&mut self, revision: i64) {
        let annotations = self.deployment.metadata.annotations.as_ref();
        let text = revision.to_string();
        if annotations.and_then(|all| all.get(REVISION)) == Some(&text) {
            return;
        }
        let mut all = Map::new();
        all.insert(REVISION.to_owned(), json!(text));
        self.plan.push(Write::Patch {
            target: Target::of(self.deployment),
            subresource: None,
            resource_version: self.deployment.metadata.resource_version.clone(),
            patch: json!({"metadata": {"annotations": all}}),
        });
    }

    /// Writes what became of the ReplicaSets, and the status.
    fn finish(&mut self) {
        if let Some(revision) = self.new.as_ref().map(Set::revision).filter(|r| *r > 0) {
            self.annotate_revision(revision);
        }
        let sets: Vec<Set> = self.all().cloned().collect();
        for set in sets {
            let Some(write) = set.write() else { continue };
            let (before, after) = (set.before(), set.replicas);
            let mut step = Step::from(write);
            if before != after {
                let verb = if after > before { "up" } else { "down" };
                let name = set.name();
                let text = format!("Scaled {verb} replica set {name} from {before} to {after}");
                step = step.note(normal(self.deployment, "ScalingReplicaSet", text));
            }
            self.plan.push(step);
        }
        let new = self.new.clone();
        self.status(new.as_ref());
    }

    fn progressing(&mut self, status: &str, reason: &str, message: impl Into<String>) {
        self.condition("Progressing", status, reason, message.into());
    }

    /// Sets a condition; its transition time moves only with its status.
    fn condition(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let old = self.conditions.iter().position(|condition| condition.type_ == kind);
        let old = old.map(|at| self.conditions.remove(at));
        let same = old.as_ref().filter(|old| old.status == status);
        if let Some(same) = same
            && same.reason.as_deref() == Some(reason)
            && (kind != "Progressing" || reason != "ReplicaSetUpdated")
            && (same.message.as_deref() == Some(&message) || kind == "Available")
        {
            self.conditions.push(same.clone());
            return;
        }
        let transition = same.and_then(|same| same.last_transition_time.clone());
        self.conditions.push(DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: Some(Time(self.now)),
            last_transition_time: Some(transition.unwrap_or(Time(self.now))),
        });
    }

    /// Pausing stops the clock of the progress deadline; resuming starts it anew.
    fn paused_condition(&mut self) {
        if self.spec.progress_deadline_seconds.is_none() {
            return;
        }
        let reason = self
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Progressing")
            .and_then(|condition| condition.reason.clone());
        if reason.as_deref() == Some("ProgressDeadlineExceeded") {
            return;
        }
        let was_paused = reason.as_deref() == Some("DeploymentPaused");
        match (self.spec.paused == Some(true), was_paused) {
            (true, false) => {
                self.progressing("Unknown", "DeploymentPaused", "Deployment is paused");
            }
            (false, true) => {
                self.progressing("Unknown", "DeploymentResumed", "Deployment is resumed");
            }
            _ => {}
        }
    }
}

pub(crate) struct Deployments(Context);

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";
    const RESOURCE: (&'static str, &'static str) = ("apps", "deployments");

    fn plan(&self, now: Timestamp, key: &Key) -> Plan {
        let caches = &self.0.caches;
        let Some(deployment) = caches.deployments.get(&key.namespace, &key.name) else {
            return Plan::default();
        };
        let mut sets =
            caches.replica_sets_of.get(deployment.metadata.uid.as_deref().unwrap_or_default());
        let all = caches.replica_sets_in.get(&key.namespace);
        sets.extend(all.into_iter().filter(|rs| controller_of(&rs.metadata).is_none()));
        let uids = sets.iter().filter_map(|rs| rs.metadata.uid.as_deref());
        let pods: Vec<_> = uids.flat_map(|uid| caches.pods_of.get(uid)).collect();
        decide(now, &Snapshot { deployment: &deployment, replica_sets: &sets, pods: &pods })
    }
}

pub(crate) fn start(context: &Context, tasks: &Tasks) {
    let queue = WorkQueue::default();
    let caches = &context.caches;
    let to = queue.clone();
    caches.deployments.on_change(move |change| {
        change.new.iter().for_each(|deployment| to.add(Key::of(&**deployment)));
    });
    let (to, deployments) = (queue.clone(), caches.deployments_in.clone());
    caches.replica_sets.on_change(move |change| {
        owners(change, "Deployment").into_iter().for_each(|key| to.add(key));
        let orphan = change.new.as_ref().filter(|rs| controller_of(&rs.metadata).is_none());
        let Some(rs) = orphan else { return };
        for deployment in deployments.get(rs.metadata.namespace.as_deref().unwrap_or_default()) {
            let selector = deployment.spec.as_ref().and_then(|s| pods::selector(&s.selector));
            if selector.is_some_and(|selector| pods::matches(&selector, &**rs)) {
                to.add(Key::of(&*deployment));
            }
        }
    });
    // Recreate waits for the last old pod to go.
    let (to, sets) = (queue.clone(), caches.replica_sets.clone());
    caches.pods.on_change(move |change| {
        if change.new.is_some() {
            return;
        }
        for key in owners(change, "ReplicaSet") {
            let rs = sets.get(&key.namespace, &key.name);
            if let Some(owner) = rs.as_ref().and_then(|rs| controller_of(&rs.metadata)) {
                to.add(Key::new(&key.namespace, &owner.name));
            }
        }
    });
    run(context, tasks, queue, WORKERS, Deployments(context.clone()));
}

#[cfg(test)]
mod tests;
