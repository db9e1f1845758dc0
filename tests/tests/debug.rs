//! `kubectl debug` with a container that is added to a running pod.

use serde_json::{Value, json};
use warren_tests::cluster::SOON;
use warren_tests::http::Http;
use warren_tests::{Cluster, until};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - {name: c, image: 'example/web:1'}
";

fn said<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = pod["status"]["ephemeralContainerStatuses"].as_array();
    all.into_iter().flatten().find(|s| s["name"] == name).unwrap_or(&Value::Null)
}

fn ready(pod: &Value) -> bool {
    let all = pod["status"]["conditions"].as_array();
    all.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

#[test]
fn a_pod_is_looked_into() {
    let cluster = Cluster::simulated();
    cluster.kubectl_with(["apply", "-f", "-"], POD).ok();
    let before = cluster.wait_object("pod", "default", "web", ready);

    let words = ["debug", "web", "--image=example/debug:1", "--target=c", "-c", "look", "--"];
    let [a, b, c, d, e, f, g] = words;
    let script = "echo hello; sleep 3600";
    let out = cluster.kubectl([a, b, c, d, e, f, g, "sh", "-c", script]);
    assert!(out.succeeded(), "{}", out.told());
    let pod = cluster.wait_object("pod", "default", "web", |pod| {
        !said(pod, "look")["state"]["running"].is_null()
    });
    let container = &pod["spec"]["ephemeralContainers"][0];
    for (field, value) in [
        ("name", "look"),
        ("targetContainerName", "c"),
        ("imagePullPolicy", "IfNotPresent"),
        ("terminationMessagePath", "/dev/termination-log"),
        ("terminationMessagePolicy", "File"),
    ] {
        assert_eq!(container[field], value, "{field}");
    }
    let status = said(&pod, "look");
    assert_eq!((&status["ready"], &status["restartCount"]), (&json!(false), &json!(0)));
    assert!(ready(&pod), "the others are what the pod is ready by");
    assert_eq!(pod["status"]["containerStatuses"], before["status"]["containerStatuses"]);
    let generation = |pod: &Value| pod["metadata"]["generation"].as_i64().unwrap();
    assert_eq!(generation(&pod), generation(&before) + 1);

    // Found by its name.
    assert_eq!(cluster.kubectl(["logs", "web", "-c", "look"]).ok(), "hello\n");
    let exec = cluster.kubectl(["exec", "web", "-c", "look", "--", "echo", "from inside"]);
    assert_eq!(exec.ok(), "from inside\n");
    let attached = cluster.kubectl_going_on(["attach", "web", "-c", "look"]);
    until("it is attached", SOON, || attached.output().contains("hello"));
    let described = cluster.kubectl(["describe", "pod", "web"]);
    assert!(described.ok().contains("Ephemeral Containers:\n  look:"), "{}", described.told());

    // Once it has ended it stays ended, and the pod goes on; another can come.
    let out =
        cluster.kubectl(["debug", "web", "--image=example/debug:1", "-c", "fails", "--", "false"]);
    out.ok();
    let pod = cluster.wait_object("pod", "default", "web", |pod| {
        said(pod, "fails")["state"]["terminated"]["exitCode"] == 1
    });
    assert!(ready(&pod) && !said(&pod, "look")["state"]["running"].is_null(), "{pod:#}");

    cluster.kubectl(["delete", "pod", "web", "--timeout=60s"]).ok();
}

#[test]
fn before_its_init_containers_are_done() {
    let cluster = Cluster::simulated();
    let pod = POD.replace(
        "spec:\n",
        "spec:\n  initContainers: [{name: waits, image: 'example/i:1', command: [sleep, infinity]}]\n",
    );
    cluster.kubectl_with(["apply", "-f", "-"], &pod).ok();
    let running =
        |pod: &Value| !pod["status"]["initContainerStatuses"][0]["state"]["running"].is_null();
    cluster.wait_object("pod", "default", "web", running);
    // Of the container that is not there yet nothing can be seen: it waits, and says why.
    cluster.kubectl(["debug", "web", "--image=example/d:1", "--target=c", "-c", "early"]).ok();
    let reason = "CreateContainerConfigError";
    let pod = cluster.wait_object("pod", "default", "web", |pod| {
        said(pod, "early")["state"]["waiting"]["reason"] == reason
    });
    let waiting = &said(&pod, "early")["state"]["waiting"];
    assert_eq!(waiting["message"], "unable to find target container c");
    let told = || {
        cluster.objects("events", "default").iter().any(|event| {
            event["reason"] == "Failed"
                && event["message"] == "Error: unable to find target container c"
                && event["involvedObject"]["fieldPath"] == "spec.ephemeralContainers{early}"
        })
    };
    until("that is an Event as well", SOON, told);
    for arguments in
        [["-c", "free", "--image-pull-policy=Always"], ["--target=waits", "-c", "looks"]]
    {
        let [a, b, c] = arguments;
        cluster.kubectl(["debug", "web", "--image=example/d:1", a, b, c]).ok();
    }
    let pod = cluster.wait_object("pod", "default", "web", |pod| {
        ["free", "looks"].iter().all(|name| !said(pod, name)["state"]["running"].is_null())
    });
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["spec"]["ephemeralContainers"][1]["imagePullPolicy"], "Always");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_added_and_what_changed() {
    const PATH: &str = "/api/v1/namespaces/default/pods/web/ephemeralcontainers";
    let cluster = Cluster::simulated();
    let list = "  ephemeralContainers: [{name: e, image: 'example/e:1'}]\n";
    let out = cluster.kubectl_with(["create", "-f", "-"], &format!("{POD}{list}"));
    let words = "spec.ephemeralContainers: Forbidden: cannot be set on create";
    assert!(out.err().contains(words), "{}", out.told());
    cluster.kubectl_with(["apply", "-f", "-"], POD).ok();
    let one = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "example/e:1"}]}});
    let out = cluster.kubectl(["patch", "pod", "web", "-p", &one.to_string()]);
    let words = ["pod updates may not change fields other than", "changed: ephemeralContainers"];
    assert!(words.iter().all(|word| out.err().contains(word)), "{}", out.told());

    let http = Http::of(&cluster.kubeconfig()).await;
    let send = async |method: &str, kind: &str, body: Value| {
        let headers = [("content-type".to_owned(), format!("application/{kind}"))];
        let answer = http.send(method, PATH, &headers, body.to_string().into_bytes()).await;
        (answer.code, answer.value())
    };
    let names = |pod: &Value| -> Vec<String> {
        let all = pod["spec"]["ephemeralContainers"].as_array();
        all.into_iter().flatten().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let add = |name: &str| json!({"spec": {"ephemeralContainers": [{"name": name, "image": "example/e:1"}]}});

    // In every way in which one writes; what else the body says is passed over.
    let mut strategic = add("a");
    strategic["spec"]["activeDeadlineSeconds"] = 1.into();
    let (code, pod) = send("PATCH", "strategic-merge-patch+json", strategic).await;
    assert_eq!((code, names(&pod)), (200, vec!["a".to_owned()]), "{pod:#}");
    assert!(pod["spec"]["activeDeadlineSeconds"].is_null(), "{pod:#}");
    let added = json!({"name": "b", "image": "example/e:1"});
    let patch = json!([{"op": "add", "path": "/spec/ephemeralContainers/-", "value": added}]);
    let (code, pod) = send("PATCH", "json-patch+json", patch).await;
    assert_eq!((code, names(&pod).len()), (200, 2), "{pod:#}");
    let mut all = pod["spec"]["ephemeralContainers"].clone();
    all.as_array_mut().unwrap().push(json!({"name": "x", "image": "example/e:1"}));
    let patch = json!({"spec": {"ephemeralContainers": all}});
    let (code, pod) = send("PATCH", "merge-patch+json", patch).await;
    assert_eq!((code, names(&pod).len()), (200, 3), "{pod:#}");
    let mut whole = pod.clone();
    whole["metadata"]["labels"] = json!({"passed": "over"});
    let list = whole["spec"]["ephemeralContainers"].as_array_mut().unwrap();
    list.push(json!({"name": "d", "image": "example/e:1"}));
    // The status may have come in between.
    drop(whole["metadata"].as_object_mut().unwrap().remove("resourceVersion"));
    let (code, pod) = send("PUT", "json", whole).await;
    assert_eq!((code, names(&pod).len()), (200, 4), "{pod:#}");
    assert!(pod["metadata"]["labels"].is_null(), "{pod:#}");
    let (code, read) = send("GET", "json", Value::Null).await;
    assert_eq!((code, names(&read).join(" ")), (200, "a b x d".to_owned()));
    assert_eq!((read["kind"].as_str(), read["apiVersion"].as_str()), (Some("Pod"), Some("v1")));

    // None goes and none changes; what one may not have is named.
    let field = "spec.ephemeralContainers";
    for (patch, reason, field, words) in [
        (
            json!({"name": "a", "$patch": "delete"}),
            "FieldValueForbidden",
            field,
            "\"a\" may not be removed",
        ),
        (
            json!({"name": "a", "image": "example/f:1"}),
            "FieldValueForbidden",
            field,
            "\"a\" may not be changed",
        ),
        (
            json!({"name": "c2", "image": "i", "targetContainerName": "a"}),
            "FieldValueNotFound",
            "spec.ephemeralContainers[0].targetContainerName",
            "Not found: \"a\"",
        ),
        (
            json!({"name": "c2", "image": "i", "ports": [{"containerPort": 1}]}),
            "FieldValueForbidden",
            "spec.ephemeralContainers[0].ports",
            "cannot be set for an Ephemeral Container",
        ),
    ] {
        let body = json!({"spec": {"ephemeralContainers": [patch]}});
        let (code, status) = send("PATCH", "strategic-merge-patch+json", body).await;
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status:#}");
        let cause = &status["details"]["causes"][0];
        assert_eq!(
            (&cause["reason"], &cause["field"]),
            (&json!(reason), &json!(field)),
            "{status:#}"
        );
        assert!(cause["message"].as_str().unwrap().contains(words), "{status:#}");
    }
    let twice = json!({"spec": {"ephemeralContainers": [{"name": "c", "image": "i"}]}});
    cluster.kubectl_with(["apply", "-f", "-"], &POD.replace("name: web", "name: other")).ok();
    let headers = [("content-type".to_owned(), "application/merge-patch+json".to_owned())];
    let path = PATH.replace("web", "other");
    let answer = http.send("PATCH", &path, &headers, twice.to_string().into_bytes()).await;
    let status = answer.value();
    assert_eq!(answer.code, 422, "{status:#}");
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueDuplicate", "{status:#}");

    let (code, _) = send("DELETE", "json", Value::Null).await;
    assert_eq!(code, 405);
}
