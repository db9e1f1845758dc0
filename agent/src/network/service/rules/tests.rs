use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

/// Endpoints as (address, ready, serving, node).
fn slice(port: Value, endpoints: &[(&str, bool, bool, &str)]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, ready, serving, node)| {
            json!({"addresses": [address], "nodeName": node,
                   "conditions": {"ready": ready, "serving": serving}})
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop",
                     "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [port], "endpoints": endpoints,
    }))
    .unwrap()
}

fn plan(service: Service, slice: EndpointSlice) -> Elements {
    let key = |name: &str| ("shop".to_owned(), name.to_owned());
    let world =
        World { services: [(key("web"), service)].into(), slices: [(key("web-1"), slice)].into() };
    elements(&world, &["here".to_owned()].into())
}

/// Where connections to a key go: endpoint → how many slots.
fn shares(elements: &Elements, table: Table, key: &str) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for slot in 0..SLOTS {
        if let Some(to) = elements.get(&(table, format!("{key} . {slot}"))) {
            *shares.entry(to.clone()).or_default() += 1;
        }
    }
    shares
}

const PORT: &str = "10.96.0.7 . tcp . 80";

fn cluster_ip() -> Value {
    json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]})
}

#[test]
fn ready_endpoints_share_the_connections() {
    let endpoints = [
        ("10.1.0.2", true, true, ""),
        ("10.1.0.3", true, true, ""),
        ("10.1.0.4", false, false, ""),
    ];
    let plan =
        plan(service(cluster_ip()), slice(json!({"name": "http", "port": 8080}), &endpoints));
    let expected = [("10.1.0.2 . 8080".to_owned(), 30), ("10.1.0.3 . 8080".to_owned(), 30)];
    assert_eq!(shares(&plan, Table::Addresses, PORT), expected.into());
    assert!(!plan.contains_key(&(Table::Empty, PORT.to_owned())));
}

#[test]
fn without_ready_endpoints_those_that_still_serve_get_the_connections() {
    let endpoints = [("10.1.0.2", false, true, ""), ("10.1.0.3", false, false, "")];
    let plan =
        plan(service(cluster_ip()), slice(json!({"name": "http", "port": 8080}), &endpoints));
    let expected = [("10.1.0.2 . 8080".to_owned(), 60)];
    assert_eq!(shares(&plan, Table::Addresses, PORT), expected.into());
}

#[test]
fn without_any_endpoint_connections_are_refused() {
    let plan = plan(service(cluster_ip()), slice(json!({"name": "other", "port": 8080}), &[]));
    assert_eq!(plan.keys().collect::<Vec<_>>(), [&(Table::Empty, PORT.to_owned())]);
}

#[test]
fn a_port_of_another_name_is_not_an_endpoint() {
    let endpoints = [("10.1.0.2", true, true, "")];
    let plan = plan(service(cluster_ip()), slice(json!({"name": "admin", "port": 9}), &endpoints));
    assert!(shares(&plan, Table::Addresses, PORT).is_empty());
}

#[test]
fn node_ports_and_affinity_have_maps_of_their_own() {
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "sessionAffinity": "ClientIP",
                      "ports": [{"port": 53, "nodePort": 30053, "protocol": "UDP"}]});
    let plan = plan(service(spec), slice(json!({"port": 53}), &[("10.1.0.2", true, true, "")]));
    let all = [("10.1.0.2 . 53".to_owned(), 60)];
    assert_eq!(shares(&plan, Table::NodePortsSticky, "udp . 30053"), all.clone().into());
    assert_eq!(shares(&plan, Table::AddressesSticky, "10.96.0.7 . udp . 53"), all.into());
}

#[test]
fn traffic_policy_local_means_this_host() {
    let mut spec = cluster_ip();
    spec["internalTrafficPolicy"] = "Local".into();
    let endpoints = [("10.1.0.2", true, true, "away"), ("10.1.0.3", true, true, "here")];
    let plan = plan(service(spec), slice(json!({"name": "http", "port": 8080}), &endpoints));
    let expected = [("10.1.0.3 . 8080".to_owned(), 60)];
    assert_eq!(shares(&plan, Table::Addresses, PORT), expected.into());
}

#[test]
fn headless_and_external_services_have_no_rules() {
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "example.org"}),
    ] {
        let plan = plan(service(spec), slice(json!({"port": 80}), &[]));
        assert!(plan.is_empty(), "{plan:?}");
    }
}

#[test]
fn a_difference_touches_what_changed_only() {
    let element = |key: &str, value: &str| ((Table::Addresses, key.to_owned()), value.to_owned());
    let old: Elements = [element("a", "1"), element("b", "2")].into();
    let new: Elements = [element("a", "1"), element("b", "3"), element("c", "4")].into();
    assert_eq!(difference("warren", &old, &old), None);
    expect_test::expect![[r#"
        delete element ip warren addresses { b }
        add element ip warren addresses { b : 3 }
        add element ip warren addresses { c : 4 }
    "#]]
    .assert_eq(&difference("warren", &old, &new).unwrap());
}
