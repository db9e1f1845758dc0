//! After a restore: which pods may run on a node though the backup knows of none.
//!
//! A pod that had no node when the backup was made may have got one since. What is restored says that it has none; the node
//! of then runs it until it has listed its pods. To give it to a node meanwhile would run it twice. So the pods that a
//! restored database has without a node get none before every node says, on its lease, that all that runs there agrees with
//! a list of the restored database ([`LISTED`]), and before nodes of which the backup knows nothing had time to come.
//! A node that is not heard of is waited for: it may run them still. Whoever knows that it does not deletes the Node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use smallvec::SmallVec;
use warren_api::{
    Cause, FieldError, GroupResource, LISTED, Listed, Object, ObjectKey, Revision, Shard, Status,
    Uid,
};
use warren_store::{Durability, Item, Loaded, Op, Write};

use crate::api::Api;
use crate::cache::{Entry, Scope, node_of};
use crate::codec;
use crate::commit::{internal_key, record};

/// A node that the backup does not know registers in this time, if it is there: as long as a lease lasts.
pub const SHOWS_UP: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Nodes that a message names.
const NAMED: usize = 3;

/// The pods that wait, and for lists since when. Bounded by the pods that the backup has without a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The restored database's, which knows it: it is not in the record.
    #[serde(skip)]
    pub epoch: u64,
    pub at: Revision,
    pub pods: BTreeSet<String>,
}

/// What they wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    ForNothing,
    ForNodesToCome,
    For(Vec<String>),
}

impl Hold {
    /// Pods that somebody has deleted wait for nothing. Answers whether there were any.
    fn forget_all_but(&mut self, there: &BTreeSet<String>) -> bool {
        let before = self.pods.len();
        self.pods.retain(|uid| there.contains(uid));
        self.pods.len() < before
    }

    /// `nodes`: all that have a lease, with what it says. What a list of another database said counts for nothing: two
    /// restores of one backup come to the same revision where the disk was lost in between.
    pub fn waits(
        &self,
        up: Duration,
        nodes: impl Iterator<Item = (String, Option<Listed>)>,
    ) -> Waits {
        if self.pods.is_empty() {
            return Waits::ForNothing;
        }
        let at = Listed { epoch: self.epoch, revision: self.at };
        let late = nodes.filter(|(_, listed)| !listed.is_some_and(|listed| listed.covers(at)));
        let late = late.map(|(name, _)| name);
        match late.collect::<Vec<_>>() {
            late if !late.is_empty() => Waits::For(late),
            _ if up < SHOWS_UP => Waits::ForNodesToCome,
            _ => Waits::ForNothing,
        }
    }
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ForNothing => f.write_str("nothing"),
            Self::ForNodesToCome => f.write_str("nodes that the backup does not know"),
            Self::For(nodes) => {
                let named = nodes[..nodes.len().min(NAMED)].join(", ");
                let word = if nodes.len() == 1 { "node" } else { "nodes" };
                write!(f, "{word} {named}")?;
                match nodes.len().saturating_sub(NAMED) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}

/// Whether a database was restored and not written to since. A killed server skips some thousand revisions, a restore 10⁹.
pub(crate) fn is_fresh(loaded: &Loaded) -> bool {
    let newest = loaded.objects.iter().map(|change| change.revision.0).max();
    newest.is_some_and(|newest| loaded.revision.0.saturating_sub(newest) >= Revision::RESTORE_STEP)
}

/// What binding asks.
#[derive(Debug, Default)]
pub(crate) struct Held(RwLock<Option<(Hold, Waits)>>);

impl Held {
    pub(crate) fn pods(&self) -> u64 {
        self.0.read().as_ref().map_or(0, |(hold, _)| hold.pods.len() as u64)
    }

    /// An error where the pod may run somewhere.
    pub(crate) fn may_bind(&self, name: &str, uid: &str) -> Result<(), Status> {
        let held = self.0.read();
        let Some((_, waits)) = held.as_ref().filter(|(hold, _)| hold.pods.contains(uid)) else {
            return Ok(());
        };
        let message = format!(
            "the database was restored, and the pod may run since before; waiting for {waits} to list their pods (delete \
             the Node of one that is gone for good)"
        );
        let bindings = GroupResource::new("", "pods/binding");
        let mut status = Status::conflict(&bindings, name, &message);
        let cause = FieldError { kind: Cause::MayRunElsewhere, field: String::new(), message };
        status.details.get_or_insert_default().causes.push(cause);
        Err(status)
    }
}

fn key() -> ObjectKey {
    internal_key("restores", "pods")
}

/// Before the first request: what is held is on disk before anything else is written.
pub(crate) async fn start(api: &Arc<Api>, fresh: bool) -> Result<(), Status> {
    let key = key();
    let known = api.cache.get(&key.resource, "", &key.name);
    let hold = match (&known, fresh) {
        (Some(entry), false) => {
            let value: Value = serde_json::from_slice(entry.body()).unwrap_or_default();
            let hold: Hold = serde_json::from_value(value["hold"].clone()).unwrap_or_default();
            // The record is of this database, as another one would be fresh.
            Hold { epoch: api.journal.epoch(), ..hold }
        }
        (None, false) => return Ok(()),
        (_, true) => {
            Hold { epoch: api.journal.epoch(), at: api.cache.revision(), pods: without_node(api) }
        }
    };
    if fresh && !hold.pods.is_empty() {
        let op = if known.is_some() { Op::Modified } else { Op::Added };
        record(api, write(op, &hold)).await?;
        tracing::info!(
            pods = hold.pods.len(),
            "restored: pods without a node wait until all nodes have listed theirs"
        );
    }
    *api.held.0.write() = Some((hold, Waits::ForNodesToCome));
    let check = api.readiness.check("restore");
    let (api, began) = (Arc::clone(api), Instant::now());
    check.degraded("looking for the nodes");
    let tasks = api.tasks.clone();
    tasks.spawn("restored", async move {
        while !look(&api, began, &check).await {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = api.shutdown.draining() => return,
            }
        }
    });
    Ok(())
}

/// Whether nothing waits any more. A lease goes with its Node.
async fn look(api: &Api, began: Instant, check: &warren_process::CheckHandle) -> bool {
    let Some((mut hold, before)) = api.held.0.read().clone() else { return true };
    let forgot = hold.forget_all_but(&without_node(api));
    let waits = hold.waits(began.elapsed(), leases(api).into_iter());
    if waits == Waits::ForNothing {
        let key = key();
        let is_recorded = api.cache.get(&key.resource, "", &key.name).is_some();
        if is_recorded && let Err(error) = record(api, write(Op::Deleted, &hold)).await {
            tracing::debug!(%error, "the record of a restore could not be removed; tried again in a second");
            return false;
        }
        *api.held.0.write() = None;
        check.ready();
        tracing::info!("restored: no pod waits for nodes any more");
        return true;
    }
    if forgot || waits != before {
        let pods = hold.pods.len();
        let pods = if pods == 1 { "1 pod waits".to_owned() } else { format!("{pods} pods wait") };
        check.degraded(format!("{pods} for {waits} since the database was restored"));
        *api.held.0.write() = Some((hold, waits));
    }
    false
}

fn without_node(api: &Api) -> BTreeSet<String> {
    let (pods, _) = api.cache.list(&api.pods(), Scope::All);
    let unbound = pods.iter().filter(|entry| node_of(&entry.change).is_none());
    unbound.map(|entry| entry.change.uid.0.to_string()).collect()
}

fn leases(api: &Api) -> Vec<(String, Option<Listed>)> {
    let leases = GroupResource::new("coordination.k8s.io", "leases");
    let (leases, _) = api.cache.list(&leases, Scope::Namespace("kube-node-lease"));
    let of = |lease: &Arc<Entry>| {
        let object = lease.object();
        let listed = object.str_at(&["metadata", "annotations", LISTED]).parse();
        (lease.change.key.name.to_string(), listed.ok())
    };
    leases.iter().map(of).collect()
}

fn write(op: Op, hold: &Hold) -> Item {
    let mut object = Object::default();
    object.set_at(&["metadata", "name"], &*key().name);
    object.set_at(&["hold"], json!(hold));
    let write = Write {
        key: key(),
        uid: Uid("".into()),
        op,
        durability: Durability::Durable,
        shards: SmallVec::from_elem(Shard::None, 1),
        body: codec::encode(&object),
    };
    Item { expects: Vec::new(), writes: vec![write] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pods_of_before_a_restore_wait_for() {
        let (early, late) = (Duration::from_secs(1), SHOWS_UP);
        let for_nodes =
            |nodes: &[&str]| Waits::For(nodes.iter().map(|n| (*n).to_owned()).collect());
        let at = |epoch, revision| Some(Listed { epoch, revision: Revision(revision) });
        for (what, pods, up, nodes, waits) in [
            ("nobody waits", &[][..], early, &[("a", None)][..], Waits::ForNothing),
            ("a node of then", &["p"], late, &[("a", None)], for_nodes(&["a"])),
            (
                "one has listed before",
                &["p"],
                late,
                &[("a", at(7, 999)), ("b", at(7, 1_000))],
                for_nodes(&["a"]),
            ),
            (
                "both have not",
                &["p"],
                early,
                &[("a", at(7, 7)), ("b", at(7, 8))],
                for_nodes(&["a", "b"]),
            ),
            (
                "one has listed what was lost, which had come further",
                &["p"],
                late,
                &[("a", at(6, 1_005)), ("b", at(7, 1_000))],
                for_nodes(&["a"]),
            ),
            (
                "nor is a greater epoch this one: clocks go backwards",
                &["p"],
                late,
                &[("a", at(8, 1_005))],
                for_nodes(&["a"]),
            ),
            (
                "all have, but another may come",
                &["p"],
                early,
                &[("a", at(7, 1_000))],
                Waits::ForNodesToCome,
            ),
            (
                "all have",
                &["p"],
                late,
                &[("a", at(7, 1_000)), ("b", at(7, 2_000))],
                Waits::ForNothing,
            ),
            ("there is no node", &["p"], late, &[], Waits::ForNothing),
        ] {
            let pods = pods.iter().map(|pod| (*pod).to_owned()).collect();
            let hold = Hold { epoch: 7, at: Revision(1_000), pods };
            let nodes = nodes.iter().map(|(name, listed)| ((*name).to_owned(), *listed));
            assert_eq!(hold.waits(up, nodes), waits, "{what}");
        }
    }

    #[test]
    fn pods_that_were_deleted_do_not_wait() {
        let all = |pods: &[&str]| pods.iter().map(|pod| (*pod).to_owned()).collect();
        let mut hold = Hold { epoch: 7, at: Revision(5), pods: all(&["p", "q"]) };
        let waits = |hold: &Hold| hold.waits(SHOWS_UP, std::iter::once(("gone".to_owned(), None)));
        assert!(!hold.forget_all_but(&all(&["p", "q", "new"])));
        assert!(hold.forget_all_but(&all(&["q", "new"])));
        assert_eq!((&hold.pods, waits(&hold)), (&all(&["q"]), Waits::For(vec!["gone".to_owned()])));
        assert!(hold.forget_all_but(&all(&["new"])));
        assert_eq!(waits(&hold), Waits::ForNothing, "nobody is left for whom the node matters");
    }

    #[test]
    fn a_record_without_an_epoch_is_read() {
        let hold: Hold = serde_json::from_value(json!({"at": 5, "pods": ["p"]})).unwrap();
        assert_eq!((hold.at, hold.pods.len()), (Revision(5), 1));
    }

    #[test]
    fn nodes_are_named_but_not_all() {
        let nodes = |n: usize| Waits::For((1..=n).map(|n| format!("n{n}")).collect());
        assert_eq!(nodes(1).to_string(), "node n1");
        assert_eq!(nodes(3).to_string(), "nodes n1, n2, n3");
        assert_eq!(nodes(5).to_string(), "nodes n1, n2, n3 and 2 more");
    }

    #[test]
    fn a_pod_that_is_not_held_is_bound() {
        let held = Held::default();
        held.may_bind("web", "u").unwrap();
        let hold = Hold { epoch: 7, at: Revision(5), pods: BTreeSet::from(["u".to_owned()]) };
        *held.0.write() = Some((hold, Waits::For(vec!["n1".to_owned()])));
        held.may_bind("web", "other").unwrap();
        let status = held.may_bind("web", "u").unwrap_err().to_json();
        assert_eq!(
            (&status["code"], &status["details"]["causes"][0]["reason"]),
            (&json!(409), &json!("MayRunElsewhere"))
        );
        assert!(status["message"].as_str().unwrap().contains("waiting for node n1"), "{status}");
    }
}
