use std::fmt::Write;

use expect_test::expect;

use warren_api::NodeName;

use super::*;
use crate::request::{RequestInfo, Target};

struct World;

impl Facts for World {
    fn node_of_pod(&self, _: &str, name: &str) -> Option<String> {
        match name {
            "on-a" => Some("a".into()),
            "on-b" => Some("b".into()),
            "unbound" => Some(String::new()),
            _ => None,
        }
    }
    fn node_refers_to(&self, node: &str, _: &str, _: &str, name: &str) -> bool {
        node == "a" && name == "used-by-a"
    }
    fn loopback_only(&self) -> bool {
        false
    }
}

#[test]
fn who_may_do_what() {
    let mut via_a = User::broker(Some("mq"));
    via_a.via_node = Some(NodeName("a".into()));
    let users = [
        User::admin("admin"),
        User::controllers(),
        User::node("a"),
        via_a,
        User::broker(Some("mq")),
        User::broker(None),
        User::new("jane", &[]),
        User::event_ttl(),
    ];
    let mut table =
        String::from("admin controllers node-a via-a broker anonymous jane event-ttl\n");
    for (method, uri) in [
        ("GET", "/api/v1/nodes/a"),
        ("PATCH", "/api/v1/nodes/a/status"),
        ("PATCH", "/api/v1/nodes/b/status"),
        ("DELETE", "/api/v1/nodes/a"),
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Da&watch=1"),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Db"),
        ("POST", "/api/v1/namespaces/x/pods"),
        ("PATCH", "/api/v1/namespaces/x/pods/on-a/status"),
        ("PATCH", "/api/v1/namespaces/x/pods/on-a"),
        ("PUT", "/api/v1/namespaces/x/pods/gone"),
        ("DELETE", "/api/v1/namespaces/x/pods/on-a"),
        ("DELETE", "/api/v1/namespaces/x/pods/on-b"),
        ("DELETE", "/api/v1/namespaces/x/pods/unbound"),
        ("GET", "/api/v1/namespaces/x/pods/gone"),
        ("DELETE", "/api/v1/namespaces/x/pods"),
        ("POST", "/api/v1/namespaces/x/pods/on-a/binding"),
        ("POST", "/api/v1/namespaces/x/pods/on-a/exec"),
        ("GET", "/api/v1/namespaces/x/pods/on-a/log"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/secrets?fieldSelector=metadata.name%3Dused-by-a"),
        ("GET", "/api/v1/namespaces/x/secrets?fieldSelector=metadata.name%3Dused-by-a&watch=1"),
        ("GET", "/api/v1/namespaces/x/secrets/used-by-a"),
        ("GET", "/api/v1/namespaces/x/secrets/other"),
        ("PUT", "/api/v1/namespaces/x/secrets/used-by-a"),
        ("GET", "/api/v1/services?watch=1"),
        ("POST", "/api/v1/namespaces/x/services"),
        ("POST", "/api/v1/namespaces/x/events"),
        ("DELETE", "/api/v1/namespaces/x/events/e"),
        ("DELETE", "/api/v1/namespaces/x/events"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/b"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/x/leases/a"),
        ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews"),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
    ] {
        let info = RequestInfo::of(&method.parse().unwrap(), &uri.parse().unwrap()).unwrap();
        let Target::Resource(request) = &info.target else { panic!("{uri}") };
        for user in &users {
            let yes = allows(user, request, info.query.get("fieldSelector"), &World);
            table.push_str(if yes { "yes " } else { " -  " });
        }
        writeln!(table, "{method} {uri}").unwrap();
    }
    expect![[r#"
        admin controllers node-a via-a broker anonymous jane event-ttl
        yes yes yes  -   -   -   -   -  GET /api/v1/nodes/a
        yes yes yes  -   -   -   -   -  PATCH /api/v1/nodes/a/status
        yes yes  -   -   -   -   -   -  PATCH /api/v1/nodes/b/status
        yes yes  -   -   -   -   -   -  DELETE /api/v1/nodes/a
        yes yes  -   -  yes  -   -   -  GET /api/v1/pods
        yes yes yes yes yes  -   -   -  GET /api/v1/pods?fieldSelector=spec.nodeName%3Da&watch=1
        yes yes  -   -  yes  -   -   -  GET /api/v1/pods?fieldSelector=spec.nodeName%3Db
        yes yes yes yes yes  -   -   -  POST /api/v1/namespaces/x/pods
        yes yes yes  -   -   -   -   -  PATCH /api/v1/namespaces/x/pods/on-a/status
        yes yes  -  yes yes  -   -   -  PATCH /api/v1/namespaces/x/pods/on-a
        yes yes  -  yes yes  -   -   -  PUT /api/v1/namespaces/x/pods/gone
        yes yes yes yes yes  -   -   -  DELETE /api/v1/namespaces/x/pods/on-a
        yes yes  -   -  yes  -   -   -  DELETE /api/v1/namespaces/x/pods/on-b
        yes yes  -   -  yes  -   -   -  DELETE /api/v1/namespaces/x/pods/unbound
        yes yes yes yes yes  -   -   -  GET /api/v1/namespaces/x/pods/gone
        yes yes  -   -   -   -   -   -  DELETE /api/v1/namespaces/x/pods
        yes yes  -   -   -   -   -   -  POST /api/v1/namespaces/x/pods/on-a/binding
        yes  -   -   -   -   -   -   -  POST /api/v1/namespaces/x/pods/on-a/exec
        yes yes  -   -   -   -   -   -  GET /api/v1/namespaces/x/pods/on-a/log
        yes yes  -   -   -   -   -   -  GET /api/v1/secrets
        yes yes  -   -   -   -   -   -  GET /api/v1/secrets?fieldSelector=metadata.name%3Dused-by-a
        yes yes yes  -   -   -   -   -  GET /api/v1/namespaces/x/secrets?fieldSelector=metadata.name%3Dused-by-a&watch=1
        yes yes yes  -   -   -   -   -  GET /api/v1/namespaces/x/secrets/used-by-a
        yes yes  -   -   -   -   -   -  GET /api/v1/namespaces/x/secrets/other
        yes yes  -   -   -   -   -   -  PUT /api/v1/namespaces/x/secrets/used-by-a
        yes yes yes  -   -   -   -   -  GET /api/v1/services?watch=1
        yes yes  -   -   -   -   -   -  POST /api/v1/namespaces/x/services
        yes yes yes  -   -   -   -   -  POST /api/v1/namespaces/x/events
        yes yes  -   -   -   -   -  yes DELETE /api/v1/namespaces/x/events/e
        yes yes  -   -   -   -   -  yes DELETE /api/v1/namespaces/x/events
        yes yes yes  -   -   -   -   -  PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a
        yes yes  -   -   -   -   -   -  PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/b
        yes yes  -   -   -   -   -   -  PUT /apis/coordination.k8s.io/v1/namespaces/x/leases/a
        yes yes yes yes yes yes yes yes POST /apis/authentication.k8s.io/v1/selfsubjectreviews
        yes yes  -   -   -   -   -   -  POST /apis/authorization.k8s.io/v1/subjectaccessreviews
    "#]].assert_eq(&table);
}

#[test]
fn a_refusal_is_worded_as_kubernetes_words_it() {
    let info =
        RequestInfo::of(&http::Method::DELETE, &"/api/v1/namespaces/x/pods/on-b".parse().unwrap())
            .unwrap();
    let Target::Resource(request) = &info.target else { panic!() };
    let error = authorize(&Arc::new(User::node("a")), request, "", &World).unwrap_err();
    assert_eq!(
        error.message,
        "pods \"on-b\" is forbidden: User \"system:node:a\" cannot delete resource \"pods\" in \
         API group \"\" in the namespace \"x\""
    );
}

#[test]
fn probes_are_public_and_metrics_are_not() {
    let jane = User::new("jane", &[]);
    for (user, path, ok) in [
        (None, "/livez", true),
        (None, "/readyz/ping", true),
        (None, "/version", true),
        (None, "/api", false),
        (None, "/livezx", false),
        (Some(&jane), "/apis/apps/v1", true),
        (Some(&jane), "/openapi/v2", true),
        (Some(&jane), "/metrics", false),
        (Some(&User::admin("a")), "/metrics", true),
    ] {
        assert_eq!(authorize_path(user, path).is_ok(), ok, "{path}");
    }
}
