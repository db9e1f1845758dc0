//! Volumes: shared between containers, with the host, and filled from objects.

use std::fs;

use warren_tests::cluster::SOON;
use warren_tests::{Space, until};

const POD: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: red, shape: round}
---
apiVersion: v1
kind: Secret
metadata: {name: secrets}
stringData: {password: s3cret}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes, labels: {app: volumes}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - name: disk
    emptyDir: {}
  - name: memory
    emptyDir: {medium: Memory, sizeLimit: 8Mi}
  - name: host
    hostPath: {path: HOST/made, type: DirectoryOrCreate}
  - name: settings
    configMap: {name: settings}
  - name: chosen
    configMap: {name: settings, items: [{key: colour, path: deep/colour.txt, mode: 0440}]}
  - name: secrets
    secret: {secretName: secrets, defaultMode: 0400}
  - name: about
    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
  - name: all
    projected:
      sources:
      - configMap: {name: settings}
      - secret: {name: secrets}
  containers:
  - name: writer
    image: warren/busybox:1
    command: [sh, -c, 'echo disk >/disk/file; echo memory >/memory/file; echo host >/host/file; exec sleep 3600']
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host}
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /etc/colour, subPath: colour}
    - {name: chosen, mountPath: /chosen}
    - {name: secrets, mountPath: /secrets}
    - {name: about, mountPath: /about}
    - {name: all, mountPath: /all}
  - name: reader
    image: warren/busybox:1
    command: [sleep, '3600']
    volumeMounts:
    - {name: disk, mountPath: /other, readOnly: true}
    - {name: disk, mountPath: /sub, subPath: below}
    - {name: memory, mountPath: /memory}
";

#[test]
fn volumes_are_shared_and_filled() {
    let space = Space::on_docker("volumes");
    let host = tempfile::tempdir().unwrap();
    space.apply(&POD.replace("HOST", &host.path().display().to_string()));
    let pod = space.ready("volumes");
    let read = |container: &str, script: &str| {
        let output = space.sh(&format!("volumes -c {container}"), script);
        output.ok().trim().to_owned()
    };
    assert_eq!(read("reader", "cat /other/file /memory/file"), "disk\nmemory");
    assert_eq!(read("reader", "grep -c '^tmpfs /memory tmpfs' /proc/mounts"), "1");
    assert_eq!(read("reader", "df -k /memory | tail -1 | awk '{print $2}'"), "8192");
    assert_eq!(read("writer", "echo x >/disk/below/x; cat /disk/below/x"), "x");
    assert_eq!(read("reader", "cat /sub/x"), "x");
    let out = space.sh("volumes -c reader", "touch /other/new");
    assert!(out.err().contains("Read-only file system"), "{}", out.told());

    let made = host.path().join("made");
    assert_eq!(fs::read_to_string(made.join("file")).unwrap(), "host\n");
    fs::write(made.join("back"), "from outside").unwrap();
    assert_eq!(read("writer", "cat /host/back"), "from outside");

    assert_eq!(read("writer", "cd /settings && cat colour shape"), "redround");
    assert_eq!(read("writer", "cat /etc/colour"), "red");
    assert_eq!(read("writer", "ls /chosen; cat /chosen/deep/colour.txt"), "deep\nred");
    assert_eq!(
        read("writer", "stat -L -c %a /chosen/deep/colour.txt /secrets/password"),
        "440\n400"
    );
    assert_eq!(read("writer", "cat /secrets/password"), "s3cret");
    assert_eq!(read("writer", "cat /about/labels"), "app=\"volumes\"");
    assert_eq!(read("writer", "cd /all && ls && cat password"), "colour\npassword\nshape\ns3cret");
    let out = space.sh("volumes -c writer", "echo blue >/settings/colour");
    assert!(out.err().contains("Read-only file system"), "{}", out.told());

    // What changes reaches the files, all at once and without a restart.
    let change = r#"{"data":{"colour":"blue","shape":null,"size":"large"}}"#;
    space.kubectl(&["patch", "configmap", "settings", "-p", change]).ok();
    let secret = r#"{"stringData":{"password":"changed"}}"#;
    space.kubectl(&["patch", "secret", "secrets", "-p", secret]).ok();
    space.line("label pod volumes more=yes").ok();
    let changed = |script: &str, expected: &str| {
        until(&format!("{script}: {expected}"), SOON, || {
            let output = space.sh("volumes -c writer", script);
            output.succeeded() && output.stdout.trim() == expected
        });
    };
    changed("cd /settings && ls && cat *", "colour\nsize\nbluelarge");
    changed("cat /chosen/deep/colour.txt /all/size /all/password", "bluelargechanged");
    changed("cat /secrets/password", "changed");
    changed("cat /about/labels", "app=\"volumes\"\nmore=\"yes\"");
    let now = space.object("pod", "volumes").unwrap();
    assert_eq!(now["status"]["containerStatuses"], pod["status"]["containerStatuses"]);

    // Nothing is left of it but what is the host's.
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let folder = space.cluster.data_dir().join("agents/node-1/pods").join(uid);
    assert!(folder.is_dir());
    space.line("delete pod volumes --timeout=60s").ok();
    assert!(!folder.exists(), "the pod's folder goes before the pod does");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(uid), "{mounts}");
    assert_eq!(fs::read_to_string(made.join("file")).unwrap(), "host\n");
}

#[test]
fn a_volume_that_cannot_be_had_is_waited_for() {
    let space = Space::on_docker("mounts");
    let host = tempfile::tempdir().unwrap();
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: patient}
spec:
  restartPolicy: Never
  volumes:
  - {name: file, hostPath: {path: HOST/file, type: File}}
  - {name: late, configMap: {name: late}}
  containers:
  - name: c
    image: warren/busybox:1
    command: [cat, /file, /late/key]
    volumeMounts: [{name: file, mountPath: /file}, {name: late, mountPath: /late}]
";
    space.apply(&pod.replace("HOST", &host.path().display().to_string()));
    space.event("patient", "FailedMount", "hostPath type check failed");
    fs::write(host.path().join("file"), "a file\n").unwrap();
    space.event("patient", "FailedMount", "configmap \"late\" not found");
    let found = space.object("pod", "patient").unwrap();
    assert_eq!(found["status"]["phase"], "Pending");
    space.line("create configmap late --from-literal=key=late").ok();
    assert_eq!(space.ended("patient")["status"]["phase"], "Succeeded");
    assert_eq!(space.line("logs patient").ok(), "a file\nlate");
}
