use std::path::PathBuf;

use expect_test::expect;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::random::Random;
use crate::schema::{FieldValidation, Shape};

/// Kubernetes' own samples, where somebody has put them: `SAMPLES=folder cargo test`.
fn samples() -> Option<Vec<PathBuf>> {
    let folder = std::env::var_os("SAMPLES").map(PathBuf::from).or_else(|| {
        std::env::var_os("KUBERNETES_FACTS").map(|folder| PathBuf::from(folder).join("samples"))
    })?;
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    Some(files.filter(|path| path.extension().is_some_and(|e| e == "pb")).collect())
}

#[test]
fn samples_go_both_ways() {
    let Some(files) = samples() else { return };
    let mut failed = Vec::new();
    for path in &files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        // Its types are not among the facts; discovery answers in JSON.
        if name == "apidiscovery.k8s.io.v2.APIGroupDiscovery" {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        let text = std::fs::read(path.with_extension("json")).unwrap();
        let json: Value = serde_json::from_slice(&text).unwrap();
        let (version, kind) = match name.as_str() {
            // Its envelope names no type.
            "core.v1.WatchEvent" => ("v1", "WatchEvent"),
            _ => ("", ""),
        };
        match decode_as(&bytes, version, kind) {
            Err(error) => failed.push(format!("{name}: {error}")),
            Ok(tree) if tree != json => failed.push(format!("{name}: read\n{tree}\n{json}")),
            Ok(_) => {}
        }
        if !kind.is_empty() {
            continue;
        }
        match encode(json.as_object().unwrap()) {
            Err(error) => failed.push(format!("{name}: {error}")),
            Ok(written) if written != bytes => failed.push(format!("{name}: written otherwise")),
            Ok(_) => {}
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), files.len(), failed.join("\n"));
    assert!(files.len() > 80, "{}", files.len());
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn plain_fields_are_written_where_they_are_zero() {
    let bytes = encode(&object(json!({"apiVersion": "v1", "kind": "Binding"}))).unwrap();
    let shown: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    expect!["6b 38 73 00 0a 0d 0a 02 76 31 12 07 42 69 6e 64 69 6e 67 12 22 0a 10 0a 00 12 00 1a 00 22 00 2a 00 32 00 38 00 42 00 12 0e 0a 00 12 00 1a 00 22 00 2a 00 32 00 3a 00 1a 00 22 00"]
        .assert_eq(&shown.join(" "));
}

#[test]
fn lists_and_events() {
    let pod = |name: &str| {
        object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}]},
            "status": {}}))
    };
    let pods = [pod("a"), pod("b")];
    let metadata = object(json!({"resourceVersion": "7", "remainingItemCount": 3}));
    let items = pods.iter().map(std::borrow::Cow::Borrowed);
    let bytes = encode_list("v1", "Pod", &metadata, items).unwrap();
    let tree = decode(&bytes).unwrap();
    assert_eq!(tree["kind"], "PodList");
    assert_eq!(tree["metadata"], json!({"resourceVersion": "7", "remainingItemCount": 3}));
    assert_eq!(tree["items"][1]["metadata"]["name"], "b");
    assert_eq!(tree["items"][0]["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");

    let frame = watch_frame("ADDED", &encode(&pods[0]).unwrap());
    let (length, event) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, event.len());
    let mut wrapped = Out(MAGIC.to_vec());
    wrapped.bytes(2, event);
    let tree = decode_as(&wrapped.0, "v1", "WatchEvent").unwrap();
    assert_eq!(tree["type"], "ADDED");
    assert_eq!(tree["object"]["metadata"]["name"], "a");
}

#[test]
fn schemas_of_custom_resources_have_their_choices() {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
            "additionalProperties": {"type": "string", "default": {"a": 1}},
            "additionalItems": true,
            "items": [{"type": "string"}, {"enum": ["a", 1, null]}],
            "dependencies": {"a": ["b"], "c": {"type": "object"}},
        }}}]},
    });
    let tree = decode(&encode(&object(definition.clone())).unwrap()).unwrap();
    let path = "/spec/versions/0/schema/openAPIV3Schema";
    assert_eq!(tree.pointer(path), definition.pointer(path));
}

#[test]
fn errors_name_the_field() {
    let error = |value: Value| encode(&object(value)).unwrap_err().to_string();
    for (value, expected) in [
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "x"}}),
            "Deployment.spec.replicas: must be an integer",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": 1}]}}),
            "Pod.spec.containers.[0].name: must be a string",
        ),
        (
            json!({"apiVersion": "apps.example.com/v1", "kind": "Deployment"}),
            "no type is known for \"Deployment\" in version \"apps.example.com/v1\"",
        ),
    ] {
        assert_eq!(error(value), expected);
    }
    let body = |raw: &[u8]| {
        let mut out = Out(MAGIC.to_vec());
        out.bytes(1, b"\x0a\x02v1\x12\x03Pod");
        out.bytes(2, raw);
        decode(&out.0).map_err(|error| error.to_string())
    };
    for (raw, expected) in [
        (&b"\x0a\x05"[..], "Pod: the message is cut off"),
        (b"\x0a\x02\x0a\x09", "Pod.metadata: the message is cut off"),
        (b"\x0a\x03\x0a\x01\xff", "Pod.metadata.name: the string is not valid UTF-8"),
        (b"\x0a\x02\x08\x01", "Pod.metadata.name: the wire type is not that of the field"),
        (b"\x0b", "Pod: wire type 3 is not known"),
        (b"\x00\x00", "Pod: a tag is zero"),
    ] {
        assert_eq!(body(raw).unwrap_err(), expected);
    }
    // Unknown fields are skipped; a message that comes twice is merged.
    let merged = body(b"\xf8\x07\x05\x0a\x03\x0a\x01a\x0a\x03\x1a\x01b").unwrap();
    assert_eq!(merged["metadata"], json!({"name": "a", "namespace": "b"}));
    assert!(matches!(decode(b"{}"), Err(ProtobufError::NoMagic)));
    let large = vec![0; MAX_OBJECT_BYTES + 1];
    assert!(matches!(decode(&large), Err(ProtobufError::TooLarge { .. })));
}

#[test]
fn nesting_is_bounded() {
    let mut bytes = Vec::new();
    for _ in 0..200 {
        let mut out = Out(Vec::new());
        // JSONSchemaProps.not
        out.bytes(28, &bytes);
        bytes = out.0;
    }
    let of = schema::builtin().named("apiextensions/v1.JSONSchemaProps").unwrap();
    let deep = read::message(schema::builtin(), of, &bytes, &mut Map::new(), 0);
    assert_eq!(deep.unwrap_err().why, "nested too deep");
    let mut event = Vec::new();
    for _ in 0..2000 {
        let mut out = Out(MAGIC.to_vec());
        out.bytes(1, b"\x0a\x02v1\x12\x0aWatchEvent");
        let wrapped = {
            let (mut object, mut raw) = (Out(Vec::new()), Out(Vec::new()));
            raw.bytes(1, &event);
            object.bytes(2, &raw.0);
            object.0
        };
        out.bytes(2, &wrapped);
        event = out.0;
    }
    assert!(decode(&event).unwrap_err().to_string().contains("nested too deep"));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), pick in any::<prop::sample::Index>()) {
        let _ = decode(&bytes);
        let types = schema::builtin().types();
        let of = pick.get(types);
        let mut tree = Map::new();
        let _ = read::message(schema::builtin(), of, &bytes, &mut tree, 0);
    }

    /// A body that was good until some bytes of it changed.
    #[test]
    fn damaged_bodies_never_panic(seed in any::<u64>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let kinds: Vec<_> = crate::Registry::builtin().iter().collect();
        let kind = kinds[(seed % kinds.len() as u64) as usize];
        let tree = random(kind, seed);
        let mut bytes = encode(&tree).unwrap();
        *at.get_mut(&mut bytes) = byte;
        if let Ok(Value::Object(tree)) = decode(&bytes) {
            let _ = encode(&tree);
        }
    }

    /// What JSON decoding gives goes through protobuf and comes back the same.
    #[test]
    fn objects_of_every_kind_come_back(seed in any::<u64>()) {
        for kind in crate::Registry::builtin().iter() {
            let tree = random(kind, seed);
            let bytes = encode(&tree).unwrap();
            let back = decode(&bytes).unwrap();
            let (back, _) = schema::decode(
                schema::builtin(), kind.schema_type(), back, FieldValidation::Strict,
            ).unwrap();
            prop_assert_eq!(&encode(&back.0).unwrap(), &bytes);
            let mut expected = Value::Object(tree);
            let mut back = Value::from(back);
            without_zeros(&mut expected);
            without_zeros(&mut back);
            prop_assert_eq!(back, expected);
        }
    }
}

fn random(kind: &dyn crate::Kind, seed: u64) -> Map<String, Value> {
    let schema = schema::builtin();
    let id = schema.find(kind.schema_type()).unwrap();
    let value = Random::new(seed).value(schema, &Shape::Object(id), 5);
    let (mut found, _) =
        schema::decode(schema, kind.schema_type(), value, FieldValidation::Ignore).unwrap();
    found.set_at(&["apiVersion"], kind.api_version());
    found.set_at(&["kind"], kind.kind());
    found.0
}

/// Absent and zero are one on the wire, so they are here.
fn without_zeros(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(without_zeros);
            map.retain(|_, value| !is_zero(value));
        }
        Value::Array(items) => items.iter_mut().for_each(without_zeros),
        _ => {}
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0",
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}
