//! What Kubernetes fills into a pod's spec. Rules: `SetDefaults_*` of k8s.io/kubernetes `pkg/apis/core/v1`.

use serde_json::json;

use crate::tree::{self, Tree};

/// The default of a pod's spec and of a template's alike.
pub(crate) fn spec(spec: &mut Tree) {
    tree::default_zero(spec, "dnsPolicy", "ClusterFirst");
    tree::default_zero(spec, "restartPolicy", "Always");
    tree::default_zero(spec, "schedulerName", "default-scheduler");
    tree::default_absent(spec, "securityContext", json!({}));
    tree::default_absent(spec, "terminationGracePeriodSeconds", 30);
    // The old name of the field follows the new one, and stands in for it.
    let account = match tree::text(spec, "serviceAccountName") {
        "" => tree::text(spec, "serviceAccount").to_owned(),
        account => account.to_owned(),
    };
    if !account.is_empty() {
        spec.insert("serviceAccountName".to_owned(), account.clone().into());
        spec.insert("serviceAccount".to_owned(), account.into());
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        tree::maps_mut(spec, field).for_each(container);
    }
    tree::maps_mut(spec, "volumes").for_each(volume);
}

/// The template of a workload.
pub(crate) fn template(workload_spec: &mut Tree) {
    let template = tree::make_map(workload_spec, "template");
    tree::make_map(template, "metadata");
    spec(tree::make_map(template, "spec"));
}

/// What only pods get, never templates: what depends on the moment, and what Kubernetes' admission adds.
pub(crate) fn pod(spec: &mut Tree, is_mirror: bool) {
    tree::default_absent(spec, "enableServiceLinks", true);
    let is_host_network = tree::flag(spec, "hostNetwork");
    for field in ["initContainers", "containers"] {
        for container in tree::maps_mut(spec, field) {
            requests_from_limits(container);
            if is_host_network {
                for port in tree::maps_mut(container, "ports") {
                    if let Some(number) = tree::int(port, "containerPort") {
                        tree::default_zero(port, "hostPort", number);
                    }
                }
            }
        }
    }
    if !is_mirror {
        tree::default_zero(spec, "serviceAccountName", "default");
        let account = spec["serviceAccountName"].clone();
        spec.insert("serviceAccount".to_owned(), account);
    }
    let priority = match tree::text(spec, "priorityClassName") {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => 0,
    };
    tree::default_absent(spec, "priority", priority);
    tree::default_absent(spec, "preemptionPolicy", "PreemptLowerPriority");
}

fn requests_from_limits(container: &mut Tree) {
    let Some(resources) = tree::map_mut(container, "resources") else { return };
    let Some(limits) = tree::map(resources, "limits").cloned() else { return };
    let requests = tree::make_map(resources, "requests");
    for (name, limit) in limits {
        if !requests.contains_key(&name) {
            requests.insert(name, limit);
        }
    }
}

fn container(container: &mut Tree) {
    let policy = match is_latest(tree::text(container, "image")) {
        true => "Always",
        false => "IfNotPresent",
    };
    tree::default_zero(container, "imagePullPolicy", policy);
    tree::default_absent(container, "resources", json!({}));
    tree::default_zero(container, "terminationMessagePath", "/dev/termination-log");
    tree::default_zero(container, "terminationMessagePolicy", "File");
    for port in tree::maps_mut(container, "ports") {
        tree::default_zero(port, "protocol", "TCP");
    }
    for variable in tree::maps_mut(container, "env") {
        if let Some(source) = tree::map_mut(variable, "valueFrom") {
            field_ref(source);
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = tree::map_mut(container, field) {
            tree::default_zero(probe, "timeoutSeconds", 1);
            tree::default_zero(probe, "periodSeconds", 10);
            tree::default_zero(probe, "successThreshold", 1);
            tree::default_zero(probe, "failureThreshold", 3);
            handler(probe);
        }
    }
    if let Some(lifecycle) = tree::map_mut(container, "lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(hook) = tree::map_mut(lifecycle, field) {
                handler(hook);
            }
        }
    }
}

fn handler(handler: &mut Tree) {
    if let Some(get) = tree::map_mut(handler, "httpGet") {
        tree::default_zero(get, "path", "/");
        tree::default_zero(get, "scheme", "HTTP");
    }
    if let Some(grpc) = tree::map_mut(handler, "grpc") {
        tree::default_absent(grpc, "service", "");
    }
}

/// `fieldRef` and `resourceFieldRef` of a variable or of a file.
fn field_ref(source: &mut Tree) {
    if let Some(field) = tree::map_mut(source, "fieldRef") {
        tree::default_zero(field, "apiVersion", "v1");
    }
    if let Some(resource) = tree::map_mut(source, "resourceFieldRef") {
        tree::default_zero(resource, "divisor", "0");
    }
}

fn volume(volume: &mut Tree) {
    let has_source = volume.iter().any(|(field, value)| field != "name" && !value.is_null());
    if !has_source {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for field in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = tree::map_mut(volume, field) {
            tree::default_absent(source, "defaultMode", 0o644);
            tree::maps_mut(source, "items").for_each(field_ref);
            for part in tree::maps_mut(source, "sources") {
                if let Some(token) = tree::map_mut(part, "serviceAccountToken") {
                    tree::default_absent(token, "expirationSeconds", 3600);
                }
                if let Some(downward) = tree::map_mut(part, "downwardAPI") {
                    tree::maps_mut(downward, "items").for_each(field_ref);
                }
            }
        }
    }
    if let Some(path) = tree::map_mut(volume, "hostPath") {
        tree::default_absent(path, "type", "");
    }
    if let Some(image) = tree::map_mut(volume, "image") {
        let policy = match is_latest(tree::text(image, "reference")) {
            true => "Always",
            false => "IfNotPresent",
        };
        tree::default_zero(image, "pullPolicy", policy);
    }
}

/// Whether an image's tag is `latest`, given or meant.
fn is_latest(image: &str) -> bool {
    if image.is_empty() || image.contains('@') {
        return false;
    }
    // A colon before the last slash is a registry's port.
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_images() {
        for (image, expected) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("localhost:5000/nginx", true),
            ("localhost:5000/a/nginx:1", false),
            ("nginx@sha256:0123", false),
            ("nginx:latest@sha256:0123", false),
            ("", false),
        ] {
            assert_eq!(is_latest(image), expected, "{image}");
        }
    }
}
