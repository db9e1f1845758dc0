//! JSON patch, RFC 6902.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::{PatchError, unmarshal};

/// Kubernetes' bound.
const MAX_OPERATIONS: usize = 10_000;

/// How many values `add`, `copy` and `move` may handle in all: copies of copies double with every operation.
const MAX_VALUES: usize = 1_000_000;

/// So much text counts as a value more: some 16 MiB in all, five times what a body may have.
const TEXT_BYTES: usize = 16;

/// The deepest that a result may be nested below its pointer. With that of the pointer itself it bounds recursion.
const MAX_DEPTH: usize = 128;

/// The target with every operation applied, in order; or nothing of it.
///
/// What is no list of operations is [`PatchError::Malformed`], one that does not fit (a failed `test`, a missing path,
/// an operation that does not exist) [`PatchError::DoesNotApply`], more than 10,000 operations or runaway copies are [`PatchError::TooLarge`].
pub fn json(mut target: Value, patch: &Value) -> Result<Value, PatchError> {
    let malformed = |value: &Value, go_type: &str| {
        PatchError::Malformed(format!("error decoding patch: {}", unmarshal(value, go_type)))
    };
    let list = match patch {
        Value::Array(list) => list.as_slice(),
        Value::Null => &[],
        other => return Err(malformed(other, "[]handlers.jsonPatchOp")),
    };
    if list.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            list.len()
        )));
    }
    let mut operations = Vec::with_capacity(list.len());
    for (index, operation) in list.iter().enumerate() {
        if !operation.is_object() {
            return Err(malformed(operation, "handlers.jsonPatchOp"));
        }
        let read = <PatchOperation as serde::Deserialize>::deserialize(operation)
            .map_err(|why| PatchError::DoesNotApply(format!("operation {index}: {why}")))?;
        operations.push(read);
    }
    let mut budget = MAX_VALUES;
    for operation in &operations {
        bound(&target, operation, &mut budget)?;
        json_patch::patch_unsafe(&mut target, std::slice::from_ref(operation))
            .map_err(|error| PatchError::DoesNotApply(explain(operation, &error.kind)))?;
    }
    Ok(target)
}

fn bound(doc: &Value, operation: &PatchOperation, budget: &mut usize) -> Result<(), PatchError> {
    let (path, value) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Copy(copy) => (&copy.path, copy.from.resolve(doc).ok()),
        PatchOperation::Move(moved) => (&moved.path, moved.from.resolve(doc).ok()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    let fits = path.count() <= MAX_DEPTH
        && value.is_none_or(|value| measure(value, MAX_DEPTH, budget).is_some());
    if fits {
        return Ok(());
    }
    Err(PatchError::TooLarge(format!(
        "the JSON patch is refused at {path}: its result is too large or nested deeper than {MAX_DEPTH}"
    )))
}

/// Takes the number of values and their text from the budget; `None` where it or the depth is exceeded.
fn measure(value: &Value, depth: usize, budget: &mut usize) -> Option<()> {
    let text = match value {
        Value::String(text) => text.len(),
        Value::Object(map) => map.keys().map(String::len).sum(),
        _ => 0,
    };
    *budget = budget.checked_sub(1 + text / TEXT_BYTES)?;
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| measure(item, depth, budget)),
        Value::Object(map) => map.values().try_for_each(|value| measure(value, depth, budget)),
        _ => Some(()),
    }
}

fn explain(operation: &PatchOperation, why: &PatchErrorKind) -> String {
    let (name, from) = match operation {
        PatchOperation::Add(_) => ("add", None),
        PatchOperation::Remove(_) => ("remove", None),
        PatchOperation::Replace(_) => ("replace", None),
        PatchOperation::Move(op) => ("move", Some(&op.from)),
        PatchOperation::Copy(op) => ("copy", Some(&op.from)),
        PatchOperation::Test(_) => ("test", None),
    };
    let path = operation.path();
    match why {
        PatchErrorKind::TestFailed => format!("testing value {path} failed: test failed"),
        PatchErrorKind::InvalidFromPointer => {
            let from = from.map(ToString::to_string).unwrap_or_default();
            format!(
                "{name} operation does not apply: doc is missing from path: {from}: missing value"
            )
        }
        PatchErrorKind::InvalidPointer => {
            format!("{name} operation does not apply: doc is missing path: {path}: missing value")
        }
        other => format!("{name} operation does not apply: {path}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::PatchError, json as patch};

    #[test]
    fn operations_in_order() {
        let pod = json!({"metadata": {"labels": {"a/b": "1"}}, "list": [1, 2]});
        let result = patch(
            pod,
            &json!([
                {"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
                {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
                {"op": "add", "path": "/list/-", "value": 3},
                {"op": "remove", "path": "/list/0"},
                {"op": "copy", "from": "/list", "path": "/copy"},
                {"op": "move", "from": "/list", "path": "/moved"},
            ]),
        );
        assert_eq!(
            result.unwrap(),
            json!({"metadata": {"labels": {"a/b": "2"}}, "copy": [2, 3], "moved": [2, 3]})
        );
    }

    #[test]
    fn what_does_not_apply_and_what_is_malformed() {
        let object = json!({"a": {"b": 1}});
        for (operation, message) in [
            (
                json!({"op": "test", "path": "/a/b", "value": 2}),
                "testing value /a/b failed: test failed",
            ),
            (
                json!({"op": "remove", "path": "/x"}),
                "remove operation does not apply: doc is missing path: /x: missing value",
            ),
            (
                json!({"op": "replace", "path": "/x/y", "value": 1}),
                "replace operation does not apply: doc is missing path: /x/y: missing value",
            ),
            (
                json!({"op": "copy", "from": "/x", "path": "/y"}),
                "copy operation does not apply: doc is missing from path: /x: missing value",
            ),
        ] {
            let error = patch(object.clone(), &json!([operation])).unwrap_err();
            assert_eq!(error, PatchError::DoesNotApply(message.to_owned()));
            assert_eq!(error.status().reason.code(), 422);
        }
        for (malformed, code) in [
            (json!({}), 400),
            (json!([3]), 400),
            (json!([{"op": "test"}]), 422),
            (json!([{"op": "jump", "path": "/a"}]), 422),
            (json!([{"op": "remove", "path": "a"}]), 422),
        ] {
            let error = patch(object.clone(), &malformed).unwrap_err();
            assert_eq!(error.status().reason.code(), code, "{malformed}: {error}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut doubling = vec![json!({"op": "add", "path": "/a", "value": ["x"]})];
        doubling.extend((0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
        let many = vec![json!({"op": "test", "path": "", "value": {}}); 10_001];
        let deepening: Vec<_> = (0..200)
            .flat_map(|_| {
                [
                    json!({"op": "move", "from": "/a", "path": "/b"}),
                    json!({"op": "add", "path": "/a", "value": {"x": {"x": {}}}}),
                    json!({"op": "move", "from": "/b", "path": "/a/x/x/x"}),
                ]
            })
            .collect();
        let mut texts = vec![json!({"op": "add", "path": "/a/text", "value": "x".repeat(1 << 20)})];
        texts.extend(
            (0..30).map(|n| json!({"op": "copy", "from": "/a/text", "path": format!("/a/{n}")})),
        );
        for bomb in [doubling, many, deepening, texts] {
            let error = patch(json!({"a": {}}), &bomb.into()).unwrap_err();
            assert!(matches!(error, PatchError::TooLarge(_)), "{error}");
        }
    }
}
