//! `v1` Endpoints.

use super::BASE;
use crate::tree;
use crate::{BuiltIn, Object};

pub static ENDPOINTS: BuiltIn = BuiltIn {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    schema_type: "core/v1.Endpoints",
    default,
    ..BASE
};

fn default(endpoints: &mut Object) {
    for subset in tree::maps_mut(endpoints, "subsets") {
        for port in tree::maps_mut(subset, "ports") {
            tree::default_zero(port, "protocol", "TCP");
        }
    }
}
