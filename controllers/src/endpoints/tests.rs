use serde_json::json;

use super::*;
use crate::world::World;

fn service(change: impl FnOnce(&mut Value)) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": "main", "protocol": "TCP"}]},
    });
    change(&mut service["spec"]);
    service
}

fn pod(name: &str, ip: &str, ready: bool) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i",
            "ports": [{"name": "main", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    })
}

fn turn(world: &mut World) -> usize {
    let key = Key::new("default", "web");
    let services = world.list::<Service>();
    let endpoints = world.list::<Endpoints>();
    let snapshot = Snapshot {
        service: services.first().map(|service| &**service),
        pods: &world.list::<Pod>(),
        endpoints: endpoints.first().map(|endpoints| &**endpoints),
        slices: &world.list::<EndpointSlice>(),
    };
    let plan = decide(&key, &snapshot);
    world.carry_out(&plan);
    plan.steps.len()
}

/// `name: addresses` of the slices, with marks: not ready `-`, terminating `!`.
fn slices(world: &World) -> Vec<String> {
    let mut all: Vec<_> = world
        .list::<EndpointSlice>()
        .iter()
        .map(|slice| {
            let ports: Vec<_> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
            let mark = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
                let conditions = endpoint.conditions.clone().unwrap();
                let ready = if conditions.ready == Some(true) { "" } else { "-" };
                let going = if conditions.terminating == Some(true) { "!" } else { "" };
                format!("{ready}{going}{}", endpoint.addresses[0])
            };
            let all: Vec<_> = slice.endpoints.iter().map(mark).collect();
            format!("{ports:?} {}", all.join(" "))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn endpoints_follow_pods_through_their_life() {
    let mut world = World::new();
    world.put("services", service(|_| {}));
    turn(&mut world);
    assert_eq!(slices(&world), ["[] "]);
    world.put("pods", pod("a", "10.1.0.1", true));
    world.put("pods", pod("b", "10.1.0.2", false));
    turn(&mut world);
    assert_eq!(slices(&world), ["[8080] 10.1.0.1 -10.1.0.2"]);
    let subsets = world.get::<Endpoints>("web").subsets.unwrap();
    assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.1.0.1");
    assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip, "10.1.0.2");
    assert_eq!(turn(&mut world), 0, "nothing changed, nothing is written");

    world.edit("pods", "a", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    turn(&mut world);
    assert_eq!(slices(&world), ["[8080] -!10.1.0.1 -10.1.0.2"]);
    assert_eq!(world.get::<Endpoints>("web").subsets.unwrap()[0].addresses, None);

    world.objects.retain(|(plural, ..), _| plural != "services");
    turn(&mut world);
    assert!(slices(&world).is_empty() && world.list::<Endpoints>().is_empty());
}

#[test]
fn not_ready_ones_are_published_where_that_is_asked_for() {
    let mut world = World::new();
    world.put("services", service(|spec| spec["publishNotReadyAddresses"] = json!(true)));
    world.put("pods", pod("a", "10.1.0.1", false));
    turn(&mut world);
    assert_eq!(slices(&world), ["[8080] 10.1.0.1"]);
}

#[test]
fn a_hundred_to_a_slice_and_each_stays_where_it_is() {
    let mut world = World::new();
    world.put("services", service(|_| {}));
    for i in 0..250 {
        world.put("pods", pod(&format!("p{i:03}"), &format!("10.1.1.{i}"), true));
    }
    turn(&mut world);
    let sizes = |world: &World| {
        let mut sizes: Vec<_> =
            world.list::<EndpointSlice>().iter().map(|slice| slice.endpoints.len()).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&world), [50, 100, 100]);
    assert_eq!(turn(&mut world), 0);
    world.objects.remove(&("pods".into(), "default".into(), "p007".into()));
    assert_eq!(turn(&mut world), 2, "one slice and the Endpoints change");
    assert_eq!(sizes(&world), [50, 99, 100]);
}

#[test]
fn without_a_selector_nothing_is_touched() {
    let mut world = World::new();
    world.put("services", service(|spec| spec["selector"] = Value::Null));
    world.put("endpoints", json!({"metadata": {"name": "web"}}));
    assert_eq!(turn(&mut world), 0);
}
