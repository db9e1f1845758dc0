//! Job: pods that run to their end, so many of them.
//!
//! No pod is counted twice, whatever crashes: a pod carries a finalizer until its end is noted. First its uid goes into
//! `status.uncountedTerminatedPods` (with a precondition on the Job's revision), then its finalizer goes, and what is
//! noted there without finalizer becomes a count while the note goes, in one write.

mod indexes;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use warren_process::Tasks;

use crate::caches::{Key, owners};
use crate::plan::{
    Plan, Resource, Step, Target, Write, controller_of, controller_reference, delete, normal,
    status_patch, warning,
};
use crate::queue::WorkQueue;
use crate::runner::{Context, Controller, run};
use crate::{names, pods};
use indexes::Indexes;

const WORKERS: usize = 8;
/// Pods created by one decision, as Kubernetes has it.
const BURST: usize = 500;
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// After a failure the next pod waits; doubled with each failure in a row.
const BACKOFF: (i64, i64) = (10, 600);

pub(crate) struct Snapshot<'a> {
    pub job: &'a Job,
    /// Those that it controls.
    pub pods: &'a [Arc<Pod>],
    /// Whether some pod of the namespace has this name.
    pub taken: &'a dyn Fn(&str) -> bool,
}

struct Work<'a> {
    now: Timestamp,
    snapshot: &'a Snapshot<'a>,
    job: &'a Job,
    spec: &'a JobSpec,
    status: JobStatus,
    noted: UncountedTerminatedPods,
    completed: Indexes,
    plan: Plan,
    /// Steps that follow the status.
    after: Vec<Step>,
}

pub(crate) fn decide(now: Timestamp, snapshot: &Snapshot<'_>) -> Plan {
    let job = snapshot.job;
    let Some(spec) = &job.spec else { return Plan::default() };
    if spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller") {
        return Plan::default();
    }
    let status = job.status.clone().unwrap_or_default();
    let mut work = Work {
        now,
        snapshot,
        job,
        spec,
        noted: status.uncounted_terminated_pods.clone().unwrap_or_default(),
        completed: Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default()),
        status,
        plan: Plan::default(),
        after: Vec::new(),
    };
    if let Some(ended) = work.ended() {
        work.clean_up(ended);
    } else {
        work.count();
        work.go_on();
    }
    work.plan
}

fn tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

fn untrack(pod: &Pod) -> Write {
    let rest: Vec<_> =
        pod.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
    Write::Patch {
        target: Target::of(pod),
        subresource: None,
        resource_version: pod.metadata.resource_version.clone(),
        patch: json!({"metadata": {"finalizers": rest}}),
    }
}

fn index_of(pod: &Pod) -> Option<u32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// When a pod's containers had ended.
fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|status| {
        status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    });
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    ends.max().or(deleted).or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

impl Work<'_> {
    fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.snapshot.pods.iter()
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        let all = self.status.conditions.iter().flatten();
        all.into_iter().find(|condition| condition.type_ == kind && condition.status == "True")
    }

    /// When it was over, where it is.
    fn ended(&self) -> Option<Timestamp> {
        let condition = self.condition("Complete").or_else(|| self.condition("Failed"))?;
        Some(condition.last_transition_time.as_ref().map_or(self.now, |time| time.0))
    }

    fn clean_up(&mut self, ended: Timestamp) {
        let tracked: Vec<_> = self.pods().filter(|pod| tracked(pod)).map(|p| untrack(p)).collect();
        tracked.into_iter().for_each(|write| self.plan.push(write));
        let going = self.job.metadata.deletion_timestamp.is_some();
        let Some(ttl) = self.spec.ttl_seconds_after_finished.filter(|_| !going) else { return };
        let at = ended.saturating_add(SignedDuration::from_secs(ttl.into()));
        let at = at.unwrap_or(Timestamp::MAX);
        if at > self.now {
            self.plan.again_at(self.now, at);
            return;
        }
        self.plan.push(Write::Delete {
            target: Target::of(self.job),
            resource_version: self.job.metadata.resource_version.clone(),
            grace_seconds: None,
            propagation: Some("Foreground"),
        });
    }

    /// Notes the pods that have ended, and counts those whose finalizer is gone.
    fn count(&mut self) {
        let still: BTreeSet<&str> =
            self.snapshot.pods.iter().filter(|p| tracked(p)).map(|p| pods::uid(p)).collect();
        let settle = |noted: &mut Option<Vec<String>>| {
            let all = noted.take().unwrap_or_default();
            let (kept, settled): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|uid| still.contains(uid.as_str()));
            *noted = Some(kept);
            count(settled.len())
        };
        let succeeded = settle(&mut self.noted.succeeded);
        let failed = settle(&mut self.noted.failed);
        self.status.succeeded = Some(self.status.succeeded.unwrap_or(0).saturating_add(succeeded));
        self.status.failed = Some(self.status.failed.unwrap_or(0).saturating_add(failed));
        let suspended = self.spec.suspend == Some(true);
        for pod in self.snapshot.pods.iter().filter(|pod| tracked(pod)) {
            let uid = pods::uid(pod).to_owned();
            let noted = |list: &Option<Vec<String>>| list.iter().flatten().any(|u| *u == uid);
            if !noted(&self.noted.succeeded) && !noted(&self.noted.failed) {
                if pods::phase(pod) == "Succeeded" {
                    if let Some(index) = index_of(pod).filter(|_| self.is_indexed()) {
                        self.completed.insert(index);
                    }
                    self.noted.succeeded.get_or_insert_default().push(uid);
                } else if pods::phase(pod) == "Failed" || (pods::is_terminating(pod) && !suspended)
                {
                    // What is deleted may never reach a phase; it has failed.
                    self.noted.failed.get_or_insert_default().push(uid);
                } else if !pods::is_terminating(pod) {
                    continue;
                }
            }
            self.after.push(untrack(pod).into());
        }
    }

    fn succeeded(&self) -> i32 {
        if self.is_indexed() {
            return count(self.completed.len());
        }
        let noted = self.noted.succeeded.as_ref().map_or(0, Vec::len);
        self.status.succeeded.unwrap_or(0).saturating_add(count(noted))
    }

    fn failed(&self) -> i32 {
        let noted = self.noted.failed.as_ref().map_or(0, Vec::len);
        self.status.failed.unwrap_or(0).saturating_add(count(noted))
    }

    fn go_on(&mut self) {
        let active: Vec<Arc<Pod>> =
            self.pods().filter(|pod| pods::is_active(pod)).cloned().collect();
        let deleting = self.job.metadata.deletion_timestamp.is_some();
        let suspended = self.spec.suspend == Some(true);
        self.suspension(suspended);
        let verdict = if deleting { None } else { self.verdict(&active) };
        if let Some((kind, reason, message)) = verdict {
            let target = if kind == "Complete" { "SuccessCriteriaMet" } else { "FailureTarget" };
            if self.condition(target).is_none() {
                self.set(target, "True", reason, &message);
            }
            self.stop(&active);
            let busy = self.pods().any(|pod| !pods::is_finished(pod));
            let mut noted = self.noted.succeeded.iter().chain(&self.noted.failed);
            let uncounted = noted.any(|list| !list.is_empty());
            if !busy && !uncounted {
                self.set(kind, "True", reason, &message);
                if kind == "Complete" {
                    self.status.completion_time = Some(Time(self.now));
                    self.plan.notes.push(normal(self.job, "Completed", "Job completed"));
                } else {
                    self.plan.notes.push(warning(self.job, reason, message));
                }
            }
        } else if suspended {
            self.stop(&active);
        } else if !deleting {
            self.resize(&active);
        }
        let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
        let terminating = self.pods().filter(|p| pods::is_terminating(p) && !pods::is_finished(p));
        let terminating = count(terminating.count());
        let met = |kind| self.condition(kind).is_some();
        let stopped = suspended || met("SuccessCriteriaMet") || met("FailureTarget");
        self.status.active = Some(if stopped { 0 } else { count(active.len()) });
        self.status.ready = Some(if stopped { 0 } else { count(ready) });
        self.status.terminating = Some(terminating);
        if self.is_indexed() {
            self.status.succeeded = Some(count(self.completed.len()));
            self.status.completed_indexes = Some(self.completed.to_string());
        }
        self.write_status();
        let after = std::mem::take(&mut self.after);
        self.plan.steps.extend(after);
    }

    fn write_status(&mut self) {
        let keep = |list: &mut Option<Vec<String>>| *list = list.take().filter(|l| !l.is_empty());
        keep(&mut self.noted.succeeded);
        keep(&mut self.noted.failed);
        self.status.uncounted_terminated_pods = Some(self.noted.clone());
        let mut old = self.job.status.clone().unwrap_or_default();
        let zero = |n: &mut Option<i32>| *n = Some(n.unwrap_or(0));
        zero(&mut old.active);
        zero(&mut old.ready);
        zero(&mut old.succeeded);
        zero(&mut old.failed);
        zero(&mut old.terminating);
        let noted = old.uncounted_terminated_pods.get_or_insert_default();
        keep(&mut noted.succeeded);
        keep(&mut noted.failed);
        if self.is_indexed() {
            old.completed_indexes = Some(old.completed_indexes.unwrap_or_default());
        }
        // Before what depends on it: creates too, for a pod that nobody has noted is looked at again.
        let patch = status_patch(self.job, Some(&old), &self.status);
        let at = self.plan.steps.len();
        self.plan.steps.splice(at..at, patch.map(Step::from));
    }

    fn suspension(&mut self, suspended: bool) {
        let is_suspended = self.condition("Suspended").is_some();
        if suspended && !is_suspended {
            self.set("Suspended", "True", "JobSuspended", "Job suspended");
            self.plan.notes.push(normal(self.job, "Suspended", "Job suspended"));
        } else if !suspended && is_suspended {
            self.set("Suspended", "False", "JobResumed", "Job resumed");
            self.plan.notes.push(normal(self.job, "Resumed", "Job resumed"));
            self.status.start_time = Some(Time(self.now));
        }
        if suspended {
            self.status.start_time = None;
        } else if self.status.start_time.is_none() {
            self.status.start_time = Some(Time(self.now));
        }
    }

    /// How it ends, if it does: the condition, its reason and message.
    fn verdict(&mut self, active: &[Arc<Pod>]) -> Option<(&'static str, &'static str, String)> {
        if let Some(condition) = self.condition("FailureTarget") {
            let message = condition.message.clone().unwrap_or_default();
            let known = ["BackoffLimitExceeded", "DeadlineExceeded", "UnsupportedField"];
            let reason = known.into_iter().find(|r| condition.reason.as_deref() == Some(r));
            return Some(("Failed", reason.unwrap_or("JobFailed"), message));
        }
        let unsupported = [
            ("spec.podFailurePolicy", self.spec.pod_failure_policy.is_some()),
            ("spec.successPolicy", self.spec.success_policy.is_some()),
            ("spec.backoffLimitPerIndex", self.spec.backoff_limit_per_index.is_some()),
        ];
        if let Some((field, _)) = unsupported.iter().find(|(_, set)| *set) {
            let message = format!("{field} is not supported by this cluster");
            return Some(("Failed", "UnsupportedField", message));
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let restarts = active.iter().map(|pod| pods::restarts(pod)).fold(0, i32::saturating_add);
        let on_failure = self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        let too_many_restarts = on_failure == Some("OnFailure")
            && if limit == 0 { restarts > 0 } else { restarts >= limit };
        if self.failed() > limit || too_many_restarts {
            let message = "Job has reached the specified backoff limit".to_owned();
            return Some(("Failed", "BackoffLimitExceeded", message));
        }
        if let (Some(seconds), Some(start)) =
            (self.spec.active_deadline_seconds, &self.status.start_time)
        {
            let at = start.0.saturating_add(SignedDuration::from_secs(seconds));
            let at = at.unwrap_or(Timestamp::MAX);
            if at <= self.now {
                let message = "Job was active longer than specified deadline".to_owned();
                return Some(("Failed", "DeadlineExceeded", message));
            }
            self.plan.again_at(self.now, at);
        }
        let is_complete = match self.spec.completions {
            Some(completions) => self.succeeded() >= completions,
            // A work queue: one success says that the work is done, the others end by themselves.
            None => self.succeeded() > 0 && active.is_empty(),
        };
        let message = "Reached expected number of succeeded pods".to_owned();
        is_complete.then_some(("Complete", "CompletionsReached", message))
    }

    /// Deletes pods that are wanted no more. They do not count as failed.
    fn stop(&mut self, some: &[Arc<Pod>]) {
        for pod in some {
            if tracked(pod) {
                self.after.push(untrack(pod).into());
            }
            let note =
                normal(self.job, "SuccessfulDelete", format!("Deleted pod: {}", pods::name(pod)));
            self.after.push(Step::from(delete(&**pod)).note(note));
        }
    }

    /// Creates or deletes pods towards the parallelism that is wanted.
    fn resize(&mut self, active: &[Arc<Pod>]) {
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let there = count(active.len());
        let wanted = match self.spec.completions {
            Some(completions) => parallelism.min((completions - self.succeeded()).max(0)),
            None if self.succeeded() > 0 => there.min(parallelism),
            None => parallelism,
        };
        if there > wanted {
            let mut victims = active.to_vec();
            victims.sort_by_key(|pod| {
                (pods::is_ready(pod), std::cmp::Reverse(pod.metadata.creation_timestamp.clone()))
            });
            let surplus = usize::try_from(there - wanted).unwrap_or(0);
            self.stop(&victims[..surplus]);
            return;
        }
        let mut missing = usize::try_from(wanted - there).unwrap_or(0).min(BURST);
        if self.spec.pod_replacement_policy.as_deref() == Some("Failed") {
            let going = self.pods().filter(|p| pods::is_terminating(p) && !pods::is_finished(p));
            missing = missing.saturating_sub(going.count());
        }
        if missing == 0 {
            return;
        }
        if let Some(at) = self.backed_off().filter(|at| *at > self.now) {
            self.plan.again_at(self.now, at);
            return;
        }
        self.create(missing);
    }

    /// Until when no pod is made, for the failures since the last success.
    fn backed_off(&self) -> Option<Timestamp> {
        let succeeded = self.pods().filter(|pod| pods::phase(pod) == "Succeeded");
        let success = succeeded.filter_map(|pod| finished_at(pod)).max();
        let failed = self.pods().filter(|pod| pods::phase(pod) == "Failed");
        let failures: Vec<Timestamp> =
            failed.filter_map(|pod| finished_at(pod)).filter(|at| Some(*at) > success).collect();
        let last = failures.iter().max()?;
        let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16);
        let wait = BACKOFF.0.saturating_mul(1 << doublings).min(BACKOFF.1);
        last.saturating_add(SignedDuration::from_secs(wait)).ok()
    }

    fn create(&mut self, missing: usize) {
        let meta = &self.job.metadata;
        let (name, uid) =
            (meta.name.as_deref().unwrap_or_default(), meta.uid.as_deref().unwrap_or_default());
        let namespace = meta.namespace.clone().unwrap_or_default();
        let owner = controller_reference(self.job);
        let mut made: Vec<(String, Option<u32>)> = Vec::new();
        if self.is_indexed() {
            let running: BTreeSet<u32> = self
                .pods()
                .filter(|pod| pods::is_active(pod))
                .filter_map(|pod| index_of(pod))
                .collect();
            let all = u32::try_from(self.spec.completions.unwrap_or(0)).unwrap_or(0);
            let free = (0..all).filter(|i| !running.contains(i) && !self.completed.contains(*i));
            for index in free.take(missing) {
                let base = format!("{name}-{index}");
                made.extend(
                    names::slots(&base, uid, self.snapshot.taken).next().map(|n| (n, Some(index))),
                );
            }
        } else {
            let slots = names::slots(name, uid, self.snapshot.taken);
            made.extend(slots.take(missing).map(|name| (name, None)));
        }
        for (pod_name, index) in made {
            let generate = match index {
                Some(index) => format!("{}-{index}-", names::base(name)),
                None => format!("{}-", names::base(name)),
            };
            let mut pod =
                pods::from_template(&self.spec.template, &namespace, &pod_name, &generate, &owner);
            for (key, value) in [
                ("controller-uid", uid),
                ("batch.kubernetes.io/controller-uid", uid),
                ("job-name", name),
                ("batch.kubernetes.io/job-name", name),
            ] {
                pod["metadata"]["labels"][key] = json!(value);
            }
            let mut finalizers = self
                .spec
                .template
                .metadata
                .as_ref()
                .and_then(|meta| meta.finalizers.clone())
                .unwrap_or_default();
            finalizers.push(FINALIZER.to_owned());
            pod["metadata"]["finalizers"] = json!(finalizers);
            if let Some(index) = index {
                mark_index(&mut pod, name, index);
            }
            let write = Write::Create {
                resource: Resource::of::<Pod>(),
                namespace: namespace.clone(),
                object: pod,
            };
            let note = normal(self.job, "SuccessfulCreate", format!("Created pod: {pod_name}"));
            let failed = warning(self.job, "FailedCreate", "Error creating: ");
            self.after.push(Step::from(write).note(note).or_warn(failed));
        }
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        });
    }
}

/// What a pod of an Indexed Job knows of its index.
fn mark_index(pod: &mut Value, job: &str, index: u32) {
    let text = index.to_string();
    pod["metadata"]["annotations"][INDEX] = json!(text);
    pod["metadata"]["labels"][INDEX] = json!(text);
    pod["spec"]["hostname"] = json!(format!("{}-{index}", names::base(job)));
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let env = container["env"].as_array().cloned().unwrap_or_default();
            let mut env: Vec<_> =
                env.into_iter().filter(|e| e["name"] != "JOB_COMPLETION_INDEX").collect();
            env.push(json!({"name": "JOB_COMPLETION_INDEX", "value": text}));
            container["env"] = json!(env);
        }
    }
}

/// The finalizers of a Job's pods must not outlive it: takes them from the pods of earlier Jobs of that name.
pub(crate) fn outlived(key: &Key, job: Option<&Job>, pods: &[Arc<Pod>]) -> Plan {
    let mut plan = Plan::default();
    let uid = job.and_then(|job| job.metadata.uid.as_ref());
    for pod in pods {
        let owner = controller_of(&pod.metadata);
        let of_key = owner.is_some_and(|owner| owner.kind == "Job" && *owner.name == *key.name);
        let of_this = owner.map(|owner| &owner.uid) == uid;
        if of_key && !of_this && tracked(pod) {
            plan.push(untrack(pod));
        }
    }
    if job.is_some() && !plan.steps.is_empty() {
        plan.again(std::time::Duration::ZERO);
    }
    plan
}

pub(crate) struct Jobs(Context);

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";
    const RESOURCE: (&'static str, &'static str) = ("batch", "jobs");

    fn plan(&self, now: Timestamp, key: &Key) -> Plan {
        let caches = &self.0.caches;
        let job = caches.jobs.get(&key.namespace, &key.name);
        let plan = outlived(key, job.as_deref(), &caches.pods_in.get(&key.namespace));
        let Some(job) = job.filter(|_| plan.steps.is_empty()) else { return plan };
        let pods = caches.pods_of.get(job.metadata.uid.as_deref().unwrap_or_default());
        let taken = |name: &str| caches.pods.get(&key.namespace, name).is_some();
        decide(now, &Snapshot { job: &job, pods: &pods, taken: &taken })
    }
}

pub(crate) fn start(context: &Context, tasks: &Tasks) {
    let queue = WorkQueue::default();
    let caches = &context.caches;
    let to = queue.clone();
    caches.jobs.on_change(move |change| {
        change.any().into_iter().for_each(|job| to.add(Key::of(&**job)));
    });
    let to = queue.clone();
    caches.pods.on_change(move |change| {
        owners(change, "Job").into_iter().for_each(|key| to.add(key));
    });
    run(context, tasks, queue, WORKERS, Jobs(context.clone()));
}

#[cfg(test)]
mod tests;
