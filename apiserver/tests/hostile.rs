//! Those who mean no good, or do not know what they do: stolen node accounts, half-sent bodies, options of wrong types.

mod support;

use http::StatusCode;
use serde_json::{Value, json};
use support::{Client, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn pod(name: &str, node: &str, volumes: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
           "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}], "volumes": volumes}})
}

fn mirror(mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    pod
}

async fn node(world: &World, name: &str) -> Client {
    world.client(&format!("system:node:{name}"), &["system:nodes"]).await
}

#[tokio::test]
async fn a_stolen_node_account_reads_what_its_pods_use_and_no_more() {
    let world = World::start().await;
    let (mut admin, mut a) = (world.admin().await, node(&world, "a").await);
    admin.post("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await.ok();
    for path in [SECRETS, "/api/v1/namespaces/other/secrets"] {
        for name in ["used", "unused"] {
            admin.post(path, json!({"metadata": {"name": name}})).await.ok();
        }
    }
    let secret = |name: &str| json!([{"name": "v", "secret": {"secretName": name}}]);
    admin.post(PODS, pod("user", "a", secret("used"))).await.ok();
    a.get(&format!("{SECRETS}/used")).await.ok();
    a.get(&format!("{SECRETS}?fieldSelector=metadata.name%3Dused")).await.ok();
    let pinned = "fieldSelector=metadata.name%3Dused";
    for path in [
        format!("{SECRETS}/unused"),
        "/api/v1/namespaces/other/secrets/used".to_owned(),
        format!("/api/v1/secrets?{pinned}"),
        format!("/api/v1/secrets?{pinned}&watch=1"),
    ] {
        assert_eq!(a.get(&path).await.code, StatusCode::FORBIDDEN, "{path}");
    }

    // It cannot make itself a pod that uses more.
    let error = a.post(PODS, mirror(pod("m", "a", secret("unused")))).await.error();
    assert!(error.contains("can not create pods that reference secrets/unused"), "{error}");
    let handed_in =
        [("impersonate-user", "system:broker:admin"), ("content-type", "application/json")];
    let by_secret = pod("h", "a", secret("unused")).to_string();
    let answer = a.call("POST", PODS, &handed_in, by_secret).await;
    assert!(answer.error().contains("may not refer to Secrets"), "{}", answer.error());
    let without = pod("h", "a", json!([])).to_string();
    a.call("POST", PODS, &handed_in, without).await.ok();
    a.post(PODS, mirror(pod("m", "a", json!([])))).await.ok();
    drop((admin, a));
    world.stop().await;
}

#[tokio::test]
async fn a_node_does_not_say_where_pods_go() {
    let world = World::start().await;
    let (mut admin, mut a) = (world.admin().await, node(&world, "a").await);
    let path = "/api/v1/nodes/a";
    a.post(
        "/api/v1/nodes",
        json!({"metadata": {"name": "a", "labels": {"kubernetes.io/os": "linux"}}}),
    )
    .await
    .ok();
    let merge = "merge-patch+json";
    for (patch, why) in [
        (json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}), "modify taints"),
        (
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
            "modify labels: node-role.kubernetes.io/control-plane",
        ),
        (
            json!({"metadata": {"ownerReferences":
                [{"apiVersion": "v1", "kind": "Node", "name": "b", "uid": "x"}]}}),
            "modify ownerReferences",
        ),
    ] {
        let error = a.patch(merge, path, patch).await.error();
        assert!(error.starts_with("403") && error.contains(why), "{error}");
    }
    let labels =
        json!({"metadata": {"labels": {"example.com/rack": "7", "kubernetes.io/os": "linux"}}});
    a.patch(merge, path, labels).await.ok();
    admin
        .patch(merge, path, json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}))
        .await
        .ok();
    a.patch(merge, &format!("{path}/status"), json!({"status": {"phase": "Running"}})).await.ok();

    admin.post(PODS, pod("own", "a", json!([]))).await.ok();
    let own = format!("{PODS}/own");
    let labels = json!({"metadata": {"labels": {"app": "victim"}}});
    assert_eq!(a.patch(merge, &own, labels).await.code, StatusCode::FORBIDDEN);
    let status = json!({"status": {"phase": "Running"}});
    a.patch(merge, &format!("{own}/status"), status).await.ok();
    drop((admin, a));
    world.stop().await;
}

/// The authorizer looks when the request begins; what is written is what is there when it ends.
#[tokio::test]
async fn a_pod_that_comes_while_a_body_is_on_its_way_is_not_everybodys() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let body = r#"{"status":{"phase":"Failed"}}"#;
    let options = r#"{"gracePeriodSeconds":0}"#;
    for (method, path, kind, body) in [
        ("PATCH", format!("{PODS}/later/status"), "application/merge-patch+json", body),
        ("DELETE", format!("{PODS}/later"), "application/json", options),
    ] {
        let identity = world.authority.issue("system:node:a", &["system:nodes"]);
        let mut stream = support::tls(&world, Some(identity)).await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\n\
             content-length: {}\r\nexpect: 100-continue\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // It is told to go on when the server waits for the body.
        let mut told = [0; 25];
        stream.read_exact(&mut told).await.unwrap();
        assert!(told.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&told));
        admin.post(PODS, pod("later", "b", json!([]))).await.ok();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{method}: {answer}");
        let there = admin.get(&format!("{PODS}/later")).await.ok();
        assert_eq!(there["status"]["phase"], "Pending", "{method}");
        admin.delete(&format!("{PODS}/later?gracePeriodSeconds=0")).await.ok();
    }
    drop(admin);
    world.stop().await;
}

#[tokio::test]
async fn who_has_no_credential_keeps_nobody_out() {
    let world = World::start().await;
    let mut idle = Vec::new();
    for _ in 0..520 {
        idle.push(support::tls(&world, None).await);
    }
    world.admin().await.get("/api/v1/namespaces/default").await.ok();
    // Those beyond the bound are closed at once.
    let mut byte = [0];
    let ended = idle.last_mut().unwrap().read(&mut byte);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), ended).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    drop(idle);
    world.stop().await;
}

#[tokio::test]
async fn options_that_are_misunderstood_delete_nothing() {
    let world = World::start().await;
    let mut c = world.admin().await;
    c.post(MAPS, json!({"metadata": {"name": "kept"}})).await.ok();
    let path = format!("{MAPS}/kept");
    for options in [
        json!({"dryRun": "All"}),
        json!({"dryRun": [true]}),
        json!({"preconditions": {"uid": 5}}),
        json!({"preconditions": "x"}),
        json!({"preconditions": {"resourceVersion": 7}}),
        json!({"gracePeriodSeconds": "5"}),
        json!({"propagationPolicy": 5}),
        json!({"orphanDependents": "true"}),
        json!([]),
    ] {
        let headers = [("content-type", "application/json")];
        let answer = c.call("DELETE", &path, &headers, options.to_string()).await;
        // The code of a fault of the server's, which Kubernetes gives to whatever it cannot decode here.
        let code = StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(answer.code, code, "{options}: {:?}", answer.body);
        c.get(&path).await.ok();
    }
    drop(c);
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_scale_changes_no_replicas() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec =
        json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    c.post(all, json!({"metadata": {"name": "d"}, "spec": spec})).await.ok();
    let scale = format!("{all}/d/scale");
    for body in [
        "",
        "null",
        "[]",
        "\"x\"",
        "{}",
        r#"{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "d"}}"#,
        r#"{"metadata": {"name": "d"}, "spec": 5}"#,
        r#"{"metadata": {"name": "d"}, "spec": {"replicas": "5"}}"#,
    ] {
        let headers = [("content-type", "application/json")];
        let answer = c.call("PUT", &scale, &headers, body).await;
        assert_eq!(answer.code, StatusCode::BAD_REQUEST, "{body}: {:?}", answer.body);
        let deployment = c.get(&format!("{all}/d")).await.ok();
        assert_eq!(deployment["spec"]["replicas"], 3, "{body}");
    }
    let right = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "d"}, "spec": {"replicas": 0}});
    assert_eq!(c.put(&scale, right).await.ok()["spec"]["replicas"], 0);
    drop(c);
    world.stop().await;
}

#[tokio::test]
async fn lists_of_the_same_revision_do_not_share_their_pages() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let path = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    for namespace in ["x", "y"] {
        c.post("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await.ok();
        for n in 0..5 {
            c.post(&path(namespace), json!({"metadata": {"name": format!("m{n}")}})).await.ok();
        }
    }
    let mut lists = [("x", String::new(), Vec::new()), ("y", String::new(), Vec::new())];
    loop {
        for (namespace, token, names) in &mut lists {
            let page = format!("{}?limit=2&continue={token}", path(namespace));
            let page = c.get(&page).await.ok();
            let items = page["items"].as_array().unwrap();
            names.extend(items.iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()));
            *token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        }
        if lists.iter().all(|(_, token, _)| token.is_empty()) {
            break;
        }
    }
    for (namespace, _, names) in lists {
        assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"], "{namespace}");
    }
    drop(c);
    world.stop().await;
}

#[tokio::test]
async fn a_watch_from_the_future_is_refused() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let answer = c.get("/api/v1/configmaps?watch=1&resourceVersion=999999999").await;
    assert_eq!(answer.code, StatusCode::GATEWAY_TIMEOUT);
    assert!(answer.error().contains("Too large resource version"), "{}", answer.error());
    drop(c);
    world.stop().await;
}
