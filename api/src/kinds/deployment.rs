//! `apps/v1` Deployment.

use serde_json::json;

use super::{BASE, pod_spec};
use crate::tree;
use crate::{BuiltIn, Object, Subresource};

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
    default,
    ..BASE
};

fn default(deployment: &mut Object) {
    let spec = tree::make_map(deployment, "spec");
    tree::default_absent(spec, "replicas", 1);
    tree::default_absent(spec, "revisionHistoryLimit", 10);
    tree::default_absent(spec, "progressDeadlineSeconds", 600);
    let strategy = tree::make_map(spec, "strategy");
    tree::default_zero(strategy, "type", "RollingUpdate");
    if tree::text(strategy, "type") == "RollingUpdate" {
        let rolling = tree::make_map(strategy, "rollingUpdate");
        tree::default_absent(rolling, "maxUnavailable", "25%");
        tree::default_absent(rolling, "maxSurge", "25%");
    }
    pod_spec::defaults::template(spec);
    tree::default_absent(deployment, "status", json!({}));
}
