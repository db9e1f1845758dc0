//! The containers of a pod's spec.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::validate::Of;
use super::{env, probes};
use crate::tree::{self, Path, Tree};
use crate::validation::{each, names, one_of};
use crate::{ErrorList, Quantity};

/// `containers`, `initContainers` and `ephemeralContainers`.
pub(super) fn all(
    spec: &Tree,
    volumes: &HashMap<&str, &Tree>,
    of: Of,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let mut known = HashSet::new();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let path = path.field(list);
        if list == "containers" && tree::list(spec, list).is_empty() {
            errors.required(path, "");
        }
        let mut host_ports = HashSet::new();
        for (i, container) in tree::maps(spec, list) {
            let path = path.index(i);
            let name = tree::text(container, "name");
            if name.is_empty() {
                errors.required(path.field("name"), "");
            } else {
                each(names::dns1123_label(name), errors, path.field("name"), name);
            }
            if !name.is_empty() && !known.insert(name) {
                errors.duplicate(path.field("name"), name);
            }
            one(container, volumes, of, &path, errors);
            if list == "ephemeralContainers" {
                ephemeral(spec, container, &path, errors);
            } else {
                kind(container, list, &path, errors);
            }
            self::host_ports(spec, container, &mut host_ports, &path, errors);
        }
    }
}

fn one(
    container: &Tree,
    volumes: &HashMap<&str, &Tree>,
    of: Of,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let image = tree::text(container, "image");
    if image.is_empty() {
        errors.required(path.field("image"), "");
    } else if of == Of::Pod && image.trim() != image {
        let message = "must not have leading or trailing whitespace";
        errors.invalid(path.field("image"), image, message);
    }
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(container, "terminationMessagePolicy", &policies, path, errors);
    ports(container, &path.field("ports"), errors);
    env::variables(container, path, errors);
    mounts(container, volumes, &path.field("volumeMounts"), errors);
    one_of(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    if let Some(found) = tree::map(container, "resources") {
        resources(found, &path.field("resources"), errors);
    }
    security_context(container, &path.field("securityContext"), errors);
    probes::all(container, path, errors);
}

/// What depends on the list that a container stands in.
fn kind(container: &Tree, list: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let policy = tree::text(container, "restartPolicy");
    if list == "initContainers" {
        if !matches!(policy, "" | "Always") {
            errors.not_supported(path.field("restartPolicy"), policy, &["Always"]);
        }
        if policy != "Always" {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if tree::has(container, field) {
                    let message = "may not be set for init containers without restartPolicy=Always";
                    errors.forbidden(path.field(field), message);
                }
            }
        }
        return;
    }
    if !policy.is_empty() {
        errors.forbidden(path.field("restartPolicy"), "may not be set for non-init containers");
    }
}

/// One looks into a pod, and nothing relies on it. The fields in the order of Kubernetes' type.
fn ephemeral(spec: &Tree, container: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    const NOT_HERE: &str = "cannot be set for an Ephemeral Container";
    let target = tree::text(container, "targetContainerName");
    let mut others =
        ["containers", "initContainers"].into_iter().flat_map(|list| tree::maps(spec, list));
    if !target.is_empty() && !others.any(|(_, other)| tree::text(other, "name") == target) {
        errors.not_found(path.field("targetContainerName"), target);
    }
    for field in [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ] {
        // Resources are there always, by default without content.
        let is_set = match field {
            "resources" => tree::map(container, field)
                .is_some_and(|resources| resources.values().any(|v| !v.is_null())),
            _ => tree::has(container, field),
        };
        if is_set {
            errors.forbidden(path.field(field), NOT_HERE);
        }
    }
    for (i, mount) in tree::maps(container, "volumeMounts") {
        let path = path.field("volumeMounts");
        let path = path.index(i);
        for field in ["subPath", "subPathExpr"] {
            if !tree::text(mount, field).is_empty() {
                errors.forbidden(path.field(field), NOT_HERE);
            }
        }
    }
}

fn ports(container: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let mut known = HashSet::new();
    for (i, port) in tree::maps(container, "ports") {
        let path = path.index(i);
        let name = tree::text(port, "name");
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() && !known.insert(name) {
                errors.duplicate(path.field("name"), name);
            }
            each(messages, errors, path.field("name"), name);
        }
        match tree::int(port, "containerPort") {
            None | Some(0) => errors.required(path.field("containerPort"), ""),
            Some(number) => {
                if let Some(message) = names::port_number(number) {
                    errors.invalid(path.field("containerPort"), number, &message);
                }
            }
        }
        if let Some(number) = tree::int(port, "hostPort").filter(|p| *p != 0)
            && let Some(message) = names::port_number(number)
        {
            errors.invalid(path.field("hostPort"), number, &message);
        }
        let ip = tree::text(port, "hostIP");
        if !ip.is_empty()
            && let Some(message) = names::ip(ip)
        {
            errors.invalid(path.field("hostIP"), ip, &message);
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &path, errors);
    }
}

/// No two ports of one list take the same port of the host, and with the host's network both are one number.
fn host_ports(
    spec: &Tree,
    container: &Tree,
    known: &mut HashSet<String>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    for (i, port) in tree::maps(container, "ports") {
        let path = path.field("ports");
        let path = path.index(i);
        let number = tree::int(port, "hostPort").unwrap_or_default();
        if tree::flag(spec, "hostNetwork") && number != 0 {
            let inside = tree::int(port, "containerPort").unwrap_or_default();
            if inside != number {
                let message = "must match `hostPort` when `hostNetwork` is true";
                errors.invalid(path.field("containerPort"), inside, message);
            }
        }
        let (protocol, ip) = (tree::text(port, "protocol"), tree::text(port, "hostIP"));
        let key = format!("{protocol}/{ip}/{number}");
        if number != 0 && !known.insert(key.clone()) {
            errors.duplicate(path.field("hostPort"), key);
        }
    }
}

fn mounts(
    container: &Tree,
    volumes: &HashMap<&str, &Tree>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let mut known = HashSet::new();
    for (i, mount) in tree::maps(container, "volumeMounts") {
        let path = path.index(i);
        let (name, target) = (tree::text(mount, "name"), tree::text(mount, "mountPath"));
        if name.is_empty() {
            errors.required(path.field("name"), "");
        } else if !volumes.contains_key(name) {
            errors.not_found(path.field("name"), name);
        }
        if target.is_empty() {
            errors.required(path.field("mountPath"), "");
        } else if !known.insert(target) {
            errors.invalid(path.field("mountPath"), target, "must be unique");
        }
        let (sub, expression) = (tree::text(mount, "subPath"), tree::text(mount, "subPathExpr"));
        descending(sub, &path.field("subPath"), errors);
        if !sub.is_empty() && !expression.is_empty() {
            let message = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(path.field("subPathExpr"), expression, message);
        }
        descending(expression, &path.field("subPathExpr"), errors);
        let modes = ["Bidirectional", "HostToContainer", "None"];
        crate::validation::one_of_or_empty(mount, "mountPropagation", &modes, &path, errors);
    }
}

/// A path below a volume: relative, and never upwards.
pub(super) fn descending(target: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// `requests` and `limits`.
pub(super) fn resources(resources: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let none = Tree::new();
    let limits = tree::map(resources, "limits").unwrap_or(&none);
    for list in ["limits", "requests"] {
        for (name, value) in tree::map(resources, list).into_iter().flatten() {
            let list_path = path.field(list);
            let key_path = list_path.key(name);
            resource_name(name, &key_path, errors);
            let Some(amount) = amount(value, &key_path, errors) else { continue };
            if list == "limits" {
                continue;
            }
            let limit = limits.get(name).and_then(|l| Quantity::from_json(l).ok());
            match limit {
                Some(limit) if may_overcommit(name) && amount > limit => {
                    let message = format!("must be less than or equal to {name} limit of {limit}");
                    errors.invalid(list_path, amount.to_string(), &message);
                }
                Some(limit) if !may_overcommit(name) && amount != limit => {
                    let message = format!("must be equal to {name} limit of {limit}");
                    errors.invalid(list_path, amount.to_string(), &message);
                }
                None if !may_overcommit(name) => {
                    errors.required(
                        path.field("limits"),
                        "Limit must be set for non overcommitable resources",
                    );
                }
                _ => {}
            }
        }
    }
}

/// A quantity that is not negative.
pub(crate) fn amount(value: &Value, path: &Path<'_>, errors: &mut ErrorList) -> Option<Quantity> {
    match Quantity::from_json(value) {
        Ok(amount) if amount.is_negative() => {
            let message = "must be greater than or equal to 0";
            errors.invalid(path, amount.to_string(), message);
            None
        }
        Ok(amount) => Some(amount),
        Err(error) => {
            errors.invalid(path, value, &error.to_string());
            None
        }
    }
}

const STANDARD_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Only Kubernetes' own resources may be promised more than once.
fn may_overcommit(name: &str) -> bool {
    STANDARD_RESOURCES.contains(&name)
}

fn resource_name(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let messages = names::label_key(name);
    let is_name = messages.is_empty();
    each(messages, errors, path, name);
    if !is_name || name.contains('/') {
        return;
    }
    if !STANDARD_RESOURCES.contains(&name) && !name.starts_with("hugepages-") {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

pub(super) const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";

/// Numbers of users and groups that Linux and the runtimes take.
pub(super) fn is_id(id: i64) -> bool {
    (0..=i64::from(i32::MAX)).contains(&id)
}

pub(super) fn ids(context: &Tree, fields: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    for field in fields {
        if let Some(id) = tree::int(context, field).filter(|id| !is_id(*id)) {
            errors.invalid(path.field(field), id, ID_RANGE);
        }
    }
}

fn security_context(container: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(context) = tree::map(container, "securityContext") else { return };
    ids(context, &["runAsUser", "runAsGroup"], path, errors);
    let escalation = context.get("allowPrivilegeEscalation");
    if escalation.is_some_and(|v| v == false) {
        if tree::flag(context, "privileged") {
            let message = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context, message);
        }
        let capabilities = tree::map(context, "capabilities");
        if capabilities.is_some_and(|c| tree::texts(c, "add").any(|c| c == "CAP_SYS_ADMIN")) {
            let message = "cannot set `allowPrivilegeEscalation` to false and \
                           `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context, message);
        }
    }
}
