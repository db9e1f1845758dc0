//! A Deployment whose size changes, perhaps amid a rollout.

use super::{DESIRED, Limits, MAX, Set, Work, total};

impl Work<'_> {
    /// Whether the size changed since the ReplicaSets were last sized.
    pub(super) fn was_scaled(&self) -> bool {
        let replicas = self.limits.replicas;
        let differs = |set: &Set| set.number(DESIRED).is_some_and(|desired| desired != replicas);
        self.all().any(|set| set.replicas > 0 && differs(set))
    }

    /// Brings the ReplicaSets to the new size, each by its share where several have pods.
    pub(super) fn scale(&mut self) {
        let limits = self.limits;
        let status = self.deployment.status.as_ref().and_then(|status| status.replicas);
        let Work { new, old, .. } = self;
        let is_saturated = new.as_ref().is_some_and(|new| {
            new.replicas == limits.replicas
                && new.number(DESIRED) == Some(limits.replicas)
                && new.available() == limits.replicas
        });
        let mut active: Vec<&mut Set> =
            old.iter_mut().chain(new.iter_mut()).filter(|set| set.replicas > 0).collect();
        if active.len() <= 1 {
            let only = match active.pop() {
                Some(only) => Some(only),
                // The newest: the one of the template, else the youngest of the old.
                None => new.as_mut().or(old.last_mut()),
            };
            if let Some(set) = only {
                set.replicas = limits.replicas;
                set.mark(limits);
            }
        } else if is_saturated {
            old.iter_mut().for_each(|set| set.replicas = 0);
        } else {
            if limits.rolling {
                share(&mut active, limits, status.unwrap_or(0));
            }
            active.iter_mut().for_each(|set| set.mark(limits));
        }
    }
}

/// Kubernetes' rule: each ReplicaSet changes in proportion to its size, larger ones first; what rounding leaves over
/// goes to the first.
fn share(active: &mut [&mut Set], limits: Limits, status_replicas: i32) {
    let there = total(active.iter().map(|set| set.replicas));
    let allowed = if limits.replicas > 0 { limits.most() } else { 0 };
    let to_add = allowed - there;
    active.sort_by(|a, b| {
        let younger = b.created().cmp(&a.created()).then_with(|| b.name().cmp(a.name()));
        let age = if to_add > 0 { younger } else { younger.reverse() };
        b.replicas.cmp(&a.replicas).then(age)
    });
    let mut added = 0;
    for set in active.iter_mut() {
        let left = to_add - added;
        let fraction = if limits.replicas == 0 {
            -set.replicas
        } else {
            let before = set.number(MAX).filter(|max| *max > 0).unwrap_or(status_replicas);
            let size = f64::from(set.replicas) * f64::from(limits.most())
                / f64::from(if before > 0 { before } else { there.max(1) });
            #[expect(clippy::cast_possible_truncation, reason = "saturates, and is cut below")]
            let size = size.round() as i32;
            size.saturating_sub(set.replicas)
        };
        let change = if to_add > 0 { fraction.min(left).max(0) } else { fraction.max(left).min(0) };
        let change = change.max(-set.replicas);
        set.replicas += change;
        added += change;
    }
    if let Some(first) = active.first_mut() {
        first.replicas = first.replicas.saturating_add(to_add - added).max(0);
    }
}
