//! Which keys a change concerns, as the controllers' own handlers say.

use super::*;

/// Notes each change, and what it means for the keys.
pub(super) fn follow<K: Cached + kube::Resource<DynamicType = ()>>(
    fed: &Fed<K>,
    plural: &'static str,
    heard: &Arc<Mutex<Vec<Heard>>>,
    dirty: &Dirty,
    means: impl Fn(&Change<K>, &mut BTreeSet<Work>) + Send + Sync + 'static,
) {
    let (heard, dirty) = (Arc::clone(heard), Arc::clone(dirty));
    fed.informer().on_change(move |change| {
        let Some(any) = change.any() else { return };
        let (namespace, name) = name(any.meta());
        let revision = |object: &Arc<K>| object.meta().resource_version.as_ref()?.parse().ok();
        heard.lock().push((plural, namespace, name, change.new.as_ref().and_then(revision)));
        means(change, &mut dirty.lock());
    });
}

pub(super) fn owner_work<K: kube::Resource>(change: &Change<K>, dirty: &mut BTreeSet<Work>) {
    for object in change.old.iter().chain(&change.new) {
        let (namespace, _) = name(object.meta());
        match controller_of(object.meta()) {
            Some(owner) if owner.kind == "ReplicaSet" => {
                dirty.insert(Work::ReplicaSet(namespace, owner.name.clone()));
            }
            Some(owner) if owner.kind == "Deployment" => {
                dirty.insert(Work::Deployment(namespace, owner.name.clone()));
            }
            Some(owner) if owner.kind == "Job" => {
                dirty.insert(Work::Job(namespace, owner.name.clone()));
            }
            _ => {}
        }
    }
}

pub(super) fn owned_work<K: kube::Resource>(
    plural: &'static str,
    change: &Change<K>,
    dirty: &mut BTreeSet<Work>,
) {
    if let Some(new) = &change.new
        && controller_of(new.meta()).is_some()
    {
        let (namespace, name) = name(new.meta());
        dirty.insert(Work::Collect(plural, namespace, name));
    }
}

/// What a gone owner leaves behind is looked at.
pub(super) fn left_work<K: kube::Resource, D: Cached + kube::Resource<DynamicType = ()>>(
    change: &Change<K>,
    plural: &'static str,
    dependents: &Informer<D>,
    dirty: &mut BTreeSet<Work>,
) {
    let (Some(old), None) = (&change.old, &change.new) else { return };
    for object in dependents.store().state() {
        let owner = controller_of(object.meta());
        if owner.is_some_and(|owner| Some(&owner.uid) == old.meta().uid.as_ref()) {
            let (namespace, name) = name(object.meta());
            dirty.insert(Work::Collect(plural, namespace, name));
        }
    }
}
