//! What a Service may be. Rules and words: `ValidateService` of k8s.io/kubernetes `pkg/apis/core/validation`.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::pod_spec;
use crate::tree::{self, Path, Tree};
use crate::validation::{each, names, one_of, one_of_or_empty};
use crate::{ErrorList, Object};

/// The ports that every node may open for Services; the default of Kubernetes' API server.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;
/// One day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

pub(super) fn validate(service: &Object, errors: &mut ErrorList) {
    let path = Path::root("spec");
    let Some(spec) = service.at(&["spec"]).and_then(Value::as_object) else {
        errors.required(path, "");
        return;
    };
    let kind = tree::text(spec, "type");
    let ip = tree::text(spec, "clusterIP");
    let is_headless = ip == "None";
    if tree::list(spec, "ports").is_empty() && !is_headless && kind != "ExternalName" {
        errors.required(path.field("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless => {
            let message = format!("may not be set to 'None' for {kind} services");
            errors.invalid(path.field("clusterIPs").index(0), ip, &message);
        }
        "ExternalName" => external_name(spec, &path, errors),
        _ => {}
    }
    ports(spec, kind, &path, errors);
    for (key, value) in tree::pairs(spec, "selector") {
        each(names::label_key(key), errors, path.field("selector"), key);
        each(names::label_value(value), errors, path.field("selector"), value);
    }
    affinity(spec, &path, errors);
    addresses(spec, &path, errors);
    one_of(spec, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &path, errors);
    let balancer = kind == "LoadBalancer";
    for (i, range) in tree::texts(spec, "loadBalancerSourceRanges").enumerate() {
        let path = path.field("loadBalancerSourceRanges");
        if let Some(message) = names::cidr(range.trim()) {
            errors.invalid(path.index(i), range, &message);
        } else if !balancer {
            errors.forbidden(path, "may only be used when `type` is 'LoadBalancer'");
        }
    }
    for (field, message) in [
        ("allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'"),
        ("loadBalancerClass", "may only be used when `type` is 'LoadBalancer'"),
    ] {
        if tree::has(spec, field) && !balancer {
            errors.forbidden(path.field(field), message);
        }
    }
    let policies = ["Cluster", "Local"];
    if super::has_node_ports(spec) {
        one_of(spec, "externalTrafficPolicy", &policies, &path, errors);
    } else if !tree::text(spec, "externalTrafficPolicy").is_empty()
        && tree::list(spec, "externalIPs").is_empty()
    {
        let message = "may only be set for externally-accessible services";
        let policy = tree::text(spec, "externalTrafficPolicy");
        errors.invalid(path.field("externalTrafficPolicy"), policy, message);
    }
    one_of_or_empty(spec, "internalTrafficPolicy", &policies, &path, errors);
}

fn external_name(spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.get(field).is_some_and(|v| !tree::same(Some(v), None)) {
            errors.forbidden(path.field(field), "may not be set for ExternalName services");
        }
    }
    // The name may end in a dot.
    let name = tree::text(spec, "externalName");
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.is_empty() {
        errors.required(path.field("externalName"), "");
    } else {
        each(names::dns1123_subdomain(bare), errors, path.field("externalName"), name);
    }
}

fn ports(spec: &Tree, kind: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let needs_names = tree::list(spec, "ports").len() > 1;
    let (mut by_name, mut by_port, mut by_node) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (i, port) in tree::maps(spec, "ports") {
        let path = path.field("ports");
        let path = path.index(i);
        let name = tree::text(port, "name");
        if !name.is_empty() {
            each(names::dns1123_label(name), errors, path.field("name"), name);
            if !by_name.insert(name) {
                errors.duplicate(path.field("name"), name);
            }
        } else if needs_names {
            errors.required(path.field("name"), "");
        }
        let number = tree::int(port, "port").unwrap_or_default();
        if let Some(message) = names::port_number(number) {
            errors.invalid(path.field("port"), number, &message);
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &path, errors);
        pod_spec::port(port.get("targetPort"), &path.field("targetPort"), errors);
        let protocol = tree::text(port, "protocol");
        if !by_port.insert((protocol, number)) {
            errors.duplicate(path, json!({"protocol": protocol, "port": number}));
        }
        let node_port = tree::int(port, "nodePort").unwrap_or_default();
        if node_port == 0 {
            continue;
        }
        let path = path.field("nodePort");
        if !matches!(kind, "NodePort" | "LoadBalancer") {
            errors.forbidden(path, &format!("may not be used when `type` is '{kind}'"));
        } else if !NODE_PORTS.contains(&node_port) {
            let message = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            );
            errors.invalid(path, node_port, &message);
        }
        if !by_node.insert((protocol, node_port)) {
            errors.duplicate(path, node_port);
        }
    }
}

fn affinity(spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], path, errors);
    let path = path.field("sessionAffinityConfig");
    let config = tree::map(spec, "sessionAffinityConfig");
    match (tree::text(spec, "sessionAffinity"), config) {
        ("None", Some(_)) => {
            errors.forbidden(path, "must not be set when session affinity is None");
        }
        ("ClientIP", config) => {
            let seconds = config
                .and_then(|config| tree::map(config, "clientIP"))
                .and_then(|client| tree::int(client, "timeoutSeconds"));
            let path = path.field("clientIP");
            let path = path.field("timeoutSeconds");
            match seconds {
                None => errors.required(path, "when session affinity type is ClientIP"),
                Some(seconds) if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) => {
                    let message =
                        format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                    errors.invalid(path, seconds, &message);
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}

fn addresses(spec: &Tree, path: &Path<'_>, errors: &mut ErrorList) {
    let ip = tree::text(spec, "clusterIP");
    let all: Vec<&str> = tree::texts(spec, "clusterIPs").collect();
    if tree::text(spec, "type") != "ExternalName" {
        if all.first().is_some_and(|first| *first != ip) {
            let message = "first value must match `clusterIP`";
            errors.invalid(path.field("clusterIPs"), &all, message);
        }
        for (i, ip) in all.iter().enumerate() {
            if *ip == "None" && all.len() == 1 {
                continue;
            }
            if let Some(message) = names::ip(ip) {
                errors.invalid(path.field("clusterIPs").index(i), ip, &message);
            }
        }
        if all.len() > 2 {
            let message = "may only hold up to 2 values";
            errors.invalid(path.field("clusterIPs"), &all, message);
        }
        let families: Vec<&str> = tree::texts(spec, "ipFamilies").collect();
        for (i, family) in families.iter().enumerate() {
            if !matches!(*family, "IPv4" | "IPv6") {
                errors.not_supported(path.field("ipFamilies").index(i), family, &["IPv4", "IPv6"]);
            } else if families[..i].contains(family) {
                errors.duplicate(path.field("ipFamilies").index(i), family);
            }
        }
        let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of_or_empty(spec, "ipFamilyPolicy", &policies, path, errors);
    }
    for (i, ip) in tree::texts(spec, "externalIPs").enumerate() {
        if let Some(message) = names::ip(ip) {
            errors.invalid(path.field("externalIPs").index(i), ip, &message);
        }
    }
}

/// An address that was given stays until the Service is deleted or becomes an ExternalName.
pub(super) fn update(new: &Object, old: &Object, errors: &mut ErrorList) {
    let path = Path::root("spec");
    let path = path.field("clusterIPs");
    let (none, kinds) = (Tree::new(), ["spec"]);
    let new = new.at(&kinds).and_then(Value::as_object).unwrap_or(&none);
    let old = old.at(&kinds).and_then(Value::as_object).unwrap_or(&none);
    if !super::has_cluster_ip(new) || !super::has_cluster_ip(old) {
        return;
    }
    let (ip, before) = (tree::text(new, "clusterIP"), tree::text(old, "clusterIP"));
    if before.is_empty() || ip == before {
        return;
    }
    let all = tree::list(new, "clusterIPs");
    if ip.is_empty() {
        errors.invalid(path.index(0), all, "primary clusterIP can not be unset");
    } else {
        errors.invalid(path.index(0), all, "may not change once set");
    }
}
