//! What should run here, as the API has it: a pure map that says what a change means.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use warren_api::Revision;

use crate::mirror;
use crate::pod::spec;

/// Ended pods that are remembered: four times the deliveries (256) that may come again after a lost connection.
const ENDED: usize = 1024;

/// The pods that the API has for this node, by uid: a pure map that says what a change means.
#[doc(hidden)]
#[derive(Default)]
pub struct Desired {
    pods: HashMap<Arc<str>, Known>,
    /// Everything up to here was in the list that was read last.
    listed: Revision,
    /// Pods that were ours and are not any more, the oldest first: what is delivered again after a lost connection must
    /// not bring them back.
    ended: VecDeque<Arc<str>>,
}

struct Known {
    namespace: Arc<str>,
    name: Arc<str>,
    revision: Revision,
    mirror: bool,
}

#[doc(hidden)]
#[derive(Debug, PartialEq)]
pub enum Effect {
    Run(Arc<Pod>),
    /// With the last body, where there is one.
    End(Arc<str>, Option<Arc<Pod>>),
    MirrorSeen(Arc<Pod>),
    MirrorGone {
        namespace: Arc<str>,
        name: Arc<str>,
        uid: Arc<str>,
    },
}

impl Desired {
    /// Whether this was known already, and more: an event that comes again. Neither the disk nor the pods hear of it.
    pub fn is_old(&self, uid: &str, revision: Revision) -> bool {
        revision <= self.listed
            || self.pods.get(uid).is_some_and(|known| known.revision > revision)
            || self.ended.iter().any(|ended| **ended == *uid)
    }

    pub(crate) fn has(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// What the API has of a pod counts as new when it is listed next.
    pub(crate) fn again(&mut self, uid: &str) {
        if let Some(known) = self.pods.get_mut(uid) {
            known.revision = Revision(0);
        }
    }

    /// A pod was added or changed. A pod of another node is one that we must not run (any more).
    pub fn upsert(&mut self, node: &str, mut pod: Pod) -> Option<Effect> {
        let reference = spec::pod_ref(&pod);
        if reference.uid.is_empty() {
            return None;
        }
        if spec::spec(&pod).node_name.as_deref() != Some(node) {
            return self.remove(&reference.uid, None);
        }
        let revision = revision(&pod);
        if let Some(known) = self.pods.get(&reference.uid)
            && known.revision > revision
        {
            return None;
        }
        let mirror = mirror::mirrors(&pod).is_some();
        let known =
            Known { namespace: reference.namespace, name: reference.name, revision, mirror };
        self.pods.insert(reference.uid, known);
        // Who wrote which field is nothing to a node, and as large as the rest.
        pod.metadata.managed_fields = None;
        let pod = Arc::new(pod);
        Some(if mirror { Effect::MirrorSeen(pod) } else { Effect::Run(pod) })
    }

    pub fn remove(&mut self, uid: &str, last: Option<Pod>) -> Option<Effect> {
        let (owned, known) = self.pods.remove_entry(uid)?;
        self.ended.push_back(owned);
        if self.ended.len() > ENDED {
            self.ended.pop_front();
        }
        Some(if known.mirror {
            Effect::MirrorGone { namespace: known.namespace, name: known.name, uid: uid.into() }
        } else {
            Effect::End(uid.into(), last.map(Arc::new))
        })
    }

    /// The API was listed, as of a revision: only the differences. A list is the truth, also where it is older than what
    /// was seen: the database was restored.
    pub fn replace(&mut self, node: &str, pods: Vec<Pod>, at: Revision) -> Vec<Effect> {
        self.listed = at;
        let listed: std::collections::HashSet<String> =
            pods.iter().filter_map(|p| p.metadata.uid.clone()).collect();
        let mut gone: Vec<_> =
            self.pods.keys().filter(|uid| !listed.contains(&***uid)).cloned().collect();
        gone.sort();
        let mut effects: Vec<Effect> =
            gone.iter().filter_map(|uid| self.remove(uid, None)).collect();
        // What came before the list is old by its revision. What comes after it is true: a pod that a restore has taken off
        // this node may be bound to it again.
        self.ended.clear();
        for pod in pods {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let known = self.pods.get_mut(uid);
            let at = revision(&pod);
            if known.as_ref().is_some_and(|known| known.revision == at) {
                continue;
            }
            if let Some(known) = known {
                known.revision = at;
            }
            effects.extend(self.upsert(node, pod));
        }
        effects
    }
}

pub(crate) fn revision(pod: &Pod) -> Revision {
    let text = pod.metadata.resource_version.as_deref();
    text.and_then(|rv| rv.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, node: &str, rv: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "namespace": "ns", "uid": uid, "resourceVersion": rv},
            "spec": {"nodeName": node, "containers": []},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_that_a_list_ended_may_come_again() {
        let mut desired = Desired::default();
        let run = |effect: Option<Effect>| matches!(effect, Some(Effect::Run(_)));
        assert!(run(desired.upsert("n", pod("a", "n", "5"))));
        // The backup has the pod without a node.
        let effects = desired.replace("n", Vec::new(), Revision(1_000));
        assert!(matches!(effects[..], [Effect::End(..)]));
        assert!(desired.is_old("a", Revision(6)), "of before the list");
        assert!(!desired.is_old("a", Revision(1_001)), "bound here again");
        assert!(run(desired.upsert("n", pod("a", "n", "1001"))));
        // What a deletion ended comes no more.
        desired.remove("a", None);
        assert!(desired.is_old("a", Revision(1_002)));
    }

    #[test]
    fn what_changes_mean() {
        let mut desired = Desired::default();
        let run = |effect: Option<Effect>| matches!(effect, Some(Effect::Run(_)));
        assert!(run(desired.upsert("n", pod("a", "n", "5"))));
        assert_eq!(desired.upsert("n", pod("a", "n", "4")), None, "older");
        assert!(run(desired.upsert("n", pod("a", "n", "6"))));
        assert_eq!(desired.upsert("n", pod("b", "other", "7")), None, "never ours");
        assert!(matches!(desired.upsert("n", pod("a", "other", "8")), Some(Effect::End(..))));
        assert_eq!(desired.remove("a", None), None, "gone already");
        desired.upsert("n", pod("c", "n", "9"));
        desired.upsert("n", pod("d", "n", "9"));
        let listed = vec![pod("c", "n", "9"), pod("e", "n", "10")];
        let effects = desired.replace("n", listed, Revision(10));
        assert_eq!(effects.len(), 2, "{effects:?}");
        assert!(effects.contains(&Effect::End("d".into(), None)));
        // The database was restored: what the API has is older than what was told, and is to be told again.
        let effects = desired.replace("n", vec![pod("c", "n", "2")], Revision(1_000));
        assert!(effects.iter().any(|e| matches!(e, Effect::Run(pod) if revision(pod).0 == 2)));
    }

    #[test]
    fn what_comes_again_is_old() {
        let mut desired = Desired::default();
        let at = Revision;
        desired.upsert("n", pod("a", "n", "5"));
        for (uid, revision, old) in
            [("a", 4, true), ("a", 5, false), ("a", 6, false), ("b", 1, false)]
        {
            assert_eq!(desired.is_old(uid, at(revision)), old, "{uid} {revision}");
        }
        desired.remove("a", None);
        assert!(desired.is_old("a", at(5)), "it has ended");
        desired.replace("n", vec![pod("b", "n", "20")], at(30));
        assert!(desired.is_old("c", at(30)), "the list would have it");
        assert!(!desired.is_old("c", at(31)));
        assert!(desired.is_old("a", at(30)), "it had ended by then");
        assert!(!desired.is_old("a", at(31)), "a restore took it off, and it is bound here again");
        // The database was restored.
        desired.replace("n", vec![pod("a", "n", "3")], at(1_000));
        assert!(!desired.is_old("a", at(1_001)), "the list is the truth");
        for n in 0..=ENDED {
            desired.upsert("n", pod(&format!("p{n}"), "n", "2000"));
            desired.remove(&format!("p{n}"), None);
        }
        assert_eq!(desired.ended.len(), ENDED, "bounded");
    }
}
