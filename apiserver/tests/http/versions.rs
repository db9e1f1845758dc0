//! One object in the forms of two groups, and what is deprecated.

use super::*;

const CORE: &str = "/api/v1/namespaces/default/events";
const GROUP: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn event(name: &str) -> Value {
    json!({
        "metadata": {"name": name}, "eventTime": "2026-01-02T03:04:05.000000Z", "type": "Normal",
        "reason": "Tested", "action": "Test", "note": "it was tried", "reportingController": "example.com/test",
        "reportingInstance": "test-1", "regarding": {"kind": "Pod", "namespace": "default", "name": "web"},
    })
}

#[tokio::test]
async fn events_are_served_in_two_groups() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let mut of_core = world.admin().await.watch(&format!("{CORE}?watch=1")).await;
    let url =
        format!("{GROUP}?watch=1&allowWatchBookmarks=true&fieldSelector=regarding.name%3Dweb");
    let mut of_group = world.admin().await.watch(&url).await;
    let made = c.post(GROUP, event("a")).await;
    assert_eq!(made.code, StatusCode::CREATED);
    let made = made.json();
    assert_eq!(
        (&made["apiVersion"], &made["note"], &made["regarding"]["name"], &made["message"]),
        (&json!("events.k8s.io/v1"), &json!("it was tried"), &json!("web"), &Value::Null)
    );
    let core = c.get(&format!("{CORE}/a")).await.ok();
    assert_eq!(
        (
            &core["apiVersion"],
            &core["message"],
            &core["involvedObject"],
            &core["reportingComponent"]
        ),
        (&json!("v1"), &made["note"], &made["regarding"], &made["reportingController"])
    );
    assert_eq!(c.get(&format!("{GROUP}/a")).await.ok(), made);
    assert_eq!(c.get(GROUP).await.ok()["items"][0], made);
    let [told, in_core] = [of_group.next().await.unwrap(), of_core.next().await.unwrap()];
    assert_eq!((&told["type"], &told["object"]), (&json!("ADDED"), &made));
    assert_eq!((&in_core["type"], &in_core["object"]), (&json!("ADDED"), &core));

    // Written as `v1`, read as the other; selectors speak the names of the form that is asked.
    let old = json!({"metadata": {"name": "b"}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": "db"},
                     "reason": "Old", "message": "as before", "count": 3, "source": {"component": "kubelet"}});
    c.post(CORE, old).await.ok();
    let read = c.get(&format!("{GROUP}/b")).await.ok();
    assert_eq!(
        (&read["note"], &read["deprecatedCount"], &read["deprecatedSource"]["component"]),
        (&json!("as before"), &json!(3), &json!("kubelet"))
    );
    for (path, expected) in [
        (format!("{GROUP}?fieldSelector=regarding.name%3Ddb"), &["b"][..]),
        (
            format!("{GROUP}?fieldSelector=reportingController%3Dexample.com/test,reason!%3DOld"),
            &["a"],
        ),
        (format!("{CORE}?fieldSelector=involvedObject.name%3Dweb"), &["a"]),
        (GROUP.to_owned(), &["a", "b"]),
    ] {
        assert_eq!(names(&c.get(&path).await.ok()), expected, "{path}");
    }
    let unknown = c.get(&format!("{GROUP}?fieldSelector=involvedObject.name%3Dweb")).await;
    assert_eq!(unknown.code, StatusCode::BAD_REQUEST);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = c.call("GET", &format!("{GROUP}?includeObject=Object"), &table, "").await.ok();
    assert_eq!(table["rows"][0]["object"], made);
    assert!(table["rows"][0]["cells"].to_string().contains("it was tried"));

    // Patches are in the form of the path, and so is what a manager owns.
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-02T03:05:05.000000Z"}});
    let patched = c.patch("strategic-merge-patch+json", &format!("{GROUP}/a"), series).await.ok();
    assert_eq!((&patched["series"]["count"], &patched["note"]), (&json!(2), &made["note"]));
    let mut applied = event("c");
    applied["apiVersion"] = "events.k8s.io/v1".into();
    applied["kind"] = "Event".into();
    for force in [false, true] {
        let path = format!("{GROUP}/c?fieldManager=one&force={force}");
        let answer = c.patch("apply-patch+yaml", &path, applied.clone()).await.ok();
        let managed = &answer["metadata"]["managedFields"][0];
        assert_eq!(managed["apiVersion"], "events.k8s.io/v1");
        assert!(managed["fieldsV1"]["f:note"].is_object(), "{managed}");
    }
    let core = json!({"apiVersion": "v1", "kind": "Event", "message": "another",
                      "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"}});
    let conflict = c.patch("apply-patch+yaml", &format!("{CORE}/c?fieldManager=two"), core).await;
    assert_eq!(conflict.code, StatusCode::CONFLICT);
    let conflict = conflict.json();
    assert_eq!(conflict["details"]["causes"][0]["field"], ".message");

    // What its writers must say, and may not change.
    let mut wrong = event("d");
    wrong["deprecatedCount"] = 1.into();
    wrong.as_object_mut().unwrap().remove("eventTime");
    let refused = c.post(GROUP, wrong).await.error();
    for part in ["eventTime: Required value", "count: Invalid value", "needs to be unset"] {
        assert!(refused.contains(part), "{refused}");
    }
    let changed =
        c.patch("merge-patch+json", &format!("{GROUP}/a"), json!({"note": "other"})).await;
    assert!(changed.error().contains("message: Invalid value"), "a note is not changed");
    assert_eq!(c.delete(&format!("{GROUP}/a")).await.code, StatusCode::OK);
    assert_eq!(c.get(&format!("{CORE}/a")).await.code, StatusCode::NOT_FOUND);
    let told = of_group.next().await.unwrap();
    assert_eq!((&told["type"], &told["object"]["note"]), (&json!("MODIFIED"), &made["note"]));
    drop((c, of_core, of_group));
    world.stop().await;
}

#[tokio::test]
async fn what_is_odd_about_a_pod_is_said_on_every_way_to_it() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let warnings = |answer: &support::Answer| -> Vec<String> {
        let all = answer.headers.get_all("warning").iter();
        all.map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let hides = "hides previous definition of \\\"A\\\", which may be dropped when using apply";
    let of_pod = [format!("299 - \"spec.containers[0].env[1]: {hides}\"")];
    let mut odd = pod("odd");
    odd["spec"]["containers"][0]["env"] =
        json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
    let made = c.post(PODS, odd.clone()).await;
    assert_eq!(warnings(&made), of_pod);
    assert_eq!(
        warnings(
            &c.post(&format!("{PODS}?dryRun=All"), {
                odd["metadata"]["name"] = "dry".into();
                odd.clone()
            })
            .await
        ),
        of_pod
    );
    let path = format!("{PODS}/odd");
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(warnings(&c.patch("merge-patch+json", &path, label).await), of_pod);
    let status = json!({"status": {"message": "fine"}});
    let status = c.patch("merge-patch+json", &format!("{path}/status"), status).await;
    assert_eq!(warnings(&status), Vec::<String>::new());

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"app": "a"}, "annotations": {
        "scheduler.alpha.kubernetes.io/critical-pod": "",
    }}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    let spec = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template});
    let of_template = [
        "299 - \"spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: \
                        non-functional in v1.16+; use the \\\"priorityClassName\\\" field instead\"",
    ];
    let made = c.post(deployments, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    assert_eq!(warnings(&made), of_template);
    let path = format!("{deployments}/d");
    let scale = json!({"spec": {"replicas": 2}});
    let scaled = c.patch("merge-patch+json", &path, scale).await;
    assert_eq!((scaled.code, warnings(&scaled)), (StatusCode::OK, Vec::new()));
    let image = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "other"}]);
    assert_eq!(warnings(&c.patch("json-patch+json", &path, image).await), of_template);
    drop(c);
    world.stop().await;
}

#[tokio::test]
async fn what_is_deprecated_says_so() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let path = "/api/v1/namespaces/default/endpoints";
    let warning =
        "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    let made = c.post(path, json!({"metadata": {"name": "e"}})).await;
    assert_eq!(
        (made.code, &made.headers["warning"]),
        (StatusCode::CREATED, &warning.parse().unwrap())
    );
    for path in [path.to_owned(), format!("{path}/e")] {
        assert_eq!(c.get(&path).await.headers["warning"], warning);
    }
    assert!(!c.get(PODS).await.headers.contains_key("warning"));
    drop(c);
    world.stop().await;
}

#[tokio::test]
async fn services_say_what_they_ignore() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let services = "/api/v1/namespaces/default/services";
    let said = |answer: &support::Answer| -> Vec<String> {
        let all = answer.headers.get_all("warning").iter();
        all.map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let headless = json!({
        "metadata": {"name": "a", "annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}},
        "spec": {"clusterIP": "None", "sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.1"],
                 "ports": [{"port": 80}], "selector": {"a": "b"}},
    });
    let made = c.post(services, headless).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.error());
    assert_eq!(
        said(&made),
        [
            "299 - \"annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead\"",
            "299 - \"spec.externalIPs is ignored for headless services\"",
            "299 - \"spec.SessionAffinity is ignored for headless services\"",
        ]
    );
    let plain =
        json!({"metadata": {"name": "b"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    assert_eq!(said(&c.post(services, plain).await), [""; 0]);
    world.stop().await;
}

#[tokio::test]
async fn a_pod_names_what_is_there() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let named = |field: &str, value: &str| {
        let mut pod = pod("x");
        pod["spec"][field] = value.into();
        pod
    };
    assert_eq!(
        c.post(PODS, named("serviceAccountName", "ghost")).await.error(),
        "403 Forbidden: pods \"x\" is forbidden: error looking up service account default/ghost: \
         serviceaccount \"ghost\" not found"
    );
    assert_eq!(
        c.post(PODS, named("runtimeClassName", "gvisor")).await.error(),
        "403 Forbidden: pods \"x\" is forbidden: pod rejected: RuntimeClass \"gvisor\" not found"
    );
    let account = json!({"metadata": {"name": "ghost"}});
    c.post("/api/v1/namespaces/default/serviceaccounts", account).await.ok();
    c.post(PODS, named("serviceAccountName", "ghost")).await.ok();
    world.stop().await;
}
