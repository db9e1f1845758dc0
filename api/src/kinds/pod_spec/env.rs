//! The environment of a container.

use super::containers;
use crate::ErrorList;
use crate::tree::{self, Path, Tree};
use crate::validation::{each, names};

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// The fields of a pod that its variables can have.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields of a pod that its volumes can have.
pub(super) const VOLUME_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Known fields of a pod that only one of the two takes, or none.
const OTHER_FIELDS: [&str; 3] = ["spec.restartPolicy", "spec.schedulerName", "status.phase"];

const MORE_THAN_ONE: &str = "may not have more than one field specified at a time";

/// `env` and `envFrom`.
pub(super) fn variables(container: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    for (i, variable) in tree::maps(container, "env") {
        let path = path.field("env");
        let path = path.index(i);
        match tree::text(variable, "name") {
            "" => errors.required(path.field("name"), ""),
            name => each(names::env_var(name), errors, path.field("name"), name),
        }
        if let Some(source) = tree::map(variable, "valueFrom") {
            let has_value = !tree::text(variable, "value").is_empty();
            value_from(source, has_value, &path.field("valueFrom"), errors);
        }
    }
    for (i, from) in tree::maps(container, "envFrom") {
        let list = path.field("envFrom");
        let path = list.index(i);
        let prefix = tree::text(from, "prefix");
        if !prefix.is_empty() {
            each(names::env_var(prefix), errors, path.field("prefix"), prefix);
        }
        let mut count = 0;
        for field in ["configMapRef", "secretRef"] {
            let Some(source) = tree::map(from, field) else { continue };
            count += 1;
            let path = path.field(field);
            match tree::text(source, "name") {
                "" => errors.required(path.field("name"), ""),
                name => each(names::dns1123_subdomain(name), errors, path.field("name"), name),
            }
        }
        match count {
            0 => errors.invalid(list, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(list, "", MORE_THAN_ONE),
        }
    }
}

fn value_from(source: &Tree, has_value: bool, path: &Path<'_>, errors: &mut ErrorList) {
    let mut count = 0;
    if let Some(field) = tree::map(source, "fieldRef") {
        count += 1;
        field_ref(field, &FIELDS, &path.field("fieldRef"), errors);
    }
    if let Some(resource) = tree::map(source, "resourceFieldRef") {
        count += 1;
        resource_ref(resource, false, &path.field("resourceFieldRef"), errors);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        let Some(key_ref) = tree::map(source, field) else { continue };
        count += 1;
        let path = path.field(field);
        let name = tree::text(key_ref, "name");
        each(names::dns1123_subdomain(name), errors, path.field("name"), name);
        match tree::text(key_ref, "key") {
            "" => errors.required(path.field("key"), ""),
            key => each(names::config_key(key), errors, path.field("key"), key),
        }
    }
    if count == 0 {
        let message = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
                       `secretKeyRef`";
        errors.invalid(path, "", message);
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", MORE_THAN_ONE);
    }
}

/// `metadata.labels['key']`, or one of the fields.
pub(super) fn field_ref(field: &Tree, known: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    for needed in ["apiVersion", "fieldPath"] {
        if tree::text(field, needed).is_empty() {
            errors.required(path.field(needed), "");
            return;
        }
    }
    let version = tree::text(field, "apiVersion");
    let name = tree::text(field, "fieldPath");
    let refuse = |why: String, errors: &mut ErrorList| {
        let message = format!("error converting fieldPath: {why}");
        errors.invalid(path.field("fieldPath"), name, &message);
    };
    if version != "v1" {
        return refuse(format!("unsupported pod version: {version}"), errors);
    }
    if let Some((base, key)) = name.strip_suffix("']").and_then(|n| n.split_once("['")) {
        match base {
            "metadata.annotations" => {
                each(names::label_key(&key.to_lowercase()), errors, path, key);
            }
            "metadata.labels" => each(names::label_key(key), errors, path, key),
            _ => refuse(format!("field label does not support subscript: {name}"), errors),
        }
        return;
    }
    if known.contains(&name) {
        return;
    }
    let is_field = [&FIELDS[..], &VOLUME_FIELDS, &OTHER_FIELDS].concat().contains(&name);
    if is_field {
        errors.not_supported(path.field("fieldPath"), name, known);
    } else {
        refuse(format!("field label not supported: {name}"), errors);
    }
}

/// `limits.cpu`, with a divisor.
pub(super) fn resource_ref(
    resource: &Tree,
    needs_container: bool,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let name = tree::text(resource, "resource");
    if needs_container && tree::text(resource, "containerName").is_empty() {
        errors.required(path.field("containerName"), "");
    } else if name.is_empty() {
        errors.required(path.field("resource"), "");
    } else if !RESOURCES.contains(&name) && !name.contains(".hugepages-") {
        errors.not_supported(path.field("resource"), name, &RESOURCES);
    }
    let Some(value) = resource.get("divisor") else { return };
    let Some(divisor) = containers::amount(value, &path.field("divisor"), errors) else { return };
    if divisor.is_zero() {
        return;
    }
    let (allowed, message): (&[&str], &str) = if name.ends_with(".cpu") {
        (&["1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource")
    } else if name.ends_with(".memory") {
        (
            &UNITS,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are \
             supported with the memory resource",
        )
    } else {
        (
            &UNITS,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are \
             supported with the local ephemeral storage resource",
        )
    };
    if !allowed.contains(&divisor.to_string().as_str()) {
        errors.invalid(path.field("divisor"), name, message);
    }
}

const UNITS: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
