//! What a container runtime did, one event after another: whether a container of a pod ran twice.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, Wrong};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    /// The uid of the pod and the name of the container.
    pub of: (String, String),
    pub starts: bool,
}

pub fn check(events: &[Event]) -> Vec<Violation> {
    let mut running: BTreeMap<&(String, String), BTreeSet<&str>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for event in events {
        let all = running.entry(&event.of).or_default();
        if !event.starts {
            all.remove(event.id.as_str());
            continue;
        }
        all.insert(&event.id);
        if all.len() > 1 {
            let what = format!("container {} of pod {}: {all:?}", event.of.1, event.of.0);
            wrong.push(Violation::new(Wrong::Twice, what));
        }
    }
    wrong
}
