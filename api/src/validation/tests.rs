use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::Registry;

/// Every error of an object's metadata, one a line.
fn check(api_version: &str, kind: &str, metadata: Value, expected: Expect) {
    let kind = Registry::builtin().by_kind(api_version, kind).unwrap();
    let object = Object::try_from(json!({"metadata": metadata})).unwrap();
    let mut errors = ErrorList::default();
    super::metadata(kind, &object, &mut errors);
    expected.assert_eq(&crate::kinds::tests::show(&errors));
}

#[test]
fn metadata_says_every_bad_field() {
    check("v1", "ConfigMap", json!({"name": "a", "namespace": "b"}), expect![""]);
    check(
        "v1",
        "ConfigMap",
        json!({}),
        expect![[r#"
            metadata.name: Required value: name or generateName is required
            metadata.namespace: Required value
        "#]],
    );
    check(
        "v1",
        "Node",
        json!({"name": "A_b", "namespace": "x"}),
        expect![[r#"
            metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            metadata.namespace: Forbidden: not allowed on this type
        "#]],
    );
    check(
        "v1",
        "ConfigMap",
        json!({
            "name": "web-1", "generateName": "web-", "namespace": "a.b", "generation": -1,
            "labels": {"a b": "c", "x": "/"},
            "annotations": {"Example.com/Fine": "any text", "/": "no", "big": "x".repeat(256 * 1024)},
            "finalizers": ["orphan", "foregroundDeletion", "mine", "example.com/fine"],
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1", "controller": true},
                {"apiVersion": "apps/", "kind": "", "name": "q", "uid": "2", "controller": true},
            ],
        }),
        expect![[r#"
            metadata.namespace: Invalid value: "a.b": must not contain dots
            metadata.generation: Invalid value: -1: must be greater than or equal to 0
            metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            metadata.labels: Invalid value: "/": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            metadata.annotations: Invalid value: "/": prefix part must be non-empty
            metadata.annotations: Invalid value: "/": name part must be non-empty
            metadata.annotations: Invalid value: "/": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            metadata.annotations: Too long: may not be more than 262144 bytes
            metadata.ownerReferences.apiVersion: Invalid value: "apps/": version must not be empty
            metadata.ownerReferences.kind: Invalid value: "": must not be empty
            metadata.ownerReferences: Invalid value: [{"apiVersion":"v1","controller":true,"kind":"Pod","name":"p","uid":"1"},{"apiVersion":"apps/","controller":true,"kind":"","name":"q","uid":"2"}]: Only one reference can have Controller set to true. Found "true" in references for Pod/p and /q
            metadata.finalizers[2]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified
            metadata.finalizers: Invalid value: ["orphan","foregroundDeletion","mine","example.com/fine"]: finalizer orphan and foregroundDeletion cannot be both set
        "#]],
    );
}

#[test]
fn metadata_update_refuses_what_never_changes() {
    let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 3, "finalizers": ["a/b"],
        "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let new = json!({"metadata": {"name": "b", "uid": "2", "generation": 2,
        "finalizers": ["a/b", "c/d"], "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let mut errors = ErrorList::default();
    metadata_update(&Object::try_from(new).unwrap(), &Object::try_from(old).unwrap(), &mut errors);
    expect![[r#"
        metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"c/d"}
        metadata.name: Invalid value: "b": field is immutable
        metadata.uid: Invalid value: "2": field is immutable
        metadata.generation: Invalid value: 2: must not be decremented
    "#]]
    .assert_eq(&crate::kinds::tests::show(&errors));
}
