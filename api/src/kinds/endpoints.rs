//! `v1` Endpoints.

use super::BASE;
use crate::BuiltIn;

pub static ENDPOINTS: BuiltIn = BuiltIn {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    schema_type: "core/v1.Endpoints",
    ..BASE
};
