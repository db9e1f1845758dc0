//! YAML in and out: the one place that knows which library does it.

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// From 1, within the whole text; 0 where it is not known.
    pub line: usize,
    pub message: String,
}

impl YamlError {
    fn new(error: &serde_yaml::Error) -> Self {
        Self {
            line: error.location().map_or(0, |location| location.line()),
            message: error.to_string(),
        }
    }

    fn plain(message: impl Into<String>) -> Self {
        Self { line: 0, message: message.into() }
    }
}

/// The documents of a text, as JSON trees; empty ones are left out. JSON is YAML, so this reads both. Depth and the
/// growth by aliases are bounded by the library; bound the text's size before.
///
/// # Errors
/// The first document that is not YAML, has a key twice, or has something that JSON cannot hold.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document).map_err(|e| YamlError::new(&e))?;
        match json(value)? {
            Value::Null => {}
            value => found.push(value),
        }
    }
    Ok(found)
}

/// # Errors
/// Never for a tree that came from JSON; the signature keeps a panic out.
pub fn to_string(value: &Value) -> Result<String, YamlError> {
    serde_yaml::to_string(value).map_err(|e| YamlError::new(&e))
}

fn json(value: serde_yaml::Value) -> Result<Value, YamlError> {
    use serde_yaml::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Number(number) => {
            if let Some(n) = number.as_i64() {
                n.into()
            } else if let Some(n) = number.as_u64() {
                n.into()
            } else {
                number
                    .as_f64()
                    .and_then(serde_json::Number::from_f64)
                    .map(Value::Number)
                    .ok_or_else(|| YamlError::plain(format!("the number {number} is not finite")))?
            }
        }
        Yaml::String(value) => Value::String(value),
        Yaml::Sequence(items) => {
            Value::Array(items.into_iter().map(json).collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(mapping) => {
            let mut map = Map::new();
            for (key, value) in mapping {
                let key = match key {
                    Yaml::String(key) => key,
                    // Unquoted numbers and booleans as keys of labels: what kubectl takes as well.
                    Yaml::Number(number) => number.to_string(),
                    Yaml::Bool(value) => value.to_string(),
                    _ => return Err(YamlError::plain("a key must be a text")),
                };
                if map.insert(key.clone(), json(value)?).is_some() {
                    return Err(YamlError::plain(format!("key {key:?} is there twice")));
                }
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => {
            return Err(YamlError::plain(format!("the tag {} is not known", tagged.tag)));
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_become_trees() {
        let table = [
            ("", json!([])),
            ("---\n---\n# nothing\n", json!([])),
            (
                "a: 1\n---\nb: [x, 2.5, true, null]\n",
                json!([{"a": 1}, {"b": ["x", 2.5, true, null]}]),
            ),
            (r#"{"a": {"b": "c"}}"#, json!([{"a": {"b": "c"}}])),
            ("labels:\n  1: a\n  true: b\n", json!([{"labels": {"1": "a", "true": "b"}}])),
            ("a: &x {b: 1}\nc: *x\n", json!([{"a": {"b": 1}, "c": {"b": 1}}])),
        ];
        for (text, expected) in table {
            assert_eq!(Value::Array(documents(text).unwrap()), expected, "{text:?}");
        }
    }

    #[test]
    fn broken_texts_are_errors_with_their_line() {
        for (text, line, part) in [
            ("a: 1\nb: [1, 2\n", 3, "did not find"),
            ("a: 1\na: 2\n", 0, "duplicate"),
            ("a: .nan\n", 0, "not finite"),
            ("a: !thing {}\n", 0, "tag"),
            ("a:\n\t- b\n", 2, "cannot start any token"),
            ("[a]: 1\n", 0, "a key must be a text"),
        ] {
            let error = documents(text).unwrap_err();
            assert!(error.message.contains(part), "{text:?}: {error}");
            if line > 0 {
                assert_eq!(error.line, line, "{text:?}: {error}");
            }
        }
        assert!(documents(&"[".repeat(100_000)).is_err(), "depth is bounded");
    }

    #[test]
    fn trees_survive_a_round() {
        let tree = json!({"a": ["yes", "1", "", {"b": null}], "c": "x\ny\n"});
        assert_eq!(documents(&to_string(&tree).unwrap()).unwrap(), [tree]);
    }
}
