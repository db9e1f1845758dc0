use proptest::prelude::*;
use serde_json::json;

use super::super::builtin;
use super::*;

fn read(json: &str, validation: FieldValidation) -> Result<(Value, Vec<String>), String> {
    decode_slice(builtin(), "core/v1.Pod", json.as_bytes(), validation)
        .map(|(object, warnings)| (object.into(), warnings))
        .map_err(|error| error.to_string())
}

fn refused(value: Value) -> String {
    let from_text = read(&value.to_string(), FieldValidation::Warn).unwrap_err();
    let from_tree = decode(builtin(), "core/v1.Pod", value, FieldValidation::Warn).unwrap_err();
    assert_eq!(from_tree.to_string(), from_text);
    from_text
}

#[test]
fn unknown_and_duplicate_fields() {
    let text = r#"{"kind":"Pod","apiVersion":"v1","Kind":"x","spec":{"foo":{"deep":[1]},
        "containers":[{"name":"a"},{"name":"b","immage":"x","name":"c"}],
        "nodeSelector":{"a":"1","a":"2"}, "hostname":null, "hostname":"h"}}"#;
    let named = [
        "unknown field \"Kind\"",
        "unknown field \"spec.foo\"",
        "unknown field \"spec.containers[1].immage\"",
        "duplicate field \"spec.containers[1].name\"",
        "duplicate field \"spec.nodeSelector.a\"",
        "duplicate field \"spec.hostname\"",
    ];
    let (pod, warnings) = read(text, FieldValidation::Warn).unwrap();
    assert_eq!(warnings, named);
    assert_eq!(
        pod,
        json!({"kind": "Pod", "apiVersion": "v1", "spec": {
            "containers": [{"name": "a"}, {"name": "c"}], "nodeSelector": {"a": "2"}, "hostname": "h"}})
    );
    assert_eq!(read(text, FieldValidation::Ignore).unwrap(), (pod, vec![]));
    assert_eq!(
        read(text, FieldValidation::Strict).unwrap_err(),
        format!("strict decoding error: {}", named.join(", "))
    );
}

#[test]
fn wrong_types_are_refused_as_kubernetes_words_it() {
    let container = |container: Value| json!({"spec": {"containers": [container]}});
    for (value, message) in [
        (
            container(json!({"ports": [{"containerPort": "80"}]})),
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            container(json!({"ports": [{"containerPort": 1.5}]})),
            "json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            container(json!({"ports": [{"containerPort": 2147483648u32}]})),
            "json: cannot unmarshal number 2147483648 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            container(json!({"args": ["a", 1]})),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.args of type string",
        ),
        (
            container(json!({"tty": "yes"})),
            "json: cannot unmarshal string into Go struct field Container.spec.containers.tty of type bool",
        ),
        (
            json!({"spec": {"containers": {"name": "x"}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            json!({"spec": []}),
            "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            json!({"metadata": {"labels": {"a": true}}}),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({"metadata": {"labels": ["a"]}}),
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (json!([]), "json: cannot unmarshal array into Go value of type v1.Pod"),
        (json!(null), "the object is null"),
        (
            container(json!({"resources": {"limits": {"cpu": "lots"}}})),
            "spec.containers[0].resources.limits.cpu: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!({"metadata": {"creationTimestamp": "today"}}),
            "metadata.creationTimestamp: parsing time \"today\" as \"2006-01-02T15:04:05Z07:00\": cannot parse",
        ),
    ] {
        assert_eq!(refused(value), message);
    }
}

#[test]
fn nulls_and_zeros_are_dropped_as_go_does() {
    let value = json!({
        "metadata": {"name": "x", "labels": {}, "creationTimestamp": null, "finalizers": [], "annotations": {"a": null}},
        "spec": {"hostNetwork": false, "terminationGracePeriodSeconds": 0, "containers": [{"name": "", "resources": {}, "command": ["a", null]}],
                 "volumes": [{"name": "v", "emptyDir": {}}]},
        "status": {}
    });
    let (pod, _) =
        decode(builtin(), "core/v1.Pod", value.clone(), FieldValidation::Strict).unwrap();
    assert_eq!(
        Value::from(pod),
        json!({
            "metadata": {"name": "x", "annotations": {"a": ""}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "", "resources": {}, "command": ["a", ""]}],
                     "volumes": [{"name": "v", "emptyDir": {}}]},
            "status": {}
        })
    );
    let (kept, _) =
        decode_keeping_zeros(builtin(), "core/v1.Pod", value, FieldValidation::Strict).unwrap();
    assert_eq!(kept.at(&["spec", "hostNetwork"]), Some(&json!(false)));
    assert_eq!(kept.at(&["metadata", "creationTimestamp"]), None);
}

#[test]
fn scalars_get_their_form() {
    let pod = json!({
        "metadata": {"creationTimestamp": "2024-01-01T02:00:00+02:00", "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
        "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
                 "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"tcpSocket": {"port": 80}}}]}
    });
    let (pod, _) = decode(builtin(), "core/v1.Pod", pod, FieldValidation::Strict).unwrap();
    assert_eq!(
        Value::from(pod),
        json!({
            "metadata": {"creationTimestamp": "2024-01-01T00:00:00Z", "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
                     "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"tcpSocket": {"port": 80}}}]}
        })
    );
}

#[test]
fn text_that_is_no_json_or_too_much_of_it() {
    assert_eq!(
        read("{\"spec\":}", FieldValidation::Warn).unwrap_err(),
        "invalid JSON: expected value at line 1 column 9"
    );
    assert!(read("{} x", FieldValidation::Warn).unwrap_err().contains("trailing characters"));
    assert!(read("", FieldValidation::Warn).unwrap_err().contains("EOF"));
    let deep = format!("{{\"spec\":{}", "[".repeat(100_000));
    assert!(read(&deep, FieldValidation::Warn).is_err());
    let deep = format!("{{\"unknown\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
    assert!(read(&deep, FieldValidation::Warn).is_ok());
    let large = vec![b' '; MAX_OBJECT_BYTES + 1];
    let error = decode_slice(builtin(), "core/v1.Pod", &large, FieldValidation::Warn).unwrap_err();
    assert_eq!(error.status("v1", "Pod").reason.code(), 413);
    let unknown: String = (0..10_000).map(|n| format!("\"x{n}\":1,")).collect();
    let (_, warnings) =
        read(&format!("{{{unknown}\"kind\":\"Pod\"}}"), FieldValidation::Warn).unwrap();
    assert_eq!(warnings.len(), MAX_STRICT_ERRORS);
}

#[test]
fn errors_become_a_bad_request() {
    let error =
        decode(builtin(), "core/v1.Pod", json!({"x": 1}), FieldValidation::Strict).unwrap_err();
    let status = error.status("v1", "Pod");
    assert_eq!(status.reason.code(), 400);
    assert_eq!(
        status.message,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"x\""
    );
}

/// Trees with names that a pod has, of any shape.
fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9]{0,6}|1Gi|100m|2024-01-01T00:00:00Z|aGVsbG8=".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        let name = "metadata|labels|spec|containers|name|ports|containerPort|resources|limits|cpu|volumes|status|x|\\$patch|nodeSelector|finalizers|env|value|hostNetwork|creationTimestamp";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,60}|[{}\\[\\]\",:a-z0-9]{0,60}") {
        let _ = read(&text, FieldValidation::Strict);
    }

    #[test]
    fn what_was_read_reads_the_same(value in tree()) {
        let text = value.to_string();
        let from_text = read(&text, FieldValidation::Ignore);
        // Numbers may lose a digit on their way through text, so the tree is compared by its own text.
        let value: Value = serde_json::from_str(&text).unwrap();
        let from_tree = decode(builtin(), "core/v1.Pod", value, FieldValidation::Ignore)
            .map(|(object, warnings)| (Value::from(object), warnings))
            .map_err(|error| error.to_string());
        prop_assert_eq!(&from_text, &from_tree);
        if let Ok((first, _)) = from_text {
            let (second, warnings) = read(&first.to_string(), FieldValidation::Strict).unwrap();
            prop_assert_eq!(first, second);
            prop_assert!(warnings.is_empty());
        }
    }

    #[test]
    fn no_patch_panics(target in tree(), patch in tree()) {
        use crate::patch;
        let _ = patch::json(target.clone(), &patch);
        if let Ok(merged) = patch::merge(target.clone(), &patch) {
            prop_assert_eq!(patch::merge(merged.clone(), &patch).unwrap(), merged);
        }
        if let Ok(merged) = patch::strategic(builtin(), "core/v1.Pod", target, &patch) {
            let _ = patch::strategic(builtin(), "core/v1.Pod", merged, &patch);
        }
    }

    #[test]
    fn no_apply_panics(live in tree(), config in tree()) {
        use crate::patch;
        let read = |value| decode_keeping_zeros(builtin(), "core/v1.Pod", value, FieldValidation::Ignore);
        let manager = patch::Manager {
            name: "me".to_owned(),
            subresource: String::new(),
            api_version: "v1".to_owned(),
            time: jiff::Timestamp::UNIX_EPOCH,
        };
        if let (Ok((live, _)), Ok((config, _))) = (read(live), read(config)) {
            let once = patch::apply(builtin(), "core/v1.Pod", Some(&live), &config, &manager, true);
            if let Ok(once) = once {
                let twice = patch::apply(builtin(), "core/v1.Pod", Some(&once), &config, &manager, false);
                prop_assert_eq!(twice, Ok(once));
            }
        }
    }
}
