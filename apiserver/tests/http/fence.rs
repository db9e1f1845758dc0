//! A leader's writes hold while its term lasts, and no longer.

use std::sync::Arc;

use serde_json::{Value, json};

use super::support::{Client, World};
use super::{MAPS, PODS, map, pod, rv};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const FENCE: &str = "warren-fence";

fn lease(holder: &str, term: u64) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
           "spec": {"holderIdentity": holder, "leaseTransitions": term}})
}

async fn fenced(
    c: &mut Client,
    fence: &str,
    (method, kind, path, body): &(&str, &str, String, Value),
) -> (u16, Value) {
    let kind = format!("application/{kind}");
    let headers = [("content-type", &*kind), (FENCE, fence)];
    let answer = c.call(method, path, &headers, body.to_string()).await;
    (answer.code.as_u16(), answer.json())
}

async fn metric(c: &mut Client, name: &str) -> u64 {
    let text = String::from_utf8(c.get("/metrics").await.body.to_vec()).unwrap();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// One write of each kind that the server knows, in an order in which each is possible.
fn writes() -> Vec<(&'static str, &'static str, String, Value)> {
    let bound = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
                       "target": {"kind": "Node", "name": "n"}});
    let evicted = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let status = json!({"status": {"phase": "Running"}});
    let data = json!({"data": {"a": "c"}});
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ssa"},
                         "data": {"x": "y"}});
    let added = json!([{"op": "add", "path": "/data/json", "value": "patched"}]);
    let mut replaced = map("m");
    replaced["data"]["put"] = "put".into();
    vec![
        ("POST", "json", MAPS.into(), map("m")),
        ("POST", "json", format!("{MAPS}?dryRun=All"), map("dry")),
        ("PUT", "json", format!("{MAPS}/m"), replaced),
        ("PATCH", "merge-patch+json", format!("{MAPS}/m"), data),
        ("PATCH", "strategic-merge-patch+json", format!("{MAPS}/m"), json!({"data": {"a": "d"}})),
        ("PATCH", "json-patch+json", format!("{MAPS}/m"), added),
        ("PATCH", "apply-patch+yaml", format!("{MAPS}/ssa?fieldManager=m"), applied.clone()),
        ("PATCH", "apply-patch+yaml", format!("{MAPS}/ssa?fieldManager=m&dryRun=All"), applied),
        ("POST", "json", PODS.into(), pod("p")),
        ("PATCH", "merge-patch+json", format!("{PODS}/p/status"), status),
        ("POST", "json", format!("{PODS}/p/binding"), bound),
        ("POST", "json", format!("{PODS}/p/eviction"), evicted),
        ("DELETE", "json", format!("{MAPS}/m?dryRun=All"), json!({})),
        ("DELETE", "json", format!("{MAPS}/m"), json!({})),
        ("DELETE", "json", MAPS.into(), json!({})),
    ]
}

#[tokio::test]
async fn every_verb_that_writes_is_fenced() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let mut c = world.client("system:controllers", &["system:controllers"]).await;
    admin.post(LEASES, lease("b", 2)).await.ok();
    let before = metric(&mut admin, "warren_revision").await;
    let writes = writes();
    let over = ["kube-system/l@1/a", "kube-system/l@1/b", "kube-system/l@2/a", "kube-system/l@3/b"];
    for write in &writes {
        for fence in over.into_iter().chain(["kube-system/other@2/b", "default/l@2/b"]) {
            let (code, status) = fenced(&mut c, fence, write).await;
            assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{write:?} {status}");
            assert_eq!(status["details"]["causes"][0]["reason"], "TermOver", "{status}");
        }
    }
    let (_, status) = fenced(&mut c, over[0], &writes[0]).await;
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on leases.coordination.k8s.io \"l\": the term 1 of \"a\" is over: \
         \"b\" holds it at term 2"
    );
    let (_, status) = fenced(&mut c, "kube-system/none@1/a", &writes[0]).await;
    let message = status["message"].as_str().unwrap();
    assert!(message.ends_with("the term 1 of \"a\" is over: it is not there"), "{message}");
    assert_eq!(metric(&mut admin, "warren_revision").await, before, "nothing was written");
    let refused = metric(&mut admin, "warren_fenced_writes_total").await;
    assert_eq!(refused, writes.len() as u64 * 6 + 2);

    // The term that lasts may do all of it.
    for write in &writes {
        let (code, answer) = fenced(&mut c, "kube-system/l@2/b", write).await;
        assert!((200..=201).contains(&code), "{write:?}: {answer}");
    }
    assert_eq!(metric(&mut admin, "warren_fenced_writes_total").await, refused);
    // Reads ask nobody's term.
    let read = c.call("GET", MAPS, &[(FENCE, over[0])], "").await;
    assert_eq!(read.code.as_u16(), 200);
    // A renewal is no new term.
    let renewed = json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    admin.patch("merge-patch+json", &format!("{LEASES}/l"), renewed).await.ok();
    let created = fenced(&mut c, "kube-system/l@2/b", &writes[0]).await;
    assert_eq!(created.0, 201, "{}", created.1);
    world.stop().await;
}

#[tokio::test]
async fn a_fence_is_checked_before_it_is_believed() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    admin.post(LEASES, lease("b", 2)).await.ok();
    let write = &writes()[0];
    for bad in ["", "l@2/b", "kube-system/l@two/b", "kube-system/l@2/"] {
        let (code, status) = fenced(&mut admin, bad, write).await;
        let message = status["message"].as_str().unwrap();
        assert_eq!(code, 400, "{message}");
        assert!(
            message.starts_with("the header warren-fence must be namespace/name@"),
            "{message}"
        );
    }
    let long = format!("kube-system/l@2/{}", "b".repeat(600));
    assert_eq!(fenced(&mut admin, &long, write).await.0, 400);
    let twice = [("content-type", "application/json"), (FENCE, "a/l@2/b"), (FENCE, "a/l@2/b")];
    assert_eq!(admin.call("POST", MAPS, &twice, write.3.to_string()).await.code.as_u16(), 400);
    // The answer tells of the Lease: who may not take it may not ask so.
    let mut node = world.client("system:node:n", &["system:nodes"]).await;
    let event = json!({"apiVersion": "v1", "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"namespace": "default"}});
    let path = "/api/v1/namespaces/default/events".to_owned();
    let event = ("POST", "json", path, event);
    let (code, status) = fenced(&mut node, "kube-system/l@2/b", &event).await;
    assert_eq!(code, 403, "{status}");
    assert_eq!(fenced(&mut node, "kube-node-lease/n@2/b", &event).await.0, 409);
    world.stop().await;
}

/// Four clients of the old term write as fast as they can while another takes the Lease: what was accepted is older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_committed_after_a_takeover() {
    let world = Arc::new(World::start().await);
    let mut admin = world.admin().await;
    admin.post(LEASES, lease("a", 1)).await.ok();
    for term in 1..=5_u64 {
        let (sender, mut ended) = tokio::sync::mpsc::channel(4);
        for n in 0..4 {
            let (inner, sender) = (Arc::clone(&world), sender.clone());
            world.tasks.spawn("writer", async move {
                let mut c = inner.client("system:controllers", &["system:controllers"]).await;
                let fence = format!("kube-system/l@{term}/a");
                let (mut newest, mut accepted) = (0, 0_u64);
                let why = loop {
                    let map = map(&format!("t{term}-{n}-{accepted}"));
                    let create = ("POST", "json", MAPS.to_owned(), map);
                    match fenced(&mut c, &fence, &create).await {
                        (201, made) => (newest, accepted) = (rv(&made), accepted + 1),
                        other => break other,
                    }
                };
                drop(inner);
                sender.send((newest, accepted, why)).await.unwrap();
            });
        }
        drop(sender);
        // In the middle of it.
        let start = metric(&mut admin, "warren_revision").await;
        while metric(&mut admin, "warren_revision").await < start + 50 {}
        let spec = json!({"spec": {"holderIdentity": "a", "leaseTransitions": term + 1}});
        let path = format!("{LEASES}/l");
        let taken = admin.patch("merge-patch+json", &path, spec).await.ok();
        while let Some((newest, accepted, (code, why))) = ended.recv().await {
            assert_eq!(code, 409, "{why}");
            assert!(accepted > 0 && newest < rv(&taken), "{newest} after {}", rv(&taken));
        }
    }
    drop(admin);
    Arc::into_inner(world).unwrap().stop().await;
}
