//! ReplicaSet: as many pods of a template as are wanted.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use warren_process::Tasks;

use crate::caches::{Key, owners};
use crate::plan::{
    Plan, Resource, Step, Write, adopt, controller_of, controller_reference, delete, normal,
    release, status_patch, warning,
};
use crate::queue::WorkQueue;
use crate::runner::{Context, Controller, run};
use crate::{names, pods};

const WORKERS: usize = 8;
/// Creates and deletes of one decision, as Kubernetes has it. The rest follows when these have come round.
const BURST: usize = 500;

/// What a decision is made of.
pub(crate) struct Snapshot<'a> {
    pub replica_set: &'a ReplicaSet,
    /// Those that it controls and those that nothing controls, of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// Pods of the ReplicaSets beside it (of the same Deployment), by node: victims are sought where they crowd.
    pub siblings_on: &'a HashMap<String, usize>,
    /// Whether some pod of the namespace has this name.
    pub taken: &'a dyn Fn(&str) -> bool,
}

pub(crate) fn decide(now: Timestamp, snapshot: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    let rs = snapshot.replica_set;
    let (Some(spec), Some(uid)) = (&rs.spec, &rs.metadata.uid) else { return plan };
    let Some(selector) = pods::selector(&spec.selector) else { return plan };
    let deleting = rs.metadata.deletion_timestamp.is_some();

    let mut owned = Vec::new();
    for pod in snapshot.pods {
        let is_match = pods::matches(&selector, &**pod);
        match controller_of(&pod.metadata) {
            Some(owner) if owner.uid == *uid && is_match => owned.push(pod),
            Some(owner) if owner.uid == *uid && !deleting => plan.push(release(rs, &**pod)),
            None if is_match && !deleting && pods::is_active(pod) => {
                plan.push(adopt(rs, &**pod));
                owned.push(pod);
            }
            _ => {}
        }
    }
    let mut active: Vec<&Arc<Pod>> = owned.into_iter().filter(|pod| pods::is_active(pod)).collect();

    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if !deleting {
        if active.len() < wanted {
            let missing = (wanted - active.len()).min(BURST);
            create(&mut plan, snapshot, uid, missing);
        } else if active.len() > wanted {
            let surplus = (active.len() - wanted).min(BURST);
            let mut on_node = snapshot.siblings_on.clone();
            for pod in &active {
                *on_node.entry(pods::node(pod).unwrap_or_default().to_owned()).or_default() += 1;
            }
            active.sort_by_cached_key(|pod| rank(pod, &on_node));
            for pod in &active[..surplus] {
                let message = format!("Deleted pod: {}", pods::name(pod));
                let failed = warning(rs, "FailedDelete", "Error deleting: ");
                let note = normal(rs, "SuccessfulDelete", message);
                plan.push(Step::from(delete(&***pod)).note(note).or_warn(failed));
            }
        }
    }

    let seconds = spec.min_ready_seconds.unwrap_or(0);
    let mut available = 0;
    for pod in &active {
        match pods::available(pod, seconds, now) {
            Ok(()) => available += 1,
            Err(Some(at)) => plan.again_at(now, at),
            Err(None) => {}
        }
    }
    let labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.clone());
    let labels = labels.unwrap_or_default();
    let is_labelled = |pod: &Pod| {
        let of_pod = pod.metadata.labels.as_ref();
        labels.iter().all(|(key, value)| of_pod.and_then(|l| l.get(key)) == Some(value))
    };
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let old = rs.status.as_ref();
    let mut status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: Some(count(active.iter().filter(|p| is_labelled(p)).count())),
        ready_replicas: Some(count(active.iter().filter(|pod| pods::is_ready(pod)).count())),
        available_replicas: Some(available),
        observed_generation: rs.metadata.generation,
        conditions: old.and_then(|status| status.conditions.clone()),
        ..ReplicaSetStatus::default()
    };
    // Creates that are refused set it again, after this.
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != "ReplicaFailure" || active.len() != wanted);
    }
    status.conditions = status.conditions.filter(|conditions| !conditions.is_empty());
    plan.steps.extend(status_patch(rs, old.map(normalised).as_ref(), &status).map(Step::from));
    plan
}

/// Zeros that the server leaves out are zeros all the same.
fn normalised(status: &ReplicaSetStatus) -> ReplicaSetStatus {
    ReplicaSetStatus {
        fully_labeled_replicas: Some(status.fully_labeled_replicas.unwrap_or(0)),
        ready_replicas: Some(status.ready_replicas.unwrap_or(0)),
        available_replicas: Some(status.available_replicas.unwrap_or(0)),
        ..status.clone()
    }
}

fn create(plan: &mut Plan, snapshot: &Snapshot<'_>, uid: &str, missing: usize) {
    let rs = snapshot.replica_set;
    let Some(template) = rs.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return };
    let owner = controller_reference(rs);
    let namespace = rs.metadata.namespace.as_deref().unwrap_or_default();
    let of = rs.metadata.name.as_deref().unwrap_or_default();
    let generate = format!("{}-", names::base(of));
    for name in names::slots(of, uid, snapshot.taken).take(missing) {
        let object = pods::from_template(template, namespace, &name, &generate, &owner);
        let resource = Resource::of::<Pod>();
        let write = Write::Create { resource, namespace: namespace.to_owned(), object };
        let note = normal(rs, "SuccessfulCreate", format!("Created pod: {name}"));
        let failed = warning(rs, "FailedCreate", "Error creating: ");
        plan.push(Step::from(write).note(note).or_warn(failed));
    }
}

/// Who goes first when there are too many, the smallest: what does not run yet, is not ready, costs little, crowds a
/// node, became ready or was created last. Kubernetes' order.
fn rank(pod: &Pod, on_node: &HashMap<String, usize>) -> impl Ord + use<> {
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost")?.parse::<i32>().ok())
        .unwrap_or(0);
    let node = pods::node(pod);
    let crowd = node.and_then(|node| on_node.get(node).copied()).unwrap_or(0);
    let latest = std::cmp::Reverse::<Option<Timestamp>>;
    (
        node.is_some(),
        phase,
        pods::is_ready(pod),
        cost,
        std::cmp::Reverse(crowd),
        latest(pods::ready_since(pod)),
        std::cmp::Reverse(pods::restarts(pod)),
        latest(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)),
        pods::name(pod).to_owned(),
    )
}

/// The condition that says why pods cannot be made.
pub(crate) fn failure(now: Timestamp, rs: &ReplicaSet, message: &str) -> Option<Write> {
    let old = rs.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let same = |c: &ReplicaSetCondition| {
        c.type_ == "ReplicaFailure" && c.message.as_deref() == Some(message)
    };
    if conditions.iter().any(same) {
        return None;
    }
    conditions.retain(|condition| condition.type_ != "ReplicaFailure");
    conditions.push(ReplicaSetCondition {
        type_: "ReplicaFailure".to_owned(),
        status: "True".to_owned(),
        reason: Some("FailedCreate".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
    });
    let new = ReplicaSetStatus { conditions: Some(conditions), ..old };
    status_patch(rs, rs.status.as_ref(), &new)
}

pub(crate) struct ReplicaSets(Context);

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";
    const RESOURCE: (&'static str, &'static str) = ("apps", "replicasets");

    fn plan(&self, now: Timestamp, key: &Key) -> Plan {
        let caches = &self.0.caches;
        let Some(rs) = caches.replica_sets.get(&key.namespace, &key.name) else {
            return Plan::default();
        };
        let mut pods = caches.pods_of.get(rs.metadata.uid.as_deref().unwrap_or_default());
        pods.extend(caches.orphan_pods_in.get(&key.namespace));
        let mut siblings_on: HashMap<String, usize> = HashMap::new();
        if let Some(owner) = controller_of(&rs.metadata) {
            for sibling in caches.replica_sets_of.get(&owner.uid) {
                let Some(uid) = sibling.metadata.uid.as_deref() else { continue };
                if Some(uid) == rs.metadata.uid.as_deref() {
                    continue;
                }
                for pod in caches.pods_of.get(uid).iter().filter(|pod| pods::is_active(pod)) {
                    let node = pods::node(pod).unwrap_or_default().to_owned();
                    *siblings_on.entry(node).or_default() += 1;
                }
            }
        }
        let taken = |name: &str| caches.pods.get(&key.namespace, name).is_some();
        let snapshot =
            Snapshot { replica_set: &rs, pods: &pods, siblings_on: &siblings_on, taken: &taken };
        decide(now, &snapshot)
    }

    fn refused(&self, now: Timestamp, key: &Key, message: &str) -> Option<Write> {
        let rs = self.0.caches.replica_sets.get(&key.namespace, &key.name)?;
        failure(now, &rs, message)
    }
}

pub(crate) fn start(context: &Context, tasks: &Tasks) {
    let queue = WorkQueue::default();
    let caches = &context.caches;
    let to = queue.clone();
    caches.replica_sets.on_change(move |change| {
        change.new.iter().for_each(|rs| to.add(Key::of(&**rs)));
    });
    let (to, sets) = (queue.clone(), caches.replica_sets_in.clone());
    caches.pods.on_change(move |change| {
        owners(change, "ReplicaSet").into_iter().for_each(|key| to.add(key));
        // An orphan concerns whoever would adopt it.
        let orphan = change.new.as_ref().filter(|pod| controller_of(&pod.metadata).is_none());
        let Some(pod) = orphan.filter(|pod| pods::is_active(pod)) else { return };
        for rs in sets.get(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            let selector = rs.spec.as_ref().and_then(|spec| pods::selector(&spec.selector));
            if selector.is_some_and(|selector| pods::matches(&selector, &**pod)) {
                to.add(Key::of(&*rs));
            }
        }
    });
    run(context, tasks, queue, WORKERS, ReplicaSets(context.clone()));
}

#[cfg(test)]
mod tests;
