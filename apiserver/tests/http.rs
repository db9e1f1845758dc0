//! The server over TLS, driven by plain HTTP.
#![expect(clippy::unwrap_used, reason = "a test fails where anything is not as it should be")]

#[path = "http/errors.rs"]
mod errors;
#[path = "http/fence.rs"]
mod fence;
#[path = "http/heads.rs"]
mod heads;
#[path = "http/paging.rs"]
mod paging;
#[path = "http/scale.rs"]
mod scale;
mod support;
#[path = "http/versions.rs"]
mod versions;
#[path = "http/watching.rs"]
mod watching;

use expect_test::expect;
use http::StatusCode;
use serde_json::{Value, json};
use support::{Client, World};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
           "spec": {"containers": [{"name": "main", "image": "busybox"}]}})
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

fn rv(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_object_lives() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let made = c.post(PODS, pod("web")).await;
    assert_eq!(made.code, StatusCode::CREATED);
    let made = made.json();
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(made["metadata"][field].is_string(), "{field}");
    }
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(c.get(&format!("{PODS}/web")).await.ok(), made);
    assert_eq!(names(&c.get(PODS).await.ok()), ["web"]);

    // What changes nothing writes nothing.
    let same = c.put(&format!("{PODS}/web"), made.clone()).await.ok();
    assert_eq!(same, made);
    let patch = json!({"metadata": {"labels": {"x": "y"}}});
    let path = format!("{PODS}/web");
    let patched = c.patch("merge-patch+json", &path, patch.clone()).await.ok();
    assert!(rv(&patched) > rv(&made));
    assert_eq!(patched["metadata"]["generation"], 1);
    let again = c.patch("strategic-merge-patch+json", &path, patch).await.ok();
    assert_eq!(rv(&again), rv(&patched));
    let spec = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "other"}]);
    let changed = c.patch("json-patch+json", &path, spec).await.ok();
    assert_eq!(changed["metadata"]["generation"], 2);

    let generated = c.post(MAPS, json!({"metadata": {"generateName": "g-"}})).await.ok();
    let name = generated["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");

    // A pod without a node goes at once, and its last state is the answer.
    assert_eq!(c.delete(&path).await.ok()["metadata"]["name"], "web");
    assert_eq!(c.get(&path).await.code, StatusCode::NOT_FOUND);
    let gone = c.delete(&format!("{MAPS}/{name}")).await.ok();
    assert_eq!(
        (&gone["status"], &gone["details"]["kind"]),
        (&json!("Success"), &json!("configmaps"))
    );
    world.stop().await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let made = c.post(MAPS, map("kept")).await.ok();
    drop(c);
    let (folder, authority) = world.stop().await;
    let world = World::start_in(folder, authority, |_| {}).await;
    let mut c = world.admin().await;
    assert_eq!(c.get(&format!("{MAPS}/kept")).await.ok(), made);
    // A watch goes on from before the restart, and an idle start wrote nothing.
    let before = rv(&made) - 1;
    let path = format!("/api/v1/configmaps?watch=1&resourceVersion={before}");
    let mut watch = world.admin().await.watch(&path).await;
    assert_eq!(watch.take(1).await, ["ADDED kept"]);
    drop((c, watch));
    world.stop().await;
}

#[tokio::test]
async fn warnings_yaml_and_dry_runs() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let warned = c.post(MAPS, json!({"metadata": {"name": "w"}, "dat": {}})).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"dat\\\"\"");
    let yaml = "metadata:\n  name: y\ndata:\n  a: b\n";
    let made = c.call("POST", MAPS, &[("content-type", "application/yaml")], yaml).await;
    assert_eq!(made.ok()["data"]["a"], "b");
    let text = c.call("GET", &format!("{MAPS}/y"), &[("accept", "application/yaml")], "").await;
    assert!(String::from_utf8_lossy(&text.body).contains("name: y"));
    let dry = c.post(&format!("{MAPS}?dryRun=All"), map("dry")).await.ok();
    assert!(dry["metadata"]["uid"].is_string() && dry["metadata"]["resourceVersion"].is_null());
    assert_eq!(c.get(&format!("{MAPS}/dry")).await.code, StatusCode::NOT_FOUND);
    assert_eq!(c.delete(&format!("{MAPS}/y?dryRun=All")).await.code, StatusCode::OK);
    assert_eq!(c.get(&format!("{MAPS}/y")).await.code, StatusCode::OK);
    world.stop().await;
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let mut ids = Vec::new();
    for path in [MAPS, PODS, "/nowhere", "/version", "/api/v1/namespaces/default/pods/none"] {
        ids.push(c.get(path).await.headers["audit-id"].to_str().unwrap().to_owned());
    }
    assert!(ids.iter().all(|id| id.len() == 36), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    let own = c.call("GET", MAPS, &[("audit-id", "mine-1")], "").await;
    assert_eq!(own.headers["audit-id"], "mine-1");
    let long = "x".repeat(65);
    assert_ne!(c.call("GET", MAPS, &[("audit-id", &long)], "").await.headers["audit-id"], long);
    drop(c);
    world.stop().await;
}

#[tokio::test]
async fn selectors_pages_and_forms() {
    let world = World::start().await;
    let mut c = world.admin().await;
    for name in ["a", "b", "c", "d", "e"] {
        c.post(PODS, pod(name)).await.ok();
    }
    let some = c.get(&format!("{PODS}?labelSelector=app+in+(a,c)")).await.ok();
    assert_eq!(names(&some), ["a", "c"]);
    let one = c.get(&format!("{PODS}?fieldSelector=metadata.name%3Db")).await.ok();
    assert_eq!(names(&one), ["b"]);
    let pending = c.get("/api/v1/pods?fieldSelector=status.phase!%3DPending").await.ok();
    assert_eq!(names(&pending), [""; 0]);

    let first = c.get(&format!("{PODS}?limit=2")).await.ok();
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["a", "b"], &json!(3))
    );
    // A page belongs to the snapshot of the first, whatever happens in between.
    c.delete(&format!("{PODS}/d")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = c.get(&format!("{PODS}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap().to_owned();
    let third = c.get(&format!("{PODS}?limit=2&continue={token}")).await.ok();
    assert_eq!((names(&third), &third["metadata"]["continue"]), (vec!["e"], &Value::Null));

    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let table = c.call("GET", PODS, &table, "").await.ok();
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let meta = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let meta = c.call("GET", PODS, &meta, "").await.ok();
    assert_eq!(meta["kind"], "PartialObjectMetadataList");
    assert_eq!((names(&meta), &meta["items"][0]["spec"]), (vec!["a", "b", "c", "e"], &Value::Null));

    let gone = c.delete(&format!("{PODS}?labelSelector=app+in+(a,b)")).await.ok();
    assert_eq!(names(&gone), ["a", "b"]);
    assert_eq!(names(&c.get(PODS).await.ok()), ["c", "e"]);
    world.stop().await;
}

#[tokio::test]
async fn deletion_waits_for_grace_and_finalizers() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let mut bound = pod("slow");
    bound["spec"]["nodeName"] = "a".into();
    c.post(PODS, bound).await.ok();
    let path = format!("{PODS}/slow");
    let first = c.delete(&path).await.ok();
    assert_eq!(first["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(first["metadata"]["deletionTimestamp"].is_string());
    // Again changes nothing; shorter shortens; zero ends it.
    assert_eq!(rv(&c.delete(&path).await.ok()), rv(&first));
    let shorter = c.delete(&format!("{path}?gracePeriodSeconds=5")).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    c.delete(&format!("{path}?gracePeriodSeconds=0")).await.ok();
    assert_eq!(c.get(&path).await.code, StatusCode::NOT_FOUND);

    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.post(MAPS, held).await.ok();
    let path = format!("{MAPS}/held");
    let going = c.delete(&format!("{path}?propagationPolicy=Foreground")).await.ok();
    assert_eq!(going["metadata"]["finalizers"], json!(["example.com/hold", "foregroundDeletion"]));
    let late = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/late"]}});
    let refused = c.patch("merge-patch+json", &path, late).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    let freed = json!({"metadata": {"finalizers": null}});
    c.patch("merge-patch+json", &path, freed).await.ok();
    assert_eq!(c.get(&path).await.code, StatusCode::NOT_FOUND);
    world.stop().await;
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_empty() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let made = c.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.ok();
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let going = c.delete("/api/v1/namespaces/n").await.ok();
    assert_eq!(going["status"]["phase"], "Terminating");
    let late = c.post("/api/v1/namespaces/n/configmaps", map("late")).await;
    assert_eq!(
        late.error(),
        "403 Forbidden: configmaps \"late\" is forbidden: unable to create new content in namespace n \
         because it is being terminated"
    );
    assert_eq!(late.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut done = going.clone();
    done["spec"]["finalizers"] = json!([]);
    c.put("/api/v1/namespaces/n/finalize", done).await.ok();
    assert_eq!(c.get("/api/v1/namespaces/n").await.code, StatusCode::NOT_FOUND);
    world.stop().await;
}

#[tokio::test]
async fn services_have_addresses_of_their_own() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let services = "/api/v1/namespaces/default/services";
    let own = c.get(&format!("{services}/kubernetes")).await.ok();
    assert_eq!(own["spec"]["clusterIP"], "10.96.0.1");
    let service = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}});
    let made = c.post(services, service("a", "NodePort")).await.ok();
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!(ip.starts_with("10.96.") && (30000..=32767).contains(&port));
    let mut taken = service("b", "NodePort");
    taken["spec"]["clusterIP"] = ip.as_str().into();
    taken["spec"]["ports"][0]["nodePort"] = port.into();
    let refused = c.post(services, taken.clone()).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.json()["details"]["causes"].as_array().unwrap().len(), 2);
    // A PUT that leaves them out keeps them; a type without ports gives them back.
    let kept = c.put(&format!("{services}/a"), service("a", "NodePort")).await.ok();
    assert_eq!((&kept["spec"]["clusterIP"], rv(&kept)), (&json!(ip), rv(&made)));
    let plain = c.put(&format!("{services}/a"), service("a", "ClusterIP")).await.ok();
    assert_eq!(plain["spec"]["ports"][0]["nodePort"], Value::Null);
    c.delete(&format!("{services}/a")).await.ok();
    assert_eq!(c.post(services, taken).await.ok()["spec"]["clusterIP"], ip.as_str());
    world.stop().await;
}

#[tokio::test]
async fn two_creates_of_one_name_make_one_object() {
    let world = World::start().await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..8 {
        clients.push(world.admin().await);
    }
    let calls = clients.iter_mut().map(|client| client.post(MAPS, map("one")));
    let codes: Vec<u16> =
        futures::future::join_all(calls).await.into_iter().map(|a| a.code.as_u16()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 409).count(), 7, "{codes:?}");
    // Patches that lose a race are tried again.
    let calls = clients.iter_mut().enumerate().map(|(n, client)| async move {
        let patch = json!({"data": {format!("k{n}"): "v"}});
        client.patch("merge-patch+json", &format!("{MAPS}/one"), patch).await.code
    });
    let codes = futures::future::join_all(calls).await;
    let won = codes.iter().filter(|code| code.is_success()).count();
    let data = clients[0].get(&format!("{MAPS}/one")).await.ok()["data"].clone();
    assert_eq!(data.as_object().unwrap().len(), 1 + won);
    assert!(won >= 5, "{codes:?}");
    world.stop().await;
}

#[tokio::test]
async fn subresources() {
    let world = World::start().await;
    let mut c = world.admin().await;
    c.post(PODS, pod("web")).await.ok();
    let binding = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "a"}});
    let path = format!("{PODS}/web/binding");
    assert_eq!(c.post(&path, binding.clone()).await.code, StatusCode::CREATED);
    assert_eq!(
        c.post(&path, binding).await.error(),
        "409 Conflict: Operation cannot be fulfilled on pods/binding \"web\": pod web is already assigned to \
         node \"a\""
    );
    let bound = c.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Da")).await.ok();
    assert_eq!(names(&bound), ["web"]);
    let status = json!({"status": {"phase": "Running"}, "metadata": {"labels": {"no": "no"}}});
    let written = c.patch("merge-patch+json", &format!("{PODS}/web/status"), status).await.ok();
    assert_eq!(written["status"]["phase"], "Running");
    assert_eq!(written["metadata"]["labels"], json!({"app": "web"}));
    let ignored = json!({"status": {"phase": "Failed"}});
    let same = c.patch("merge-patch+json", &format!("{PODS}/web"), ignored).await.ok();
    assert_eq!(rv(&same), rv(&written));
    let evicted =
        c.post(&format!("{PODS}/web/eviction"), json!({"metadata": {"name": "web"}})).await;
    assert_eq!(evicted.code, StatusCode::CREATED);
    assert!(c.get(&format!("{PODS}/web")).await.ok()["metadata"]["deletionTimestamp"].is_string());

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": pod("d")["spec"]}}});
    c.post(deployments, deployment).await.ok();
    let path = format!("{deployments}/d/scale");
    let mut scale = c.get(&path).await.ok();
    assert_eq!((&scale["kind"], &scale["status"]["selector"]), (&json!("Scale"), &json!("app=d")));
    scale["spec"]["replicas"] = 3.into();
    assert_eq!(c.put(&path, scale.clone()).await.ok()["spec"]["replicas"], 3);
    assert_eq!(c.put(&path, scale).await.code, StatusCode::CONFLICT);
    let patch = json!({"spec": {"replicas": 5}});
    assert_eq!(c.patch("merge-patch+json", &path, patch).await.ok()["spec"]["replicas"], 5);
    let now = c.get(&format!("{deployments}/d")).await.ok();
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(5), &json!(3)));
    let bad = json!({"spec": {"replicas": -1}});
    let refused = c.patch("merge-patch+json", &path, bad).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);

    let log = c.get(&format!("{PODS}/nope/log")).await;
    assert_eq!(log.code, StatusCode::NOT_FOUND);
    world.stop().await;
}

#[tokio::test]
async fn nodes_write_what_is_theirs() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let mut node = world.client("system:node:a", &["system:nodes"]).await;
    let of = |name: &str| json!({"metadata": {"name": name}});
    node.post("/api/v1/nodes", of("a")).await.ok();
    assert_eq!(node.post("/api/v1/nodes", of("b")).await.code, StatusCode::FORBIDDEN);
    let mut mirror = pod("static");
    mirror["spec"]["nodeName"] = "a".into();
    let pods = "/api/v1/namespaces/fresh/pods";
    assert_eq!(node.post(pods, mirror.clone()).await.code, StatusCode::NOT_FOUND);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
    // Its namespace comes with it.
    node.post(pods, mirror.clone()).await.ok();
    assert_eq!(admin.get("/api/v1/namespaces/fresh").await.code, StatusCode::OK);
    mirror["spec"]["nodeName"] = "b".into();
    mirror["metadata"]["name"] = "elsewhere".into();
    assert_eq!(node.post(pods, mirror).await.code, StatusCode::FORBIDDEN);
    let own = node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Da").await.ok();
    assert_eq!(names(&own), ["static"]);
    assert_eq!(node.get("/api/v1/pods").await.code, StatusCode::FORBIDDEN);

    // A secret is readable for the node whose pod uses it.
    let secret = "/api/v1/namespaces/default/secrets/s";
    admin.post("/api/v1/namespaces/default/secrets", of("s")).await.ok();
    assert_eq!(node.get(secret).await.code, StatusCode::FORBIDDEN);
    let mut user = pod("uses");
    user["spec"]["nodeName"] = "a".into();
    user["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    admin.post(PODS, user).await.ok();
    assert_eq!(node.get(secret).await.code, StatusCode::OK);

    // A command that was handed in.
    let via = [("impersonate-user", "system:broker:mq"), ("content-type", "application/json")];
    let made = node.call("POST", PODS, &via, pod("handed").to_string()).await;
    assert_eq!(made.code, StatusCode::FORBIDDEN, "it must say where");
    let mut here = pod("handed");
    here["spec"]["nodeName"] = "a".into();
    assert_eq!(node.call("POST", PODS, &via, here.to_string()).await.code, StatusCode::CREATED);
    let other = [("impersonate-user", "admin")];
    assert_eq!(node.call("GET", PODS, &other, "").await.code, StatusCode::FORBIDDEN);

    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease =
        node.post(leases, json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "a"}}));
    let mut lease = lease.await.ok();
    lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z".into();
    let renewed = node.put(&format!("{leases}/a"), lease).await.ok();
    assert_eq!(renewed["spec"]["renewTime"], "2026-01-01T00:00:00.000000Z");
    world.stop().await;
}

#[tokio::test]
async fn server_side_apply() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let apply = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{MAPS}/applied");
    let body = "apiVersion: v1\nkind: ConfigMap\ndata: {a: '1', b: '2'}\n";
    let made = c.call("PATCH", &format!("{path}?fieldManager=one"), &apply, body).await;
    assert_eq!(made.code, StatusCode::CREATED);
    let made = made.json();
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    let again = c.call("PATCH", &format!("{path}?fieldManager=one"), &apply, body).await.ok();
    assert_eq!(rv(&again), rv(&made));
    let other = "apiVersion: v1\nkind: ConfigMap\ndata: {a: '9'}\n";
    let conflict = c.call("PATCH", &format!("{path}?fieldManager=two"), &apply, other).await;
    assert_eq!(conflict.code, StatusCode::CONFLICT);
    assert_eq!(conflict.json()["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = format!("{path}?fieldManager=two&force=true");
    assert_eq!(c.call("PATCH", &forced, &apply, other).await.ok()["data"]["a"], "9");
    let less = "apiVersion: v1\nkind: ConfigMap\ndata: {}\n";
    let last = c.call("PATCH", &format!("{path}?fieldManager=one"), &apply, less).await.ok();
    assert_eq!(last["data"], json!({"a": "9"}));
    world.stop().await;
}

#[tokio::test]
async fn discovery_reviews_and_health() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let mut nobody = world.anonymous().await;
    assert_eq!(nobody.get("/livez").await.code, StatusCode::OK);
    assert_eq!(nobody.get("/version").await.ok()["minor"], "34");
    assert_eq!(nobody.get("/api").await.code, StatusCode::UNAUTHORIZED);
    let report = c.get("/readyz?verbose").await;
    assert!(String::from_utf8_lossy(&report.body).contains("readyz check passed"));
    assert!(
        String::from_utf8_lossy(&c.get("/metrics").await.body).contains("apiserver_request_total")
    );
    let groups = c.get("/apis").await.ok();
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "apps"));
    assert_eq!(c.get("/api/v1").await.ok()["kind"], "APIResourceList");
    let aggregated =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let first = c.call("GET", "/apis", &[("accept", aggregated)], "").await;
    assert_eq!(first.json()["kind"], "APIGroupDiscoveryList");
    let etag = first.headers["etag"].to_str().unwrap().to_owned();
    let cached = [("accept", aggregated), ("if-none-match", etag.as_str())];
    assert_eq!(c.call("GET", "/apis", &cached, "").await.code, StatusCode::NOT_MODIFIED);
    for (name, place) in c.get("/openapi/v3").await.ok()["paths"].as_object().unwrap() {
        let url = place["serverRelativeURL"].as_str().unwrap();
        let (path, hash) = url.split_once("?hash=").unwrap();
        assert_eq!(path, format!("/openapi/v3/{name}"));
        let document = c.get(url).await;
        let etag = document.headers["etag"].to_str().unwrap().to_owned();
        // An address that clients keep the document by, and that is of this very document.
        assert!(etag.trim_matches('"').starts_with(hash), "{url}: {etag}");
        assert_eq!(document.ok()["openapi"], "3.0.0");
        let cached = c.call("GET", url, &[("if-none-match", &etag)], "").await;
        assert_eq!(cached.code, StatusCode::NOT_MODIFIED);
    }
    assert_eq!(c.get("/openapi/v2").await.ok()["swagger"], "2.0");

    let me = c.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await.ok();
    assert_eq!(me["status"]["userInfo"]["username"], "admin");
    let mut jane = world.client("jane", &[]).await;
    let ask = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(jane.post(path, ask.clone()).await.ok()["status"]["allowed"], false);
    assert_eq!(c.post(path, ask).await.ok()["status"]["allowed"], true);
    world.stop().await;
}

#[tokio::test]
async fn the_embedded_fabric_and_the_local_client() {
    use tower::ServiceExt as _;
    use warren_api::{GroupResource, NodeName};
    use warren_broker::{Delivery, Subscription};

    let world = World::start().await;
    let fabric = world.server.fabric();
    let mut node = fabric.subscribe(Subscription::Node(NodeName("a".into()))).await;
    let resources = vec![GroupResource::new("", "pods")];
    let (name, instance) = ("test".to_owned(), "1".to_owned());
    let mut all = fabric.subscribe(Subscription::Controller { name, instance, resources }).await;
    for reader in [&mut node, &mut all] {
        assert!(matches!(reader.next().await, Delivery::Relist { .. }));
    }
    let local = world.server.local_service(warren_apiserver::User::admin("local"));
    let mut bound = pod("here");
    bound["spec"]["nodeName"] = "a".into();
    for object in [pod("nowhere"), bound] {
        let request = http::Request::post(PODS)
            .header("content-type", "application/json")
            .body(http_body_util::Full::new(bytes::Bytes::from(object.to_string())))
            .unwrap();
        let answer = local.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
    }
    let mut seen = Vec::new();
    for of_node in [true, false, false] {
        let reader = if of_node { &mut node } else { &mut all };
        let Delivery::Event(event, ack) = reader.next().await else { panic!("an event") };
        ack.ack().await;
        seen.push(event.key.name.to_string());
    }
    assert_eq!(seen, ["here", "nowhere", "here"]);
    world.stop().await;
}

#[tokio::test]
async fn protobuf_is_read_and_answered() {
    use warren_api::protobuf;

    let world = World::start().await;
    let mut c = world.admin().await;
    let both = [
        ("content-type", protobuf::MEDIA_TYPE),
        ("accept", "application/vnd.kubernetes.protobuf,application/json"),
    ];
    let written = |value: Value| protobuf::encode(value.as_object().unwrap()).unwrap();
    let read = |answer: &support::Answer| {
        assert_eq!(answer.headers["content-type"], protobuf::MEDIA_TYPE);
        protobuf::decode(&answer.body).unwrap()
    };
    let made = c.call("POST", MAPS, &both, written(map("a"))).await;
    assert_eq!(made.code, StatusCode::CREATED);
    let mut object = read(&made);
    assert_eq!(object, c.get(&format!("{MAPS}/a")).await.ok());
    object["data"]["a"] = "c".into();
    let changed = c.call("PUT", &format!("{MAPS}/a"), &both, written(object)).await;
    assert_eq!(read(&changed)["data"], json!({"a": "c"}));

    let accept = |text: &'static str| [("accept", text)];
    let only = accept(protobuf::MEDIA_TYPE);
    let list = read(&c.call("GET", MAPS, &only, "").await);
    assert_eq!((list["kind"].as_str(), names(&list)), (Some("ConfigMapList"), vec!["a"]));
    let parts =
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = read(&c.call("GET", MAPS, &accept(parts), "").await);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    let missing = c.call("GET", &format!("{MAPS}/nope"), &only, "").await;
    assert_eq!(
        (missing.code, read(&missing)["reason"].as_str()),
        (StatusCode::NOT_FOUND, Some("NotFound"))
    );

    // What has no protobuf form is JSON, where that is taken too.
    let usage = "/apis/metrics.k8s.io/v1beta1/nodes";
    assert_eq!(c.call("GET", usage, &only, "").await.code, StatusCode::NOT_ACCEPTABLE);
    let usage = c.call("GET", usage, &accept("application/vnd.kubernetes.protobuf, */*"), "").await;
    assert_eq!(usage.headers["content-type"], "application/json");

    let watch = format!("{MAPS}?watch=1&timeoutSeconds=1");
    let watched = c.call("GET", &watch, &accept(protobuf::WATCH_MEDIA_TYPE), "").await;
    assert_eq!(watched.headers["content-type"], protobuf::WATCH_MEDIA_TYPE);
    let (length, event) = watched.body.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, event.len());
    assert!(event.starts_with(b"\x0a\x05ADDED\x12"));

    // Bodies that are no objects.
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(
        read(&c.call("POST", path, &both, written(review)).await)["status"]["allowed"],
        true
    );
    let options = |uid: &str| {
        written(json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}))
    };
    let refused = c.call("DELETE", &format!("{MAPS}/a"), &both, options("x")).await;
    assert_eq!(refused.code, StatusCode::CONFLICT);
    c.post(PODS, pod("web")).await.ok();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"},
        "target": {"kind": "Node", "name": "n"}});
    let bound = c.call("POST", &format!("{PODS}/web/binding"), &both, written(binding)).await;
    assert_eq!(bound.code, StatusCode::CREATED, "{}", String::from_utf8_lossy(&bound.body));
    assert_eq!(c.get(&format!("{PODS}/web")).await.ok()["spec"]["nodeName"], "n");
    let broken = c
        .call(
            "POST",
            MAPS,
            &both,
            &b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x04\x0a\x02\x0a\x09"[..],
        )
        .await;
    assert_eq!(broken.code, StatusCode::BAD_REQUEST);
    let message = read(&broken)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("ConfigMap.metadata: the message is cut off"), "{message}");
}
