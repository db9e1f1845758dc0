//! From the old ReplicaSets to the new one.

use super::{Set, Work, total};
use crate::plan::delete;
use crate::pods;

impl Work<'_> {
    /// Never more pods than `replicas + maxSurge`, never fewer available than `replicas - maxUnavailable`. Room is
    /// counted in what the ReplicaSets are told to have, availability in what they have.
    pub(super) fn roll(&mut self) {
        let existed = self.new.is_some();
        self.need_new();
        if !existed {
            return;
        }
        self.grow_new();
        self.shrink_old();
        self.clean_up();
    }

    fn grow_new(&mut self) {
        let there = total(self.all().map(|set| set.replicas));
        let limits = self.limits;
        let Some(new) = &mut self.new else { return };
        if new.replicas < limits.replicas {
            let room = (limits.most() - there).max(0);
            new.replicas += room.min(limits.replicas - new.replicas);
        } else {
            new.replicas = limits.replicas;
        }
    }

    fn shrink_old(&mut self) {
        let there = total(self.all().map(|set| set.replicas));
        let least = self.limits.least_available();
        let of_new = |set: &Set| set.replicas.saturating_sub(set.available()).max(0);
        let new_unavailable = self.new.as_ref().map_or(0, of_new);
        let mut room = there.saturating_sub(least).saturating_sub(new_unavailable);
        if room <= 0 {
            return;
        }
        let healthy = |set: &Set| set.available().min(set.replicas);
        // What does not serve goes first: it costs no availability.
        for set in &mut self.old {
            let down = set.replicas.saturating_sub(healthy(set)).min(room).max(0);
            set.replicas -= down;
            room -= down;
        }
        let mut spare = total(self.all().map(healthy)).saturating_sub(least);
        for set in &mut self.old {
            let down = set.replicas.min(spare).min(room).max(0);
            set.replicas -= down;
            spare -= down;
            room -= down;
        }
    }

    /// All old pods go before the first new one comes.
    pub(super) fn recreate(&mut self) {
        let mut stopped = true;
        for set in &mut self.old {
            stopped &= set.replicas == 0 && set.actual() == 0;
            set.replicas = 0;
        }
        let new = self.new.as_ref().and_then(|new| new.rs.metadata.uid.as_deref());
        let is_old = |pod: &k8s_openapi::api::core::v1::Pod| {
            let owner = crate::plan::controller_of(&pod.metadata);
            owner.is_some_and(|owner| Some(owner.uid.as_str()) != new)
        };
        stopped &= !self.snapshot.pods.iter().any(|pod| is_old(pod) && !pods::is_finished(pod));
        if !stopped {
            return;
        }
        self.need_new();
        let replicas = self.limits.replicas;
        if let Some(new) = &mut self.new {
            new.replicas = replicas;
        }
        self.clean_up();
    }

    /// Deletes the oldest ReplicaSets beyond the history that is wanted, once the rollout is complete (or paused).
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.spec.revision_history_limit else { return };
        let limit = usize::try_from(limit).unwrap_or(0);
        let paused = self.spec.paused == Some(true);
        if self.old.iter().any(|set| set.replicas > 0) || (!paused && !self.new_serves()) {
            return;
        }
        let mut by_revision: Vec<&Set> =
            self.old.iter().filter(|set| set.rs.metadata.deletion_timestamp.is_none()).collect();
        by_revision.sort_by_key(|set| set.revision());
        let surplus = by_revision.len().saturating_sub(limit);
        let is_idle = |set: &Set| {
            let observed = set.rs.status.as_ref().and_then(|status| status.observed_generation);
            set.before() == 0 && set.actual() == 0 && observed >= set.rs.metadata.generation
        };
        for set in by_revision.into_iter().take(surplus).filter(|set| is_idle(set)) {
            self.plan.push(delete(&*set.rs));
        }
    }

    fn new_serves(&self) -> bool {
        let replicas = self.limits.replicas;
        self.new.as_ref().is_some_and(|new| {
            new.replicas == replicas && new.available() == replicas && new.actual() == replicas
        })
    }
}
