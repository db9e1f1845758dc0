//! The newest state of every object and the recent changes of every resource, in memory.
//!
//! Fed by the journal's `on_commit`, on the writer thread, before answers go out. Locks here are held for map
//! operations only, never over I/O. Bytes are the journal's, encoded once; what selectors need is read off them when
//! somebody first asks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ahash::AHashMap;
use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch;
use warren_api::{GroupResource, Kind, Object, ObjectKey, Registry, Revision, Shard};
use warren_store::{Batch, Change, Loaded, Op};

use crate::refs::Refs;

/// Changes that a resource's ring remembers, and the bytes of their bodies (many of which the cache holds anyway).
/// Watches that want older ones read the journal.
const RING: usize = 4096;
const RING_BYTES: usize = 8 << 20;

/// Changes of all resources that the embedded fabric can look back on.
const TAIL: usize = 8192;

/// One revision of an object.
#[derive(Debug)]
pub(crate) struct Entry {
    pub change: Arc<Change>,
    index: OnceLock<Index>,
}

/// What selectors read, in a form smaller than the tree.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub labels: BTreeMap<String, String>,
    pub fields: Vec<(String, String)>,
}

impl Entry {
    pub(crate) fn new(change: Arc<Change>) -> Self {
        Self { change, index: OnceLock::new() }
    }

    pub(crate) fn body(&self) -> &Bytes {
        &self.change.body
    }

    pub(crate) fn revision(&self) -> Revision {
        self.change.revision
    }

    /// The tree. The journal holds what this server encoded, so a body that does not parse is damage; it reads as empty.
    pub(crate) fn object(&self) -> Object {
        parse(self.body(), &self.change)
    }

    pub(crate) fn index(&self, kind: &dyn Kind) -> &Index {
        self.index.get_or_init(|| index(kind, &self.object()))
    }
}

fn parse(body: &[u8], change: &Change) -> Object {
    serde_json::from_slice(body).unwrap_or_else(|error| {
        tracing::error!(key = %change.key, revision = %change.revision, %error, "a stored body is damaged");
        Object::default()
    })
}

pub(crate) fn index(kind: &dyn Kind, object: &Object) -> Index {
    let labels = object.at(&["metadata", "labels"]).and_then(|v| v.as_object());
    let labels = labels
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect();
    let mut fields = vec![
        ("metadata.name".to_owned(), object.name().to_owned()),
        ("metadata.namespace".to_owned(), object.namespace().to_owned()),
    ];
    fields.extend(
        kind.selectable_fields()
            .iter()
            .map(|path| ((*path).to_owned(), kind.field(object, path).into_owned())),
    );
    Index { labels, fields }
}

/// A change as watches see it.
#[derive(Debug)]
pub(crate) struct WatchEvent {
    pub entry: Arc<Entry>,
    /// What was there before, for selectors.
    pub prev: Option<Arc<Entry>>,
}

type Names = BTreeMap<Arc<str>, Arc<Entry>>;
/// (namespace, name)
type Keys = BTreeSet<(Arc<str>, Arc<str>)>;

#[derive(Debug, Default)]
struct State {
    namespaces: BTreeMap<Arc<str>, Names>,
    /// (namespace, name) of the objects of each node's shard.
    by_node: AHashMap<Arc<str>, Keys>,
    count: usize,
    bytes: usize,
    ring: VecDeque<Arc<WatchEvent>>,
    ring_bytes: usize,
    /// The ring has every change after this revision.
    ring_floor: Revision,
    /// Of the last change that was applied here.
    revision: Revision,
}

/// The objects of one resource.
#[derive(Debug)]
pub(crate) struct Resource {
    state: RwLock<State>,
    head: watch::Sender<Revision>,
}

/// What of a resource is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    All,
    Namespace(&'a str),
    Name(&'a str, &'a str),
    /// Objects of a node's shard, in a namespace unless that is empty.
    Node(&'a str, &'a str),
}

/// Where a watcher can go on.
pub(crate) enum Since {
    /// Events after the revision that was asked for, oldest first; empty where there is nothing new.
    Events(Vec<Arc<WatchEvent>>),
    /// The ring does not reach back so far.
    Behind,
}

impl Resource {
    fn new(floor: Revision) -> Self {
        let state = State { ring_floor: floor, revision: floor, ..State::default() };
        Self { state: RwLock::new(state), head: watch::Sender::new(floor) }
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.state.read().namespaces.get(namespace)?.get(name).cloned()
    }

    /// A consistent snapshot in key order, and the last change that it contains.
    pub(crate) fn list(&self, scope: Scope<'_>) -> (Vec<Arc<Entry>>, Revision) {
        let state = self.state.read();
        let entries = match scope {
            Scope::All => {
                let mut all = Vec::with_capacity(state.count);
                all.extend(state.namespaces.values().flat_map(|names| names.values()).cloned());
                all
            }
            Scope::Namespace(namespace) => state
                .namespaces
                .get(namespace)
                .map(|names| names.values().cloned().collect())
                .unwrap_or_default(),
            Scope::Name("", name) => {
                state.namespaces.values().filter_map(|names| names.get(name)).cloned().collect()
            }
            Scope::Name(namespace, name) => state
                .namespaces
                .get(namespace)
                .and_then(|names| names.get(name))
                .cloned()
                .into_iter()
                .collect(),
            Scope::Node(node, namespace) => state
                .by_node
                .get(node)
                .into_iter()
                .flatten()
                .filter(|(ns, _)| namespace.is_empty() || &**ns == namespace)
                .filter_map(|(ns, name)| state.namespaces.get(ns)?.get(name).cloned())
                .collect(),
        };
        (entries, state.revision)
    }

    /// At most `max` events after a revision.
    pub(crate) fn since(&self, after: Revision, max: usize) -> Since {
        let state = self.state.read();
        if after < state.ring_floor {
            return Since::Behind;
        }
        let start = state.ring.partition_point(|e| e.entry.revision() <= after);
        Since::Events(state.ring.iter().skip(start).take(max).cloned().collect())
    }

    /// The ring has every change after this.
    pub(crate) fn ring_floor(&self) -> Revision {
        self.state.read().ring_floor
    }

    /// Changes when something was applied.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.head.subscribe()
    }

    /// (objects, bytes of their bodies)
    pub(crate) fn size(&self) -> (usize, usize) {
        let state = self.state.read();
        (state.count, state.bytes)
    }

    fn apply(&self, change: &Arc<Change>) {
        let entry = Arc::new(Entry::new(Arc::clone(change)));
        let mut state = self.state.write();
        let prev = state.replace(&entry);
        state.revision = change.revision;
        state.ring_bytes += entry.body().len();
        state.ring.push_back(Arc::new(WatchEvent { entry, prev }));
        while state.ring.len() > RING || state.ring_bytes > RING_BYTES {
            let Some(oldest) = state.ring.pop_front() else { break };
            state.ring_bytes -= oldest.entry.body().len();
            state.ring_floor = oldest.entry.revision();
        }
    }

    fn load(&self, change: &Arc<Change>) {
        let entry = Arc::new(Entry::new(Arc::clone(change)));
        self.state.write().replace(&entry);
    }

    fn announce(&self) {
        let revision = self.state.read().revision;
        self.head.send_replace(revision);
    }
}

impl State {
    fn replace(&mut self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let key = &entry.change.key;
        let deleted = entry.change.op == Op::Deleted;
        let old = if deleted {
            let names = self.namespaces.get_mut(&key.namespace)?;
            let old = names.remove(&key.name);
            if names.is_empty() {
                self.namespaces.remove(&key.namespace);
            }
            old
        } else {
            let names = self.namespaces.entry(Arc::clone(&key.namespace)).or_default();
            names.insert(Arc::clone(&key.name), Arc::clone(entry))
        };
        if let Some(old) = &old {
            self.count -= 1;
            self.bytes -= old.body().len();
            if let Some(node) = node_of(&old.change)
                && let Some(set) = self.by_node.get_mut(node)
            {
                set.remove(&(Arc::clone(&key.namespace), Arc::clone(&key.name)));
                if set.is_empty() {
                    self.by_node.remove(node);
                }
            }
        }
        if !deleted {
            self.count += 1;
            self.bytes += entry.body().len();
            if let Some(node) = node_of(&entry.change) {
                let set = self.by_node.entry(Arc::clone(node)).or_default();
                set.insert((Arc::clone(&key.namespace), Arc::clone(&key.name)));
            }
        }
        old
    }
}

/// The node whose shard the object itself is in.
pub(crate) fn node_of(change: &Change) -> Option<&Arc<str>> {
    match &change.streams.first()?.shard {
        Shard::Node(name) => Some(&name.0),
        _ => None,
    }
}

/// The last changes of all resources, for readers in this process.
#[derive(Debug, Default)]
struct Tail {
    changes: VecDeque<Arc<Change>>,
    floor: Revision,
}

#[derive(Debug)]
pub(crate) struct Cache {
    resources: RwLock<AHashMap<GroupResource, Arc<Resource>>>,
    refs: RwLock<Refs>,
    revision: AtomicU64,
    tail: RwLock<Tail>,
    head: watch::Sender<Revision>,
}

impl Cache {
    pub(crate) fn new(registry: Registry) -> Self {
        let resources = registry
            .iter()
            .map(|kind| (kind.resource(), Arc::new(Resource::new(Revision(0)))))
            .collect();
        Self {
            resources: RwLock::new(resources),
            refs: RwLock::default(),
            revision: AtomicU64::new(0),
            tail: RwLock::default(),
            head: watch::Sender::new(Revision(0)),
        }
    }

    pub(crate) fn resource(&self, resource: &GroupResource) -> Arc<Resource> {
        if let Some(found) = self.resources.read().get(resource) {
            return Arc::clone(found);
        }
        let floor = self.revision();
        let mut resources = self.resources.write();
        let made = resources.entry(resource.clone());
        Arc::clone(made.or_insert_with(|| Arc::new(Resource::new(floor))))
    }

    /// Everything up to here is applied.
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    /// What the database holds, before the first request. Commits do not run yet.
    pub(crate) fn load(&self, loaded: &Loaded) {
        self.tail.write().floor = loaded.revision;
        for resource in self.resources.read().values() {
            let mut state = resource.state.write();
            state.ring_floor = loaded.revision;
            state.revision = loaded.revision;
        }
        self.revision.store(loaded.revision.0, Ordering::Release);
        for change in &loaded.objects {
            self.resource(&change.key.resource).load(change);
            self.refer(change);
        }
        self.head.send_replace(loaded.revision);
    }

    /// A committed batch, in revision order. Runs on the writer thread.
    pub(crate) fn apply(&self, batch: &Batch) {
        let mut touched: smallvec::SmallVec<[Arc<Resource>; 4]> = smallvec::SmallVec::new();
        for change in batch {
            let resource = self.resource(&change.key.resource);
            resource.apply(change);
            self.refer(change);
            if !touched.iter().any(|known| Arc::ptr_eq(known, &resource)) {
                touched.push(resource);
            }
        }
        let Some(last) = batch.last() else { return };
        {
            let mut tail = self.tail.write();
            for change in batch {
                if tail.changes.len() == TAIL
                    && let Some(oldest) = tail.changes.pop_front()
                {
                    tail.floor = oldest.revision;
                }
                tail.changes.push_back(Arc::clone(change));
            }
        }
        self.revision.store(last.revision.0, Ordering::Release);
        for resource in touched {
            resource.announce();
        }
        self.head.send_replace(last.revision);
    }

    fn refer(&self, change: &Change) {
        let ObjectKey { resource, namespace, name } = &change.key;
        if resource.group.is_empty() && &*resource.resource == "pods" {
            let node = node_of(change).filter(|_| change.op != Op::Deleted);
            self.refs.write().set(namespace, name, change.revision, node, &change.body);
        }
    }

    /// What pods refer to.
    pub(crate) fn refs(&self) -> RwLockReadGuard<'_, Refs> {
        self.refs.read()
    }

    /// At most `max` changes of all resources after a revision; `Err(floor)` where the tail does not reach back so far.
    pub(crate) fn tail(&self, after: Revision, max: usize) -> Result<Vec<Arc<Change>>, Revision> {
        let tail = self.tail.read();
        if after < tail.floor {
            return Err(tail.floor);
        }
        let start = tail.changes.partition_point(|c| c.revision <= after);
        Ok(tail.changes.iter().skip(start).take(max).cloned().collect())
    }

    /// Changes when something was applied to any resource.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.head.subscribe()
    }

    /// A consistent snapshot of one resource and the revision as of which it is complete.
    pub(crate) fn list(
        &self,
        resource: &GroupResource,
        scope: Scope<'_>,
    ) -> (Vec<Arc<Entry>>, Revision) {
        // All up to `before` is applied; the snapshot may hold later changes of its own resource, but of no other
        // revision in between.
        let before = self.revision();
        let (entries, last) = self.resource(resource).list(scope);
        self.settle(last);
        (entries, before.max(last))
    }

    /// Whoever has seen a revision must not be told of an older one afterwards, whatever it asks for next: waits for
    /// the rest of the batch that the writer is applying, some microseconds. Not for the writer's own thread.
    pub(crate) fn settle(&self, seen: Revision) {
        while self.revision() < seen {
            std::thread::yield_now();
        }
    }

    pub(crate) fn get(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Entry>> {
        let entry = self.resource(resource).get(namespace, name)?;
        self.settle(entry.revision());
        Some(entry)
    }
}
