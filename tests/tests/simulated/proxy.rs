//! The proxy, as far as nodes without machines go.

use super::nodes;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}, annotations: {simulated.warren.dev/listen: '7000'}}
spec: {containers: [{name: c, image: any}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{name: back, port: 80, targetPort: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
";

#[test]
fn nodes_and_their_pods_are_reached() {
    let cluster = nodes(2);
    cluster.kubectl_with(["apply", "-f", "-"], PODS).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]).ok();
    cluster
        .kubectl(["wait", "--for=jsonpath={.subsets[0].addresses}", "ep/echo", "--timeout=60s"])
        .ok();
    cluster.kubectl(["wait", "--for=create", "ep/nobody", "--timeout=60s"]).ok();
    let raw = |path: &str| cluster.kubectl(["get", "--raw", path]);
    let default = "/api/v1/namespaces/default";
    for (path, expected) in [
        // What it sends back is what it got, and that is no answer.
        ("/pods/echo:7000/proxy/", "error trying to reach service: invalid HTTP"),
        ("/services/echo:back/proxy/", "error trying to reach service: invalid HTTP"),
        ("/services/echo:80/proxy/", "error trying to reach service: invalid HTTP"),
        ("/pods/echo:7001/proxy/", "connect: connection refused (the pod is simulated"),
        ("/pods/echo:0/proxy/", "error trying to reach service: dial tcp: lookup tcp/0"),
        ("/services/echo/proxy/", "no endpoints available for service \"echo\""),
        ("/services/nobody:80/proxy/", "no endpoints available for service \"nobody\""),
        ("/services/nobody:81/proxy/", "no service port 81 found for service \"nobody\""),
    ] {
        let out = raw(&format!("{default}{path}"));
        assert!(out.err().contains(expected), "{path}: {}", out.told());
    }

    let node = cluster.object("pod", "default", "echo").unwrap();
    let node = node["spec"]["nodeName"].as_str().unwrap();
    let pods = |name: &str| {
        let summary = raw(&format!("/api/v1/nodes/{name}/proxy/stats/summary")).json();
        let pods = summary["pods"].as_array().unwrap().iter();
        pods.map(|pod| pod["podRef"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for name in cluster.node_names() {
        assert_eq!(raw(&format!("/api/v1/nodes/{name}/proxy/healthz")).ok(), "ok");
        assert_eq!(pods(&name).contains(&"echo".to_owned()), name == node, "{name}");
    }
    let out = raw(&format!("/api/v1/nodes/{node}:22/proxy/"));
    assert!(out.err().contains("address not allowed"), "{}", out.told());
    let out = raw(&format!("/api/v1/nodes/{node}/proxy/containerLogs/default/echo/c"));
    assert!(out.succeeded(), "{}", out.told());
}
