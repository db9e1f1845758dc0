//! A cache of one resource, and what hangs on it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use kube::Resource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::watch;
use warren_api::Revision;

/// What an informer can hold.
pub trait Cached:
    Resource<DynamicType: Clone + Eq + Hash + Debug + Send + Sync>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Cached for K where
    K: Resource<DynamicType: Clone + Eq + Hash + Debug + Send + Sync>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// One change of one object: `old` is absent for what is new, `new` for what is gone. Never both.
#[derive(Clone, Debug)]
pub struct Change<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The newest state that is known.
    pub fn any(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// A cache of all objects of one resource. Clones share it.
///
/// Objects come without `metadata.managedFields`. The store is changed before the handlers hear of it, one change at a
/// time, in the order of revisions.
pub struct Informer<K: Cached> {
    store: Store<K>,
    shared: Arc<Shared<K>>,
}

impl<K: Cached> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), shared: Arc::clone(&self.shared) }
    }
}

pub(crate) struct Shared<K: Cached> {
    resource: K::DynamicType,
    writer: Mutex<WriterState<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    seen: watch::Sender<Option<Revision>>,
}

struct WriterState<K: Cached> {
    writer: Writer<K>,
    /// Everything up to here is in the list that was read last; such events are older than the store.
    listed: Option<Revision>,
}

impl<K: Cached> Informer<K> {
    pub(crate) fn new(resource: K::DynamicType) -> (Self, Arc<Shared<K>>) {
        let writer = Writer::new(resource.clone());
        let store = writer.as_reader();
        let shared = Arc::new(Shared {
            resource,
            writer: Mutex::new(WriterState { writer, listed: None }),
            handlers: RwLock::default(),
            seen: watch::Sender::new(None),
        });
        (Self { store, shared: Arc::clone(&shared) }, shared)
    }

    /// kube-rs' store, for whoever wants it.
    pub fn store(&self) -> &Store<K> {
        &self.store
    }

    /// The object as last seen. The namespace is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let key = ObjectRef::new_with(name, self.shared.resource.clone());
        self.store.get(&if namespace.is_empty() { key } else { key.within(namespace) })
    }

    /// Calls the function for each change from now on, after the store has it. It runs in the informers' task: it must
    /// be quick and must not block; it marks keys for work and returns.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.shared.handlers.write().push(Box::new(handler));
    }

    /// Objects by what a function says of them (a node's name, an owner's uid). Must be made before the set runs.
    pub fn index(&self, keys: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        let index = Index { entries: Arc::default() };
        let entries = Arc::clone(&index.entries);
        self.on_change(move |change| {
            let mut entries = entries.write();
            let identity = |object: &K| {
                let meta = object.meta();
                (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
            };
            if let Some(old) = &change.old {
                let id = identity(old);
                for key in keys(old) {
                    if let Some(of_key) = entries.get_mut(&key) {
                        of_key.remove(&id);
                        if of_key.is_empty() {
                            entries.remove(&key);
                        }
                    }
                }
            }
            if let Some(new) = &change.new {
                for key in keys(new) {
                    entries.entry(key).or_default().insert(identity(new), Arc::clone(new));
                }
            }
        });
        index
    }

    /// Up to which revision this cache has the resource's changes; `None` before the first list.
    pub fn seen(&self) -> Option<Revision> {
        *self.shared.seen.borrow()
    }

    /// Waits until the cache has all up to a revision: after a write, so that the next decision sees it. Cancellation
    /// safe. It may never complete where the revision was of another resource; bound it.
    pub async fn wait_for(&self, revision: Revision) {
        let mut seen = self.shared.seen.subscribe();
        // An error means that the sender is gone, and it lives as long as self.
        let _ = seen.wait_for(|seen| seen.is_some_and(|seen| seen >= revision)).await;
    }

    /// Waits until the cache is as the condition wants it; asked again after each change. Cancellation safe.
    pub async fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        let mut seen = self.shared.seen.subscribe();
        loop {
            seen.mark_unchanged();
            if condition(self) || seen.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for the first list. Cancellation safe.
    pub async fn synced(&self) {
        self.wait_for(Revision(0)).await;
    }
}

type Entries<K> = BTreeMap<(String, String), Arc<K>>;

/// Objects by a key; see [`Informer::index`]. Clones share it.
pub struct Index<K> {
    entries: Arc<RwLock<HashMap<String, Entries<K>>>>,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { entries: Arc::clone(&self.entries) }
    }
}

impl<K> Index<K> {
    /// Sorted by namespace and name.
    pub fn get(&self, key: &str) -> Vec<Arc<K>> {
        self.entries.read().get(key).map(|e| e.values().cloned().collect()).unwrap_or_default()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.entries.read().contains_key(key)
    }

    /// All keys that have objects, in no order.
    pub fn keys(&self) -> Vec<String> {
        self.entries.read().keys().cloned().collect()
    }
}

/// The writing end of an informer, whatever its type.
pub(crate) trait Sink: Send + Sync {
    fn upsert(&self, revision: Revision, object: &[u8]) -> Result<(), serde_json::Error>;
    fn delete(&self, revision: Revision, namespace: &str, name: &str);
    /// The list's differences to what there is. What cannot be decoded is logged, and kept where it was known.
    fn replace(&self, revision: Revision, items: &[Box<RawValue>]);
    /// Whether it needs more than an object's metadata.
    fn wants_body(&self) -> bool;
    /// Whether an event of this revision is older than the last list.
    fn is_old(&self, revision: Revision) -> bool;
}

fn revision_of<K: Resource>(object: &K) -> Option<Revision> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

impl<K: Cached> Shared<K> {
    fn key(&self, namespace: &str, name: &str) -> ObjectRef<K> {
        let key = ObjectRef::new_with(name, self.resource.clone());
        if namespace.is_empty() { key } else { key.within(namespace) }
    }

    fn notify(&self, old: Option<Arc<K>>, new: Option<Arc<K>>) {
        let change = Change { old, new };
        for handler in self.handlers.read().iter() {
            handler(&change);
        }
    }

    fn put(&self, writer: &mut Writer<K>, object: K) {
        let key = ObjectRef::from_obj_with(&object, self.resource.clone());
        let store = writer.as_reader();
        let old = store.get(&key);
        // Another life of the name: what hangs on the old one hears that it is gone.
        let another = old.as_ref().is_some_and(|old| old.meta().uid != object.meta().uid);
        if another {
            self.remove(writer, &key);
        }
        writer.apply_watcher_event(&watcher::Event::Apply(object));
        self.notify(old.filter(|_| !another), store.get(&key));
    }

    fn remove(&self, writer: &mut Writer<K>, key: &ObjectRef<K>) {
        if let Some(old) = writer.as_reader().get(key) {
            writer.apply_watcher_event(&watcher::Event::Delete((*old).clone()));
            self.notify(Some(old), None);
        }
    }

    fn saw(&self, revision: Revision) {
        self.seen.send_if_modified(|seen| {
            let newer = seen.is_none_or(|seen| seen < revision);
            if newer {
                *seen = Some(revision);
            }
            newer
        });
    }
}

impl<K: Cached> Sink for Shared<K> {
    fn upsert(&self, revision: Revision, object: &[u8]) -> Result<(), serde_json::Error> {
        let mut object: K = serde_json::from_slice(object)?;
        object.meta_mut().managed_fields = None;
        let mut state = self.writer.lock();
        let key = ObjectRef::from_obj_with(&object, self.resource.clone());
        let known = state.writer.as_reader().get(&key).and_then(|known| revision_of(&*known));
        let newest = revision_of(&object).unwrap_or(revision).max(revision);
        if state.listed.is_none_or(|listed| newest > listed) && known.is_none_or(|k| newest > k) {
            self.put(&mut state.writer, object);
        }
        self.saw(revision);
        Ok(())
    }

    fn delete(&self, revision: Revision, namespace: &str, name: &str) {
        let mut state = self.writer.lock();
        let key = self.key(namespace, name);
        let known = state.writer.as_reader().get(&key).and_then(|known| revision_of(&*known));
        if state.listed.is_none_or(|listed| revision > listed) && known.is_none_or(|k| revision > k)
        {
            self.remove(&mut state.writer, &key);
        }
        self.saw(revision);
    }

    fn replace(&self, revision: Revision, items: &[Box<RawValue>]) {
        let mut state = self.writer.lock();
        let store = state.writer.as_reader();
        if state.listed.is_none() {
            // The first list, empty, opens the store's readiness; the objects follow as differences.
            state.writer.apply_watcher_event(&watcher::Event::Init);
            state.writer.apply_watcher_event(&watcher::Event::InitDone);
        }
        let mut gone: HashMap<ObjectRef<K>, Arc<K>> = store
            .state()
            .into_iter()
            .map(|object| (ObjectRef::from_obj_with(&*object, self.resource.clone()), object))
            .collect();
        for item in items {
            let mut object: K = match serde_json::from_str(item.get()) {
                Ok(object) => object,
                Err(error) => {
                    let plural = K::plural(&self.resource);
                    tracing::warn!(resource = %plural, %error, "an object cannot be decoded");
                    continue;
                }
            };
            object.meta_mut().managed_fields = None;
            let key = ObjectRef::from_obj_with(&object, self.resource.clone());
            let known = gone.remove(&key);
            let same = known.is_some_and(|known| {
                known.meta().resource_version == object.meta().resource_version
                    && known.meta().uid == object.meta().uid
            });
            if !same {
                self.put(&mut state.writer, object);
            }
        }
        for key in gone.keys() {
            self.remove(&mut state.writer, key);
        }
        state.listed = Some(revision);
        drop(state);
        // A list is the truth, also where it is older than what was seen: the database was restored.
        self.seen.send_replace(Some(revision));
    }

    fn wants_body(&self) -> bool {
        std::any::TypeId::of::<K>() != std::any::TypeId::of::<crate::MetaObject>()
    }

    fn is_old(&self, revision: Revision) -> bool {
        self.writer.lock().listed.is_some_and(|listed| revision <= listed)
    }
}
