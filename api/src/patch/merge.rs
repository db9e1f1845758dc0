//! JSON merge patch, RFC 7386.

use serde_json::{Map, Value};

use super::{GO_MAP, PatchError, unmarshal};

/// The target with the patch merged in: maps are merged, nulls remove, all else replaces.
///
/// An object can only be patched with a map; anything else is refused.
pub fn merge(mut target: Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        let why = format!("error decoding patch: {}", unmarshal(patch, GO_MAP));
        return Err(PatchError::Malformed(why));
    }
    in_place(&mut target, patch);
    Ok(target)
}

fn in_place(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else if let Some(old) = target.get_mut(key) {
            in_place(old, value);
        } else {
            let mut new = Value::Null;
            in_place(&mut new, value);
            target.insert(key.clone(), new);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The table of RFC 7386, appendix A, below a key where the RFC has other documents than maps.
    #[test]
    fn the_cases_of_the_rfc() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"x": ["a", "b"]}), json!({"x": ["c", null]}), json!({"x": ["c", null]})),
            (json!({"x": {"a": "b"}}), json!({"x": ["c"]}), json!({"x": ["c"]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let shown = format!("{target} with {patch}");
            assert_eq!(merge(target, &patch).unwrap(), result, "{shown}");
        }
        assert!(matches!(merge(json!({}), &json!(["c"])), Err(PatchError::Malformed(_))));
    }
}
