//! What each kind refuses, and in which words.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::{minimal, show};
use crate::{ErrorList, Kind, Object, Registry};

mod pods;

fn kind(name: &str) -> &'static dyn Kind {
    Registry::builtin().iter().find(|k| k.kind() == name).unwrap()
}

/// Merges into a minimal object; null removes.
fn object(name: &str, patch: Value) -> Object {
    let mut object = Value::from(minimal(kind(name)));
    json_patch::merge(&mut object, &patch);
    Object::try_from(object).unwrap()
}

fn defaulted(name: &str, patch: Value) -> Object {
    let mut object = object(name, patch);
    kind(name).on_create(&mut object);
    kind(name).default(&mut object);
    object
}

/// The errors of a create.
fn create(name: &str, patch: Value, expected: Expect) {
    let mut errors = ErrorList::default();
    let object = defaulted(name, patch);
    kind(name).validate(&object, &mut errors);
    kind(name).validate_create(&object, &mut errors);
    expected.assert_eq(&show(&errors));
}

/// The errors of an update from one object to another.
fn update(name: &str, before: Value, after: Value, expected: Expect) {
    let old = defaulted(name, before);
    let mut new = Value::from(old.clone());
    json_patch::merge(&mut new, &after);
    let mut new = Object::try_from(new).unwrap();
    kind(name).on_update(&mut new, &old);
    kind(name).default(&mut new);
    let mut errors = ErrorList::default();
    kind(name).validate(&new, &mut errors);
    kind(name).validate_update(&new, &old, &mut errors);
    expected.assert_eq(&show(&errors));
}

fn container(patch: Value) -> Value {
    let mut container = json!({"name": "web", "image": "nginx"});
    json_patch::merge(&mut container, &patch);
    json!({"spec": {"containers": [container]}})
}

#[test]
fn minimal_objects_are_fine() {
    for kind in Registry::builtin().iter() {
        let mut object = minimal(kind);
        kind.on_create(&mut object);
        kind.default(&mut object);
        // Validation is of what is stored.
        kind.to_stored(&mut object);
        let mut errors = ErrorList::default();
        crate::validation::metadata(kind, &object, &mut errors);
        kind.validate(&object, &mut errors);
        kind.validate_create(&object, &mut errors);
        kind.validate_update(&object, &object, &mut errors);
        for subresource in kind.subresources() {
            kind.validate_subresource(*subresource, &object, &object, &mut errors);
        }
        crate::validation::metadata_update(&object, &object, &mut errors);
        assert_eq!(show(&errors), "", "{}", kind.resource());
    }
}

#[test]
fn deployments_and_replica_sets() {
    create(
        "Deployment",
        json!({"spec": {"replicas": -1, "selector": {"matchLabels": {"app": "db"}},
            "template": {"spec": {"restartPolicy": "Never", "activeDeadlineSeconds": 1}},
            "strategy": {"rollingUpdate": {"maxSurge": "x%", "maxUnavailable": "101%"}},
            "minReadySeconds": 600}}),
        expect![[r#"
            spec.replicas: Invalid value: -1: must be greater than or equal to 0
            spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`
            spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
            spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported
            spec.strategy.rollingUpdate.maxSurge: Invalid value: "x%": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
            spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%
            spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds
        "#]],
    );
    create(
        "Deployment",
        json!({"spec": {"selector": null, "template": {"spec": {"containers": null}},
            "strategy": {"type": "Recreate", "rollingUpdate": {}}}}),
        expect![[r#"
            spec.selector: Required value
            spec.template.spec.containers: Required value
            spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'
        "#]],
    );
    create(
        "Deployment",
        json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}}),
        expect![[r#"
            spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0
        "#]],
    );
    create(
        "ReplicaSet",
        json!({"spec": {"selector": {"matchLabels": null}}}),
        expect![[r#"
            spec.selector: Invalid value: {}: empty selector is invalid for deployment
        "#]],
    );
    create(
        "ReplicaSet",
        json!({"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}),
        expect![[r#"
            spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
        "#]],
    );
    update(
        "Deployment",
        json!({}),
        json!({"spec": {"selector": {"matchLabels": {"app": null, "a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}}}),
        expect![[r#"
            spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: field is immutable
        "#]],
    );
}

#[test]
fn jobs() {
    create(
        "Job",
        json!({"spec": {"parallelism": -1, "completionMode": "Indexed", "backoffLimit": -1,
            "template": {"spec": {"restartPolicy": "Always"}}}}),
        expect![[r#"
            spec.parallelism: Invalid value: -1: must be greater than or equal to 0
            spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0
            spec.completions: Required value: when completion mode is Indexed
            spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"
        "#]],
    );
    create(
        "Job",
        json!({"spec": {"selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "other"}},
            "template": {"metadata": {"labels": {"job-name": "other"}}}}}),
        expect![[r#"
            metadata.labels[job-name]: Invalid value: {"app":"web","batch.kubernetes.io/controller-uid":"01234567-89ab-cdef-0123-456789abcdef","batch.kubernetes.io/job-name":"web","controller-uid":"01234567-89ab-cdef-0123-456789abcdef","job-name":"other"}: must be 'web'
            spec.selector: Invalid value: {"matchLabels":{"batch.kubernetes.io/controller-uid":"other"}}: `selector` not auto-generated
            spec.template.metadata.labels: Invalid value: {"app":"web","batch.kubernetes.io/controller-uid":"01234567-89ab-cdef-0123-456789abcdef","batch.kubernetes.io/job-name":"web","controller-uid":"01234567-89ab-cdef-0123-456789abcdef","job-name":"other"}: `selector` does not match template `labels`
        "#]],
    );
    update(
        "Job",
        json!({}),
        json!({"spec": {"completions": 5, "parallelism": 2, "completionMode": "Indexed",
            "template": {"spec": {"hostNetwork": true}}}}),
        expect![[r#"
            spec.completions: Invalid value: 5: field is immutable
            spec.completionMode: Invalid value: "Indexed": field is immutable
            spec.template: Invalid value: {"metadata":{"labels":{"app":"web","batch.kubernetes.io/controller-uid":"01234567-89ab-cdef-0123-456789abcdef","batch.kubernetes.io/job-name":"web","controller-uid":"01234567-89ab-cdef-0123-456789abcdef","job-name":"web"}},"spec":{"containers":[{"image":"nginx","imagePullPolicy":"Always","name":"web","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","hostNetwork":true,"restartPolicy":"Never","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}: field is immutable
        "#]],
    );
    let suspended = json!({"spec": {"suspend": true}});
    let scheduling =
        json!({"spec": {"suspend": false, "template": {"spec": {"nodeSelector": {"a": "b"}}}}});
    update("Job", suspended, scheduling, expect![""]);
}

#[test]
fn services() {
    create(
        "Service",
        json!({"spec": {"ports": null}}),
        expect![[r#"
            spec.ports: Required value
        "#]],
    );
    create(
        "Service",
        json!({"spec": {"type": "Magic", "clusterIP": "x", "sessionAffinity": "Some", "selector": {"/": "b"},
            "externalIPs": ["y"], "ports": [
                {"port": 0, "targetPort": 70000}, {"name": "A", "port": 80, "protocol": "X", "targetPort": "--"},
                {"name": "b", "port": 81}, {"name": "b", "port": 81}]}}),
        expect![[r#"
            spec.ports[0].name: Required value
            spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive
            spec.ports[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.ports[1].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"
            spec.ports[1].targetPort: Invalid value: "--": must contain at least one letter (a-z)
            spec.ports[1].targetPort: Invalid value: "--": must not contain consecutive hyphens
            spec.ports[1].targetPort: Invalid value: "--": must not begin or end with a hyphen
            spec.ports[3].name: Duplicate value: "b"
            spec.ports[3]: Duplicate value: {"port":81,"protocol":"TCP"}
            spec.selector: Invalid value: "/": prefix part must be non-empty
            spec.selector: Invalid value: "/": name part must be non-empty
            spec.selector: Invalid value: "/": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.sessionAffinity: Unsupported value: "Some": supported values: "ClientIP", "None"
            spec.externalIPs[0]: Invalid value: "y": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"
        "#]],
    );
    create(
        "Service",
        json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}], "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["x", "10.0.0.0/8"]}}),
        expect![[r#"
            spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
            spec.loadBalancerSourceRanges[0]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
            spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'
            spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services
        "#]],
    );
    create(
        "Service",
        json!({"spec": {"type": "NodePort", "clusterIP": "None", "ports": [
            {"name": "a", "port": 80, "nodePort": 80}, {"name": "b", "port": 81, "nodePort": 30001},
            {"name": "c", "port": 82, "nodePort": 30001}]}}),
        expect![[r#"
            spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services
            spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767
            spec.ports[2].nodePort: Duplicate value: 30001
        "#]],
    );
    create(
        "Service",
        json!({"spec": {"type": "ExternalName", "clusterIP": "10.0.0.1"}}),
        expect![[r#"
            spec.clusterIP: Forbidden: may not be set for ExternalName services
            spec.externalName: Required value
        "#]],
    );
    create("Service", json!({"spec": {"clusterIP": "None", "ports": null}}), expect![""]);
}

#[test]
fn what_an_update_of_a_service_may_change() {
    let given = json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}});
    let other = json!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}});
    update(
        "Service",
        given.clone(),
        other,
        expect![[r#"
            spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set
        "#]],
    );
    // A client that does not name the address keeps it.
    let silent = json!({"spec": {"clusterIP": null, "clusterIPs": null}});
    update("Service", given.clone(), silent, expect![""]);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    update("Service", given, external, expect![""]);
    // Back from NodePort the port goes with the type.
    let node_port =
        json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}});
    update("Service", node_port, json!({"spec": {"type": "ClusterIP"}}), expect![""]);
}

#[test]
fn config_maps_and_secrets() {
    create(
        "ConfigMap",
        json!({"data": {"a b": "x", "..": "y", "twice": "z"}, "binaryData": {"twice": "eA=="}}),
        expect![[r#"
            data[..]: Invalid value: "..": must not be '..'
            data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            data[twice]: Invalid value: "twice": duplicate of key present in binaryData
        "#]],
    );
    create(
        "ConfigMap",
        json!({"data": {"big": "x".repeat(1024 * 1024 + 1)}}),
        expect![[r#"
            []: Too long: may not be more than 1048576 bytes
        "#]],
    );
    update(
        "ConfigMap",
        json!({"immutable": true, "data": {"a": "b"}}),
        json!({"immutable": null, "data": {"a": "c"}}),
        expect![[r#"
            immutable: Forbidden: field is immutable when `immutable` is set
            data: Forbidden: field is immutable when `immutable` is set
        "#]],
    );
    create(
        "Secret",
        json!({"type": "kubernetes.io/tls", "data": {"/": ""}}),
        expect![[r#"
            data[/]: Invalid value: "/": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            data[tls.crt]: Required value
            data[tls.key]: Required value
        "#]],
    );
    create(
        "Secret",
        json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{"}}),
        expect![[r#"
            data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": EOF while parsing an object at line 1 column 1
        "#]],
    );
    create(
        "Secret",
        json!({"type": "kubernetes.io/service-account-token"}),
        expect![[r#"
            metadata.annotations[kubernetes.io/service-account.name]: Required value
        "#]],
    );
    update(
        "Secret",
        json!({"immutable": true}),
        json!({"type": "Other", "stringData": {"a": "c"}}),
        expect![[r#"
            type: Invalid value: "Other": field is immutable
            data: Forbidden: field is immutable when `immutable` is set
        "#]],
    );
}

#[test]
fn nodes() {
    create(
        "Node",
        json!({"spec": {"podCIDR": "10.0.0.0/8", "podCIDRs": ["10.0.0.0/9", "x"], "taints": [
            {"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoSchedule"},
            {"key": "", "value": "/", "effect": "Bad"}]},
            "status": {"capacity": {"cpu": "x"}, "addresses": [
                {"type": "InternalIP", "address": "a"}, {"type": "InternalIP", "address": "a"}]}}),
        expect![[r#"
            spec.taints[1]: Duplicate value: {"effect":"NoSchedule","key":"a","value":"b"}
            spec.taints[2].key: Invalid value: "": name part must be non-empty
            spec.taints[2].key: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.taints[2].value: Invalid value: "/": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            spec.taints[2].effect: Unsupported value: "Bad": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            spec.podCIDRs: Invalid value: ["10.0.0.0/9","x"]: first value must match `podCIDR`
            spec.podCIDRs[1]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
            status.capacity[cpu]: Invalid value: "x": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            status.allocatable[cpu]: Invalid value: "x": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            status.addresses[1]: Duplicate value: {"address":"a","type":"InternalIP"}
        "#]],
    );
    update(
        "Node",
        json!({"spec": {"podCIDR": "10.0.0.0/8", "providerID": "a"}}),
        json!({"spec": {"podCIDR": "10.0.0.0/9", "providerID": "b"}}),
        expect![[r#"
            spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid
            spec.providerID: Forbidden: node updates may not change providerID except from "" to valid
        "#]],
    );
}

#[test]
fn endpoints_leases_events_namespaces() {
    create(
        "EndpointSlice",
        json!({"addressType": "IPv4", "endpoints": [{"addresses": []},
            {"addresses": ["::1", "x"], "hostname": "A", "nodeName": "-"}],
            "ports": [{"port": 0, "protocol": "X"}, {"name": "", "port": 1}, {"name": "_"}]}),
        expect![[r#"
            endpoints[0].addresses: Required value: must contain at least 1 address
            endpoints[1].addresses[0]: Invalid value: "::1": must be an IPv4 address
            endpoints[1].addresses[1]: Invalid value: "x": must be an IPv4 address
            endpoints[1].hostname: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            endpoints[1].nodeName: Invalid value: "-": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"
            ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
            ports[1].name: Duplicate value: ""
            ports[2].name: Invalid value: "_": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        "#]],
    );
    update(
        "EndpointSlice",
        json!({}),
        json!({"addressType": "FQDN"}),
        expect![[r#"
            addressType: Invalid value: "FQDN": field is immutable
        "#]],
    );
    create(
        "Endpoints",
        json!({"subsets": [{}, {"addresses": [{"ip": "x"}], "ports": [{"port": 0}, {"port": 1, "protocol": "X"}]}]}),
        expect![[r#"
            subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`
            subsets[1].addresses[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            subsets[1].ports[0].name: Required value
            subsets[1].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
            subsets[1].ports[1].name: Required value
            subsets[1].ports[1].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"
        "#]],
    );
    create(
        "Lease",
        json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}),
        expect![[r#"
            spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0
            spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0
        "#]],
    );
    create(
        "Event",
        json!({"metadata": {"namespace": "other"}}),
        expect![[r#"
            involvedObject.namespace: Invalid value: "default": does not match event.namespace
        "#]],
    );
    create(
        "Event",
        json!({"eventTime": "2026-01-01T00:00:00.000000Z", "message": "x".repeat(1025)}),
        expect![[r#"
            reportingController: Required value
            reportingInstance: Required value
            action: Required value
            reason: Required value
            message: Invalid value: "": can have at most 1024 characters
        "#]],
    );
    create(
        "Namespace",
        json!({"spec": {"finalizers": ["a", "b c"]}}),
        expect![[r#"
            spec.finalizers[0]: Invalid value: "a": name is neither a standard finalizer name nor is it fully qualified
            spec.finalizers[1]: Invalid value: "b c": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        "#]],
    );
}
