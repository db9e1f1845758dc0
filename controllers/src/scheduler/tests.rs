use serde_json::json;

use super::*;

mod together;

fn node(name: &str, change: impl FnOnce(&mut Value)) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110",
            "ephemeral-storage": "10Gi"}},
    });
    change(&mut node);
    serde_json::from_value(node).unwrap()
}

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Arc<PodInfo> {
    let mut pod = json!({
        "metadata": {"name": name, "uid": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources":
            {"requests": {"cpu": "500m", "memory": "256Mi"}}}]},
    });
    change(&mut pod);
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
}

fn cluster(nodes: &[Node]) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|node| cluster.set_node(node));
    cluster
}

fn why(pod: &PodInfo, cluster: &Cluster) -> String {
    decide(pod, cluster).map(|(node, _)| node).unwrap_or_else(|why| why.0)
}

#[test]
fn each_rule_refuses_in_kubernetes_words() {
    type Set = fn(&mut Value);
    let table: &[(&str, Set, Set)] = &[
        ("n", |_| {}, |_| {}),
        (
            "Insufficient cpu",
            |_| {},
            |p| {
                p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("3");
            },
        ),
        (
            "Insufficient memory",
            |_| {},
            |p| {
                p["spec"]["initContainers"] = json!([{"name": "i", "image": "i",
                "resources": {"requests": {"memory": "5Gi"}}}]);
            },
        ),
        (
            "Insufficient ephemeral-storage",
            |_| {},
            |p| {
                p["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] =
                    json!("11Gi");
            },
        ),
        (
            "Insufficient example.com/gpu",
            |_| {},
            |p| {
                p["spec"]["containers"][0]["resources"]["requests"]["example.com/gpu"] = json!("1");
            },
        ),
        ("Too many pods", |n| n["status"]["allocatable"]["pods"] = json!("0"), |_| {}),
        ("node(s) were unschedulable", |n| n["spec"]["unschedulable"] = json!(true), |_| {}),
        (
            "node(s) had untolerated taint {key: v}",
            |n| {
                n["spec"]["taints"] = json!([{"key": "key", "value": "v", "effect": "NoSchedule"}]);
            },
            |p| p["spec"]["tolerations"] = json!([{"key": "key", "value": "w"}]),
        ),
        (
            "n",
            |n| {
                n["spec"]["taints"] = json!([{"key": "key", "value": "v", "effect": "NoSchedule"}]);
            },
            |p| p["spec"]["tolerations"] = json!([{"key": "key", "operator": "Exists"}]),
        ),
        (
            "node(s) didn't match Pod's node affinity/selector",
            |_| {},
            |p| {
                p["spec"]["nodeSelector"] = json!({"disk": "ssd"});
            },
        ),
        (
            "n",
            |n| n["metadata"]["labels"]["cores"] = json!("8"),
            |p| {
                p["spec"]["affinity"] = json!({"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}]}}});
            },
        ),
        (
            "node(s) didn't match Pod's node affinity/selector",
            |_| {},
            |p| {
                p["spec"]["affinity"] = json!({"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In",
                        "values": ["other"]}]}]}}});
            },
        ),
    ];
    for (wanted, node_change, pod_change) in table {
        let cluster = cluster(&[node("n", node_change)]);
        let answer = why(&pod("p", pod_change), &cluster);
        let full = format!("0/1 nodes are available: 1 {wanted}.");
        assert!(answer == *wanted || answer == full, "wanted {wanted}, got {answer}");
    }
}

#[test]
fn reasons_are_counted_over_all_nodes() {
    let tainted = |name| {
        node(name, |n| {
            n["spec"]["taints"] = json!([{"key": "a", "value": "b", "effect": "NoExecute"}]);
        })
    };
    let cluster = cluster(&[tainted("a"), node("b", |_| {}), tainted("c")]);
    let large = pod("p", |p| {
        p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("64");
    });
    assert_eq!(
        why(&large, &cluster),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {a: b}."
    );
    assert_eq!(why(&large, &Cluster::default()), "no nodes available to schedule pods");
}

#[test]
fn what_runs_takes_room_and_ports_and_gives_them_back() {
    let mut cluster = cluster(&[node("n", |_| {})]);
    let web = |name| {
        pod(name, |p| {
            p["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
        })
    };
    cluster.place(&web("a"), "n");
    assert_eq!(
        why(&web("b"), &cluster),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
    for i in 0..3 {
        cluster.place(&pod(&format!("p{i}"), |_| {}), "n");
    }
    assert_eq!(why(&pod("q", |_| {}), &cluster), "0/1 nodes are available: 1 Insufficient cpu.");
    cluster.remove_pod("a");
    assert_eq!(why(&web("b"), &cluster), "n");
    // A node that comes again finds its pods.
    cluster.remove_node("n");
    cluster.set_node(&node("n", |_| {}));
    assert_eq!(cluster.node("n").unwrap().used.cpu, 1500);
}

#[test]
fn pods_spread_over_equal_nodes_and_prefer_what_they_prefer() {
    let mut cluster = cluster(&[
        node("a", |_| {}),
        node("b", |_| {}),
        node("c", |n| n["metadata"]["labels"]["disk"] = json!("ssd")),
    ]);
    let mut places = Vec::new();
    for i in 0..3 {
        let pod = pod(&format!("p{i}"), |_| {});
        let (place, start) = decide(&pod, &cluster).unwrap();
        cluster.start = start;
        cluster.place(&pod, &place);
        places.push(place);
    }
    places.sort();
    assert_eq!(places, ["a", "b", "c"]);
    let picky = pod("picky", |p| {
        p["spec"]["affinity"] = json!({"nodeAffinity":
            {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "preference":
                {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}});
    });
    assert_eq!(why(&picky, &cluster), "c");
}

#[tokio::test(start_paused = true)]
async fn the_queue_goes_by_priority_and_backs_off() {
    let mut queue = Queue::default();
    let start = Instant::now();
    queue.put(pod("a", |_| {}), start);
    queue.put(pod("b", |p| p["spec"]["priority"] = json!(10)), start);
    assert_eq!(queue.pop(start).unwrap().uid(), "b");
    assert_eq!(queue.pop(start).unwrap().uid(), "a");
    queue.unschedulable("a", start);
    queue.retry("b", start);
    assert!(queue.pop(start).is_none());
    queue.wake_all(start + Duration::from_millis(500));
    assert!(queue.pop(start + Duration::from_millis(900)).is_none());
    let later = start + Duration::from_secs(1);
    assert_eq!(queue.pop(later).unwrap().uid(), "b");
    assert_eq!(queue.pop(later).unwrap().uid(), "a");
    queue.unschedulable("a", later);
    queue.remove("b");
    queue.wake_old(later + Duration::from_secs(299));
    assert!(queue.pop(later + Duration::from_secs(299)).is_none());
    queue.wake_old(later + Duration::from_secs(300));
    assert_eq!(queue.pop(later + Duration::from_secs(300)).unwrap().uid(), "a");
}

#[test]
fn the_condition_is_written_once() {
    let pod = pod("p", |p| p["metadata"]["resourceVersion"] = json!("7"));
    let now = Timestamp::UNIX_EPOCH;
    let write = unscheduled(now, &pod.pod, "Unschedulable", "why").unwrap();
    let Write::Patch { patch, resource_version, .. } = write else { panic!() };
    assert_eq!(resource_version.as_deref(), Some("7"));
    let mut told = (*pod.pod).clone();
    told.status = serde_json::from_value(patch["status"].clone()).unwrap();
    assert_eq!(unscheduled(now, &told, "Unschedulable", "why"), None);
    assert!(unscheduled(now, &told, "Unschedulable", "other").is_some());
}

#[test]
fn what_nobody_has_is_asked_for_and_forgotten() {
    let huge = |name: &str| {
        pod(name, |p| {
            let asks = json!({"requests": {"cpu": "9223372036854775807", "memory": "9E", "example.com/x": "9E"}});
            let container = json!({"name": "c", "image": "i", "resources": asks});
            p["spec"]["containers"] = vec![container; 3].into();
        })
    };
    let mut cluster = cluster(&[node("n", |_| {})]);
    let (small, first, second) = (pod("small", |_| {}), huge("a"), huge("b"));
    assert!(why(&first, &cluster).contains("Insufficient"));
    for info in [&small, &first, &second] {
        cluster.place(info, "n");
    }
    assert!(why(&small, &cluster).contains("Insufficient"));
    for uid in ["a", "b"] {
        cluster.remove_pod(uid);
    }
    let (node, requests) = (&cluster.nodes[0], &small.requests);
    assert_eq!((node.used.cpu, node.used.memory), (requests.cpu, requests.memory));
    assert_eq!(node.weight, small.weight);
}
