//! From an intent to the write it means. Pure: the time, the uid and the random suffix are arguments.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use warren_api::{ErrorList, GroupResource, Kind, Object, Status, Subresource, schema, validation};

use crate::request::no_number;

mod delete;
mod managed;

pub(crate) use delete::{DeleteOptions, Propagation, delete, dry_run};
pub(crate) use managed::manager;

/// Where and when a write happens.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    /// The kind that is stored.
    pub kind: &'static dyn Kind,
    /// The form of it that the client speaks: the same, for most.
    pub served: &'static dyn Kind,
    /// Of the path; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    pub subresource: Option<Subresource>,
    pub now: Timestamp,
    /// For an object that is created.
    pub uid: &'a str,
    /// Follows `generateName`.
    pub suffix: &'a str,
    pub manager: &'a str,
    /// Server-side apply has computed the managed fields itself.
    pub applied: bool,
}

/// What a prepared intent does to the object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Nothing: no revision, no event.
    Unchanged,
    Store(Object),
    /// The object goes; this is its last state.
    Remove(Object),
}

/// What admission may change of an object (the new one, and the old one where there is one), after defaults and
/// before validation.
pub(crate) type Admit<'a> = dyn FnMut(&mut Object, Option<&Object>) -> Result<(), Status> + 'a;

/// Longer prefixes are cut, so that the name stays within 63 bytes.
const MAX_GENERATED_PREFIX: usize = 58;

pub(crate) fn create(
    scene: &Scene<'_>,
    mut object: Object,
    admit: &mut Admit<'_>,
) -> Result<Object, Status> {
    let kind = scene.kind;
    // What is no number is passed over, as Kubernetes does.
    if object.resource_version().is_some_and(|version| version.0 != 0) {
        return Err(Status::unknown("resourceVersion should not be set on objects to be created"));
    }
    place(scene, &mut object)?;
    if object.name().is_empty() {
        let prefix = object.str_at(&["metadata", "generateName"]);
        if !prefix.is_empty() {
            let cut = floor_char(prefix, MAX_GENERATED_PREFIX);
            let name = format!("{cut}{}", scene.suffix);
            object.set_at(&["metadata", "name"], name);
        }
    }
    for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"]
    {
        object.remove_at(&["metadata", field]);
    }
    object.set_at(&["metadata", "uid"], scene.uid);
    object.set_at(&["metadata", "creationTimestamp"], instant(scene.now));
    match kind.has_generation() {
        true => object.set_at(&["metadata", "generation"], 1),
        false => drop(object.remove_at(&["metadata", "generation"])),
    }
    if kind.has(Subresource::Status) && !kind.keeps_status_on_create() {
        object.remove("status");
    }
    kind.on_create(&mut object);
    defaults(kind, &mut object);
    admit(&mut object, None)?;
    let mut errors = ErrorList::default();
    validation::metadata(kind, &object, &mut errors);
    kind.validate(&object, &mut errors);
    kind.validate_create(&object, &mut errors);
    if scene.served.conversion().is_some() {
        scene.served.validate(&object, &mut errors);
    }
    if !errors.is_empty() {
        return Err(Status::invalid(kind.group(), kind.kind(), object.name(), errors));
    }
    managed::update(scene, None, &mut object);
    Ok(object)
}

/// `new` is what the client wants: a PUT's body, or the old object with a patch applied.
pub(crate) fn update(
    scene: &Scene<'_>,
    old: &Object,
    new: Object,
    admit: &mut Admit<'_>,
) -> Result<Outcome, Status> {
    let kind = scene.kind;
    check_versions(kind, old, &new)?;
    demand_version(kind, &new)?;
    let mut new = within_subresource(scene, old, new);
    keep_system_metadata(scene, old, &mut new)?;
    // Resets are about writes of the object itself.
    if scene.subresource != Some(Subresource::Finalize) {
        kind.on_update(&mut new, old);
    }
    defaults(kind, &mut new);
    admit(&mut new, Some(old))?;
    count_generation(kind, old, &mut new);
    let mut errors = ErrorList::default();
    validation::metadata(kind, &new, &mut errors);
    validation::metadata_update(&new, old, &mut errors);
    kind.validate(&new, &mut errors);
    match scene.subresource {
        Some(subresource) => kind.validate_subresource(subresource, &new, old, &mut errors),
        None => kind.validate_update(&new, old, &mut errors),
    }
    if scene.served.conversion().is_some() {
        scene.served.validate_update(&new, old, &mut errors);
    }
    if !errors.is_empty() {
        return Err(Status::invalid(kind.group(), kind.kind(), old.name(), errors));
    }
    managed::update(scene, Some(old), &mut new);
    Ok(if is_finished(&new) {
        Outcome::Remove(new)
    } else if new == *old {
        Outcome::Unchanged
    } else {
        Outcome::Store(new)
    })
}

/// `2026-01-02T03:04:05Z`
pub(crate) fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(crate) fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

pub(crate) fn is_namespace(kind: &dyn Kind) -> bool {
    kind.kind() == "Namespace" && kind.group().is_empty()
}

/// The wording that clients look for.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

fn defaults(kind: &dyn Kind, object: &mut Object) {
    schema::apply_defaults(schema::builtin(), kind.schema_type(), &mut object.0);
    kind.default(object);
}

/// The namespace of the path is the object's.
fn place(scene: &Scene<'_>, object: &mut Object) -> Result<(), Status> {
    let given = object.namespace();
    if !scene.kind.is_namespaced() {
        object.remove_at(&["metadata", "namespace"]);
        return Ok(());
    }
    if !given.is_empty() && given != scene.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object.set_at(&["metadata", "namespace"], scene.namespace);
    Ok(())
}

fn check_versions(kind: &dyn Kind, old: &Object, new: &Object) -> Result<(), Status> {
    let wanted = new.str_at(&["metadata", "resourceVersion"]);
    if !wanted.is_empty()
        && let Err(error) = wanted.parse::<u64>()
    {
        let why = no_number(error.kind());
        return Err(Status::unknown(format!("strconv.ParseUint: parsing {wanted:?}: {why}")));
    }
    let (uid, old_uid) = (new.str_at(&["metadata", "uid"]), old.str_at(&["metadata", "uid"]));
    if !uid.is_empty() && uid != old_uid {
        return Err(other_uid(&kind.resource(), old, uid));
    }
    if !wanted.is_empty() && wanted != "0" && new.resource_version() != old.resource_version() {
        return Err(Status::conflict(&kind.resource(), old.name(), MODIFIED));
    }
    Ok(())
}

/// Leases are how their holders take turns: nobody replaces one without having seen it.
fn demand_version(kind: &dyn Kind, new: &Object) -> Result<(), Status> {
    let is_lease = (kind.group(), kind.kind()) == ("coordination.k8s.io", "Lease");
    if !is_lease || !matches!(new.str_at(&["metadata", "resourceVersion"]), "" | "0") {
        return Ok(());
    }
    let mut errors = ErrorList::default();
    errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
    // Kubernetes names the resource here, where all else of its sort names the kind.
    Err(Status::invalid(kind.group(), kind.plural(), new.name(), errors))
}

/// In the words of Kubernetes' storage, key and all.
pub(crate) fn other_uid(resource: &GroupResource, old: &Object, wanted: &str) -> Status {
    let (plural, name) = (&*resource.resource, old.name());
    let key = match old.namespace() {
        "" => format!("/registry/{plural}/{name}"),
        namespace => format!("/registry/{plural}/{namespace}/{name}"),
    };
    let uid = old.str_at(&["metadata", "uid"]);
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: \
         Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
    );
    Status::conflict(resource, name, &why)
}

/// What of the new object the subresource lets through; the rest is the old object's.
fn within_subresource(scene: &Scene<'_>, old: &Object, mut new: Object) -> Object {
    let mut taken = |path: &[&str]| {
        let mut object = old.clone();
        match new.remove_at(path) {
            Some(value) => object.set_at(path, value),
            None => drop(object.remove_at(path)),
        }
        if let Some(managed) = new.remove_at(&["metadata", "managedFields"]) {
            object.set_at(&["metadata", "managedFields"], managed);
        }
        object
    };
    match scene.subresource {
        Some(Subresource::Status) => taken(&["status"]),
        Some(Subresource::Finalize) => taken(&["spec", "finalizers"]),
        Some(Subresource::EphemeralContainers) => taken(&["spec", "ephemeralContainers"]),
        _ => {
            if scene.kind.has(Subresource::Status) {
                match old.get("status") {
                    Some(status) => drop(new.insert("status".to_owned(), status.clone())),
                    None => drop(new.remove("status")),
                }
            }
            new
        }
    }
}

fn keep_system_metadata(scene: &Scene<'_>, old: &Object, new: &mut Object) -> Result<(), Status> {
    if new.name().is_empty() {
        new.set_at(&["metadata", "name"], old.name());
    }
    if new.name() != old.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            new.name(),
            old.name()
        )));
    }
    place(scene, new)?;
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ] {
        match old.at(&["metadata", field]) {
            Some(value) => new.set_at(&["metadata", field], value.clone()),
            None => drop(new.remove_at(&["metadata", field])),
        }
    }
    new.remove_at(&["metadata", "selfLink"]);
    if new.at(&["metadata", "managedFields"]).is_none()
        && let Some(managed) = old.at(&["metadata", "managedFields"])
    {
        new.set_at(&["metadata", "managedFields"], managed.clone());
    }
    Ok(())
}

/// Generation counts changes of what a controller must act on: all but metadata and status.
fn count_generation(kind: &dyn Kind, old: &Object, new: &mut Object) {
    if !kind.has_generation() {
        return;
    }
    let counts = |key: &str| !matches!(key, "metadata" | "status" | "kind" | "apiVersion");
    let of = |object: &Map<String, Value>| object.keys().filter(|k| counts(k)).count();
    let same = of(old) == of(new)
        && old.iter().filter(|(key, _)| counts(key)).all(|(key, v)| new.get(key) == Some(v));
    if !same {
        bump_generation(new);
    }
}

fn bump_generation(object: &mut Object) {
    let generation = object.at(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
    object.set_at(&["metadata", "generation"], generation + 1);
}

/// Whether an object that is being deleted has nothing left to wait for.
fn is_finished(object: &Object) -> bool {
    let grace = object.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    let held = object.kind() == "Namespace"
        && object.api_version() == "v1"
        && object
            .at(&["spec", "finalizers"])
            .and_then(Value::as_array)
            .is_some_and(|f| !f.is_empty());
    object.is_being_deleted()
        && object.finalizers().next().is_none()
        && grace.unwrap_or(0) == 0
        && !held
}

fn floor_char(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
