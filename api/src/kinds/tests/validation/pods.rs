//! What a pod is refused for: its containers, volumes and probes, and what an update of it may change.

use super::*;
use crate::Subresource;

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

/// The errors of a write by the subresource.
fn debug(pod: Value, before: Value, after: Value, expected: Expect) {
    let with = |list: Value| {
        let mut pod = pod.clone();
        json_patch::merge(&mut pod, &json!({"spec": {"ephemeralContainers": list}}));
        defaulted("Pod", pod)
    };
    let (old, new) = (with(before), with(after));
    let mut errors = ErrorList::default();
    kind("Pod").validate(&new, &mut errors);
    let by = Subresource::EphemeralContainers;
    kind("Pod").validate_subresource(by, &new, &old, &mut errors);
    expected.assert_eq(&show(&errors));
}

#[test]
fn ephemeral_containers_come_later_and_by_their_own_way() {
    let list = json!([{"name": "e", "image": "i"}]);
    create(
        "Pod",
        json!({"spec": {"ephemeralContainers": list}}),
        expect![[r#"
            spec.ephemeralContainers: Forbidden: cannot be set on create
        "#]],
    );
    create(
        "Deployment",
        json!({"spec": {"template": {"spec": {"ephemeralContainers": list}}}}),
        expect![[r#"
            spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template
        "#]],
    );
    update(
        "Pod",
        json!({}),
        json!({"spec": {"ephemeralContainers": list}}),
        expect![[r#"
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            changed: ephemeralContainers
        "#]],
    );
    let there = json!({"spec": {"ephemeralContainers": list}});
    update("Pod", there, json!({"metadata": {"labels": {"a": "b"}}}), expect![""]);
}

#[test]
fn ephemeral_containers_only_come() {
    let first = json!({"name": "e", "image": "i", "targetContainerName": "web"});
    let second = json!({"name": "f", "image": "i:1", "stdin": true, "tty": true,
        "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}});
    debug(json!({}), json!([]), json!([first]), expect![""]);
    debug(json!({}), json!([first]), json!([first, second]), expect![""]);
    debug(json!({}), json!([first]), json!([second, first]), expect![""]);
    debug(
        json!({}),
        json!([first, second]),
        json!([second]),
        expect![[r#"
            spec.ephemeralContainers: Forbidden: existing ephemeral containers "e" may not be removed

        "#]],
    );
    debug(
        json!({}),
        json!([first]),
        json!([{"name": "e", "image": "j:1", "args": ["a"], "targetContainerName": "web"}]),
        expect![[r#"
            spec.ephemeralContainers: Forbidden: existing ephemeral containers "e" may not be changed
            changed: args, image, imagePullPolicy
        "#]],
    );
    debug(
        json!({"spec": {"nodeName": "a"}, "metadata": {"annotations": {"kubernetes.io/config.mirror": "1"}}}),
        json!([]),
        json!([{"name": "E"}]),
        expect![[r#"
            : Forbidden: static pods do not support ephemeral containers
        "#]],
    );
}

#[test]
fn what_an_ephemeral_container_may_not_have() {
    debug(
        json!({"spec": {"initContainers": [{"name": "before", "image": "i"}],
            "volumes": [{"name": "v", "emptyDir": {}}]}}),
        json!([]),
        json!([
            {"name": "web", "image": "i"},
            {"name": "e", "targetContainerName": "f"},
            {"name": "e", "image": "i", "targetContainerName": "before"},
            {"name": "f", "image": "i", "ports": [{"containerPort": 1}],
                "resources": {"limits": {"cpu": "1"}}, "resizePolicy": [], "restartPolicy": "Always",
                "livenessProbe": {"exec": {"command": ["a"]}},
                "readinessProbe": {"exec": {"command": ["a"]}},
                "startupProbe": {"exec": {"command": ["a"]}},
                "lifecycle": {"preStop": {"exec": {"command": ["a"]}}},
                "volumeMounts": [
                    {"name": "v", "mountPath": "/a"},
                    {"name": "v", "mountPath": "/b", "subPath": "b"},
                    {"name": "v", "mountPath": "/c", "subPathExpr": "c"},
                    {"name": "w", "mountPath": "/d"},
                ]},
        ]),
        expect![[r#"
            spec.ephemeralContainers[0].name: Duplicate value: "web"
            spec.ephemeralContainers[1].image: Required value
            spec.ephemeralContainers[1].targetContainerName: Not found: "f"
            spec.ephemeralContainers[2].name: Duplicate value: "e"
            spec.ephemeralContainers[3].volumeMounts[3].name: Not found: "w"
            spec.ephemeralContainers[3].ports: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers[3].resources: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers[3].resizePolicy: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers[3].restartPolicy: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers[3].livenessProbe: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers[3].readinessProbe: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers[3].startupProbe: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers[3].lifecycle: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers[3].volumeMounts[1].subPath: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers[3].volumeMounts[2].subPathExpr: Forbidden: cannot be set for an Ephemeral Container
        "#]],
    );
}
