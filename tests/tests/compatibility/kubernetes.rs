//! What Kubernetes v1.34 offers, as its discovery says it, and an object of each kind to try it with.

use serde_json::{Value, json};

/// Resources of its own groups that are on by default; those of `metrics.k8s.io` are another program's.
pub const ALL: [&str; 62] = [
    "bindings",
    "componentstatuses",
    "configmaps",
    "endpoints",
    "events",
    "limitranges",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "serviceaccounts",
    "services",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
    "apiservices.apiregistration.k8s.io",
    "controllerrevisions.apps",
    "daemonsets.apps",
    "deployments.apps",
    "replicasets.apps",
    "statefulsets.apps",
    "selfsubjectreviews.authentication.k8s.io",
    "tokenreviews.authentication.k8s.io",
    "localsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectrulesreviews.authorization.k8s.io",
    "subjectaccessreviews.authorization.k8s.io",
    "horizontalpodautoscalers.autoscaling",
    "cronjobs.batch",
    "jobs.batch",
    "certificatesigningrequests.certificates.k8s.io",
    "leases.coordination.k8s.io",
    "endpointslices.discovery.k8s.io",
    "events.events.k8s.io",
    "flowschemas.flowcontrol.apiserver.k8s.io",
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
    "ingressclasses.networking.k8s.io",
    "ingresses.networking.k8s.io",
    "ipaddresses.networking.k8s.io",
    "networkpolicies.networking.k8s.io",
    "servicecidrs.networking.k8s.io",
    "runtimeclasses.node.k8s.io",
    "poddisruptionbudgets.policy",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "deviceclasses.resource.k8s.io",
    "resourceclaims.resource.k8s.io",
    "resourceclaimtemplates.resource.k8s.io",
    "resourceslices.resource.k8s.io",
    "priorityclasses.scheduling.k8s.io",
    "csidrivers.storage.k8s.io",
    "storageclasses.storage.k8s.io",
    "volumeattachments.storage.k8s.io",
];

const STREAMS: &[&str] = &["WebSocket", "SPDY"];
const WRITTEN: &[&str] = &["get", "update", "patch"];

/// Of the kinds that are served: (resource, subresource, how it is used).
pub const SUBRESOURCES: [(&str, &str, &[&str]); 22] = [
    ("namespaces", "finalize", &["update"]),
    ("namespaces", "status", WRITTEN),
    ("nodes", "proxy", &["get"]),
    ("nodes", "status", WRITTEN),
    ("pods", "attach", STREAMS),
    ("pods", "binding", &["create"]),
    ("pods", "ephemeralcontainers", WRITTEN),
    ("pods", "eviction", &["create"]),
    ("pods", "exec", STREAMS),
    ("pods", "log", &["get"]),
    ("pods", "portforward", STREAMS),
    ("pods", "proxy", &["get"]),
    ("pods", "resize", WRITTEN),
    ("pods", "status", WRITTEN),
    ("serviceaccounts", "token", &["create"]),
    ("services", "proxy", &["get"]),
    ("services", "status", WRITTEN),
    ("deployments.apps", "scale", WRITTEN),
    ("deployments.apps", "status", WRITTEN),
    ("replicasets.apps", "scale", WRITTEN),
    ("replicasets.apps", "status", WRITTEN),
    ("jobs.batch", "status", WRITTEN),
];

/// Which verbs a resource has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    All,
    /// All but the deletion of many at once.
    OneByOne,
    /// It is answered, not stored.
    Question,
    /// It is measured, not stored.
    Figures,
}

impl Offered {
    pub fn has(self, verb: &str) -> bool {
        match self {
            Offered::All => true,
            Offered::OneByOne => verb != "delete collection",
            Offered::Question => verb == "create",
            Offered::Figures => matches!(verb, "get" | "list"),
        }
    }
}

pub fn offered(resource: &str) -> Offered {
    match resource {
        "namespaces" => Offered::OneByOne,
        _ if resource.ends_with("reviews.authentication.k8s.io")
            || resource.ends_with("reviews.authorization.k8s.io") =>
        {
            Offered::Question
        }
        _ if resource.ends_with(".metrics.k8s.io") => Offered::Figures,
        _ => Offered::All,
    }
}

/// The least that such an object needs.
pub fn fixture(resource: &str, name: &str) -> Value {
    let mut object = json!({"metadata": {"name": name}});
    let spec = json!({"containers": [{"name": "c", "image": "example/a:1"}]});
    let labels = json!({"app": name});
    let template = json!({"metadata": {"labels": labels}, "spec": spec});
    let asked = json!({"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "matrix"}, "user": "jane"});
    match resource {
        "pods" => {
            object["spec"] = spec;
            if name == "of-binding" {
                // The scheduler would be there first.
                object["spec"]["schedulerName"] = "nobody".into();
            }
        }
        "services" => object["spec"] = json!({"ports": [{"port": 80}]}),
        "deployments.apps" | "replicasets.apps" => {
            let selector = json!({"matchLabels": labels});
            object["spec"] = json!({"replicas": 0, "selector": selector, "template": template});
        }
        "jobs.batch" => {
            let mut spec = spec;
            spec["restartPolicy"] = "Never".into();
            object["spec"] = json!({"suspend": true, "template": {"spec": spec}});
        }
        "endpointslices.discovery.k8s.io" => {
            object["addressType"] = "IPv4".into();
            object["endpoints"] = json!([]);
        }
        "events" => {
            object["involvedObject"] = json!({"kind": "Pod", "namespace": "matrix", "name": "x"});
        }
        "events.events.k8s.io" => {
            object["eventTime"] = "2026-01-02T03:04:05.000000Z".into();
            object["reportingController"] = "example.com/matrix".into();
            for field in ["reportingInstance", "action", "reason"] {
                object[field] = "Matrix".into();
            }
            object["type"] = "Normal".into();
            object["regarding"] = json!({"kind": "Pod", "namespace": "matrix", "name": "x"});
        }
        "selfsubjectreviews.authentication.k8s.io" => object = json!({}),
        "selfsubjectrulesreviews.authorization.k8s.io" => {
            object = json!({"spec": {"namespace": "matrix"}});
        }
        _ if offered(resource) == Offered::Question => object = json!({"spec": asked}),
        _ => {}
    }
    object
}
