//! What a container is told: command, arguments, environment.

use warren_tests::cluster::SOON;
use warren_tests::space::status;
use warren_tests::{Space, until};

const TOLD: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: red, taken: from-the-map}
---
apiVersion: v1
kind: Secret
metadata: {name: secrets}
stringData: {password: 's3cret value'}
---
apiVersion: v1
kind: Pod
metadata:
  name: told
  labels: {app: teller}
  annotations: {note: 'a note'}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: warren/busybox:1
    workingDir: /var
    command: [sh, -c]
    args: ['env | sort; echo \"arguments=$0 $1\"; echo \"folder=$PWD\"', $(GREETING), $(NOBODY) $$(PLAIN)]
    resources:
      requests: {cpu: 100m, memory: 32Mi}
      limits: {cpu: 500m, memory: 64Mi}
    envFrom:
    - configMapRef: {name: settings}
      prefix: MAP_
    - secretRef: {name: secrets}
    - configMapRef: {name: missing, optional: true}
    env:
    - {name: PLAIN, value: plain}
    - {name: GREETING, value: 'hello $(PLAIN)'}
    - {name: ESCAPED, value: '$$(PLAIN)'}
    - {name: MAP_taken, value: from the list}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: secrets, key: password}}}
    - {name: ABSENT, valueFrom: {configMapKeyRef: {name: missing, key: colour, optional: true}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: 'metadata.labels[''app'']'}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: 'metadata.annotations[''note'']'}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: CPU_MILLIS, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: MEMORY_MI, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
";

#[test]
fn a_container_is_told() {
    let space = Space::on_docker("told");
    space.apply(TOLD);
    let pod = space.ended("told");
    assert_eq!(pod["status"]["phase"], "Succeeded", "{:#}", pod["status"]);
    let output = space.line("logs told");
    let lines: Vec<&str> = output.ok().lines().collect();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    for expected in [
        "arguments=hello plain $(NOBODY) $(PLAIN)",
        "folder=/var",
        "PLAIN=plain",
        "GREETING=hello plain",
        "ESCAPED=$(PLAIN)",
        "MAP_colour=red",
        "MAP_taken=from the list",
        "COLOUR=red",
        "password=s3cret value",
        "PASSWORD=s3cret value",
        "POD=told",
        "NAMESPACE=told",
        &format!("POD_UID={}", text(&pod["metadata"]["uid"])),
        "APP=teller",
        "NOTE=a note",
        "NODE=node-1",
        "ACCOUNT=default",
        "HOST_IP=127.0.0.1",
        &format!("POD_IP={}", text(&pod["status"]["podIP"])),
        "CPU=1",
        "CPU_MILLIS=100",
        "MEMORY=67108864",
        "MEMORY_MI=32",
        "HOSTNAME=told",
    ] {
        assert!(lines.contains(&expected), "no {expected:?} in {}", output.stdout);
    }
    assert!(!output.stdout.contains("ABSENT"), "{}", output.stdout);
}

#[test]
fn a_container_waits_for_what_it_is_to_be_told() {
    let space = Space::on_docker("waits");
    space.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: waits}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, 'echo $COLOUR']
    env: [{name: COLOUR, valueFrom: {configMapKeyRef: {name: late, key: colour}}}]
",
    );
    let pod = space.pod("waits", |pod| {
        status(pod, "c")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let message = status(&pod, "c")["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("configmap \"late\" not found"), "{message}");
    space.event("waits", "Failed", "configmap \"late\" not found");
    space.line("create configmap late --from-literal=shape=round").ok();
    until("the key is missed", SOON, || {
        let pod = space.object("pod", "waits").unwrap();
        let message = &status(&pod, "c")["state"]["waiting"]["message"];
        message.as_str().is_some_and(|m| m.contains("couldn't find key colour in ConfigMap"))
    });
    space.kubectl(&["patch", "configmap", "late", "-p", r#"{"data":{"colour":"blue"}}"#]).ok();
    assert_eq!(space.ended("waits")["status"]["phase"], "Succeeded");
    assert_eq!(space.line("logs waits").ok(), "blue\n");
}
