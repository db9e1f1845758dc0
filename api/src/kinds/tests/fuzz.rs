//! No tree makes a kind panic, whatever stands in it, and defaults stay idempotent.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::minimal;
use crate::{ErrorList, Kind, Object, Registry, validation};

/// Values of every type, also those that no schema would let through.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..70_000).prop_map(Value::from),
        "[-a-zA-Z0-9./=%:_ ]{0,12}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null, 1, "a", {}, []])),
        Just(json!([{"name": "a", "ip": "b", "port": -1}])),
        Just(json!({"a": "b", "name": 1, "spec": [], "metadata": {"labels": {"a": {}}}})),
    ]
}

/// Where to put which value: at each step the nth child, or a field of that name.
type Change = (Vec<(usize, Option<&'static str>)>, Value);

const FIELDS: [&str; 22] = [
    "name",
    "spec",
    "status",
    "metadata",
    "labels",
    "ports",
    "port",
    "containers",
    "env",
    "volumes",
    "selector",
    "template",
    "type",
    "clusterIP",
    "clusterIPs",
    "tolerations",
    "resources",
    "limits",
    "livenessProbe",
    "affinity",
    "conditions",
    "endpoints",
];

fn change() -> impl Strategy<Value = Change> {
    let step = (0usize..12, proptest::option::of(proptest::sample::select(&FIELDS[..])));
    (proptest::collection::vec(step, 1..7), value())
}

fn apply(target: &mut Value, way: &[(usize, Option<&'static str>)], value: Value) {
    let Some(((nth, name), rest)) = way.split_first() else {
        *target = value;
        return;
    };
    match target {
        Value::Object(map) => {
            let key = match name {
                Some(name) => (*name).to_owned(),
                None => match map.keys().nth(nth % map.len().max(1)) {
                    Some(key) => key.clone(),
                    None => "x".to_owned(),
                },
            };
            apply(map.entry(key).or_insert(Value::Null), rest, value);
        }
        Value::Array(list) if !list.is_empty() => {
            let at = nth % list.len();
            apply(&mut list[at], rest, value);
        }
        other => *other = value,
    }
}

fn changed(kind: &dyn Kind, changes: &[Change]) -> Object {
    let mut tree = Value::from(minimal(kind));
    for (way, value) in changes {
        apply(&mut tree, way, value.clone());
    }
    Object::try_from(tree).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn no_tree_makes_a_kind_panic(
        first in proptest::collection::vec(change(), 0..4),
        second in proptest::collection::vec(change(), 0..4),
    ) {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        for kind in Registry::builtin().iter() {
            let mut old = changed(kind, &first);
            kind.on_create(&mut old);
            kind.default(&mut old);
            let once = old.clone();
            kind.default(&mut old);
            prop_assert_eq!(&once, &old);

            let mut new = changed(kind, &second);
            kind.on_update(&mut new, &old);
            kind.default(&mut new);
            let mut errors = ErrorList::default();
            validation::metadata(kind, &new, &mut errors);
            validation::metadata_update(&new, &old, &mut errors);
            kind.validate(&new, &mut errors);
            kind.validate_update(&new, &old, &mut errors);
            for column in kind.columns() {
                (column.cell)(&new, now);
            }
            for field in kind.selectable_fields() {
                kind.field(&new, field);
            }
            kind.shard(&new);
            kind.deletion_grace_seconds(&new);
        }
    }
}
