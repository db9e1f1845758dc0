//! `apps/v1` Deployment.

use serde_json::json;

use super::{BASE, pod_spec};
use crate::tree;
use crate::{BuiltIn, Column, Object, Subresource};

use super::columns::{AGE, CONTAINERS, IMAGES, SELECTOR, count, text};

pub static DEPLOYMENT: BuiltIn = BuiltIn {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    schema_type: "apps/v1.Deployment",
    columns: COLUMNS,
    has_generation: true,
    default,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Ready", "Pods that are ready, and the number wanted.", |deployment, _| {
        let ready = count(deployment, &["status", "readyReplicas"]);
        format!("{ready}/{}", count(deployment, &["spec", "replicas"])).into()
    }),
    text("Up-to-date", "Pods of the present template.", |deployment, _| {
        count(deployment, &["status", "updatedReplicas"]).into()
    }),
    text("Available", "Pods that have been ready for long enough.", |deployment, _| {
        count(deployment, &["status", "availableReplicas"]).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

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
