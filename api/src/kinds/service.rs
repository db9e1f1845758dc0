//! `v1` Service.

mod validate;

use serde_json::{Value, json};

use super::BASE;
use crate::tree::{self, Tree};
use crate::validation::names;
use crate::{BuiltIn, Column, LabelSelector, Object, Shard, Subresource};

use super::columns::{AGE, or_none, text, wide};

pub static SERVICE: BuiltIn = BuiltIn {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Proxy],
    schema_type: "core/v1.Service",
    columns: COLUMNS,
    selectable_fields: &["spec.clusterIP", "spec.type"],
    on_update,
    default,
    validate: validate::validate,
    validate_update: validate::update,
    shard: |_| Shard::All,
    validate_name: names::service,
    warnings,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Type", "How the service is reached.", |service, _| {
        service.str_at(&["spec", "type"]).into()
    }),
    text("Cluster-IP", "The address inside the cluster.", |service, _| {
        let first = texts(service, "clusterIPs").next();
        or_none(first.unwrap_or(service.str_at(&["spec", "clusterIP"]))).into()
    }),
    text("External-IP", "The addresses from outside.", |service, _| external(service).into()),
    text("Port(s)", "The ports, with node ports after a colon.", |service, _| {
        ports(service).into()
    }),
    AGE,
    wide(text("Selector", "The pods that stand behind the service.", |service, _| {
        let selector = service.at(&["spec", "selector"]).and_then(Value::as_object);
        let selector = selector.map(LabelSelector::from_map).unwrap_or_default();
        or_none(&selector.to_string()).into()
    })),
];

/// As `GetWarningsForService` of Kubernetes' API server.
fn warnings(service: &Object, _: Option<&Object>) -> Vec<String> {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let mut found = Vec::new();
    if service.annotation(HINTS).is_some() {
        found.push(format!(
            "annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let is = |field: &str, value: &str| service.str_at(&["spec", field]) == value;
    let has_external = service
        .at(&["spec", "externalIPs"])
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    if is("type", "ClusterIP") && is("clusterIP", "None") {
        let ignored = [
            ("loadBalancerIP", !is("loadBalancerIP", "")),
            ("externalIPs", has_external),
            ("SessionAffinity", !is("sessionAffinity", "None")),
        ];
        let ignored = ignored.into_iter().filter(|(_, given)| *given);
        found.extend(ignored.map(|(f, _)| format!("spec.{f} is ignored for headless services")));
    }
    if is("type", "ExternalName") && has_external {
        found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    found
}

/// Where a client has left out what was allocated, it stays; what the new type has no use for goes, unless the client
/// has just changed it (which validation then refuses).
fn on_update(new: &mut Object, old: &Object) {
    let none = Tree::new();
    let old = old.at(&["spec"]).and_then(Value::as_object).unwrap_or(&none);
    let new = tree::make_map(new, "spec");
    tree::default_zero(new, "type", "ClusterIP");
    match (has_cluster_ip(new), has_cluster_ip(old)) {
        (true, true)
            if tree::text(new, "clusterIP").is_empty()
                && tree::list(new, "clusterIPs").is_empty() =>
        {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(value) = old.get(field) {
                    new.insert(field.to_owned(), value.clone());
                }
            }
        }
        (false, true) if new.get("clusterIP") == old.get("clusterIP") => {
            for field in
                ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
            {
                new.remove(field);
            }
        }
        _ => {}
    }
    // A port keeps its node port by its protocol and number.
    let known = |port: &Tree| {
        let is_same = |other: &Tree| {
            tree::int(other, "port") == tree::int(port, "port") && protocol(other) == protocol(port)
        };
        tree::maps(old, "ports")
            .find(|(_, other)| is_same(other))
            .and_then(|(_, p)| tree::int(p, "nodePort"))
    };
    match (has_node_ports(new), has_node_ports(old)) {
        (true, true) => {
            for port in tree::maps_mut(new, "ports") {
                if let Some(number) = known(port) {
                    tree::default_zero(port, "nodePort", number);
                }
            }
        }
        (false, true) => {
            for port in tree::maps_mut(new, "ports") {
                if tree::int(port, "nodePort") == known(port) {
                    port.remove("nodePort");
                }
            }
            if new.get("externalTrafficPolicy") == old.get("externalTrafficPolicy") {
                new.remove("externalTrafficPolicy");
            }
        }
        _ => {}
    }
}

/// Everything but the addresses and node ports, which the server allocates.
fn default(service: &mut Object) {
    let spec = tree::make_map(service, "spec");
    tree::default_zero(spec, "type", "ClusterIP");
    tree::default_zero(spec, "sessionAffinity", "None");
    if tree::text(spec, "sessionAffinity") == "ClientIP" {
        let config = tree::make_map(spec, "sessionAffinityConfig");
        tree::default_absent(tree::make_map(config, "clientIP"), "timeoutSeconds", 10_800);
    }
    for port in tree::maps_mut(spec, "ports") {
        tree::default_zero(port, "protocol", "TCP");
        if let Some(number) = tree::int(port, "port") {
            tree::default_zero(port, "targetPort", number);
        }
    }
    if has_node_ports(spec) {
        tree::default_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if tree::text(spec, "type") == "LoadBalancer" {
        tree::default_absent(spec, "allocateLoadBalancerNodePorts", true);
    }
    if has_cluster_ip(spec) {
        tree::default_zero(spec, "internalTrafficPolicy", "Cluster");
        match tree::text(spec, "clusterIP").to_owned() {
            ip if ip.is_empty() => {
                let first = tree::texts(spec, "clusterIPs").next().map(str::to_owned);
                if let Some(first) = first {
                    spec.insert("clusterIP".to_owned(), first.into());
                }
            }
            ip if tree::list(spec, "clusterIPs").is_empty() => {
                spec.insert("clusterIPs".to_owned(), json!([ip]));
            }
            _ => {}
        }
        let is_v6 = tree::text(spec, "clusterIP").contains(':');
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        tree::default_absent(spec, "ipFamilies", json!([family]));
        tree::default_absent(spec, "ipFamilyPolicy", "SingleStack");
    }
    tree::default_absent(tree::make_map(service, "status"), "loadBalancer", json!({}));
}

fn protocol(port: &Tree) -> &str {
    match tree::text(port, "protocol") {
        "" => "TCP",
        protocol => protocol,
    }
}

fn has_cluster_ip(spec: &Tree) -> bool {
    matches!(tree::text(spec, "type"), "" | "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn has_node_ports(spec: &Tree) -> bool {
    matches!(tree::text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn texts<'a>(service: &'a Object, field: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let spec = service.at(&["spec"]).and_then(Value::as_object);
    spec.map(|spec| tree::texts(spec, field)).into_iter().flatten()
}

fn external(service: &Object) -> String {
    let mut addresses: Vec<&str> = Vec::new();
    match service.str_at(&["spec", "type"]) {
        "ExternalName" => return service.str_at(&["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let balancer = service.at(&["status", "loadBalancer"]).and_then(Value::as_object);
            for (_, ingress) in balancer.into_iter().flat_map(|b| tree::maps(b, "ingress")) {
                addresses.push(match tree::text(ingress, "ip") {
                    "" => tree::text(ingress, "hostname"),
                    ip => ip,
                });
            }
            addresses.extend(texts(service, "externalIPs"));
            if addresses.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => addresses.extend(texts(service, "externalIPs")),
    }
    or_none(&addresses.join(",")).to_owned()
}

fn ports(service: &Object) -> String {
    let spec = service.at(&["spec"]).and_then(Value::as_object);
    let ports: Vec<String> = spec
        .into_iter()
        .flat_map(|spec| tree::maps(spec, "ports"))
        .map(|(_, port)| {
            let (number, protocol) = (tree::int(port, "port").unwrap_or(0), protocol(port));
            match tree::int(port, "nodePort") {
                None | Some(0) => format!("{number}/{protocol}"),
                Some(node_port) => format!("{number}:{node_port}/{protocol}"),
            }
        })
        .collect();
    or_none(&ports.join(",")).to_owned()
}
