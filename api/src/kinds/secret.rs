//! `v1` Secret.

use super::BASE;
use crate::BuiltIn;

pub static SECRET: BuiltIn = BuiltIn {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    schema_type: "core/v1.Secret",
    selectable_fields: &["type"],
    publishes_metadata_only: true,
    ..BASE
};
