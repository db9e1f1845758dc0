//! `apps/v1` Deployment.

use super::BASE;
use crate::{BuiltIn, Subresource};

pub static DEPLOYMENT: BuiltIn = BuiltIn {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    schema_type: "apps/v1.Deployment",
    has_generation: true,
    ..BASE
};
