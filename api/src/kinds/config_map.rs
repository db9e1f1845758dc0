//! `v1` ConfigMap.

use super::BASE;
use crate::BuiltIn;

pub static CONFIG_MAP: BuiltIn = BuiltIn {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    schema_type: "core/v1.ConfigMap",
    ..BASE
};
