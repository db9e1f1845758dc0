//! `v1` Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::BASE;
use super::config_map::{MAX_BYTES, decoded_length, frozen};
use crate::tree::{self, Path};
use crate::validation::{each, immutable, names};
use crate::{BuiltIn, Column, ErrorList, Object};

use super::columns::{AGE, length, text};

pub static SECRET: BuiltIn = BuiltIn {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    schema_type: "core/v1.Secret",
    columns: COLUMNS,
    selectable_fields: &["type"],
    default,
    validate,
    validate_update,
    publishes_metadata_only: true,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Type", "What the data is for.", |secret, _| secret.str_at(&["type"]).into()),
    text("Data", "How many entries there are.", |secret, _| length(secret.get("data")).into()),
    AGE,
];

/// `stringData` is for writing only: it wins over `data` and is gone afterwards.
fn default(secret: &mut Object) {
    tree::default_zero(secret, "type", "Opaque");
    let Some(plain) = secret.remove("stringData") else { return };
    let Some(plain) = plain.as_object().filter(|p| !p.is_empty()) else { return };
    let data = tree::make_map(secret, "data");
    for (key, value) in plain {
        let bytes = value.as_str().unwrap_or_default();
        data.insert(key.clone(), STANDARD.encode(bytes).into());
    }
}

fn validate(secret: &Object, errors: &mut ErrorList) {
    let path = Path::root("data");
    let mut bytes = 0;
    for (key, value) in tree::pairs(secret, "data") {
        each(names::config_key(key), errors, path.key(key), key);
        bytes += decoded_length(value);
    }
    if bytes > MAX_BYTES {
        errors.too_long("data", MAX_BYTES);
    }
    let has = |key: &str| tree::map(secret, "data").is_some_and(|data| data.contains_key(key));
    let mut needs = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !has(key)) {
            errors.required(path.key(key), "");
        }
    };
    match secret.str_at(&["type"]) {
        "kubernetes.io/tls" => needs(&["tls.crt", "tls.key"]),
        "kubernetes.io/ssh-auth" => needs(&["ssh-privatekey"]),
        "kubernetes.io/dockercfg" => needs(&[".dockercfg"]),
        "kubernetes.io/dockerconfigjson" => needs(&[".dockerconfigjson"]),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            needs(&["username", "password"]);
        }
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            if secret.annotation(ACCOUNT).unwrap_or_default().is_empty() {
                errors.required(format!("metadata.annotations[{ACCOUNT}]"), "");
            }
        }
        _ => {}
    }
    for (kind, key) in [
        ("kubernetes.io/dockercfg", ".dockercfg"),
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
    ] {
        let value = secret.str_at(&["data", key]);
        if secret.str_at(&["type"]) == kind && !value.is_empty() {
            let bytes = STANDARD.decode(value).unwrap_or_default();
            if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
                // The value is a secret, also in errors.
                errors.invalid(path.key(key), "<secret contents redacted>", &error.to_string());
            }
        }
    }
}

fn validate_update(new: &Object, old: &Object, errors: &mut ErrorList) {
    immutable(new.get("type"), old.get("type"), &Path::root("type"), errors);
    frozen(new, old, &["data"], errors);
}
