//! Rules about other pods, and what decides between nodes that fit.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::scheduler::decide::check;
use crate::scheduler::filters::Case;

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

fn zoned(name: &str, zone: &str) -> Node {
    node(name, |n| n["metadata"]["labels"][ZONE] = json!(zone))
}

/// A pod that asks for nothing, with labels and an owner of that name.
fn app(name: &str, app: &str, change: impl FnOnce(&mut Value)) -> Arc<PodInfo> {
    pod(name, |p| {
        p["spec"]["containers"][0]["resources"] = json!({});
        p["metadata"]["labels"] = json!({"app": app});
        p["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "name": app, "uid": app, "controller": true}]);
        change(p);
    })
}

fn term(app: &str, topology: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology})
}

fn affinity(kind: &str, app: &str, topology: &str) -> Value {
    json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(app, topology)]}})
}

fn prefers(kind: &str, app: &str, topology: &str) -> Value {
    json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": term(app, topology)}]}})
}

fn spread(app: &str, topology: &str, max_skew: i64, when: &str) -> Value {
    json!([{"maxSkew": max_skew, "topologyKey": topology, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": app}}}])
}

/// Decides on each and counts it where it goes.
fn run(cluster: &mut Cluster, pods: &[Arc<PodInfo>]) -> Vec<String> {
    let place = |pod: &Arc<PodInfo>| {
        let (node, start) = decide(pod, cluster).unwrap();
        cluster.start = start;
        cluster.place(pod, &node);
        node
    };
    pods.iter().map(place).collect()
}

fn counts(places: &[String]) -> Vec<usize> {
    let mut counts = BTreeMap::new();
    places.iter().for_each(|place| *counts.entry(place).or_insert(0) += 1);
    let mut counts: Vec<_> = counts.into_values().collect();
    counts.sort_unstable();
    counts
}

fn replicas(count: usize, name: &str) -> Vec<Arc<PodInfo>> {
    (0..count).map(|i| app(&format!("{name}-{i}"), name, |_| {})).collect()
}

#[test]
fn replicas_spread_over_equal_nodes_and_zones() {
    let mut three = cluster(&["a", "b", "c"].map(|name| node(name, |_| {})));
    assert_eq!(counts(&run(&mut three, &replicas(4, "web"))), [1, 1, 2]);
    // Others count for themselves.
    assert_eq!(counts(&run(&mut three, &replicas(3, "other"))), [1, 1, 1]);
    assert_eq!(counts(&run(&mut three, &replicas(30, "many"))), [10, 10, 10]);

    // A zone with three nodes has no more of them than one with a single node has.
    let mut zones =
        cluster(&[zoned("a1", "a"), zoned("a2", "a"), zoned("a3", "a"), zoned("b1", "b")]);
    let places = run(&mut zones, &replicas(2, "web"));
    assert!(places.iter().any(|place| place == "b1"), "{places:?}");

    // Pods without an owner are held together by a Service.
    let mut two = cluster(&[node("a", |_| {}), node("b", |_| {})]);
    let service = json!({"metadata": {"name": "s", "namespace": "default"},
        "spec": {"selector": {"app": "x"}}});
    two.set_service(&serde_json::from_value(service).unwrap(), true);
    let bare =
        |i: usize| app(&format!("p{i}"), "x", |p| p["metadata"]["ownerReferences"] = json!([]));
    assert_eq!(counts(&run(&mut two, &[bare(0), bare(1), bare(2), bare(3)])), [2, 2]);
}

#[test]
fn rules_about_other_pods_refuse_nodes() {
    const AFFINITY: &str = "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.";
    const ANTI: &str = "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.";
    // Nodes a1 and a2 in zone a, b1 in zone b; on a1 runs `db`, on b1 `hermit`, which wants no `loud` in its zone.
    type Set = fn(&mut Value);
    let table: &[(&str, Set, &[&str])] = &[
        ("near", |p| p["spec"]["affinity"] = affinity("podAffinity", "db", HOST), &["a1"]),
        (
            "same zone",
            |p| p["spec"]["affinity"] = affinity("podAffinity", "db", ZONE),
            &["a1", "a2"],
        ),
        (
            "nobody there",
            |p| p["spec"]["affinity"] = affinity("podAffinity", "no", ZONE),
            &[AFFINITY],
        ),
        (
            "the first of its group",
            |p| p["spec"]["affinity"] = affinity("podAffinity", "me", ZONE),
            &["a1", "a2", "b1"],
        ),
        (
            "no such label",
            |p| p["spec"]["affinity"] = affinity("podAffinity", "me", "rack"),
            &[AFFINITY],
        ),
        ("apart", |p| p["spec"]["affinity"] = affinity("podAntiAffinity", "db", ZONE), &["b1"]),
        (
            "apart from both",
            |p| {
                p["spec"]["affinity"] = json!({"podAntiAffinity":
                    {"requiredDuringSchedulingIgnoredDuringExecution": [
                        term("db", ZONE), term("hermit", ZONE)]}});
            },
            &[ANTI],
        ),
        ("unwelcome", |p| p["metadata"]["labels"]["app"] = json!("loud"), &["a1", "a2"]),
        (
            "unwelcome and bound to be there",
            |p| {
                p["metadata"]["labels"]["app"] = json!("loud");
                p["spec"]["affinity"] = affinity("podAffinity", "hermit", HOST);
            },
            &[
                "0/3 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules, 2 node(s) \
               didn't match pod affinity rules.",
            ],
        ),
        (
            "another namespace's pods are not asked for",
            |p| {
                p["metadata"]["namespace"] = json!("other");
                p["spec"]["affinity"] = affinity("podAffinity", "db", HOST);
            },
            &[AFFINITY],
        ),
        (
            "another namespace's pods are asked for",
            |p| {
                p["metadata"]["namespace"] = json!("other");
                let mut term = term("db", HOST);
                term["namespaceSelector"] = json!({"matchLabels": {"team": "x"}});
                p["spec"]["affinity"] = json!({"podAffinity":
                    {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
            },
            &["a1"],
        ),
        (
            "even",
            |p| p["spec"]["topologySpreadConstraints"] = spread("db", ZONE, 1, "DoNotSchedule"),
            &["a1", "a2", "b1"],
        ),
        (
            "even, and counted itself",
            |p| {
                p["metadata"]["labels"]["app"] = json!("db");
                p["spec"]["topologySpreadConstraints"] = spread("db", ZONE, 1, "DoNotSchedule");
            },
            &["b1"],
        ),
        (
            "too few domains",
            |p| {
                p["metadata"]["labels"]["app"] = json!("db");
                p["spec"]["topologySpreadConstraints"] = spread("db", ZONE, 1, "DoNotSchedule");
                p["spec"]["topologySpreadConstraints"][0]["minDomains"] = json!(3);
                p["spec"]["nodeSelector"] = json!({ZONE: "a"});
            },
            &[
                "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) didn't \
               match pod topology spread constraints.",
            ],
        ),
        (
            "no label to spread over",
            |p| p["spec"]["topologySpreadConstraints"] = spread("db", "rack", 1, "DoNotSchedule"),
            &[
                "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints (missing required \
               label).",
            ],
        ),
    ];
    let mut cluster = cluster(&[zoned("a1", "a"), zoned("a2", "a"), zoned("b1", "b")]);
    cluster.namespaces.insert("default".into(), [("team".to_owned(), "x".to_owned())].into());
    cluster.place(&app("db-0", "db", |_| {}), "a1");
    let hermit = app("hermit-0", "hermit", |p| {
        p["spec"]["affinity"] = affinity("podAntiAffinity", "loud", ZONE);
    });
    cluster.place(&hermit, "b1");
    for (name, change, wanted) in table {
        for uid in 0..9 {
            let pod = app(&format!("p{uid}"), "me", change);
            let answer = why(&pod, &cluster);
            assert!(wanted.contains(&answer.as_str()), "{name}: {answer}");
        }
    }
    // They are gone, and so are their rules.
    cluster.remove_pod("db-0");
    cluster.remove_pod("hermit-0");
    assert_eq!(cluster.groups.all().count(), 0);
    let apart = app("p", "me", |p| p["spec"]["affinity"] = affinity("podAffinity", "db", HOST));
    assert_eq!(why(&apart, &cluster), AFFINITY);
}

#[test]
fn preferences_decide_between_nodes_that_fit() {
    type Set = fn(&mut Value);
    let table: &[(&str, Set, &str)] = &[
        ("near", |p| p["spec"]["affinity"] = prefers("podAffinity", "db", HOST), "a"),
        ("apart", |p| p["spec"]["affinity"] = prefers("podAntiAffinity", "db", ZONE), "c"),
        (
            "even",
            |p| p["spec"]["topologySpreadConstraints"] = spread("db", ZONE, 1, "ScheduleAnyway"),
            "c",
        ),
        ("the image is there", |p| p["spec"]["containers"][0]["image"] = json!("big"), "b"),
    ];
    let mut cluster = cluster(&[
        zoned("a", "1"),
        node("b", |n| {
            n["metadata"]["labels"][ZONE] = json!("1");
            n["status"]["images"] =
                json!([{"names": ["big:latest"], "sizeBytes": 2_000_000_000_i64}]);
        }),
        zoned("c", "2"),
        node("d", |n| {
            n["metadata"]["labels"][ZONE] = json!("2");
            n["spec"]["taints"] = json!([{"key": "k", "effect": "PreferNoSchedule"}]);
        }),
    ]);
    cluster.place(&app("db-0", "db", |_| {}), "a");
    for (name, change, wanted) in table {
        for uid in 0..5 {
            let pod = app(&format!("p{uid}"), "me", |p| {
                p["metadata"]["ownerReferences"] = json!([]);
                change(p);
            });
            assert_eq!(why(&pod, &cluster), *wanted, "{name}");
        }
    }
}

/// Whatever the rules and the cluster: no node that a filter refuses, no refusal where one fits, and the same answer to
/// the same question.
#[test]
fn a_chosen_node_is_never_one_that_a_filter_refuses() {
    for seed in 0..300 {
        let mut dice = SmallRng::seed_from_u64(seed);
        let apps = ["a", "b", "c"];
        let nodes: Vec<Node> = (0..dice.random_range(1..8))
            .map(|i| {
                node(&format!("n{i}"), |n| {
                    if dice.random_bool(0.8) {
                        n["metadata"]["labels"][ZONE] = json!(format!("z{}", i % 3));
                    }
                    if dice.random_bool(0.2) {
                        let effect = ["NoSchedule", "PreferNoSchedule"][dice.random_range(0..2)];
                        n["spec"]["taints"] = json!([{"key": "k", "effect": effect}]);
                    }
                    n["spec"]["unschedulable"] = json!(dice.random_bool(0.1));
                    n["status"]["allocatable"]["pods"] = json!(dice.random_range(1..6).to_string());
                })
            })
            .collect();
        let mut cluster = cluster(&nodes);
        for i in 0..20 {
            let topology = [HOST, ZONE][dice.random_range(0..2)];
            let other = apps[dice.random_range(0..3)];
            let rule = dice.random_range(0..8);
            let pod = app(&format!("p{seed}-{i}"), apps[dice.random_range(0..3)], |p| match rule {
                0 => p["spec"]["affinity"] = affinity("podAffinity", other, topology),
                1 => p["spec"]["affinity"] = affinity("podAntiAffinity", other, topology),
                2 => p["spec"]["affinity"] = prefers("podAffinity", other, topology),
                3 => p["spec"]["affinity"] = prefers("podAntiAffinity", other, topology),
                4 => {
                    p["spec"]["topologySpreadConstraints"] =
                        spread(other, topology, 1, "DoNotSchedule")
                }
                5 => {
                    p["spec"]["topologySpreadConstraints"] =
                        spread(other, topology, 2, "ScheduleAnyway")
                }
                _ => {}
            });
            let spec = pod.pod.spec.as_ref().unwrap();
            let case = Case::new(&pod, spec, &cluster);
            let fits = |node: &super::super::cluster::NodeInfo| check(&case, node).is_none();
            let decision = decide(&pod, &cluster);
            assert_eq!(decision, decide(&pod, &cluster), "seed {seed}, pod {i}");
            match &decision {
                Ok((name, _)) => assert!(fits(cluster.node(name).unwrap()), "seed {seed}, pod {i}"),
                Err(why) => assert!(!cluster.nodes.iter().any(fits), "seed {seed}: {why:?}"),
            }
            if let Ok((name, start)) = decision {
                cluster.start = start;
                cluster.place(&pod, &name);
            }
            if dice.random_bool(0.2) {
                cluster.remove_pod(&format!("p{seed}-{}", dice.random_range(0..=i)));
            }
            if dice.random_bool(0.1) {
                let node = &nodes[dice.random_range(0..nodes.len())];
                cluster.remove_node(node.metadata.name.as_deref().unwrap());
                if dice.random_bool(0.7) || cluster.nodes.is_empty() {
                    cluster.set_node(node);
                }
            }
        }
    }
}
