//! `v1` Pod.

mod columns;
mod validate;

use super::{BASE, pod_spec};
use crate::tree;
use crate::{BuiltIn, NodeName, Object, Shard, Subresource};

pub static POD: BuiltIn = BuiltIn {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource::Status,
        Subresource::Log,
        Subresource::Exec,
        Subresource::Attach,
        Subresource::PortForward,
        Subresource::Proxy,
        Subresource::Binding,
        Subresource::Eviction,
        Subresource::EphemeralContainers,
    ],
    schema_type: "core/v1.Pod",
    columns: columns::ALL,
    selectable_fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ],
    field: Some(field),
    has_generation: true,
    default,
    validate: validate::validate,
    validate_create: validate::create,
    validate_update: validate::update,
    warnings: pod_spec::warnings::of_pod,
    validate_subresource: Some(validate::subresource),
    deletion_grace_seconds: grace,
    shard,
    ..BASE
};

/// The annotation of a pod that an agent has stored on behalf of a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

fn default(pod: &mut Object) {
    let is_mirror = pod.annotation(MIRROR).is_some();
    let spec = tree::make_map(pod, "spec");
    pod_spec::defaults::spec(spec);
    pod_spec::defaults::pod(spec, is_mirror);
    let class = pod_spec::qos::class(spec);
    let status = tree::make_map(pod, "status");
    tree::default_zero(status, "phase", "Pending");
    tree::default_zero(status, "qosClass", class);
}

fn field(pod: &Object, path: &str) -> Option<String> {
    match path {
        "spec.hostNetwork" => {
            Some(pod.at(&["spec", "hostNetwork"]).is_some_and(|v| v == true).to_string())
        }
        "status.podIPs" => {
            let ips = pod.at(&["status", "podIPs"]).and_then(|v| v.as_array());
            let ips: Vec<&str> =
                ips.into_iter().flatten().filter_map(|ip| ip["ip"].as_str()).collect();
            Some(ips.join(","))
        }
        _ => None,
    }
}

fn shard(pod: &Object) -> Shard {
    match pod.str_at(&["spec", "nodeName"]) {
        "" => Shard::Unscheduled,
        node => Shard::Node(NodeName(node.into())),
    }
}

/// A pod that no node has, or that has ended, goes at once; else it gets what its spec says (30 s by default).
fn grace(pod: &Object) -> Option<i64> {
    let ended = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    if pod.str_at(&["spec", "nodeName"]).is_empty() || ended {
        return Some(0);
    }
    let seconds = pod.at(&["spec", "terminationGracePeriodSeconds"]).and_then(|v| v.as_i64());
    // Below zero means as soon as possible, not at once.
    Some(seconds.map_or(30, |seconds| if seconds < 0 { 1 } else { seconds }))
}
