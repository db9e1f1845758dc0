use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::{Registry, openapi, schema};

const LONGEST: usize = 400;

/// Every definition, and every property of one.
#[test]
fn nothing_that_is_served_lacks_a_description() {
    let document = openapi::v2(&Registry::builtin());
    let says = |of: &Value| of["description"].as_str().is_some_and(|text| !text.is_empty());
    let mut missing = Vec::new();
    let mut seen = 0;
    for (name, definition) in document["definitions"].as_object().unwrap() {
        seen += 1;
        if !says(definition) {
            missing.push(name.clone());
        }
        for (field, property) in definition["properties"].as_object().into_iter().flatten() {
            seen += 1;
            if !says(property) {
                missing.push(format!("{name}.{field}"));
            }
        }
    }
    assert!(seen > 1000, "{seen}");
    assert!(
        missing.is_empty(),
        "{} of {seen} are missing in api/descriptions/:\n{}",
        missing.len(),
        missing.join("\n")
    );
}

#[test]
fn nothing_is_described_that_does_not_exist() {
    let specials = openapi::schemas::specials();
    for (file, text) in FILES {
        for (of, field, _) in entries(text) {
            let found = schema::builtin().named(of);
            match (of, field, found) {
                (EVERY, ..) => {}
                (_, "", found) => {
                    assert!(found.is_some() || specials.contains(&of), "{file}: no type {of}");
                }
                (_, field, found) => {
                    let there = found.is_some_and(|found| found.field(field).is_some());
                    assert!(there, "{file}: {of} has no field {field}");
                }
            }
        }
    }
}

#[test]
fn the_texts_are_short_sentences_in_order() {
    let mut known = BTreeSet::new();
    for (file, text) in FILES {
        let lines: Vec<_> = entries(text).collect();
        assert!(
            lines.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)),
            "{file}: types and fields are to be sorted, each once"
        );
        for (of, field, text) in lines {
            let place = format!("{file}: {of} {field}");
            assert!(!of.is_empty(), "{place}: a type comes first");
            assert!(known.insert((of, field)), "{place}: is there twice");
            if of == EVERY && field.is_empty() {
                continue;
            }
            assert!(text.ends_with('.'), "{place}: ends with a full stop: {text:?}");
            assert!(text.trim() == text && !text.contains("  "), "{place}: blanks in {text:?}");
            assert!(text.chars().count() <= LONGEST, "{place}: {} characters", text.len());
            assert!(!text.contains('\t'), "{place}");
        }
    }
}

#[test]
fn what_every_kind_has_is_told_apart() {
    let read = Descriptions::read();
    let schema = schema::builtin();
    let pod = schema.named("core/v1.Pod").unwrap();
    assert!(read.of_field(pod, "kind").is_some());
    // The kind of an object that is referred to is another thing than one's own.
    let reference = schema.named("core/v1.ObjectReference").unwrap();
    assert_ne!(read.of_field(pod, "kind"), read.of_field(reference, "kind"));
    assert_eq!(read.of_field(pod, "nothing"), None);
}

/// `kubectl explain` shows a field's text and, below it, its type's.
#[test]
fn nothing_is_said_twice() {
    let read = Descriptions::read();
    let schema = schema::builtin();
    for of in schema.types() {
        for field in of.fields() {
            let Some(found) = schema.type_below(&field.shape) else { continue };
            let (own, its) = (read.of_field(of, &field.name), read.of_type(&found.name));
            assert!(own.is_none() || own != its, "{}.{}: {own:?}", of.name, field.name);
        }
    }
}
