//! The volumes of a pod's spec.

use std::collections::HashMap;

use super::{containers, env};
use crate::ErrorList;
use crate::tree::{self, Path, Tree};
use crate::validation::{each, names, one_of_or_empty};

const MODE_RANGE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// Validates `volumes`, and gives those that are sound, by name.
pub(super) fn all<'a>(
    spec: &'a Tree,
    path: &Path<'_>,
    errors: &mut ErrorList,
) -> HashMap<&'a str, &'a Tree> {
    let mut known = HashMap::new();
    for (i, volume) in tree::maps(spec, "volumes") {
        let path = path.index(i);
        let before = errors.0.len();
        source(volume, &path, errors);
        let name = tree::text(volume, "name");
        if name.is_empty() {
            errors.required(path.field("name"), "");
        } else {
            each(names::dns1123_label(name), errors, path.field("name"), name);
        }
        if known.contains_key(name) {
            errors.duplicate(path.field("name"), name);
        }
        // Kubernetes reports mounts of a volume with errors as not found; the volume's own error says enough.
        if errors.0.len() == before || !name.is_empty() {
            known.entry(name).or_insert(volume);
        }
    }
    known
}

fn source(volume: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let mut count = 0;
    for (kind, value) in volume {
        let Some(source) = value.as_object().filter(|_| kind != "name") else { continue };
        let path = path.field(kind);
        count += 1;
        if count > 1 {
            errors.forbidden(path, "may not specify more than 1 volume type");
            continue;
        }
        match kind.as_str() {
            "emptyDir" => empty_dir(source, &path, errors),
            "hostPath" => host_path(source, &path, errors),
            "configMap" => named(source, "name", &path, errors),
            "secret" => named(source, "secretName", &path, errors),
            "downwardAPI" => downward(source, &path, errors),
            "projected" => projected(source, &path, errors),
            "persistentVolumeClaim" if tree::text(source, "claimName").is_empty() => {
                errors.required(path.field("claimName"), "");
            }
            _ => {}
        }
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn empty_dir(source: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(limit) = source.get("sizeLimit").filter(|l| !l.is_null()) {
        containers::amount(limit, &path.field("sizeLimit"), errors);
    }
    let medium = tree::text(source, "medium");
    if !matches!(medium, "" | "Memory") && !medium.starts_with("HugePages") {
        errors.not_supported(path.field("medium"), medium, &["", "HugePages", "Memory"]);
    }
}

fn host_path(source: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let target = tree::text(source, "path");
    if target.is_empty() {
        errors.required(path.field("path"), "");
    }
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path.field("path"), target, "must not contain '..'");
    }
    one_of_or_empty(source, "type", &HOST_PATH_TYPES, path, errors);
}

/// A ConfigMap or a Secret.
fn named(source: &Tree, field: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if tree::text(source, field).is_empty() {
        errors.required(path.field(field), "");
    }
    mode(source, "defaultMode", path, errors);
    items(source, path, errors);
}

fn items(source: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    for (i, item) in tree::maps(source, "items") {
        let path = path.field("items");
        let path = path.index(i);
        if tree::text(item, "key").is_empty() {
            errors.required(path.field("key"), "");
        }
        file(item, &path, errors);
    }
}

/// The path and mode of a file in a volume.
fn file(item: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let target = tree::text(item, "path");
    if target.is_empty() {
        errors.required(path.field("path"), "");
    }
    containers::descending(target, &path.field("path"), errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path.field("path"), target, "must not start with '..'");
    }
    mode(item, "mode", path, errors);
}

fn mode(tree: &Tree, field: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(mode) = tree::int(tree, field).filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path.field(field), mode, MODE_RANGE);
    }
}

fn downward(source: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    mode(source, "defaultMode", path, errors);
    for (i, item) in tree::maps(source, "items") {
        let path = path.field("items");
        let path = path.index(i);
        file(item, &path, errors);
        match (tree::map(item, "fieldRef"), tree::map(item, "resourceFieldRef")) {
            (Some(field), None) => {
                env::field_ref(field, &env::VOLUME_FIELDS, &path.field("fieldRef"), errors);
            }
            (None, Some(resource)) => {
                env::resource_ref(resource, true, &path.field("resourceFieldRef"), errors);
            }
            (Some(_), Some(_)) => {
                let message = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", message);
            }
            (None, None) => {
                errors.required(path, "one of fieldRef and resourceFieldRef is required");
            }
        }
    }
}

fn projected(source: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    mode(source, "defaultMode", path, errors);
    for (i, part) in tree::maps(source, "sources") {
        let path = path.field("sources");
        let path = path.index(i);
        let mut count = 0;
        for (kind, value) in part {
            let Some(part) = value.as_object() else { continue };
            let path = path.field(kind);
            count += 1;
            if count > 1 {
                errors.forbidden(path, "may not specify more than 1 volume type");
                continue;
            }
            match kind.as_str() {
                "configMap" | "secret" => named(part, "name", &path, errors),
                "downwardAPI" => downward(part, &path, errors),
                "serviceAccountToken" => {
                    let seconds = tree::int(part, "expirationSeconds").unwrap_or(3600);
                    if seconds < 600 {
                        let message = "may not specify a duration less than 10 minutes";
                        errors.invalid(path.field("expirationSeconds"), seconds, message);
                    }
                    if tree::text(part, "path").is_empty() {
                        errors.required(path.field("path"), "");
                    }
                }
                _ => {}
            }
        }
    }
}
