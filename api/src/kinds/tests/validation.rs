//! What each kind refuses, and in which words.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::{minimal, show};
use crate::{ErrorList, Kind, Object, Registry};

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
    kind(name).validate(&defaulted(name, patch), &mut errors);
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
        let object = defaulted(kind.kind(), json!({}));
        let mut errors = ErrorList::default();
        crate::validation::metadata(kind, &object, &mut errors);
        kind.validate(&object, &mut errors);
        kind.validate_update(&object, &object, &mut errors);
        crate::validation::metadata_update(&object, &object, &mut errors);
        assert_eq!(show(&errors), "", "{}", kind.resource());
    }
}

#[test]
fn names_of_containers() {
    create(
        "Pod",
        json!({"spec": {"containers": []}}),
        expect![[r#"
            spec.containers: Required value
        "#]],
    );
    create(
        "Pod",
        json!({"spec": {"containers": [
            {"name": "A", "image": "a"}, {"name": "b"}, {"image": " a"}, {"name": "b", "image": "c"},
        ], "initContainers": [
            {"name": "b", "image": "c", "restartPolicy": "Never", "lifecycle": {}},
        ]}}),
        expect![[r#"
            spec.containers[0].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.containers[1].image: Required value
            spec.containers[2].name: Required value
            spec.containers[2].image: Invalid value: " a": must not have leading or trailing whitespace
            spec.containers[3].name: Duplicate value: "b"
            spec.initContainers[0].name: Duplicate value: "b"
            spec.initContainers[0].restartPolicy: Unsupported value: "Never": supported values: "Always"
            spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always
        "#]],
    );
}

#[test]
fn ports_of_containers() {
    create(
        "Pod",
        container(json!({"ports": [
            {"containerPort": 0}, {"containerPort": 65536, "hostPort": -1},
            {"containerPort": 80, "name": "web", "protocol": "HTTP"},
            {"containerPort": 81, "name": "web", "hostIP": "here"},
            {"containerPort": 82, "name": "Web--", "hostPort": 82},
            {"containerPort": 83, "hostPort": 82},
        ]})),
        expect![[r#"
            spec.containers[0].ports[0].containerPort: Required value
            spec.containers[0].ports[1].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive
            spec.containers[0].ports[1].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive
            spec.containers[0].ports[2].protocol: Unsupported value: "HTTP": supported values: "SCTP", "TCP", "UDP"
            spec.containers[0].ports[3].name: Duplicate value: "web"
            spec.containers[0].ports[3].hostIP: Invalid value: "here": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.containers[0].ports[4].name: Invalid value: "Web--": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
            spec.containers[0].ports[4].name: Invalid value: "Web--": must not contain consecutive hyphens
            spec.containers[0].ports[4].name: Invalid value: "Web--": must not begin or end with a hyphen
            spec.containers[0].ports[5].hostPort: Duplicate value: "TCP//82"
        "#]],
    );
    let mut host = container(json!({"ports": [{"containerPort": 80, "hostPort": 8080}]}));
    host["spec"]["hostNetwork"] = true.into();
    create(
        "Pod",
        host,
        expect![[r#"
            spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is true
        "#]],
    );
}

#[test]
fn environments() {
    create(
        "Pod",
        container(json!({
            "env": [
                {"value": "x"}, {"name": "A=B"}, {"name": "A", "valueFrom": {}},
                {"name": "B", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}},
                {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}},
                {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.foo", "divisor": "3"}}},
                {"name": "F", "valueFrom": {"configMapKeyRef": {"name": "A", "key": "a/b"}}},
                {"name": "G", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a b']"}}},
            ],
            "envFrom": [{}, {"configMapRef": {"name": ""}}, {"prefix": "=", "secretRef": {"name": "s"}}],
        })),
        expect![[r#"
            spec.containers[0].env[0].name: Required value
            spec.containers[0].env[1].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='
            spec.containers[0].env[2].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`
            spec.containers[0].env[3].valueFrom: Invalid value: "": may not be specified when `value` is not empty
            spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Invalid value: "spec.foo": error converting fieldPath: field label not supported: spec.foo
            spec.containers[0].env[5].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"
            spec.containers[0].env[6].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.foo": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"
            spec.containers[0].env[6].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.foo": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource
            spec.containers[0].env[7].valueFrom.configMapKeyRef.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.containers[0].env[7].valueFrom.configMapKeyRef.key: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            spec.containers[0].env[8].valueFrom.fieldRef: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.containers[0].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`
            spec.containers[0].envFrom[1].configMapRef.name: Required value
            spec.containers[0].envFrom[2].prefix: Invalid value: "=": a valid environment variable name must consist only of printable ASCII characters other than '='
        "#]],
    );
}

#[test]
fn volumes_and_mounts() {
    create(
        "Pod",
        json!({"spec": {
            "containers": [{"name": "web", "image": "nginx", "volumeMounts": [
                {"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a"},
                {"name": "none", "mountPath": ""}, {"name": "a", "mountPath": "/c", "subPath": "../x"},
                {"name": "a", "mountPath": "/d", "subPath": "/x", "subPathExpr": "y"},
            ]}],
            "volumes": [
                {"name": "a"}, {"name": "b", "configMap": {}}, {"name": "b", "secret": {"secretName": "s"}},
                {"name": "C", "hostPath": {"path": "/a/../b", "type": "Dir"}},
                {"name": "d", "emptyDir": {"sizeLimit": "-1", "medium": "Tape"}, "hostPath": {"path": "/"}},
                {"name": "e", "configMap": {"name": "c", "defaultMode": 512, "items": [
                    {"path": "/x"}, {"key": "k", "path": "a/../b"}, {"key": "k", "path": "..b"}]}},
                {"name": "f", "downwardAPI": {"items": [{"path": "x"}]}},
                {"name": "g", "persistentVolumeClaim": {}},
            ],
        }}),
        expect![[r#"
            spec.volumes[1].configMap.name: Required value
            spec.volumes[2].name: Duplicate value: "b"
            spec.volumes[3].hostPath.path: Invalid value: "/a/../b": must not contain '..'
            spec.volumes[3].hostPath.type: Unsupported value: "Dir": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"
            spec.volumes[3].name: Invalid value: "C": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.volumes[4].emptyDir.sizeLimit: Invalid value: "-1": must be greater than or equal to 0
            spec.volumes[4].emptyDir.medium: Unsupported value: "Tape": supported values: "", "HugePages", "Memory"
            spec.volumes[4].hostPath: Forbidden: may not specify more than 1 volume type
            spec.volumes[5].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive
            spec.volumes[5].configMap.items[0].key: Required value
            spec.volumes[5].configMap.items[0].path: Invalid value: "/x": must be a relative path
            spec.volumes[5].configMap.items[1].path: Invalid value: "a/../b": must not contain '..'
            spec.volumes[5].configMap.items[2].path: Invalid value: "..b": must not start with '..'
            spec.volumes[6].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required
            spec.volumes[7].persistentVolumeClaim.claimName: Required value
            spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique
            spec.containers[0].volumeMounts[2].name: Not found: "none"
            spec.containers[0].volumeMounts[2].mountPath: Required value
            spec.containers[0].volumeMounts[3].subPath: Invalid value: "../x": must not contain '..'
            spec.containers[0].volumeMounts[4].subPath: Invalid value: "/x": must be a relative path
            spec.containers[0].volumeMounts[4].subPathExpr: Invalid value: "y": subPathExpr and subPath are mutually exclusive
        "#]],
    );
}

#[test]
fn resources_of_containers() {
    create(
        "Pod",
        container(json!({"resources": {
            "limits": {"cpu": "1", "memory": "1GB", "foo": "1", "example.com/gpu": "1"},
            "requests": {"cpu": "1500m", "memory": "-1", "example.com/gpu": "2", "a/b/c": "1"},
        }})),
        expect![[r#"
            spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource type or fully qualified
            spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource for containers
            spec.containers[0].resources.limits[memory]: Invalid value: "1GB": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            spec.containers[0].resources.requests[a/b/c]: Invalid value: "a/b/c": a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources
            spec.containers[0].resources.requests: Invalid value: "1500m": must be less than or equal to cpu limit of 1
            spec.containers[0].resources.requests: Invalid value: "2": must be equal to example.com/gpu limit of 1
            spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource type or fully qualified
            spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource for containers
            spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0
        "#]],
    );
}

#[test]
fn probes_and_hooks() {
    create(
        "Pod",
        container(json!({
            "livenessProbe": {"successThreshold": 2, "periodSeconds": -1},
            "readinessProbe": {"exec": {}, "tcpSocket": {"port": 0}, "terminationGracePeriodSeconds": 1},
            "startupProbe": {"httpGet": {"port": "HTTP", "scheme": "FTP", "httpHeaders": [{"name": "a b"}]}},
            "lifecycle": {"preStop": {}},
        })),
        expect![[r#"
            spec.containers[0].lifecycle.preStop: Required value: must specify a handler type
            spec.containers[0].livenessProbe: Required value: must specify a handler type
            spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0
            spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
            spec.containers[0].readinessProbe.exec.command: Required value
            spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type
            spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes
            spec.containers[0].startupProbe.httpGet.port: Invalid value: "HTTP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
            spec.containers[0].startupProbe.httpGet.port: Invalid value: "HTTP": must contain at least one letter (a-z)
            spec.containers[0].startupProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"
            spec.containers[0].startupProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')
        "#]],
    );
}

#[test]
fn the_rest_of_a_pod() {
    create(
        "Pod",
        json!({"spec": {
            "restartPolicy": "Sometimes", "dnsPolicy": "None", "nodeSelector": {"a b": "/"},
            "containers": [{"name": "web", "image": "nginx", "imagePullPolicy": "Once",
                "terminationMessagePolicy": "Shout",
                "securityContext": {"runAsUser": -1, "privileged": true, "allowPrivilegeEscalation": false}}],
            "activeDeadlineSeconds": 0, "hostname": "a.b", "nodeName": "A", "priorityClassName": "high",
            "securityContext": {"fsGroup": -1}, "hostPID": true, "shareProcessNamespace": true,
            "tolerations": [
                {"operator": "Equal"}, {"key": "a", "operator": "Like"},
                {"key": "a", "operator": "Exists", "value": "b", "effect": "Never", "tolerationSeconds": 1},
            ],
            "hostAliases": [{"ip": "x", "hostnames": ["A"]}],
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "a", "operator": "Is"}]}]}},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 0, "podAffinityTerm": {}}]},
            },
            "topologySpreadConstraints": [{"maxSkew": 0, "whenUnsatisfiable": "Cry"}],
        }, "metadata": {"annotations": {"kubernetes.io/config.mirror": "1"}}}),
        expect![[r#"
            spec.containers[0].terminationMessagePolicy: Unsupported value: "Shout": supported values: "File", "FallbackToLogsOnError"
            spec.containers[0].imagePullPolicy: Unsupported value: "Once": supported values: "Always", "IfNotPresent", "Never"
            spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive
            spec.containers[0].securityContext: Invalid value: {"allowPrivilegeEscalation":false,"privileged":true,"runAsUser":-1}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true
            spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
            spec.nodeSelector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.nodeSelector: Invalid value: "/": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled
            spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].operator: Invalid value: "Is": not a valid selector operator
            spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100
            spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Required value: can not be empty
            spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None
            spec.nodeName: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.hostname: Invalid value: "a.b": must not contain dots
            spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive
            spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys"
            spec.tolerations[1].operator: Unsupported value: "Like": supported values: "Equal", "Exists"
            spec.tolerations[2].effect: Invalid value: "Never": effect must be 'NoExecute' when `tolerationSeconds` is set
            spec.tolerations[2].operator: Invalid value: {"effect":"Never","key":"a","operator":"Exists","tolerationSeconds":1,"value":"b"}: value must be empty when `operator` is 'Exists'
            spec.tolerations[2].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.hostAliases[0].hostnames: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero
            spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty
            spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Cry": supported values: "DoNotSchedule", "ScheduleAnyway"
            spec.priorityClassName: Not found: "high"
        "#]],
    );
    create(
        "Pod",
        json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "1"}}}),
        expect![[r#"
            metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "1": must set spec.nodeName if mirror pod annotation is set
        "#]],
    );
}

#[test]
fn what_an_update_of_a_pod_may_change() {
    let toleration = json!({"key": "a", "operator": "Exists"});
    let before = json!({"spec": {"nodeName": "a", "tolerations": [toleration]}});
    let fine = json!({"metadata": {"labels": {"b": "c"}}, "spec": {
        "containers": [{"name": "web", "image": "nginx:2", "imagePullPolicy": "Always", "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
        "activeDeadlineSeconds": 5,
    }});
    update("Pod", before.clone(), fine, expect![""]);
    update(
        "Pod",
        before.clone(),
        json!({"spec": {"tolerations": []}}),
        expect![[r#"
            spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds
        "#]],
    );
    update(
        "Pod",
        before.clone(),
        json!({"spec": {"nodeName": "b", "hostNetwork": true}}),
        expect![[r#"
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            changed: hostNetwork, nodeName
        "#]],
    );
    update(
        "Pod",
        before,
        json!({"spec": {"containers": [{"name": "a", "image": "b"}, {"name": "b", "image": "b"}]}}),
        expect![[r#"
            spec.containers: Forbidden: pod updates may not add or remove containers
        "#]],
    );
    update(
        "Pod",
        json!({"spec": {"activeDeadlineSeconds": 5}}),
        json!({"spec": {"activeDeadlineSeconds": 6}, "metadata": {"annotations": {"kubernetes.io/config.mirror": "1"}}}),
        expect![[r#"
            metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "1": must set spec.nodeName if mirror pod annotation is set
            metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation
            spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value
        "#]],
    );
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
            reportingComponent: Required value
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
