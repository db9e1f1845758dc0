//! `v1` Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::BASE;
use crate::tree;
use crate::{BuiltIn, Column, Object};

use super::columns::{AGE, length, text};

pub static SECRET: BuiltIn = BuiltIn {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    schema_type: "core/v1.Secret",
    columns: COLUMNS,
    selectable_fields: &["type"],
    default,
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
