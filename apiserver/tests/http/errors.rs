//! What is refused, and in which words.

use super::*;

#[tokio::test]
async fn errors_are_worded_as_kubernetes_words_them() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let made = c.post(MAPS, map("there")).await.ok();
    let mut stale = made.clone();
    stale["data"]["a"] = "c".into();
    c.put(&format!("{MAPS}/there"), stale.clone()).await.ok();
    let mut shown = String::new();
    let mut show = |what: &str, answer: support::Answer| {
        shown.push_str(&format!("{what}: {}\n", answer.error()));
    };
    show("stale", c.put(&format!("{MAPS}/there"), stale).await);
    show("exists", c.post(MAPS, map("there")).await);
    show("missing", c.get(&format!("{MAPS}/nope")).await);
    show("put of missing", c.put(&format!("{MAPS}/nope"), map("nope")).await);
    show("namespace", c.post("/api/v1/namespaces/nope/configmaps", map("x")).await);
    show("other name", c.put(&format!("{MAPS}/there"), map("x")).await);
    show("invalid name", c.post(MAPS, map("A_b")).await);
    show("no containers", c.post(PODS, json!({"metadata": {"name": "x"}, "spec": {}})).await);
    show("other kind", c.post(MAPS, pod("x")).await);
    show(
        "other version",
        c.post(MAPS, json!({"apiVersion": "v2", "metadata": {"name": "x"}})).await,
    );
    let json = [("content-type", "application/json")];
    show("not JSON", c.call("POST", MAPS, &json, "{").await);
    show("wrong type", c.post(MAPS, json!({"metadata": {"name": "x"}, "data": 3})).await);
    show("text", c.call("POST", MAPS, &[("content-type", "text/plain")], "x").await);
    show("patch type", c.call("PATCH", &format!("{MAPS}/there"), &json, "{}").await);
    let large = vec![b' '; 3 * 1024 * 1024 + 1];
    show("too large", c.call("POST", MAPS, &json, large).await);
    show("method", c.put(MAPS, map("x")).await);
    show(
        "strict",
        c.post(
            &format!("{MAPS}?fieldValidation=Strict"),
            json!({"metadata": {"name": "x"}, "dat": {}}),
        )
        .await,
    );
    show(
        "rv on create",
        c.post(MAPS, json!({"metadata": {"name": "x", "resourceVersion": "1"}})).await,
    );
    show("selector", c.get(&format!("{MAPS}?labelSelector=%3D%3D")).await);
    show("field", c.get(&format!("{MAPS}?fieldSelector=data.a%3Db")).await);
    show("accept", c.call("GET", MAPS, &[("accept", "text/csv")], "").await);
    show("future", c.get(&format!("{MAPS}?resourceVersion=999999999")).await);
    show("match", c.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await);
    show("continue", c.get(&format!("{MAPS}?limit=1&continue=xx")).await);
    show(
        "uid",
        c.call("DELETE", &format!("{MAPS}/there"), &json, r#"{"preconditions":{"uid":"u"}}"#).await,
    );
    show("immortal", c.delete("/api/v1/namespaces/default").await);
    show("dry run", c.post(&format!("{MAPS}?dryRun=Some"), map("x")).await);
    show(
        "apply without manager",
        c.call(
            "PATCH",
            &format!("{MAPS}/x"),
            &[("content-type", "application/apply-patch+yaml")],
            "{}",
        )
        .await,
    );
    show("anonymous", world.anonymous().await.get(MAPS).await);
    show("jane", world.client("jane", &[]).await.get(MAPS).await);
    show(
        "node",
        world.client("system:node:a", &["system:nodes"]).await.get("/api/v1/secrets").await,
    );
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let shown = shown.replace(uid, "<uid>");
    expect![[r#"
        stale: 409 Conflict: Operation cannot be fulfilled on configmaps "there": the object has been modified; please apply your changes to the latest version and try again
        exists: 409 AlreadyExists: configmaps "there" already exists
        missing: 404 NotFound: configmaps "nope" not found
        put of missing: 404 NotFound: configmaps "nope" not found
        namespace: 404 NotFound: namespaces "nope" not found
        other name: 400 BadRequest: the name of the object (x) does not match the name on the URL (there)
        invalid name: 422 Invalid: ConfigMap "A_b" is invalid: metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        no containers: 422 Invalid: Pod "x" is invalid: spec.containers: Required value
        other kind: 400 BadRequest: Pod in version "v1" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion
        other version: 400 BadRequest: the API version in the data (v2) does not match the expected API version (v1)
        not JSON: 400 BadRequest: the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({)
        wrong type: 400 BadRequest: ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string
        text: 415 UnsupportedMediaType: the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf
        patch type: 415 UnsupportedMediaType: the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml
        too large: 413 RequestEntityTooLarge: Request entity too large: limit is 3145728
        method: 405 MethodNotAllowed: the server does not allow this method on the requested resource
        strict: 400 BadRequest: ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dat"
        rv on create: 500 -: resourceVersion should not be set on objects to be created
        selector: 400 BadRequest: found '==', expected: !, identifier, or 'end of string'
        field: 400 BadRequest: "data.a" is not a known field selector: only "metadata.name", "metadata.namespace"
        accept: 406 NotAcceptable: only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf
        future: 504 Timeout: Timeout: Too large resource version: 999999999, current: 8
        match: 422 Invalid: ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided
        continue: 400 BadRequest: invalid continue token: continue key is not valid: it was not given by this server
        uid: 409 Conflict: Operation cannot be fulfilled on ConfigMap "there": the UID in the precondition (u) does not match the UID in record (<uid>). The object might have been deleted and then recreated
        immortal: 403 Forbidden: namespaces "default" is forbidden: this namespace may not be deleted
        dry run: 422 Invalid: CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All"
        apply without manager: 422 Invalid: PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch
        anonymous: 401 Unauthorized: Unauthorized
        jane: 403 Forbidden: configmaps is forbidden: User "jane" cannot list resource "configmaps" in API group "" in the namespace "default"
        node: 403 Forbidden: secrets is forbidden: User "system:node:a" cannot list resource "secrets" in API group "" at the cluster scope
    "#]].assert_eq(&shown);

    let unknown = c.get("/apis/nope/v1/things").await;
    assert_eq!(
        (unknown.code, &*unknown.body),
        (StatusCode::NOT_FOUND, &b"404 page not found\n"[..])
    );
    world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_proxied_says_so() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let pods = "/api/v1/namespaces/default/pods";
    c.post(
        pods,
        json!({
            "metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "any"}]},
        }),
    )
    .await;
    c.post(
        "/api/v1/namespaces/default/services",
        json!({
            "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]},
        }),
    )
    .await;
    let mut shown = String::new();
    for path in [
        "/api/v1/namespaces/default/pods/nobody:80/proxy/",
        "/api/v1/namespaces/default/pods/ftp:web:80/proxy/",
        "/api/v1/namespaces/default/pods/web:8080/proxy/a/b?c=d",
        "/api/v1/namespaces/default/services/web:81/proxy/",
        "/api/v1/namespaces/default/services/http:web:80/proxy/a/b",
        "/api/v1/namespaces/default/services/none:x/proxy",
        "/api/v1/nodes/one/proxy/metrics",
    ] {
        let answer = c.get(path).await;
        let status = answer.json();
        let (reason, message) = (&status["reason"], status["message"].as_str().unwrap());
        shown.push_str(&format!("{} {reason}: {message}\n", answer.code.as_u16()));
    }
    expect![[r#"
        404 "NotFound": pods "nobody" not found
        400 "BadRequest": invalid pod request "ftp:web:80"
        400 "BadRequest": address not allowed
        503 "ServiceUnavailable": no service port 81 found for service "web"
        404 "NotFound": endpoints "web" not found
        404 "NotFound": endpoints "none" not found
        404 "NotFound": nodes "one" not found
    "#]]
    .assert_eq(&shown);
    for (user, groups) in [
        ("jane", &[][..]),
        ("system:node:one", &["system:nodes"][..]),
        ("c", &["system:controllers"][..]),
    ] {
        let mut c = world.client(user, groups).await;
        let path = "/api/v1/namespaces/default/pods/web:80/proxy/secret";
        let answer = c.get(path).await;
        assert_eq!(answer.code, 403, "{user}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("cannot get resource \"pods/proxy\""), "{message}");
    }
    let resources = c.get("/api/v1").await.json();
    for (name, kind) in [
        ("pods/proxy", "PodProxyOptions"),
        ("services/proxy", "ServiceProxyOptions"),
        ("nodes/proxy", "NodeProxyOptions"),
    ] {
        let mut all = resources["resources"].as_array().unwrap().iter();
        let found = all.find(|resource| resource["name"] == name).unwrap();
        assert_eq!(found["kind"], kind);
        assert_eq!(found["verbs"], json!(["create", "delete", "get", "patch", "update"]));
    }
    world.stop().await;
}
