//! An object as JSON text with a hole for its revision.

use serde_json::{Map, Value};

use crate::Object;

const KEY: &str = "resourceVersion";

impl Object {
    /// The object as JSON with `"resourceVersion":""` in its metadata, and the byte offset between those two quotes:
    /// the revision is known only when the change is committed.
    ///
    /// A `resourceVersion` that the object has is left out. The offset is taken while writing, so no string in the
    /// object can be mistaken for the hole.
    pub fn encode_with_hole(&self) -> (Vec<u8>, usize) {
        // A pod with its status and managed fields has about 4 KB.
        let mut out = Vec::with_capacity(4096);
        let empty = Map::new();
        let metadata = match self.0.get("metadata") {
            Some(Value::Object(map)) => map,
            _ => &empty,
        };
        let mut hole = None;
        out.push(b'{');
        for (key, value) in &self.0 {
            if hole.is_none() && key.as_str() >= "metadata" {
                hole = Some(write_metadata(&mut out, metadata));
            }
            if key != "metadata" {
                write_entry(&mut out, key, value);
            }
        }
        let hole = hole.unwrap_or_else(|| write_metadata(&mut out, metadata));
        out.push(b'}');
        (out, hole)
    }
}

fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>) -> usize {
    write_key(out, "metadata");
    out.push(b'{');
    let mut hole = None;
    for (key, value) in metadata {
        if hole.is_none() && key.as_str() >= KEY {
            hole = Some(write_hole(out));
        }
        if key != KEY {
            write_entry(out, key, value);
        }
    }
    let hole = hole.unwrap_or_else(|| write_hole(out));
    out.push(b'}');
    hole
}

fn write_hole(out: &mut Vec<u8>) -> usize {
    write_key(out, KEY);
    out.extend_from_slice(b"\"\"");
    out.len() - 1
}

fn write_entry(out: &mut Vec<u8>, key: &str, value: &Value) {
    write_key(out, key);
    write_json(out, value);
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_json(out, key);
    out.push(b':');
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Writing to memory does not fail, and a tree has string keys and finite numbers only.
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn filled(object: &Object) -> Value {
        let (mut json, hole) = object.encode_with_hole();
        assert_eq!(&json[hole - 1..=hole], b"\"\"");
        json.splice(hole..hole, b"42".iter().copied());
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn the_hole_is_in_the_metadata_and_nowhere_else() {
        let trap = "\"resourceVersion\":\"\"";
        for value in [
            json!({}),
            json!({"a": trap, "metadata": null}),
            json!({"kind": trap, "metadata": {"name": trap, "resourceVersion": "7", "uid": "u"}}),
            json!({"data": {"resourceVersion": ""}, "metadata": {"annotations": {"resourceVersion": ""}}, "spec": {"x": {}}}),
            json!({"apiVersion": "v1", "spec": {"metadata": {"resourceVersion": ""}}}),
        ] {
            let object = Object::try_from(value).unwrap();
            let mut expected = object.clone();
            expected.set_at(&["metadata", "resourceVersion"], "42");
            assert_eq!(filled(&object), Value::from(expected));
        }
    }

    proptest! {
        #[test]
        fn any_keys_and_strings(keys in prop::collection::btree_map("[a-z\"{}:,\\\\é]{0,12}|metadata|resourceVersion", "\\PC{0,20}", 0..6)) {
            let map: Map<String, Value> = keys.into_iter().map(|(k, v)| (k, Value::from(v))).collect();
            let mut object = Object(map.clone());
            object.set_at(&["metadata"], Value::Object(map));
            let mut expected = object.clone();
            expected.set_at(&["metadata", "resourceVersion"], "42");
            prop_assert_eq!(filled(&object), Value::from(expected));
        }
    }
}
