//! What a decision says is to be done, as data.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A resource as it stands in a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    pub api_version: Cow<'static, str>,
    pub plural: Cow<'static, str>,
}

impl Resource {
    pub fn of<K: kube::Resource<DynamicType = ()>>() -> Self {
        Self {
            api_version: K::api_version(&()).into_owned().into(),
            plural: K::plural(&()).into_owned().into(),
        }
    }

    /// `/api/v1/namespaces/default/pods`; the namespace is empty for cluster-scoped kinds.
    pub(crate) fn path(&self, namespace: &str) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        match namespace {
            "" => format!("/{root}/{}/{}", self.api_version, self.plural),
            _ => format!("/{root}/{}/namespaces/{namespace}/{}", self.api_version, self.plural),
        }
    }
}

/// One life of one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub resource: Resource,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Target {
    pub fn of<K: kube::Resource<DynamicType = ()>>(object: &K) -> Self {
        Self::from_meta(Resource::of::<K>(), object.meta())
    }

    pub fn from_meta(resource: Resource, meta: &ObjectMeta) -> Self {
        Self {
            resource,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }
}

/// One request. Each carries the uid that it is meant for, and a revision where what was seen must still hold. A
/// revision refers to the snapshot, or to what an earlier write of the same plan made of that object.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The name is deterministic: that it exists already means that an earlier attempt succeeded.
    Create { resource: Resource, namespace: String, object: Value },
    /// A merge patch.
    Patch {
        target: Target,
        subresource: Option<&'static str>,
        resource_version: Option<String>,
        patch: Value,
    },
    Delete {
        target: Target,
        resource_version: Option<String>,
        grace_seconds: Option<i64>,
        propagation: Option<&'static str>,
    },
    /// A whole object, sent with PUT.
    Replace { target: Target, subresource: Option<&'static str>, object: Value },
}

/// An Event to record once the write it belongs to has succeeded, or with no write.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub regarding: ObjectReference,
    pub warning: bool,
    pub reason: Cow<'static, str>,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub write: Write,
    /// Recorded after success.
    pub note: Option<Note>,
    /// The reason of the Warning that is recorded where the API refuses; the message is its own.
    pub refusal: Option<Note>,
}

impl From<Write> for Step {
    fn from(write: Write) -> Self {
        Self { write, note: None, refusal: None }
    }
}

impl Step {
    pub fn note(mut self, note: Note) -> Self {
        self.note = Some(note);
        self
    }

    pub fn or_warn(mut self, note: Note) -> Self {
        self.refusal = Some(note);
        self
    }
}

/// What to do for one key, in this order; the first failure ends it. Neighbours of one kind go out together, in
/// batches that double, so that a refusal costs few requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Recorded whatever becomes of the steps.
    pub notes: Vec<Note>,
    /// Look at the key again then, even where nothing changes.
    pub again_after: Option<Duration>,
}

impl Plan {
    pub fn push(&mut self, step: impl Into<Step>) {
        self.steps.push(step.into());
    }

    /// The earliest of several.
    pub fn again(&mut self, after: Duration) {
        self.again_after = Some(self.again_after.map_or(after, |other| other.min(after)));
    }

    pub fn again_at(&mut self, now: Timestamp, at: Timestamp) {
        let after = at.duration_since(now);
        self.again(Duration::try_from(after).unwrap_or(Duration::ZERO) + Duration::from_millis(10));
    }
}

/// What stands in `involvedObject` of Events about an object.
pub fn reference<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

pub fn normal<K: kube::Resource<DynamicType = ()>>(
    object: &K,
    reason: &'static str,
    message: impl Into<String>,
) -> Note {
    let message = message.into();
    Note { regarding: reference(object), warning: false, reason: reason.into(), message }
}

pub fn warning<K: kube::Resource<DynamicType = ()>>(
    object: &K,
    reason: &'static str,
    message: impl Into<String>,
) -> Note {
    Note { warning: true, ..normal(object, reason, message) }
}

/// The owner reference that makes an object the controller of another.
pub fn controller_reference<K: kube::Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// What a merge patch must say to make `new` of `old`; `None` where they are equal.
pub fn merge_difference(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (a, b) if a == b => None,
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                patch.insert(key.clone(), Value::Null);
            }
            for (key, value) in new {
                let change = match old.get(key) {
                    Some(old) => merge_difference(old, value),
                    None => Some(value.clone()),
                };
                if let Some(change) = change {
                    patch.insert(key.clone(), change);
                }
            }
            Some(Value::Object(patch))
        }
        (_, new) => Some(new.clone()),
    }
}

/// The patch of an object's status, unless it is as wanted. It holds only for the revision that was seen.
pub fn status_patch<K, S>(object: &K, old: Option<&S>, new: &S) -> Option<Write>
where
    K: kube::Resource<DynamicType = ()>,
    S: Serialize,
{
    let json = |status: &S| serde_json::to_value(status).unwrap_or(Value::Null);
    let old = old.map_or(json!({}), json);
    let patch = merge_difference(&old, &json(new))?;
    Some(Write::Patch {
        target: Target::of(object),
        subresource: Some("status"),
        resource_version: object.meta().resource_version.clone(),
        patch: json!({ "status": patch }),
    })
}

/// Adds the object to what it controls, where nothing else controls it.
pub(crate) fn adopt<C, K>(controller: &C, object: &K) -> Write
where
    C: kube::Resource<DynamicType = ()>,
    K: kube::Resource<DynamicType = ()>,
{
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.push(controller_reference(controller));
    owners_patch(object, &owners)
}

/// Takes the object out of what it controls.
pub(crate) fn release<C, K>(controller: &C, object: &K) -> Write
where
    C: kube::Resource<DynamicType = ()>,
    K: kube::Resource<DynamicType = ()>,
{
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.retain(|owner| Some(&owner.uid) != controller.meta().uid.as_ref());
    owners_patch(object, &owners)
}

fn owners_patch<K: kube::Resource<DynamicType = ()>>(
    object: &K,
    owners: &[OwnerReference],
) -> Write {
    Write::Patch {
        target: Target::of(object),
        subresource: None,
        resource_version: object.meta().resource_version.clone(),
        patch: json!({"metadata": {"ownerReferences": owners}}),
    }
}

pub(crate) fn delete<K: kube::Resource<DynamicType = ()>>(object: &K) -> Write {
    Write::Delete {
        target: Target::of(object),
        resource_version: None,
        grace_seconds: None,
        propagation: Some("Background"),
    }
}
