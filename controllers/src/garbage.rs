//! Garbage collection: what is owned goes with its owners.
//!
//! The caches say which owners may be gone; before anything is deleted the API itself is asked, by uid, so that a cache
//! that is behind never costs an object its life.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;
use serde_json::json;
use warren_api::{Kind, Registry};
use warren_client::{Index, Informer, MetaObject};
use warren_process::Tasks;

use crate::execute::{ExecuteError, execute};
use crate::plan::{Plan, Resource, Target, Write};
use crate::queue::WorkQueue;
use crate::runner::{Context, wrote};

const NAME: &str = "garbage-collector";
const WORKERS: usize = 8;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// A waiting owner is looked at again after this, also where no event of its dependents came.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The metadata of all objects that own or are owned, but for Events, which nobody owns.
#[derive(Clone)]
pub(crate) struct Graph(Arc<Vec<Member>>);

pub(crate) struct Member {
    pub kind: &'static dyn Kind,
    pub objects: Informer<MetaObject>,
    by_owner: Index<MetaObject>,
}

impl Graph {
    pub fn new(set: &mut warren_client::InformerSet) -> Self {
        let kinds = Registry::builtin().iter().filter(|kind| kind.plural() != "events");
        let member = |kind: &'static dyn Kind| {
            let objects = set.metadata(kind);
            let by_owner = objects.index(|object| {
                object.metadata.owner_references.iter().flatten().map(|o| o.uid.clone()).collect()
            });
            Member { kind, objects, by_owner }
        };
        Self(Arc::new(kinds.map(member).collect()))
    }

    fn dependents(&self, uid: &str) -> Vec<(Address, Arc<MetaObject>)> {
        let of = |(at, member): (usize, &Member)| -> Vec<_> {
            let all = member.by_owner.get(uid);
            all.into_iter().map(|object| (Address::of(at, &object.metadata), object)).collect()
        };
        self.0.iter().enumerate().flat_map(of).collect()
    }

    fn kind(&self, owner: &OwnerReference) -> Option<(usize, &Member)> {
        self.0.iter().enumerate().find(|(_, member)| {
            let group = |version: &str| version.rsplit_once('/').map_or("", |(g, _)| g).to_owned();
            member.kind.kind() == owner.kind && member.kind.group() == group(&owner.api_version)
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Address {
    member: usize,
    namespace: String,
    name: String,
}

impl Address {
    fn of(member: usize, meta: &ObjectMeta) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self { member, namespace: text(&meta.namespace), name: text(&meta.name) }
    }
}

/// What the API says of an owner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Owner {
    Solid,
    Absent,
    /// It goes once its dependents are gone.
    Waiting,
}

pub(crate) struct Snapshot<'a> {
    pub resource: Resource,
    pub meta: &'a ObjectMeta,
    /// Beside each owner reference.
    pub owners: &'a [Owner],
    pub dependents: &'a [(Resource, ObjectMeta)],
    /// The uids of [`wait_for`].
    pub behind: &'a HashSet<String>,
}

/// Whether it goes once its dependents are gone.
fn waits(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has(meta, FOREGROUND)
}

/// Whether an owner waits for what has this reference.
fn blocks(owner: &OwnerReference) -> bool {
    owner.block_owner_deletion == Some(true)
}

/// What an object waits for, or would in a foreground deletion, and which waits itself, over any number of steps. Where
/// one of the object's owners is among them, they wait in a circle.
fn wait_for(
    uid: &str,
    dependents: impl Fn(&str) -> Vec<(Address, Arc<MetaObject>)>,
) -> HashSet<String> {
    let (mut found, mut next) = (HashSet::new(), vec![uid.to_owned()]);
    while let Some(uid) = next.pop() {
        for (_, dependent) in dependents(&uid) {
            let meta = &dependent.metadata;
            let mut owners = meta.owner_references.iter().flatten();
            if waits(meta)
                && owners.any(|owner| owner.uid == uid && blocks(owner))
                && let Some(uid) = &meta.uid
                && found.insert(uid.clone())
            {
                next.push(uid.clone());
            }
        }
    }
    found
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

pub(crate) fn decide(snapshot: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    let meta = snapshot.meta;
    let target = || Target::from_meta(snapshot.resource.clone(), meta);
    let patch = |patch| Write::Patch {
        target: target(),
        subresource: None,
        resource_version: meta.resource_version.clone(),
        patch,
    };
    let without = |finalizer: &str| {
        let rest = meta.finalizers.iter().flatten().filter(|f| *f != finalizer);
        patch(json!({"metadata": {"finalizers": rest.collect::<Vec<_>>()}}))
    };
    // Owners that wait for this object, and this object for them: they are not to wait.
    let circle = |owner: &OwnerReference| blocks(owner) && snapshot.behind.contains(&owner.uid);
    let unblocked = || {
        let mut owners = meta.owner_references.clone().unwrap_or_default();
        for owner in owners.iter_mut().filter(|owner| circle(owner)) {
            owner.block_owner_deletion = Some(false);
        }
        patch(json!({"metadata": {"ownerReferences": owners}}))
    };
    let in_circle = meta.owner_references.iter().flatten().any(circle);
    let refers = |owner: &&OwnerReference| Some(&owner.uid) == meta.uid.as_ref();
    if meta.deletion_timestamp.is_some() {
        if has(meta, ORPHAN) {
            for (resource, dependent) in snapshot.dependents {
                let owners = dependent.owner_references.iter().flatten();
                let rest: Vec<_> = owners.filter(|owner| !refers(owner)).collect();
                plan.push(Write::Patch {
                    target: Target::from_meta(resource.clone(), dependent),
                    subresource: None,
                    resource_version: dependent.resource_version.clone(),
                    patch: json!({"metadata": {"ownerReferences": rest}}),
                });
            }
            plan.push(without(ORPHAN));
        } else if has(meta, FOREGROUND) {
            let holds = |(_, dependent): &(Resource, ObjectMeta)| {
                let mut owners = dependent.owner_references.iter().flatten();
                owners.any(|owner| refers(&owner) && blocks(owner))
            };
            if in_circle {
                plan.push(unblocked());
            } else if snapshot.dependents.iter().any(holds) {
                plan.again(LOOK_AGAIN);
            } else {
                plan.push(without(FOREGROUND));
            }
        }
        return plan;
    }
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    if owners.is_empty() || snapshot.owners.len() != owners.len() {
        return plan;
    }
    let is = |wanted| snapshot.owners.contains(&wanted);
    if is(Owner::Solid) {
        if is(Owner::Absent) || is(Owner::Waiting) {
            let kept: Vec<_> = owners
                .iter()
                .zip(snapshot.owners)
                .filter(|(_, state)| **state == Owner::Solid)
                .map(|(owner, _)| owner)
                .collect();
            plan.push(patch(json!({"metadata": {"ownerReferences": kept}})));
        }
        return plan;
    }
    if in_circle {
        // Its deletion follows when this has arrived.
        plan.push(unblocked());
        return plan;
    }
    let foreground = is(Owner::Waiting) && !snapshot.dependents.is_empty();
    plan.push(Write::Delete {
        target: target(),
        resource_version: meta.resource_version.clone(),
        grace_seconds: None,
        propagation: Some(if foreground { "Foreground" } else { "Background" }),
    });
    plan
}

struct Collector {
    context: Context,
    graph: Graph,
    queue: WorkQueue<Address>,
}

pub(crate) fn start(context: &Context, tasks: &Tasks) {
    let queue = WorkQueue::default();
    for (at, member) in context.graph.0.iter().enumerate() {
        let (to, graph) = (queue.clone(), Arc::downgrade(&context.graph.0));
        member.objects.on_change(move |change| {
            let Some(graph) = graph.upgrade().map(Graph) else { return };
            let Some(object) = change.any() else { return };
            let meta = &object.metadata;
            let going = change.new.is_none() || meta.deletion_timestamp.is_some();
            if change.new.is_some() && (going || meta.owner_references.is_some()) {
                to.add(Address::of(at, meta));
            }
            if going {
                let uid = meta.uid.as_deref().unwrap_or_default();
                graph.dependents(uid).into_iter().for_each(|(address, _)| to.add(address));
            }
            // An owner may wait for this one, which is gone or lets go of it.
            let held =
                change.old.iter().flat_map(|old| old.metadata.owner_references.iter().flatten());
            let holds = |uid: &str| {
                let mut owners = change
                    .new
                    .iter()
                    .flat_map(|new| new.metadata.owner_references.iter().flatten());
                owners.any(|owner| owner.uid == uid && blocks(owner))
            };
            for owner in held.filter(|owner| blocks(owner) && !holds(&owner.uid)) {
                if let Some((member, found)) = graph.kind(owner) {
                    let namespaced = found.kind.is_namespaced();
                    let namespace = meta.namespace.clone().filter(|_| namespaced);
                    let namespace = namespace.unwrap_or_default();
                    to.add(Address { member, namespace, name: owner.name.clone() });
                }
            }
        });
    }
    let collector = Collector { context: context.clone(), graph: context.graph.clone(), queue };
    let collector = Arc::new(collector);
    for _ in 0..WORKERS {
        let (collector, shutdown) = (Arc::clone(&collector), tasks.shutdown().clone());
        tasks.spawn_critical(NAME, async move {
            tokio::select! {
                () = shutdown.draining() => {}
                () = collector.run() => {}
            }
            Ok::<_, Infallible>(())
        });
    }
}

#[derive(Deserialize)]
struct Found {
    metadata: ObjectMeta,
}

impl Collector {
    async fn run(&self) {
        for member in self.graph.0.iter() {
            member.objects.synced().await;
        }
        loop {
            let address = self.queue.next().await;
            let turn = self.context.leader.turn().await;
            match Box::pin(turn.run(self.collect(&address))).await {
                Ok(after) => {
                    if let Some(after) = after {
                        self.queue.add_after(address.clone(), after);
                    }
                    self.queue.done(&address);
                }
                Err(ExecuteError::Conflict { what }) => {
                    tracing::debug!(what, "the cache was behind");
                    self.queue.raced(&address);
                }
                Err(error) => {
                    tracing::debug!(?address, %error, "collecting again");
                    self.queue.failed(&address);
                }
            }
        }
    }

    async fn collect(&self, address: &Address) -> Result<Option<Duration>, ExecuteError> {
        let member = &self.graph.0[address.member];
        let Some(object) = member.objects.get(&address.namespace, &address.name) else {
            return Ok(None);
        };
        match self.decided(member, &object.metadata).await {
            // A node's Lease that was renewed is behind for ever, as renewals are no events.
            Err(ExecuteError::Conflict { .. }) => {
                match self.found(member.kind, &address.namespace, &address.name).await? {
                    Some(now) if now.uid == object.metadata.uid => self.decided(member, &now).await,
                    _ => Ok(None),
                }
            }
            done => done,
        }
    }

    /// Decides about an object as it is here, and does it.
    async fn decided(
        &self,
        member: &Member,
        meta: &ObjectMeta,
    ) -> Result<Option<Duration>, ExecuteError> {
        let uid = meta.uid.as_deref().unwrap_or_default();
        let owned = self.graph.dependents(uid);
        // Only what has owners that wait, and dependents, can be part of a circle.
        let behind = match !owned.is_empty() && meta.owner_references.iter().flatten().any(blocks) {
            true => wait_for(uid, |uid| self.graph.dependents(uid)),
            false => HashSet::new(),
        };
        let dependents: Vec<_> = owned
            .into_iter()
            .map(|(at, object)| (resource(self.graph.0[at.member].kind), object.metadata.clone()))
            .collect();
        let mut owners = Vec::new();
        if meta.deletion_timestamp.is_none() {
            for owner in meta.owner_references.iter().flatten() {
                match self.owner(owner, meta).await? {
                    Some(state) => owners.push(state),
                    // Not for us to judge.
                    None => return Ok(None),
                }
            }
        }
        let resource = resource(member.kind);
        let (owners, dependents, behind) = (&owners, &dependents, &behind);
        let plan = decide(&Snapshot { resource, meta, owners, dependents, behind });
        execute(&self.context.client, &plan, |step| {
            wrote(&self.context.trace, "garbage-collector", &step.write);
        })
        .await
        .result?;
        Ok(plan.again_after)
    }

    /// The cache may say that an owner is there; that it is not, only the API may say. `None` for unknown kinds.
    async fn owner(
        &self,
        owner: &OwnerReference,
        of: &ObjectMeta,
    ) -> Result<Option<Owner>, ExecuteError> {
        let Some((_, member)) = self.graph.kind(owner) else {
            tracing::debug!(kind = owner.kind, "an owner of an unknown kind");
            return Ok(None);
        };
        let namespace = match &of.namespace {
            Some(namespace) if member.kind.is_namespaced() => namespace.as_str(),
            None if member.kind.is_namespaced() => return Ok(None),
            _ => "",
        };
        let state = |meta: &ObjectMeta| {
            if meta.uid.as_ref() != Some(&owner.uid) {
                Owner::Absent
            } else if waits(meta) {
                Owner::Waiting
            } else {
                Owner::Solid
            }
        };
        let cached = member.objects.get(namespace, &owner.name).map(|o| state(&o.metadata));
        if let Some(known @ (Owner::Solid | Owner::Waiting)) = cached {
            return Ok(Some(known));
        }
        let found = self.found(member.kind, namespace, &owner.name).await?;
        Ok(Some(found.map_or(Owner::Absent, |meta| state(&meta))))
    }

    /// What the API itself has; `None` where there is none.
    async fn found(
        &self,
        kind: &dyn Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, ExecuteError> {
        let path = format!("{}/{name}", resource(kind).path(namespace));
        let what = format!("get {path}");
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(|error| ExecuteError::Refused {
            what: what.clone(),
            code: 0,
            reason: "Invalid".to_owned(),
            message: error.to_string(),
        })?;
        match self.context.client.request::<Found>(request).await {
            Ok(found) => Ok(Some(found.metadata)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(source) => Err(ExecuteError::Unreachable { what, source: Box::new(source) }),
        }
    }
}

pub(crate) fn resource(kind: &dyn Kind) -> Resource {
    Resource { api_version: kind.api_version().into(), plural: kind.plural().to_owned().into() }
}

#[cfg(test)]
mod tests;
