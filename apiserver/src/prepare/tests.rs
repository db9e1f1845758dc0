use expect_test::expect;
use serde_json::json;
use warren_api::Registry;

use super::*;
use crate::prepare::delete::Propagation;

fn kind(group: &str, plural: &str) -> &'static dyn Kind {
    Registry::builtin().by_resource(group, "v1", plural).unwrap()
}

fn scene(kind: &'static dyn Kind) -> Scene<'static> {
    Scene {
        kind: kind.stored(),
        served: kind,
        namespace: if kind.is_namespaced() { "x" } else { "" },
        subresource: None,
        now: "2026-01-02T03:04:05Z".parse().unwrap(),
        uid: "u-1",
        suffix: "abcde",
        manager: "test",
        applied: false,
    }
}

fn object(value: Value) -> Object {
    Object::try_from(value).unwrap()
}

fn made(kind: &'static dyn Kind, value: Value) -> Object {
    let mut made = create(&scene(kind), object(value), &mut |_, _| Ok(())).unwrap();
    made.set_at(&["metadata", "resourceVersion"], "7");
    made
}

fn map(metadata: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
}

fn pod(metadata: Value, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
           "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}

#[test]
fn a_create_is_completed() {
    let maps = kind("", "configmaps");
    let long = "n".repeat(80);
    for (metadata, name) in [
        (json!({"name": "a"}), "a".to_owned()),
        (json!({"generateName": "g-"}), "g-abcde".to_owned()),
        (json!({"name": "a", "generateName": "g-"}), "a".to_owned()),
        (json!({"generateName": long}), format!("{}abcde", "n".repeat(58))),
    ] {
        let object = made(maps, map(metadata));
        assert_eq!(object.name(), name);
        assert_eq!(object.namespace(), "x");
        assert_eq!(object.str_at(&["metadata", "creationTimestamp"]), "2026-01-02T03:04:05Z");
    }
    // What only the server sets is not taken from a client.
    let forged = made(
        maps,
        map(json!({"name": "a", "uid": "mine", "deletionTimestamp": "2020-01-01T00:00:00Z"})),
    );
    assert_eq!(forged.str_at(&["metadata", "uid"]), "u-1");
    assert!(!forged.is_being_deleted());
}

#[test]
fn an_update_says_what_it_means() {
    let maps = kind("", "configmaps");
    let old = made(maps, map(json!({"name": "a"})));
    let with = |change: fn(&mut Object)| {
        let mut new = old.clone();
        change(&mut new);
        match update(&scene(maps), &old, new, &mut |_, _| Ok(())) {
            Ok(Outcome::Unchanged) => "unchanged".to_owned(),
            Ok(Outcome::Store(_)) => "stored".to_owned(),
            Ok(Outcome::Remove(_)) => "removed".to_owned(),
            Err(status) => format!("{:?}: {}", status.reason, status.message),
        }
    };
    let rows = [
        with(|_| {}),
        with(|o| o.set_at(&["data", "a"], "b")),
        with(|o| drop(o.remove_at(&["metadata", "resourceVersion"]))),
        with(|o| o.set_at(&["metadata", "resourceVersion"], "6")),
        with(|o| o.set_at(&["metadata", "resourceVersion"], "x")),
        with(|o| o.set_at(&["metadata", "uid"], "other")),
        with(|o| o.set_at(&["metadata", "name"], "b")),
        with(|o| o.set_at(&["metadata", "namespace"], "y")),
        with(|o| o.set_at(&["metadata", "creationTimestamp"], "2020-01-01T00:00:00Z")),
        with(|o| o.set_at(&["metadata", "labels", "a"], "-")),
    ];
    expect![[r#"
        unchanged
        stored
        unchanged
        Conflict: Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again
        Unknown: strconv.ParseUint: parsing "x": invalid syntax
        Conflict: Operation cannot be fulfilled on configmaps "a": StorageError: invalid object, Code: 4, Key: /registry/configmaps/x/a, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: u-1
        BadRequest: the name of the object (b) does not match the name on the URL (a)
        BadRequest: the namespace of the provided object does not match the namespace sent on the request
        unchanged
        Invalid: ConfigMap "a" is invalid: metadata.labels: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#]].assert_eq(&rows.join("\n"));
}

#[test]
fn when_an_object_goes() {
    let mut rows = Vec::new();
    let mut row = |what: &str, kind: &'static dyn Kind, old: Value, options: DeleteOptions| {
        let old = made(kind, old);
        let line = match delete(&scene(kind), &old, &options) {
            Ok(Outcome::Unchanged) => "unchanged".to_owned(),
            Ok(Outcome::Store(new)) => format!(
                "stored until {} grace {} finalizers {:?}",
                new.str_at(&["metadata", "deletionTimestamp"]),
                new.at(&["metadata", "deletionGracePeriodSeconds"]).unwrap(),
                new.finalizers().collect::<Vec<_>>()
            ),
            Ok(Outcome::Remove(_)) => "removed".to_owned(),
            Err(status) => format!("{:?}: {}", status.reason, status.message),
        };
        rows.push(format!("{what}: {line}"));
    };
    let (maps, pods, namespaces) =
        (kind("", "configmaps"), kind("", "pods"), kind("", "namespaces"));
    let none = DeleteOptions::default;
    let grace = |seconds| DeleteOptions { grace_seconds: Some(seconds), ..none() };
    let policy = |p| DeleteOptions { propagation: Some(p), ..none() };
    row("map", maps, map(json!({"name": "a"})), none());
    row("map with grace", maps, map(json!({"name": "a"})), grace(10));
    row("held map", maps, map(json!({"name": "a", "finalizers": ["e.com/f"]})), none());
    row("orphan", maps, map(json!({"name": "a"})), policy(Propagation::Orphan));
    row("foreground", maps, map(json!({"name": "a"})), policy(Propagation::Foreground));
    row(
        "background",
        maps,
        map(json!({"name": "a", "finalizers": ["orphan"]})),
        policy(Propagation::Background),
    );
    row("unbound pod", pods, pod(json!({"name": "a"}), ""), none());
    row("bound pod", pods, pod(json!({"name": "a"}), "n"), none());
    row("bound pod, grace 5", pods, pod(json!({"name": "a"}), "n"), grace(5));
    row("bound pod, now", pods, pod(json!({"name": "a"}), "n"), grace(0));
    let uid = DeleteOptions { uid: Some("u-2".into()), ..none() };
    row("other uid", maps, map(json!({"name": "a"})), uid);
    let version = DeleteOptions { resource_version: Some("6".into()), ..none() };
    row("other version", maps, map(json!({"name": "a"})), version);
    let namespace =
        |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    row("namespace", namespaces, namespace("a"), none());
    row("default", namespaces, namespace("default"), none());
    expect![[r#"
        map: removed
        map with grace: removed
        held map: stored until 2026-01-02T03:04:05Z grace 0 finalizers ["e.com/f"]
        orphan: stored until 2026-01-02T03:04:05Z grace 0 finalizers ["orphan"]
        foreground: stored until 2026-01-02T03:04:05Z grace 0 finalizers ["foregroundDeletion"]
        background: removed
        unbound pod: removed
        bound pod: stored until 2026-01-02T03:04:35Z grace 30 finalizers []
        bound pod, grace 5: stored until 2026-01-02T03:04:10Z grace 5 finalizers []
        bound pod, now: removed
        other uid: Conflict: Operation cannot be fulfilled on ConfigMap "a": the UID in the precondition (u-2) does not match the UID in record (u-1). The object might have been deleted and then recreated
        other version: Conflict: Operation cannot be fulfilled on ConfigMap "a": the ResourceVersion in the precondition (6) does not match the ResourceVersion in record (7). The object might have been modified
        namespace: stored until 2026-01-02T03:04:05Z grace 0 finalizers []
        default: Forbidden: namespaces "default" is forbidden: this namespace may not be deleted"#]].assert_eq(&rows.join("\n"));
}

#[test]
fn delete_options_are_read_from_body_and_query() {
    use crate::request::Query;
    let of = |body: Value, query: &str| DeleteOptions::read(&body, &Query::parse(query).unwrap());
    assert_eq!(of(Value::Null, "gracePeriodSeconds=3").unwrap().grace_seconds, Some(3));
    assert_eq!(of(json!({"gracePeriodSeconds": -4}), "").unwrap().grace_seconds, Some(1));
    assert_eq!(
        of(json!({"propagationPolicy": "Orphan"}), "").unwrap().propagation,
        Some(Propagation::Orphan)
    );
    assert_eq!(
        of(json!({"orphanDependents": false}), "").unwrap().propagation,
        Some(Propagation::Background)
    );
    for (body, query) in [
        (json!({"propagationPolicy": "Never"}), ""),
        (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), ""),
        (json!({"gracePeriodSeconds": "3"}), ""),
        (json!([]), ""),
        (json!({"kind": "Pod"}), ""),
        (Value::Null, "dryRun=Some"),
        (Value::Null, "gracePeriodSeconds=x"),
    ] {
        assert!(of(body.clone(), query).is_err(), "{body} {query}");
    }
}
