//! Small tools for JSON trees: reading and defaulting with the meaning that Go's zero values have in Kubernetes, and
//! paths of fields that cost nothing until an error needs them.

use serde_json::{Map, Value};

pub(crate) type Tree = Map<String, Value>;

/// The path of a field, as errors name it. A chain on the stack; text only when it is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub(crate) const fn root(field: &'a str) -> Self {
        Path { parent: None, step: Step::Field(field) }
    }

    /// `parent.field`
    pub(crate) fn field(&'a self, field: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(field) }
    }

    /// `parent[3]`
    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// `parent[key]`
    pub(crate) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Field(field) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(field);
            }
            Step::Index(index) => out.push_str(&format!("[{index}]")),
            Step::Key(key) => out.push_str(&format!("[{key}]")),
        }
    }
}

impl From<Path<'_>> for String {
    fn from(path: Path<'_>) -> String {
        String::from(&path)
    }
}

impl From<&Path<'_>> for String {
    fn from(path: &Path<'_>) -> String {
        let mut out = String::new();
        path.write(&mut out);
        out
    }
}

/// The string of a field; empty where it is absent.
pub(crate) fn text<'a>(tree: &'a Tree, field: &str) -> &'a str {
    tree.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number of a field.
pub(crate) fn int(tree: &Tree, field: &str) -> Option<i64> {
    tree.get(field).and_then(Value::as_i64)
}

/// Whether a field is `true`.
pub(crate) fn flag(tree: &Tree, field: &str) -> bool {
    tree.get(field).is_some_and(|v| v == true)
}

/// The map of a field.
pub(crate) fn map<'a>(tree: &'a Tree, field: &str) -> Option<&'a Tree> {
    tree.get(field).and_then(Value::as_object)
}

/// The map of a field, to change it.
pub(crate) fn map_mut<'a>(tree: &'a mut Tree, field: &str) -> Option<&'a mut Tree> {
    tree.get_mut(field).and_then(Value::as_object_mut)
}

/// The map of a field, made where it is absent, null or of another type.
pub(crate) fn make_map<'a>(tree: &'a mut Tree, field: &str) -> &'a mut Tree {
    let value = tree.entry(field).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a map just above"),
    }
}

/// The list of a field; empty where it is absent.
pub(crate) fn list<'a>(tree: &'a Tree, field: &str) -> &'a [Value] {
    tree.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The maps in the list of a field, with their indices.
pub(crate) fn maps<'a>(
    tree: &'a Tree,
    field: &str,
) -> impl Iterator<Item = (usize, &'a Tree)> + use<'a> {
    list(tree, field).iter().enumerate().filter_map(|(i, v)| Some((i, v.as_object()?)))
}

/// The maps in the list of a field, to change them.
pub(crate) fn maps_mut<'a>(
    tree: &'a mut Tree,
    field: &str,
) -> impl Iterator<Item = &'a mut Tree> + use<'a> {
    let list = tree.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The strings in the list of a field.
pub(crate) fn texts<'a>(tree: &'a Tree, field: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    list(tree, field).iter().filter_map(Value::as_str)
}

/// The strings in the map of a field.
pub(crate) fn pairs<'a>(
    tree: &'a Tree,
    field: &str,
) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    map(tree, field)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

/// Whether a field is present and not null.
pub(crate) fn has(tree: &Tree, field: &str) -> bool {
    tree.get(field).is_some_and(|v| !v.is_null())
}

/// Sets a field that is absent or null: the default of a pointer.
pub(crate) fn default_absent(tree: &mut Tree, field: &str, value: impl Into<Value>) {
    if !has(tree, field) {
        tree.insert(field.to_owned(), value.into());
    }
}

/// Sets a field that is absent, null, empty or 0: the default of a plain value.
pub(crate) fn default_zero(tree: &mut Tree, field: &str, value: impl Into<Value>) {
    let is_zero = match tree.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Number(n)) => n.as_i64() == Some(0),
        Some(_) => false,
    };
    if is_zero {
        tree.insert(field.to_owned(), value.into());
    }
}

/// Equal as Go's semantic equality has it: null, empty lists and empty maps are as good as absent.
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a.filter(|v| !is_empty(v)), b.filter(|v| !is_empty(v))) {
        (None, None) => true,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(key, value)| same(Some(value), b.get(key)))
                && b.iter().all(|(key, value)| a.contains_key(key) || same(None, Some(value)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_read_as_kubernetes_writes_them() {
        let spec = Path::root("spec");
        let containers = spec.field("containers");
        let first = containers.index(0);
        let limits = first.field("limits");
        assert_eq!(String::from(limits.key("cpu")), "spec.containers[0].limits[cpu]");
    }

    #[test]
    fn empty_is_as_good_as_absent() {
        for (a, b, equal) in [
            (json!({"a": 1, "b": []}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 1, "b": {}, "c": null}), true),
            (json!({"a": 1}), json!({"a": 1, "b": 0}), false),
            (json!([1, 2]), json!([2, 1]), false),
        ] {
            assert_eq!(same(Some(&a), Some(&b)), equal, "{a} {b}");
        }
    }
}
