//! The rules of deletion: preconditions, grace, finalizers, propagation.

use serde_json::Value;
use warren_api::{ErrorList, GroupResource, Kind, Object, Status, schema};

use super::{Outcome, Scene, after, bump_generation, instant, is_finished, is_namespace};
use crate::request::Query;

/// What becomes of the dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// The garbage collector removes them afterwards.
    Background,
    /// They go first: `foregroundDeletion`.
    Foreground,
    /// They stay: `orphan`.
    Orphan,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub grace_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// From a body (null where there is none), else from the query.
    pub(crate) fn read(body: &Value, query: &Query) -> Result<Self, Status> {
        if !body.is_null() && !body.is_object() {
            return Err(Status::unknown("the body is not a DeleteOptions object"));
        }
        // Read along its type: a precondition or a dry run that is misunderstood would delete.
        let body = &match body {
            Value::Null => Value::Null,
            body => Value::from(typed(body)?),
        };
        if let Some(kind) = body["kind"].as_str().filter(|k| !matches!(*k, "DeleteOptions" | "")) {
            return Err(Status::bad_request(format!(
                "{kind} cannot be handled as a DeleteOptions"
            )));
        }
        let grace_seconds = match &body["gracePeriodSeconds"] {
            Value::Null => query.number("gracePeriodSeconds")?,
            value => value.as_i64(),
        };
        let mut errors = ErrorList::default();
        let text = |value: &Value| value.as_str().filter(|v| !v.is_empty()).map(str::to_owned);
        let policy = text(&body["propagationPolicy"])
            .unwrap_or_else(|| query.get("propagationPolicy").to_owned());
        let orphan = body["orphanDependents"]
            .as_bool()
            .or_else(|| query.has("orphanDependents").then(|| query.flag("orphanDependents")));
        let propagation = propagation(&policy, orphan, &mut errors);
        let dry_run = match body["dryRun"].as_array() {
            Some(list) => dry_run(list.iter().filter_map(Value::as_str), &mut errors),
            None => dry_run(query.all("dryRun"), &mut errors),
        };
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", errors));
        }
        Ok(Self {
            grace_seconds: grace_seconds.map(|g| if g < 0 { 1 } else { g }),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            propagation,
            dry_run,
        })
    }
}

fn typed(body: &Value) -> Result<Object, Status> {
    let (type_name, ignore) = ("meta/v1.DeleteOptions", schema::FieldValidation::Ignore);
    schema::decode(schema::builtin(), type_name, body.clone(), ignore)
        .map(|(object, _)| object)
        .map_err(|error| Status::unknown(error.to_string()))
}

fn propagation(policy: &str, orphan: Option<bool>, errors: &mut ErrorList) -> Option<Propagation> {
    if orphan.is_some() && !policy.is_empty() {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.invalid("propagationPolicy", policy, why);
    }
    match (policy, orphan) {
        ("", None) => None,
        ("", Some(true)) | ("Orphan", _) => Some(Propagation::Orphan),
        ("", Some(false)) | ("Background", _) => Some(Propagation::Background),
        ("Foreground", _) => Some(Propagation::Foreground),
        (other, _) => {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            errors.not_supported("propagationPolicy", other, &known);
            None
        }
    }
}

/// `dryRun=All` is the one value there is.
pub(crate) fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut ErrorList) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        errors.not_supported("dryRun", &values, &["All"]);
    }
    !values.is_empty()
}

/// The namespaces that a cluster cannot be without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(crate) fn delete(
    scene: &Scene<'_>,
    old: &Object,
    options: &DeleteOptions,
) -> Result<Outcome, Status> {
    let kind = scene.kind;
    check_preconditions(kind, old, options)?;
    if is_namespace(kind) && IMMORTAL.contains(&old.name()) {
        return Err(Status::forbidden(
            &kind.resource(),
            old.name(),
            "this namespace may not be deleted",
        ));
    }
    let grace = grace_of(kind, old, options);
    let mut new = old.clone();
    set_dependents_finalizers(&mut new, options.propagation);
    if !old.is_being_deleted() {
        new.set_at(&["metadata", "deletionTimestamp"], instant(after(scene.now, grace)));
        new.set_at(&["metadata", "deletionGracePeriodSeconds"], grace);
        if kind.has_generation() {
            bump_generation(&mut new);
        }
    } else {
        let pending = old.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
        // A grace period can only become shorter.
        let shorter = options.grace_seconds.is_some() || grace == 0;
        if shorter && pending.is_some_and(|pending| grace < pending) {
            new.set_at(&["metadata", "deletionTimestamp"], instant(after(scene.now, grace)));
            new.set_at(&["metadata", "deletionGracePeriodSeconds"], grace);
        }
    }
    if is_namespace(kind) {
        new.set_at(&["status", "phase"], "Terminating");
    }
    Ok(if is_finished(&new) {
        Outcome::Remove(new)
    } else if new == *old {
        Outcome::Unchanged
    } else {
        Outcome::Store(new)
    })
}

fn check_preconditions(kind: &dyn Kind, old: &Object, o: &DeleteOptions) -> Result<(), Status> {
    // Kubernetes names the kind here, where all else names the resource.
    let about = GroupResource::new(kind.group(), kind.kind());
    let conflict = |why: String| Err(Status::conflict(&about, old.name(), &why));
    let (uid, version) =
        (old.str_at(&["metadata", "uid"]), old.str_at(&["metadata", "resourceVersion"]));
    if let Some(wanted) = o.uid.as_deref().filter(|wanted| *wanted != uid) {
        return conflict(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The \
             object might have been deleted and then recreated"
        ));
    }
    if let Some(wanted) = o.resource_version.as_deref().filter(|wanted| *wanted != version) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the \
             ResourceVersion in record ({version}). The object might have been modified"
        ));
    }
    Ok(())
}

/// What the kind does not know of has no grace; what the kind lets go at once goes at once.
fn grace_of(kind: &dyn Kind, old: &Object, options: &DeleteOptions) -> i64 {
    match kind.deletion_grace_seconds(old) {
        None | Some(0) => 0,
        Some(own) => options.grace_seconds.unwrap_or(own),
    }
}

fn set_dependents_finalizers(object: &mut Object, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some("foregroundDeletion"),
        Propagation::Orphan => Some("orphan"),
    };
    let mut finalizers: Vec<Value> = object
        .finalizers()
        .filter(|f| !matches!(*f, "foregroundDeletion" | "orphan") || Some(*f) == wanted)
        .map(Value::from)
        .collect();
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|f| f == wanted)
    {
        finalizers.push(wanted.into());
    }
    if finalizers.is_empty() {
        object.remove_at(&["metadata", "finalizers"]);
    } else {
        object.set_at(&["metadata", "finalizers"], finalizers);
    }
}
