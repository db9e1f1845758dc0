//! `v1` Namespace.

use super::BASE;
use crate::validation::names;
use crate::{BuiltIn, Scope, Subresource};

pub static NAMESPACE: BuiltIn = BuiltIn {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    scope: Scope::Cluster,
    subresources: &[Subresource::Status, Subresource::Finalize],
    schema_type: "core/v1.Namespace",
    selectable_fields: &["status.phase"],
    validate_name: names::label,
    ..BASE
};
