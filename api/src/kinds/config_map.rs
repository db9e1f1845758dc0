//! `v1` ConfigMap.

use super::BASE;
use crate::tree::{self, Path};
use crate::validation::{each, names};
use crate::{BuiltIn, Column, ErrorList, Object};

use super::columns::{AGE, length, text};

pub static CONFIG_MAP: BuiltIn = BuiltIn {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    schema_type: "core/v1.ConfigMap",
    columns: COLUMNS,
    validate,
    validate_update,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Data", "How many entries there are.", |map, _| {
        (length(map.get("data")) + length(map.get("binaryData"))).into()
    }),
    AGE,
];

/// Of keys and values together, in ConfigMaps and in Secrets.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

fn validate(map: &Object, errors: &mut ErrorList) {
    let mut bytes = 0;
    for field in ["data", "binaryData"] {
        let path = Path::root(field);
        for (key, value) in tree::pairs(map, field) {
            each(names::config_key(key), errors, path.key(key), key);
            if field == "data" {
                bytes += value.len();
                if tree::map(map, "binaryData").is_some_and(|binary| binary.contains_key(key)) {
                    errors.invalid(path.key(key), key, "duplicate of key present in binaryData");
                }
            } else {
                bytes += decoded_length(value);
            }
        }
    }
    if bytes > MAX_BYTES {
        errors.too_long("[]", MAX_BYTES);
    }
}

/// The number of bytes that base64 stands for.
pub(super) fn decoded_length(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

fn validate_update(new: &Object, old: &Object, errors: &mut ErrorList) {
    frozen(new, old, &["data", "binaryData"], errors);
}

/// What has said once that it never changes, of ConfigMaps and Secrets.
pub(super) fn frozen(new: &Object, old: &Object, fields: &[&str], errors: &mut ErrorList) {
    if !tree::flag(old, "immutable") {
        return;
    }
    let message = "field is immutable when `immutable` is set";
    if !tree::flag(new, "immutable") {
        errors.forbidden("immutable", message);
    }
    for field in fields {
        if !tree::same(new.get(*field), old.get(*field)) {
            errors.forbidden(*field, message);
        }
    }
}
