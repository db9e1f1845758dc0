//! Times decoding and encoding: `cargo run --release -p warren-api --example speed [pod.json]`.

use std::time::Instant;

use warren_api::openapi;
use warren_api::patch::{self, Manager};
use warren_api::schema::{self, FieldValidation};
use warren_api::{Object, Registry};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let schema = schema::builtin();
    println!("table: {:?}", start.elapsed());
    documents();
    let text = match std::env::args().nth(1) {
        Some(path) => std::fs::read(path)?,
        None => serde_json::to_vec(&pod())?,
    };
    println!("{} bytes", text.len());
    let rounds = 20_000;
    let time = |name: &str, work: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..rounds).for_each(|_| work());
        println!("{name}: {:?}", start.elapsed() / rounds);
    };
    let (object, _) = schema::decode_slice(schema, "core/v1.Pod", &text, FieldValidation::Strict)?;
    time("serde_json::Value", &mut || {
        let _ = std::hint::black_box(serde_json::from_slice::<serde_json::Value>(&text));
    });
    time("decode_slice", &mut || {
        let read = schema::decode_slice(schema, "core/v1.Pod", &text, FieldValidation::Strict);
        let _ = std::hint::black_box(read);
    });
    time("encode_with_hole", &mut || {
        std::hint::black_box(object.encode_with_hole());
    });
    let manager = Manager {
        name: "kubectl".to_owned(),
        subresource: String::new(),
        api_version: "v1".to_owned(),
        time: jiff::Timestamp::UNIX_EPOCH,
    };
    time("clone", &mut || drop(std::hint::black_box(object.clone())));
    let track = |old: Option<&Object>, mut new: Object| {
        patch::track_update(schema, "core/v1.Pod", old, &mut new, &manager);
        new
    };
    time("clone and track a create", &mut || drop(track(None, object.clone())));
    let created = track(None, object.clone());
    time("clone and track nothing", &mut || drop(track(Some(&created), created.clone())));
    let mut labelled = created.clone();
    labelled.set_at(&["metadata", "labels", "new"], "x");
    time("clone and track a label", &mut || drop(track(Some(&created), labelled.clone())));
    let apply =
        |live: Option<&Object>| patch::apply(schema, "core/v1.Pod", live, &object, &manager, true);
    let live = apply(None)?;
    time("apply again", &mut || drop(std::hint::black_box(apply(Some(&live)))));
    Ok(())
}

/// A pod of about 2.8 KB.
/// Each is made once in a server's life, when somebody first asks.
fn documents() {
    let registry = Registry::builtin();
    let once = |name: &str, make: &dyn Fn() -> Vec<u8>| {
        let start = Instant::now();
        let bytes = make().len();
        println!("{name}: {:?}, {bytes} bytes", start.elapsed());
    };
    once("openapi v3, index", &|| openapi::v3_index(&registry).to_string().into());
    once("openapi v3, v1", &|| {
        openapi::v3(&registry, "", "v1").unwrap_or_default().to_string().into()
    });
    once("openapi v2", &|| openapi::v2(&registry).to_string().into());
    once("openapi v2, protobuf", &|| openapi::v2_protobuf(&openapi::v2(&registry)));
}

fn pod() -> serde_json::Value {
    let containers: Vec<_> = (0..3)
        .map(|n| {
            serde_json::json!({
                "name": format!("container-{n}"), "image": "registry.example/some/image:v1.2.3",
                "args": ["--port=8080", "--verbose"], "imagePullPolicy": "IfNotPresent",
                "env": [{"name": "A", "value": "one"}, {"name": "B", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "ports": [{"containerPort": 8080 + n, "name": "http", "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "volumeMounts": [{"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "token", "readOnly": true}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1}
            })
        })
        .collect();
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-5d4f8c7b9d-x2x4z", "namespace": "default", "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9d"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9d", "uid": "0f8fad5b-d9cb-469f-a165-70867728950e", "controller": true, "blockOwnerDeletion": true}]},
        "spec": {"containers": containers, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "serviceAccountName": "default", "terminationGracePeriodSeconds": 30,
            "tolerations": [{"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300}],
            "volumes": [{"name": "token", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}]}}]}
    })
}
