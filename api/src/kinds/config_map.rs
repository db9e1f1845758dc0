//! `v1` ConfigMap.

use super::BASE;
use crate::{BuiltIn, Column};

use super::columns::{AGE, length, text};

pub static CONFIG_MAP: BuiltIn = BuiltIn {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    schema_type: "core/v1.ConfigMap",
    columns: COLUMNS,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Data", "How many entries there are.", |map, _| {
        (length(map.get("data")) + length(map.get("binaryData"))).into()
    }),
    AGE,
];
