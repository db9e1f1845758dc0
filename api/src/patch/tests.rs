//! Properties of all patches, over random objects of every kind that is served.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema::{self, FieldValidation, Shape, builtin, random::Random};
use crate::{Object, Registry};

fn type_of(index: usize) -> &'static str {
    let kinds: Vec<_> = Registry::builtin().iter().collect();
    kinds[index % kinds.len()].schema_type()
}

fn random(type_name: &str, seed: u64) -> Object {
    let schema = builtin();
    let shape = Shape::Object(schema.find(type_name).unwrap());
    let value = Random::new(seed).value(schema, &shape, 5);
    let read = schema::decode_keeping_zeros(schema, type_name, value, FieldValidation::Strict);
    let (mut object, _) = read.unwrap();
    object.set_at(&["metadata", "name"], "x");
    object
}

fn written(type_name: &str, object: &Object) -> Object {
    schema::decode(builtin(), type_name, object.clone().into(), FieldValidation::Strict).unwrap().0
}

fn manager(name: &str, seconds: i64) -> Manager {
    Manager {
        name: name.to_owned(),
        subresource: String::new(),
        api_version: "v1".to_owned(),
        time: Timestamp::from_second(seconds).unwrap(),
    }
}

fn without_managers(mut object: Object) -> Object {
    object.remove_at(&["metadata", "managedFields"]);
    object
}

/// Every leaf of the configuration is in the result, up to what a list keyed by names gathers around it.
fn has(result: &Value, wanted: &Value) -> bool {
    match (result, wanted) {
        (Value::Object(result), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| result.get(key).is_some_and(|found| has(found, value)))
        }
        (Value::Array(result), Value::Array(wanted)) => {
            wanted.iter().all(|value| result.iter().any(|found| has(found, value)))
        }
        (result, wanted) => result == wanted,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn decoding_is_idempotent_and_encoding_whole(kind in 0..100usize, seed in any::<u64>()) {
        let name = type_of(kind);
        let object = written(name, &random(name, seed));
        prop_assert_eq!(&written(name, &object), &object);
        let (json, hole) = object.encode_with_hole();
        prop_assert_eq!(&json[hole - 1..=hole], b"\"\"");
        let mut read: Object = serde_json::from_slice(&json).unwrap();
        let mut expected = object;
        read.remove_at(&["metadata", "resourceVersion"]);
        expected.remove_at(&["metadata", "resourceVersion"]);
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn apply(kind in 0..100usize, a in any::<u64>(), b in any::<u64>(), c in any::<u64>()) {
        let name = type_of(kind);
        let apply = |live: Option<&Object>, config: &Object, who: &str, seconds: i64, force: bool| {
            super::apply(builtin(), name, live, config, &manager(who, seconds), force)
        };
        let (a, b, c) = (random(name, a), random(name, b), random(name, c));
        let one = apply(None, &a, "one", 1, false).unwrap();
        prop_assert_eq!(&apply(Some(&one), &a, "one", 2, false).unwrap(), &one);
        prop_assert!(has(&one.clone().into(), &written(name, &a).into()));
        let two = apply(Some(&one), &b, "two", 3, true).unwrap();
        prop_assert_eq!(&apply(Some(&two), &b, "two", 4, false).unwrap(), &two);
        prop_assert!(has(&two.clone().into(), &written(name, &b).into()));
        let three = apply(Some(&two), &c, "one", 5, true).unwrap();
        prop_assert_eq!(&apply(Some(&three), &c, "one", 6, false).unwrap(), &three);
        prop_assert!(has(&three.clone().into(), &written(name, &c).into()));
    }

    #[test]
    fn tracking(kind in 0..100usize, a in any::<u64>(), b in any::<u64>()) {
        let name = type_of(kind);
        let track = |old: Option<&Object>, new: &Object, who: &str, seconds: i64| {
            let mut new = new.clone();
            track_update(builtin(), name, old, &mut new, &manager(who, seconds));
            new
        };
        let (a, b) = (written(name, &random(name, a)), written(name, &random(name, b)));
        let first = track(None, &a, "one", 1);
        prop_assert_eq!(&track(Some(&first), &a, "two", 2), &first);
        let second = track(Some(&first), &b, "two", 3);
        prop_assert_eq!(without_managers(second.clone()), without_managers(b));
        // Going back gives the fields to whoever goes back, and the object is the same but for the owners.
        let third = track(Some(&second), &a, "one", 4);
        prop_assert_eq!(without_managers(third), without_managers(a));
    }

    #[test]
    fn merging(kind in 0..100usize, a in any::<u64>(), b in any::<u64>()) {
        let name = type_of(kind);
        let (a, b) = (Value::from(random(name, a)), Value::from(random(name, b)));
        prop_assert_eq!(&merge(a.clone(), &json!({})).unwrap(), &a);
        prop_assert_eq!(&merge(a.clone(), &a).unwrap(), &a);
        let merged = merge(a.clone(), &b).unwrap();
        prop_assert_eq!(&merge(merged.clone(), &b).unwrap(), &merged);
        prop_assert_eq!(&strategic(builtin(), name, a.clone(), &json!({})).unwrap(), &a);
        prop_assert_eq!(&strategic(builtin(), name, a.clone(), &a).unwrap(), &a);
        let merged = strategic(builtin(), name, a.clone(), &b).unwrap();
        prop_assert_eq!(&strategic(builtin(), name, merged.clone(), &b).unwrap(), &merged);
        prop_assert_eq!(json(a, &json!([{"op": "replace", "path": "", "value": b}])).unwrap(), b);
    }
}
