//! Tables as `kubectl get -o wide` shows them.

use std::fmt::Write as _;

use expect_test::expect;
use serde_json::{Value, json};

use super::minimal;
use crate::{Object, Registry};

/// The head and the row of an object; wide columns in brackets.
fn table(name: &str, patch: Value) -> String {
    let kind = Registry::builtin().iter().find(|k| k.kind() == name).unwrap();
    let mut object = minimal(kind);
    kind.default(&mut object);
    object.set_at(&["metadata", "creationTimestamp"], "2026-01-01T00:00:00Z");
    let mut object = Value::from(object);
    json_patch::merge(&mut object, &patch);
    let object = Object::try_from(object).unwrap();
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    let mut text = String::new();
    for column in kind.columns() {
        let cell = match (column.cell)(&object, now) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let (open, close) = if column.priority > 0 { ("[", "]") } else { ("", "") };
        writeln!(text, "{open}{}{close}: {cell}", column.name).unwrap();
    }
    text + "\n"
}

#[test]
fn tables() {
    let mut all = String::new();
    for (kind, patch) in [
        ("ConfigMap", json!({"data": {"a": "b"}, "binaryData": {"c": "eA=="}})),
        (
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "::1"}],
                "ports": [{"port": 80}, {"port": 443}]}, {"addresses": [{"ip": "10.0.0.9"}]}]}),
        ),
        (
            "Event",
            json!({"type": "Warning", "reason": "Failed", "message": " no such image\n", "count": 3,
                "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:59:50Z",
                "source": {"component": "agent", "host": "rabbit"}}),
        ),
        ("Event", json!({"eventTime": "2026-01-01T00:30:00.000000Z"})),
        ("Namespace", json!({})),
        (
            "Node",
            json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
                "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                    "nodeInfo": {"kubeletVersion": "v1.34.0", "osImage": "Debian"}}}),
        ),
        ("Node", json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})),
        ("Node", json!({})),
        ("Secret", json!({})),
        ("ServiceAccount", json!({})),
        (
            "Service",
            json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "externalIPs": ["1.2.3.4"],
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
        ),
        ("Service", json!({"spec": {"type": "LoadBalancer", "selector": null}})),
        (
            "Service",
            json!({"spec": {"type": "ExternalName", "externalName": "a.b", "ports": null}}),
        ),
        (
            "Deployment",
            json!({"spec": {"replicas": 3}, "status": {"readyReplicas": 1, "updatedReplicas": 2}}),
        ),
        ("ReplicaSet", json!({"status": {"replicas": 1}})),
        ("Job", json!({"status": {"startTime": "2026-01-01T00:50:00Z", "succeeded": 1}})),
        (
            "Job",
            json!({"spec": {"completions": null, "parallelism": 2}, "status": {
                "conditions": [{"type": "Complete", "status": "True"}],
                "startTime": "2026-01-01T00:50:00Z", "completionTime": "2026-01-01T00:50:05Z"}}),
        ),
        ("Lease", json!({})),
        (
            "EndpointSlice",
            json!({"ports": [{"port": 80}, {"name": "http"}, {}, {"port": 1}],
                "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        ),
    ] {
        writeln!(all, "{kind}").unwrap();
        all += &table(kind, patch);
    }
    expect![[r#"
        ConfigMap
        Data: 2
        Age: 60m

        Endpoints
        Endpoints: 10.0.0.1:80,[::1]:80,10.0.0.1:443 + 2 more...
        Age: 60m

        Event
        Last Seen: 10s
        Type: Warning
        Reason: Failed
        Object: pod/web
        [Subobject]: 
        [Source]: agent, rabbit
        Message: no such image
        [First Seen]: 60m
        [Count]: 3
        [Name]: web

        Event
        Last Seen: 30m
        Type: 
        Reason: 
        Object: pod/web
        [Subobject]: 
        [Source]: 
        Message: 
        [First Seen]: 30m
        [Count]: 1
        [Name]: web

        Namespace
        Status: Active
        Age: 60m

        Node
        Status: Ready,SchedulingDisabled
        Roles: edge,worker
        Age: 60m
        Version: v1.34.0
        [Internal-IP]: 10.0.0.1
        [External-IP]: <none>
        [OS-Image]: Debian
        [Kernel-Version]: <unknown>
        [Container-Runtime]: <unknown>

        Node
        Status: NotReady
        Roles: <none>
        Age: 60m
        Version: 
        [Internal-IP]: <none>
        [External-IP]: <none>
        [OS-Image]: <unknown>
        [Kernel-Version]: <unknown>
        [Container-Runtime]: <unknown>

        Node
        Status: Unknown
        Roles: <none>
        Age: 60m
        Version: 
        [Internal-IP]: <none>
        [External-IP]: <none>
        [OS-Image]: <unknown>
        [Kernel-Version]: <unknown>
        [Container-Runtime]: <unknown>

        Secret
        Type: Opaque
        Data: 1
        Age: 60m

        ServiceAccount
        Secrets: 0
        Age: 60m

        Service
        Type: NodePort
        Cluster-IP: 10.0.0.1
        External-IP: 1.2.3.4
        Port(s): 80:30080/TCP,53/UDP
        Age: 60m
        [Selector]: app=web

        Service
        Type: LoadBalancer
        Cluster-IP: <none>
        External-IP: <pending>
        Port(s): 80/TCP
        Age: 60m
        [Selector]: <none>

        Service
        Type: ExternalName
        Cluster-IP: <none>
        External-IP: a.b
        Port(s): <none>
        Age: 60m
        [Selector]: app=web

        Deployment
        Ready: 1/3
        Up-to-date: 2
        Available: 0
        Age: 60m
        [Containers]: web
        [Images]: nginx
        [Selector]: app=web

        ReplicaSet
        Desired: 1
        Current: 1
        Ready: 0
        Age: 60m
        [Containers]: web
        [Images]: nginx
        [Selector]: app=web

        Job
        Status: Running
        Completions: 1/1
        Duration: 10m
        Age: 60m
        [Containers]: web
        [Images]: nginx
        [Selector]: batch.kubernetes.io/controller-uid=01234567-89ab-cdef-0123-456789abcdef

        Job
        Status: Complete
        Completions: 0/1 of 2
        Duration: 5s
        Age: 60m
        [Containers]: web
        [Images]: nginx
        [Selector]: batch.kubernetes.io/controller-uid=01234567-89ab-cdef-0123-456789abcdef

        Lease
        Holder: me
        Age: 60m

        EndpointSlice
        AddressType: IPv4
        Ports: 80,http,* + 1 more...
        Endpoints: 10.0.0.1
        Age: 60m

    "#]]
    .assert_eq(&all);
}
