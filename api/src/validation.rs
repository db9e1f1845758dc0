//! Validation of what all objects have in common: metadata, labels, names. The words are Kubernetes'.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::tree::{self, Path, Tree};
use crate::{ErrorList, Kind, Object};

pub mod names;

/// The sum of the lengths of all annotations' keys and values.
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;
/// What [`updates`](metadata_update) to a field that never changes are told.
pub(crate) const IMMUTABLE: &str = "field is immutable";

/// Validates `.metadata` on create and on update; the name's own rule is the kind's. Expects that a name has been
/// generated where `generateName` asked for one. Rules: `ValidateObjectMeta` of k8s.io/apimachinery.
pub fn metadata(kind: &dyn Kind, object: &Object, errors: &mut ErrorList) {
    let path = Path::root("metadata");
    let empty = Tree::new();
    let meta = object.at(&["metadata"]).and_then(Value::as_object).unwrap_or(&empty);

    let prefix = tree::text(meta, "generateName");
    if !prefix.is_empty() {
        // What follows the prefix is alphanumeric, so that a dash at its end is fine.
        let masked = match prefix.strip_suffix('-') {
            Some(head) if !head.is_empty() => format!("{head}a"),
            _ => prefix.to_owned(),
        };
        if let Some(message) = kind.validate_name(&masked) {
            errors.invalid(path.field("generateName"), prefix, &message);
        }
    }
    match tree::text(meta, "name") {
        "" => errors.required(path.field("name"), "name or generateName is required"),
        name => {
            if let Some(message) = kind.validate_name(name) {
                errors.invalid(path.field("name"), name, &message);
            }
        }
    }
    match (kind.is_namespaced(), tree::text(meta, "namespace")) {
        (true, "") => errors.required(path.field("namespace"), ""),
        (true, namespace) => {
            each(names::dns1123_label(namespace), errors, path.field("namespace"), namespace);
        }
        (false, "") => {}
        (false, _) => errors.forbidden(path.field("namespace"), "not allowed on this type"),
    }
    if let Some(generation) = tree::int(meta, "generation").filter(|g| *g < 0) {
        let message = "must be greater than or equal to 0";
        errors.invalid(path.field("generation"), generation, message);
    }
    labels(meta, &path.field("labels"), errors);
    annotations(meta, &path.field("annotations"), errors);
    owner_references(meta, &path.field("ownerReferences"), errors);
    finalizers(meta, &path.field("finalizers"), errors);
}

/// What an update may not change in `.metadata`. Both objects have been through the server's own resets, so that an
/// absent uid or creation time has been filled in from the old object.
pub fn metadata_update(new: &Object, old: &Object, errors: &mut ErrorList) {
    let path = Path::root("metadata");
    if old.is_being_deleted() {
        let known: BTreeSet<&str> = old.finalizers().collect();
        let added: BTreeSet<&str> = new.finalizers().filter(|f| !known.contains(f)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let message = format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.forbidden(path.field("finalizers"), &message);
        }
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let at = ["metadata", field];
        immutable(new.at(&at), old.at(&at), &path.field(field), errors);
    }
    let number = |o: &Object| o.at(&["metadata", "generation"]).and_then(Value::as_i64);
    if let (Some(new), Some(old)) = (number(new), number(old))
        && new < old
    {
        errors.invalid(path.field("generation"), new, "must not be decremented");
    }
}

/// `labels` of a map that has them.
pub(crate) fn labels(meta: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    for (key, value) in tree::pairs(meta, "labels") {
        each(names::label_key(key), errors, *path, key);
        each(names::label_value(value), errors, *path, value);
    }
}

/// `annotations` of a map that has them. Their keys may have upper case everywhere.
pub(crate) fn annotations(meta: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let mut bytes = 0;
    for (key, value) in tree::pairs(meta, "annotations") {
        each(names::label_key(&key.to_lowercase()), errors, *path, key);
        bytes += key.len() + value.len();
    }
    if bytes > MAX_ANNOTATIONS_BYTES {
        errors.too_long(*path, MAX_ANNOTATIONS_BYTES);
    }
}

/// A `LabelSelector` in an object.
pub(crate) fn label_selector(selector: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let labels = path.field("matchLabels");
    for (key, value) in tree::pairs(selector, "matchLabels") {
        each(names::label_key(key), errors, labels, key);
        each(names::label_value(value), errors, labels, value);
    }
    for (i, expression) in tree::maps(selector, "matchExpressions") {
        let path = path.field("matchExpressions");
        let path = path.index(i);
        let has_values = !tree::list(expression, "values").is_empty();
        match tree::text(expression, "operator") {
            "In" | "NotIn" if !has_values => {
                let message = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(path.field("values"), message);
            }
            "Exists" | "DoesNotExist" if has_values => {
                let message = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(path.field("values"), message);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(path.field("operator"), other, "not a valid selector operator"),
        }
        let key = tree::text(expression, "key");
        each(names::label_key(key), errors, path.field("key"), key);
        for (i, value) in tree::texts(expression, "values").enumerate() {
            each(names::label_value(value), errors, path.field("values").index(i), value);
        }
    }
}

fn owner_references(meta: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let mut controller: Option<String> = None;
    for (_, owner) in tree::maps(meta, "ownerReferences") {
        let api_version = tree::text(owner, "apiVersion");
        let version = api_version.split_once('/').map_or(api_version, |(_, version)| version);
        if version.is_empty() {
            errors.invalid(path.field("apiVersion"), api_version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if tree::text(owner, field).is_empty() {
                errors.invalid(path.field(field), "", "must not be empty");
            }
        }
        if api_version == "v1" && tree::text(owner, "kind") == "Event" {
            let message = "/v1, Kind=Event is disallowed from being an owner";
            errors.invalid(*path, owner, message);
        }
        if tree::flag(owner, "controller") {
            let name = format!("{}/{}", tree::text(owner, "kind"), tree::text(owner, "name"));
            match &controller {
                None => controller = Some(name),
                Some(first) => {
                    let message = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {name}"
                    );
                    errors.invalid(*path, tree::list(meta, "ownerReferences"), &message);
                }
            }
        }
    }
}

fn finalizers(meta: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let (mut orphan, mut foreground) = (false, false);
    for (i, name) in tree::texts(meta, "finalizers").enumerate() {
        let problems = names::label_key(name);
        let is_qualified = problems.is_empty();
        each(problems, errors, *path, name);
        orphan |= name == "orphan";
        foreground |= name == "foregroundDeletion";
        let is_standard = matches!(name, "kubernetes" | "orphan" | "foregroundDeletion");
        if is_qualified && !name.contains('/') && !is_standard {
            let message = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(path.index(i), name, message);
        }
    }
    if orphan && foreground {
        let message = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(*path, tree::list(meta, "finalizers"), message);
    }
}

/// One `Invalid value` for each message.
pub(crate) fn each(
    messages: Vec<String>,
    errors: &mut ErrorList,
    field: impl Into<String>,
    value: &str,
) {
    if messages.is_empty() {
        return;
    }
    let field = field.into();
    for message in messages {
        errors.invalid(field.clone(), value, &message);
    }
}

/// Refuses a change of a field.
pub(crate) fn immutable(
    new: Option<&Value>,
    old: Option<&Value>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    if !tree::same(new, old) {
        errors.invalid(*path, new, IMMUTABLE);
    }
}

/// Refuses a number below 0; absent is fine.
pub(crate) fn non_negative(tree: &Tree, field: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(number) = tree::int(tree, field).filter(|n| *n < 0) {
        errors.invalid(path.field(field), number, "must be greater than or equal to 0");
    }
}

/// Refuses a word that is not on the list, and an empty one as missing.
pub(crate) fn one_of(
    tree: &Tree,
    field: &str,
    allowed: &[&str],
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    match tree::text(tree, field) {
        "" => errors.required(path.field(field), ""),
        word if allowed.contains(&word) => {}
        word => errors.not_supported(path.field(field), word, allowed),
    }
}

/// As [`one_of`], but empty is fine.
pub(crate) fn one_of_or_empty(
    tree: &Tree,
    field: &str,
    allowed: &[&str],
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    if !tree::text(tree, field).is_empty() {
        one_of(tree, field, allowed, path, errors);
    }
}

#[cfg(test)]
mod tests;
