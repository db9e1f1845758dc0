//! Bad input is answered by a clear error that names the field, and changes nothing.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use http_body_util::BodyExt;
use serde_json::{Value, json};
use warren_tests::Cluster;

struct Answer {
    code: u16,
    body: Value,
}

async fn call(
    client: &kube::Client,
    method: &str,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> Answer {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(kube::client::Body::from(body))
        .unwrap();
    let answer = client.send(request).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code, body }
}

fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "example/a:1"}]}
    });
    change(&mut pod);
    pod
}

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Each row: what is wrong, and each field that the 422 must name with the beginning of its message.
#[tokio::test]
async fn invalid_fields_are_all_named() {
    let cluster = Cluster::simulated();
    let client = cluster.client().await;
    let long = "a".repeat(254);
    /// What is wrong, the object, and the fields that the answer must name with their reasons.
    type Case = (&'static str, Value, Vec<(&'static str, &'static str)>);
    let table: Vec<Case> = vec![
        (
            "no containers",
            pod(|p| p["spec"]["containers"] = json!([])),
            vec![("spec.containers", "Required value")],
        ),
        (
            "an upper-case name",
            pod(|p| p["metadata"]["name"] = "Bad_Name".into()),
            vec![("metadata.name", "Invalid value")],
        ),
        (
            "a name of 254",
            pod(|p| p["metadata"]["name"] = long.into()),
            vec![("metadata.name", "Invalid value")],
        ),
        (
            "labels",
            pod(|p| p["metadata"]["labels"] = json!({"a b": "x", "ok": "not ok!"})),
            vec![("metadata.labels", "Invalid value")],
        ),
        (
            "two containers of one name",
            pod(|p| {
                p["spec"]["containers"] =
                    json!([{"name": "c", "image": "a"}, {"name": "c", "image": "a"}])
            }),
            vec![("spec.containers[1].name", "Duplicate value")],
        ),
        (
            "no image and a bad port",
            pod(|p| {
                p["spec"]["containers"] =
                    json!([{"name": "c", "ports": [{"containerPort": 70000}]}])
            }),
            vec![
                ("spec.containers[0].image", "Required value"),
                ("spec.containers[0].ports[0].containerPort", "Invalid value"),
            ],
        ),
        (
            "requests above limits",
            pod(|p| {
                p["spec"]["containers"][0]["resources"] =
                    json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})
            }),
            vec![("spec.containers[0].resources.requests", "Invalid value")],
        ),
        (
            "an unknown policy",
            pod(|p| p["spec"]["restartPolicy"] = "Sometimes".into()),
            vec![("spec.restartPolicy", "Unsupported value")],
        ),
        (
            "a mount without a volume",
            pod(|p| {
                p["spec"]["containers"][0]["volumeMounts"] =
                    json!([{"name": "v", "mountPath": "/v"}])
            }),
            vec![("spec.containers[0].volumeMounts[0].name", "Not found")],
        ),
    ];
    for (name, object, fields) in table {
        let body = serde_json::to_vec(&object).unwrap();
        let answer = call(&client, "POST", PODS, "application/json", body).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (422, &json!("Invalid")),
            "{name}: {}",
            answer.body
        );
        let causes = answer.body["details"]["causes"].as_array().cloned().unwrap_or_default();
        for (field, message) in fields {
            let found = causes.iter().any(|cause| {
                cause["field"] == field
                    && cause["message"].as_str().is_some_and(|text| text.starts_with(message))
            });
            assert!(found, "{name}: {field}: {message} is not in {causes:#?}");
        }
    }
    assert!(cluster.objects("pods", "default").is_empty(), "nothing was stored");
}

#[tokio::test]
async fn requests_that_cannot_be_read_are_refused() {
    let cluster = Cluster::simulated();
    let client = cluster.client().await;
    let good = || serde_json::to_vec(&pod(|_| {})).unwrap();
    let json = "application/json";
    let huge = {
        let mut object = pod(|_| {});
        object["metadata"]["annotations"] = json!({"a": "x".repeat(8 << 20)});
        serde_json::to_vec(&object).unwrap()
    };
    /// What is wrong, method, path, content type, body; the code and words of the answer.
    type Case =
        (&'static str, &'static str, &'static str, &'static str, Vec<u8>, u16, &'static str);
    let table: Vec<Case> = vec![
        ("broken JSON", "POST", PODS, json, b"{\"kind\":".to_vec(), 400, "BadRequest"),
        ("broken YAML", "POST", PODS, "application/yaml", b"a: [".to_vec(), 400, "BadRequest"),
        ("no object", "POST", PODS, json, b"3".to_vec(), 400, "BadRequest"),
        (
            "another kind",
            "POST",
            PODS,
            json,
            br#"{"apiVersion":"v1","kind":"Service"}"#.to_vec(),
            400,
            "BadRequest",
        ),
        (
            "another namespace",
            "POST",
            PODS,
            json,
            serde_json::to_vec(&pod(|p| p["metadata"]["namespace"] = "other".into())).unwrap(),
            400,
            "BadRequest",
        ),
        (
            "a media type nobody knows",
            "POST",
            PODS,
            "text/csv",
            good(),
            415,
            "UnsupportedMediaType",
        ),
        ("a body over the limit", "POST", PODS, json, huge, 413, "RequestEntityTooLarge"),
        (
            "no such resource",
            "GET",
            "/api/v1/namespaces/default/pots",
            json,
            vec![],
            404,
            "NotFound",
        ),
        ("no such group", "GET", "/apis/nope.example/v1/things", json, vec![], 404, "NotFound"),
        (
            "no such object",
            "GET",
            "/api/v1/namespaces/default/pods/x",
            json,
            vec![],
            404,
            "NotFound",
        ),
        (
            "no such namespace",
            "POST",
            "/api/v1/namespaces/none/pods",
            json,
            good(),
            404,
            "NotFound",
        ),
        (
            "a verb that it has not",
            "POST",
            "/api/v1/namespaces/default/pods/x",
            json,
            good(),
            405,
            "MethodNotAllowed",
        ),
        (
            "a broken selector",
            "GET",
            "/api/v1/pods?labelSelector=a%20in%20",
            json,
            vec![],
            400,
            "BadRequest",
        ),
        (
            "a field that cannot select",
            "GET",
            "/api/v1/pods?fieldSelector=spec.x%3D1",
            json,
            vec![],
            400,
            "BadRequest",
        ),
        ("a broken revision", "GET", "/api/v1/pods?resourceVersion=x", json, vec![], 400, ""),
        ("a broken limit", "GET", "/api/v1/pods?limit=x", json, vec![], 400, ""),
        (
            "a broken continue token",
            "GET",
            "/api/v1/pods?limit=1&continue=x",
            json,
            vec![],
            400,
            "",
        ),
        (
            "strict and an unknown field",
            "POST",
            "/api/v1/namespaces/default/pods?fieldValidation=Strict",
            json,
            serde_json::to_vec(&pod(|p| p["spec"]["colour"] = "red".into())).unwrap(),
            400,
            "BadRequest",
        ),
        (
            "a broken JSON patch",
            "PATCH",
            "/api/v1/namespaces/default",
            "application/json-patch+json",
            b"{}".to_vec(),
            400,
            "BadRequest",
        ),
    ];
    for (name, method, path, content_type, body, code, reason) in table {
        let answer = call(&client, method, path, content_type, body).await;
        assert_eq!(answer.code, code, "{name}: {}", answer.body);
        // What Kubernetes answers to a path that no group serves, in plain text.
        if name == "no such group" {
            assert_eq!(answer.body, "404 page not found\n", "{name}");
            continue;
        }
        assert_eq!(answer.body["kind"], "Status", "{name}: {}", answer.body);
        assert_eq!(answer.body["status"], "Failure", "{name}: {}", answer.body);
        if !reason.is_empty() {
            assert_eq!(answer.body["reason"], reason, "{name}: {}", answer.body);
        }
    }
    assert!(cluster.objects("pods", "default").is_empty(), "nothing was stored");
}

#[tokio::test]
async fn old_revisions_and_taken_names_conflict() {
    let cluster = Cluster::simulated();
    let client = cluster.client().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let make = |data: &str| {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": data}});
        serde_json::to_vec(&object).unwrap()
    };
    let made = call(&client, "POST", path, "application/json", make("1")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let again = call(&client, "POST", path, "application/json", make("1")).await;
    assert_eq!((again.code, &again.body["reason"]), (409, &json!("AlreadyExists")));
    let one = format!("{path}/c");
    assert_eq!(call(&client, "PUT", &one, "application/json", make("2")).await.code, 200);
    let mut old = made.body.clone();
    old["data"]["a"] = "3".into();
    let body = serde_json::to_vec(&old).unwrap();
    let refused = call(&client, "PUT", &one, "application/json", body).await;
    assert_eq!(
        (refused.code, &refused.body["reason"]),
        (409, &json!("Conflict")),
        "{}",
        refused.body
    );
    assert!(refused.body["message"].as_str().unwrap().contains("the object has been modified"));
    let mut stranger = made.body.clone();
    stranger["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    stranger["metadata"]["resourceVersion"] = "".into();
    let body = serde_json::to_vec(&stranger).unwrap();
    assert_eq!(call(&client, "PUT", &one, "application/json", body).await.code, 409);
    assert_eq!(cluster.object("cm", "default", "c").unwrap()["data"]["a"], "2");
}

#[test]
fn without_credentials_nobody_gets_in() {
    let cluster = Cluster::simulated();
    let ca = cluster.data_dir().join("pki/ca.crt");
    let mut command = std::process::Command::new(warren_tests::kubectl::program());
    command.args(["--kubeconfig=/dev/null", "get", "pods", "--server", &cluster.server()]);
    command.arg("--certificate-authority").arg(ca).arg("--username=x").arg("--password=y");
    let out = warren_tests::kubectl::run(command, None);
    assert!(
        out.err().contains("Unauthorized") || out.err().contains("must be logged in"),
        "{}",
        out.told()
    );
    // A node's certificate opens its own objects only.
    let node = cluster.data_dir().join("kubeconfig/node-node-1.conf");
    let with = |arguments: &[&str]| {
        let mut command = std::process::Command::new(warren_tests::kubectl::program());
        command.env("KUBECONFIG", &node).args(arguments);
        warren_tests::kubectl::run(command, None)
    };
    with(&["get", "node", "node-1"]).ok();
    for forbidden in [
        &["get", "secrets", "-A"][..],
        &["delete", "node", "node-2"],
        &["create", "namespace", "mine"],
        &["delete", "pods", "--all", "-n", "kube-system"],
    ] {
        let out = with(forbidden);
        assert!(out.err().contains("Forbidden"), "{}", out.told());
    }
}

#[test]
fn names_of_253_characters_work() {
    let cluster = Cluster::simulated();
    let name = format!("{}.{}", "a".repeat(63), "b".repeat(189));
    let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    cluster.kubectl_with(["apply", "-f", "-"], &text).ok();
    assert!(cluster.object("cm", "default", &name).is_some());
    cluster.kubectl(["delete", "cm", &name]).ok();
}

#[test]
fn a_start_that_cannot_work_says_why() {
    let cluster = Cluster::simulated();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(warren_tests::cluster::binary());
        command.args(arguments).env_remove("KUBECONFIG");
        warren_tests::kubectl::run(command, None)
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("other");
    let address = cluster.server().replace("https://", "");
    let out = run(&[
        "up",
        "--runtime",
        "simulated",
        "--bind",
        &address,
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert!(out.err().contains(&address) && out.err().contains("in use"), "{}", out.told());
    let out = run(&[
        "up",
        "--runtime",
        "simulated",
        "--bind",
        "127.0.0.1:0",
        "--data-dir",
        "/proc/nowhere",
    ]);
    assert!(out.err().contains("/proc/nowhere"), "{}", out.told());
    let same = cluster.data_dir();
    let out = run(&[
        "up",
        "--runtime",
        "simulated",
        "--bind",
        "127.0.0.1:0",
        "--data-dir",
        same.to_str().unwrap(),
    ]);
    assert!(out.err().contains("another"), "one folder, one server: {}", out.told());
    let out = run(&[
        "up",
        "--runtime",
        "simulated",
        "--bind",
        "192.0.2.1:6443",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert!(out.err().contains("this machine has no such address"), "{}", out.told());
    let out = run(&["get", "pods", "--kubeconfig", "/nowhere/config"]);
    assert_eq!(out.err().matches("No such file").count(), 1, "{}", out.told());
    assert!(out.err().starts_with("error: kubeconfig /nowhere/config: "), "{}", out.told());
    let out = run(&["up", "--nodes", "many"]);
    assert_eq!(out.code, 2, "{}", out.told());
}

#[test]
fn what_is_not_served_is_named() {
    let cluster = Cluster::simulated();
    let unknown =
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: x}\nspec: {schedule: '* * * * *'}\n";
    let out = cluster.kubectl_with(["apply", "-f", "-"], unknown);
    assert!(
        out.err().contains("no matches for kind \"CronJob\" in version \"batch/v1\""),
        "{}",
        out.told()
    );
    let out = cluster.kubectl(["create", "deployment", "web", "--image=example/web:1"]);
    out.ok();
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let out = cluster.warren(["logs", "deployments/none"]);
    assert!(out.err().contains("\"none\" not found"), "{}", out.told());
    cluster.warren(["logs", "deployment/web"]).ok();
    let out = cluster.warren(["logs", "node/node-1"]);
    assert!(out.err().contains("node has no pods"), "{}", out.told());
}
