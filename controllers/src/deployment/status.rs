//! What a Deployment says of itself.

use jiff::{SignedDuration, Timestamp};

use super::*;

impl Work<'_> {
    /// From what the ReplicaSets report. `new` is absent where it has just been made.
    pub(super) fn status(&mut self, new: Option<&Set>) {
        let old_status = self.deployment.status.clone().unwrap_or_default();
        let sum = |of: fn(&Set) -> i32| self.all().map(of).fold(0_i32, i32::saturating_add);
        let available = sum(Set::available);
        let wanted = sum(Set::before);
        let counts = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: Some(sum(Set::actual)),
            updated_replicas: Some(new.map_or(0, Set::actual)),
            ready_replicas: Some(sum(Set::ready)),
            available_replicas: Some(available),
            unavailable_replicas: Some((wanted - available).max(0)),
            collision_count: self.collisions,
            ..DeploymentStatus::default()
        };
        if available >= self.limits.least_available() {
            let message = "Deployment has minimum availability.";
            self.condition("Available", "True", "MinimumReplicasAvailable", message.to_owned());
        } else {
            let message = "Deployment does not have minimum availability.";
            self.condition("Available", "False", "MinimumReplicasUnavailable", message.to_owned());
        }
        self.progress(&old_status, &counts, new);
        self.failure(new);
        let mut conditions = std::mem::take(&mut self.conditions);
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        let status = DeploymentStatus { conditions: Some(conditions), ..counts };
        let mut before = old_status;
        if let Some(conditions) = &mut before.conditions {
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        let zero = |n: &mut Option<i32>| *n = Some(n.unwrap_or(0));
        zero(&mut before.replicas);
        zero(&mut before.updated_replicas);
        zero(&mut before.ready_replicas);
        zero(&mut before.available_replicas);
        zero(&mut before.unavailable_replicas);
        self.plan
            .steps
            .extend(status_patch(self.deployment, Some(&before), &status).map(Step::from));
    }

    fn progress(&mut self, old: &DeploymentStatus, counts: &DeploymentStatus, new: Option<&Set>) {
        let Some(deadline) = self.spec.progress_deadline_seconds.filter(|s| *s < i32::MAX) else {
            self.conditions.retain(|condition| condition.type_ != "Progressing");
            return;
        };
        let current = self.conditions.iter().find(|c| c.type_ == "Progressing");
        let reason = current.and_then(|condition| condition.reason.clone()).unwrap_or_default();
        let of = |n: Option<i32>| n.unwrap_or(0);
        let (replicas, updated) = (of(counts.replicas), of(counts.updated_replicas));
        if replicas == updated && reason == "NewReplicaSetAvailable" {
            return;
        }
        let name = match new {
            Some(new) => format!("ReplicaSet \"{}\"", new.name()),
            None => {
                let name = self.deployment.metadata.name.as_deref().unwrap_or_default();
                format!("Deployment \"{name}\"")
            }
        };
        let all = self.limits.replicas;
        let is_complete = new.is_some()
            && updated == all
            && replicas == all
            && of(counts.available_replicas) == all;
        let is_progress = updated > of(old.updated_replicas)
            || replicas - updated < of(old.replicas) - of(old.updated_replicas)
            || of(counts.ready_replicas) > of(old.ready_replicas)
            || of(counts.available_replicas) > of(old.available_replicas);
        if is_complete {
            let message = format!("{name} has successfully progressed.");
            self.progressing("True", "NewReplicaSetAvailable", message);
            return;
        }
        if is_progress {
            self.progressing("True", "ReplicaSetUpdated", format!("{name} is progressing."));
        } else if self.timed_out(deadline) {
            let message = format!("{name} has timed out progressing.");
            self.progressing("False", "ProgressDeadlineExceeded", message);
        }
        if let Some(at) = self.deadline(deadline).filter(|at| *at > self.now) {
            self.plan.again_at(self.now, at);
        }
    }

    fn deadline(&self, seconds: i32) -> Option<Timestamp> {
        let condition = self.conditions.iter().find(|c| c.type_ == "Progressing")?;
        let paused = self.spec.paused == Some(true);
        if paused || condition.reason.as_deref() == Some("NewReplicaSetAvailable") {
            return None;
        }
        let since = condition.last_update_time.as_ref()?.0;
        since.saturating_add(SignedDuration::from_secs(seconds.into())).ok()
    }

    fn timed_out(&self, seconds: i32) -> bool {
        let condition = self.conditions.iter().find(|c| c.type_ == "Progressing");
        let reason = condition.and_then(|condition| condition.reason.as_deref());
        reason == Some("ProgressDeadlineExceeded")
            || self.deadline(seconds).is_some_and(|at| at <= self.now)
    }

    /// Why pods cannot be made, as the ReplicaSets tell it; the new one first.
    fn failure(&mut self, new: Option<&Set>) {
        let of = |set: &Set| {
            let conditions = set.rs.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|condition| condition.type_ == "ReplicaFailure").cloned()
        };
        let failure = new.and_then(of).or_else(|| self.old.iter().find_map(of));
        match failure {
            Some(failure) => {
                let reason = failure.reason.unwrap_or_default();
                let message = failure.message.unwrap_or_default();
                self.condition("ReplicaFailure", &failure.status, &reason, message);
            }
            None => self.conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        }
    }
}
