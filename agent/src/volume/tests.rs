use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::testing::FakeApi;

fn pod(volumes: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "volumeMounts": [
            {"name": "v", "mountPath": "/v"},
            {"name": "v", "mountPath": "/sub", "subPath": "a/b"},
        ]}], "volumes": volumes},
    }))
    .unwrap()
}

fn node() -> NodeFields {
    NodeFields {
        host_ip: "10.1.2.3".into(),
        cpu_millis: 1000,
        memory_bytes: 1,
        ephemeral_storage_bytes: 1,
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn config_map_is_replaced_at_once() {
    let (dir, api) = (tempfile::tempdir().unwrap(), Arc::new(FakeApi::default()));
    let objects = Objects::new(api.clone());
    let volumes = Volumes::new(dir.path().to_owned());
    let pod = pod(json!([{"name": "v", "configMap": {"name": "m", "items": [
        {"key": "k", "path": "a/b", "mode": 0o600}, {"key": "l", "path": "l"}]}}]));

    let error = volumes.prepare(&pod, &node(), &objects).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found"
    );
    api.put_config_map("ns", "m", &[("k", "1"), ("l", "2"), ("unused", "3")]);
    volumes.prepare(&pod, &node(), &objects).await.unwrap();
    let root = dir.path().join("pods/u1/volumes/configmap/v");
    assert_eq!(read(&root.join("a/b")), "1");
    assert_eq!(std::fs::metadata(root.join("a/b")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!root.join("unused").exists());
    let first = std::fs::read_link(root.join("..data")).unwrap();

    volumes.prepare(&pod, &node(), &objects).await.unwrap();
    assert_eq!(std::fs::read_link(root.join("..data")).unwrap(), first, "nothing changed");

    api.put_config_map("ns", "m", &[("k", "9"), ("l", "2")]);
    objects.forget("configmap", "ns", "m");
    volumes.prepare(&pod, &node(), &objects).await.unwrap();
    assert_eq!(read(&root.join("a/b")), "9");
    assert!(!root.join(first).exists());

    let mounts = volumes.mounts(&pod, &spec::spec(&pod).containers[0], &[]).unwrap();
    assert!(mounts[0].read_only && mounts[0].host_path.ends_with("volumes/configmap/v"));
    volumes.remove("u1").await.unwrap();
    assert!(!dir.path().join("pods/u1").exists());
}

#[tokio::test]
async fn secret_downward_and_projected() {
    let (dir, api) = (tempfile::tempdir().unwrap(), Arc::new(FakeApi::default()));
    api.put_secret("ns", "s", &[("p", "x")]);
    let objects = Objects::new(api);
    let volumes = Volumes::new(dir.path().to_owned());
    let pod = pod(json!([
        {"name": "v", "emptyDir": {}},
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
        {"name": "o", "secret": {"secretName": "gone", "optional": true}},
        {"name": "p", "projected": {"sources": [
            {"secret": {"name": "s", "items": [{"key": "p", "path": "pass"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}},
    ]));
    volumes.prepare(&pod, &node(), &objects).await.unwrap();
    let root = dir.path().join("pods/u1/volumes");
    assert_eq!(read(&root.join("secret/s/p")), "x");
    assert_eq!(read(&root.join("projected/p/pass")), "x");
    assert_eq!(read(&root.join("projected/p/labels")), "app=\"web\"");
    assert!(root.join("secret/o").is_dir());
    let mounts = volumes.mounts(&pod, &spec::spec(&pod).containers[0], &[]).unwrap();
    assert!(mounts[1].host_path.ends_with("empty-dir/v/a/b") && !mounts[1].read_only);
}

#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::new(Arc::new(FakeApi::default()));
    let volumes = Volumes::new(dir.path().to_owned());
    let missing = dir.path().join("none");
    for (source, expected) in [
        (json!({"name": "v", "nfs": {"server": "a", "path": "/"}}), "volume \"v\": this node supports emptyDir, hostPath, configMap, secret, downwardAPI and projected volumes".to_owned()),
        (json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}), "volume \"v\": projected serviceAccountToken, clusterTrustBundle and podCertificate sources are not supported by this node".to_owned()),
        (json!({"name": "v", "projected": {"sources": [{"podCertificate": {"signerName": "a.example/b", "keyType": "ED25519"}}]}}), "volume \"v\": projected serviceAccountToken, clusterTrustBundle and podCertificate sources are not supported by this node".to_owned()),
        (json!({"name": "v", "hostPath": {"path": missing, "type": "Directory"}}), format!("MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: {} does not exist", missing.display())),
        (json!({"name": "v", "hostPath": {"path": dir.path(), "type": "File"}}), format!("MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: {} is not a file", dir.path().display())),
    ] {
        let error = volumes.prepare(&pod(json!([source])), &node(), &objects).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn sub_paths_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    assert!(sub_path(dir.path(), "a/../../b").is_err());
    assert!(sub_path(dir.path(), "/etc").is_err());
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
    assert_eq!(sub_path(dir.path(), "link").unwrap_err(), "leads out of the volume");
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
    assert!(sub_path(dir.path(), "out/new/folder").is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "nothing is made there");
    let made = sub_path(dir.path(), "a//b/").unwrap();
    assert_eq!(made, dir.path().canonicalize().unwrap().join("a/b"));
}
