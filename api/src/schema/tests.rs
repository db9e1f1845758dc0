use std::path::Path;

use serde_json::json;

use super::*;

#[test]
fn the_table_is_whole() {
    let schema = builtin();
    assert!(schema.types().len() > 500);
    assert!(schema.types().is_sorted_by(|a, b| a.name < b.name));
    for found in schema.types() {
        assert!(found.fields().is_sorted_by(|a, b| a.name < b.name), "{}", found.name);
        for field in found.fields() {
            if let ListType::Map(keys) = &field.list_type {
                let item = schema.type_below(&field.shape).unwrap();
                for key in keys {
                    assert!(item.field(key).is_some(), "{}.{}: {key}", found.name, field.name);
                }
            }
            if let Some(key) = &field.patch.merge_key {
                let item = schema.type_below(&field.shape).unwrap();
                assert!(item.field(key).is_some(), "{}.{}: {key}", found.name, field.name);
            }
        }
    }
    let container = schema.named("core/v1.Container").unwrap();
    assert_eq!(container.short_name(), "Container");
    let ports = container.field("ports").unwrap();
    assert_eq!(ports.list_type, ListType::Map(["containerPort".into(), "protocol".into()].into()));
    assert_eq!(ports.patch.merge_key.as_deref(), Some("containerPort"));
    let protocol = schema.type_below(&ports.shape).unwrap().field("protocol").unwrap();
    assert_eq!(protocol.default, Some(json!("TCP")));
    let Shape::Enum(id) = protocol.shape else { panic!("{:?}", protocol.shape) };
    assert_eq!(schema.values(id).values.len(), 3);
    let volume = schema.named("core/v1.Volume").unwrap().field("emptyDir").unwrap();
    assert_eq!(volume.proto.unwrap().path()[0], 2);
}

#[test]
fn every_kind_has_its_type() {
    for kind in crate::Registry::builtin().iter() {
        let found = builtin().named(kind.schema_type());
        assert!(found.is_some_and(|t| t.is_kind), "{}: {:?}", kind.kind(), kind.schema_type());
    }
}

#[test]
fn defaults_where_the_parent_exists() {
    let mut pod = json!({"spec": {"containers": [
        {"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]},
        {"name": "b", "livenessProbe": {"grpc": {"port": 1}}, "env": [{"name": "x", "valueFrom": {"configMapKeyRef": {"key": "k"}}}]},
    ], "volumes": [{"name": "v", "azureDisk": {"diskName": "d", "diskURI": "u"}}]}});
    apply_defaults(builtin(), "core/v1.Pod", pod.as_object_mut().unwrap());
    assert_eq!(
        pod,
        json!({"spec": {"containers": [
            {"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]},
            {"name": "b", "livenessProbe": {"grpc": {"port": 1, "service": ""}}, "env": [{"name": "x", "valueFrom": {"configMapKeyRef": {"key": "k"}}}]},
        ], "volumes": [{"name": "v", "azureDisk": {"diskName": "d", "diskURI": "u",
            "cachingMode": "ReadWrite", "fsType": "ext4", "kind": "Shared", "readOnly": false}}]}})
    );
    let before = pod.clone();
    apply_defaults(builtin(), "core/v1.Pod", pod.as_object_mut().unwrap());
    assert_eq!(pod, before);
}

/// Kubernetes' own fully populated samples, where somebody has put them: `SAMPLES=folder cargo test`.
#[test]
fn samples_are_read_without_a_warning_and_come_back_whole() {
    let Some(folder) = std::env::var_os("SAMPLES") else { return };
    let mut seen = 0;
    for found in builtin().types().iter().filter(|t| t.is_kind) {
        let (group, kind) = found.name.split_once('/').unwrap();
        let (version, kind) = kind.split_once('.').unwrap();
        for group in [
            group.to_owned(),
            format!("{group}.k8s.io"),
            format!("{group}.authorization.k8s.io"),
            format!("{group}.apiserver.k8s.io"),
        ] {
            let path = Path::new(&folder).join(format!("{group}.{version}.{kind}.json"));
            let Ok(text) = std::fs::read(&path) else { continue };
            let value: Value = serde_json::from_slice(&text).unwrap();
            let (object, warnings) =
                decode_slice(builtin(), &found.name, &text, FieldValidation::Strict)
                    .unwrap_or_else(|error| panic!("{}: {error}", found.name));
            assert!(warnings.is_empty());
            assert_eq!(Value::from(object), value, "{}", found.name);
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}
