use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "default", "uid": "rs", "generation": 1,
            "resourceVersion": "9"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
    }))
    .unwrap()
}

fn pod(name: &str, owner: Option<&str>, label: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
    let owners = owner.map(|uid| {
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid,
            "controller": true}])
    });
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": label},
            "ownerReferences": owners},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    });
    change(&mut pod);
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// The plan in short: one line per step.
fn short(plan: &Plan) -> Vec<String> {
    let line = |step: &Step| match &step.write {
        Write::Create { .. } => "create".to_owned(),
        Write::Delete { target, .. } => format!("delete {}", target.name),
        Write::Patch { target, subresource: None, patch, .. } => {
            format!("patch {} {}", target.name, patch["metadata"]["ownerReferences"])
        }
        Write::Patch { patch, .. } => format!("status {}", patch["status"]),
        Write::Replace { .. } => unreachable!(),
    };
    plan.steps.iter().map(line).collect()
}

fn plan(rs: &ReplicaSet, pods: &[Arc<Pod>]) -> Plan {
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    let taken = |name: &str| pods.iter().any(|pod| pods::name(pod) == name);
    let siblings_on = HashMap::new();
    decide(now, &Snapshot { replica_set: rs, pods, siblings_on: &siblings_on, taken: &taken })
}

#[test]
fn missing_pods_are_created_under_names_that_do_not_change() {
    let rs = set(3);
    let names = |plan: &Plan| -> Vec<String> {
        let name = |step: &Step| match &step.write {
            Write::Create { object, .. } => object["metadata"]["name"].as_str().map(str::to_owned),
            _ => None,
        };
        plan.steps.iter().filter_map(name).collect()
    };
    let all = names(&plan(&rs, &[]));
    assert_eq!(all.len(), 3);
    assert_eq!(all, names(&plan(&rs, &[])));
    // Whichever of them is seen first, the others keep their names.
    for seen in 0..3 {
        let there = [pod(&all[seen], Some("rs"), "web", |_| {})];
        let rest = names(&plan(&rs, &there));
        assert!(rest.iter().all(|name| all.contains(name) && *name != all[seen]), "{rest:?}");
    }
}

#[test]
fn finished_and_terminating_pods_are_replaced() {
    let pods = [
        pod("failed", Some("rs"), "web", |pod| pod["status"]["phase"] = json!("Failed")),
        pod("going", Some("rs"), "web", |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }),
        pod("fine", Some("rs"), "web", |_| {}),
    ];
    let plan = short(&plan(&set(2), &pods));
    assert_eq!(plan[0], "create");
    assert!(plan[1].starts_with("status"), "{plan:?}");
    assert_eq!(plan.len(), 2);
}

#[test]
fn orphans_are_adopted_and_strangers_released() {
    let pods = [
        pod("orphan", None, "web", |_| {}),
        pod("relabelled", Some("rs"), "other", |_| {}),
        pod("foreign", Some("another"), "web", |_| {}),
    ];
    let plan = short(&plan(&set(1), &pods));
    assert_eq!(plan.len(), 3, "{plan:?}");
    assert!(plan[0].contains(r#""uid":"rs""#) && plan[0].starts_with("patch orphan"), "{plan:?}");
    assert_eq!(plan[1], "patch relabelled []");
    assert!(plan[2].starts_with("status"));
}

#[test]
fn victims_go_in_kubernetes_order() {
    let pods = [
        pod("old-ready", Some("rs"), "web", |_| {}),
        pod("restarted", Some("rs"), "web", |pod| {
            pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "i", "imageID": "",
                "ready": true, "restartCount": 4}]);
        }),
        pod("just-ready", Some("rs"), "web", |pod| {
            pod["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:00:50Z");
        }),
        pod("cheap", Some("rs"), "web", |pod| {
            pod["metadata"]["annotations"] =
                json!({"controller.kubernetes.io/pod-deletion-cost": "-5"});
        }),
        pod("unready", Some("rs"), "web", |pod| {
            pod["status"]["conditions"][0]["status"] = json!("False");
        }),
        pod("pending", Some("rs"), "web", |pod| pod["status"] = json!({"phase": "Pending"})),
        pod("unassigned", Some("rs"), "web", |pod| {
            pod["spec"]["nodeName"] = json!(null);
            pod["status"] = json!({"phase": "Pending"});
        }),
    ];
    let plan = short(&plan(&set(0), &pods));
    let order: Vec<_> = plan.iter().filter_map(|line| line.strip_prefix("delete ")).collect();
    let wanted =
        ["unassigned", "pending", "unready", "cheap", "just-ready", "restarted", "old-ready"];
    assert_eq!(order, wanted);
}

#[test]
fn a_settled_set_writes_nothing() {
    let mut rs = set(1);
    let pods = [pod("a", Some("rs"), "web", |_| {})];
    let status = match &plan(&rs, &pods).steps[..] {
        [Step { write: Write::Patch { patch, .. }, .. }] => patch["status"].clone(),
        other => panic!("{other:?}"),
    };
    rs.status = Some(serde_json::from_value(status).unwrap());
    assert_eq!(plan(&rs, &pods), Plan::default());
}

#[test]
fn readiness_counts_as_available_after_min_ready_seconds() {
    let mut rs = set(1);
    rs.spec.as_mut().unwrap().min_ready_seconds = Some(90);
    let plan = plan(&rs, &[pod("a", Some("rs"), "web", |_| {})]);
    assert_eq!(plan.again_after.map(|after| after.as_secs()), Some(30));
    assert!(short(&plan)[0].contains(r#""readyReplicas":1"#));
    assert!(short(&plan)[0].contains(r#""availableReplicas":0"#));
}
