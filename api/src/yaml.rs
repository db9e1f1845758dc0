//! YAML in and out: the one place that knows which library does it.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess,
    Visitor,
};
use serde_json::{Map, Number, Value};

/// The longest text that is read.
pub const MAX_BYTES: usize = 16 << 20;

/// How many values, and bytes of strings, a text may unfold to: an alias is a value again wherever it stands.
const MAX_VALUES: usize = 1_000_000;
const MAX_UNFOLDED_BYTES: usize = 4 * MAX_BYTES;

/// The library looks at every open bracket for every token: 200 KB of `{a: {a: …` would take it ten seconds, 3 MB
/// an hour. So many looks are allowed, a fraction of a second; text whose brackets are balanced, or few, stays far below.
const MAX_LOOKS: usize = 50_000_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", if *line > 0 { format!("line {line}: ") } else { String::new() })]
pub struct YamlError {
    /// From 1, within the whole text; 0 where it is not known.
    pub line: usize,
    /// Without the line.
    pub message: String,
}

/// One document of a text.
#[derive(Debug)]
pub struct Document<'t> {
    pub value: Value,
    /// The line, from 1, on which the document (or its `---`) begins.
    pub line: usize,
    text: &'t str,
    /// The place in `text`, which has several documents only where they end in `...`.
    index: usize,
}

impl Document<'_> {
    /// The line at which reading the document into something else fails.
    pub(crate) fn line_of_failure<'de, S: DeserializeSeed<'de>>(
        &'de self,
        seed: S,
    ) -> Option<usize> {
        let reader = serde_yaml::Deserializer::from_str(self.text).nth(self.index)?;
        let error = seed.deserialize(reader).err()?;
        Some(self.line - 1 + error.location()?.line())
    }
}

/// The documents of a text, as JSON trees; empty ones are left out. JSON is YAML, so this reads both.
///
/// # Errors
/// The first document that is not YAML, has a key twice, or has something that JSON cannot hold; a text that is longer
/// than [`MAX_BYTES`], nested too deep, or grown too large by aliases.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    Ok(parse(text)?.into_iter().map(|document| document.value).collect())
}

/// As [`documents`], with the lines.
///
/// # Errors
/// As [`documents`].
pub fn parse(text: &str) -> Result<Vec<Document<'_>>, YamlError> {
    if text.len() > MAX_BYTES {
        let message =
            format!("the text has {} bytes, more than the limit of {MAX_BYTES}", text.len());
        return Err(YamlError { line: 0, message });
    }
    if looks(text) > MAX_LOOKS {
        return Err(YamlError { line: 0, message: "nested too deep".to_owned() });
    }
    let budget = Budget { values: Cell::new(MAX_VALUES), bytes: Cell::new(MAX_UNFOLDED_BYTES) };
    let mut found = Vec::new();
    for (line, text) in parts(text) {
        for (index, reader) in serde_yaml::Deserializer::from_str(text).enumerate() {
            let value = Json(&budget).deserialize(reader).map_err(|error| {
                let at = error.location().map(|location| location.line());
                YamlError { line: at.map_or(line, |at| line - 1 + at), message: message(&error) }
            })?;
            if !value.is_null() {
                found.push(Document { value, line, text, index });
            }
        }
    }
    Ok(found)
}

/// # Errors
/// Never for a tree that came from JSON; the signature keeps a panic out.
pub fn to_string(value: &Value) -> Result<String, YamlError> {
    serde_yaml::to_string(value).map_err(|error| YamlError { line: 0, message: message(&error) })
}

/// What the library says, without its position: that counts within a part only.
fn message(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// Cuts a text before each `---`, which YAML allows at the start of a line nowhere else, so that errors can be told
/// from which document they are. Yields the first line's number, and leaves out what has directives (`%YAML`) only.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = line.strip_prefix("---").is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_whitespace())
        });
        if is_marker && at > start {
            parts.push((start_line, &text[start..at]));
            (start, start_line) = (at, number + 1);
        }
        at += line.len();
    }
    parts.push((start_line, &text[start..]));
    // Other blanks than these are a text.
    let is_blank = |line: &str| line.trim_matches([' ', '\t', '\r']).is_empty();
    let says_something = |line: &str| !is_blank(line) && !line.starts_with(['#', '%']);
    parts.retain(|(_, text)| text.lines().any(says_something));
    parts
}

/// How much work the brackets make at most: where one stands in a string, it counts all the same.
fn looks(text: &str) -> usize {
    let (mut depth, mut looks, mut in_word) = (0_usize, 0_usize, false);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let is_word = byte > 0x7f || byte.is_ascii_alphanumeric();
        if !is_word || !in_word {
            looks = looks.saturating_add(depth);
        }
        in_word = is_word;
    }
    looks
}

struct Budget {
    values: Cell<usize>,
    bytes: Cell<usize>,
}

impl Budget {
    fn take<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.values.get().checked_sub(1).zip(self.bytes.get().checked_sub(bytes));
        let (values, bytes) =
            left.ok_or_else(|| E::custom("the text unfolds to more than is allowed"))?;
        self.values.set(values);
        self.bytes.set(bytes);
        Ok(())
    }
}

/// Reads a value as JSON has it.
#[derive(Clone, Copy)]
struct Json<'b>(&'b Budget);

impl<'de> DeserializeSeed<'de> for Json<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Json<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.0.take(0)?;
        let number = Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("the number {value} is not finite")))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.0.take(text.len())?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.0.take(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.0.take(0)?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key { budget: self.0, before: &map })? {
            let value = entries.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (tag, _) = tagged.variant::<Tag>()?;
        Err(A::Error::custom(format!("the tag {} is not known", tag.0)))
    }
}

/// Reads a key. It refuses by itself, so that the error has the key's line.
struct Key<'b> {
    budget: &'b Budget,
    before: &'b Map<String, Value>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<String, D::Error> {
        reader.deserialize_any(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a text")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        self.budget.take(key.len())?;
        if self.before.contains_key(key) {
            return Err(E::custom(format!("key {key:?} is there twice")));
        }
        Ok(key.to_owned())
    }

    // Unquoted numbers and booleans as keys of labels: what kubectl takes as well.

    fn visit_bool<E: serde::de::Error>(self, key: bool) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, key: i64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, key: u64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, key: f64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }
}

struct Tag(String);

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        String::deserialize(reader).map(Tag)
    }
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
            ("\u{2000}", json!(["\u{2000}"])),
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
            ("x: 1\na: 1\na: 2\n", 3, "\"a\" is there twice"),
            ("a: .nan\n", 1, "not finite"),
            ("a: 1\n---\nb: !thing {}\n", 3, "the tag thing"),
            ("# comment\n---\na: 1\n---\n\nb: 1\nb: 2\n", 7, "twice"),
            ("a:\n\t- b\n", 2, "cannot start any token"),
            ("[a]: 1\n", 1, "a key that is a text"),
        ] {
            let error = documents(text).unwrap_err();
            assert!(error.message.contains(part), "{text:?}: {error}");
            if line > 0 {
                assert_eq!(error.line, line, "{text:?}: {error}");
            }
        }
        for open in ["[", "{a: ", "- [", "{? [", "'[' [", "{[}"] {
            let error = documents(&open.repeat(100_000)).unwrap_err();
            assert!(error.message.contains("too deep") || error.line > 0, "{open}: {error}");
        }
        let unbalanced = format!("a: |\n{}", "  [0, 1) and {\n".repeat(1000));
        assert_eq!(documents(&unbalanced).unwrap().len(), 1, "brackets in a text");
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let refs = format!("*a{}, ", n - 1).repeat(9);
            bomb += &format!("a{n}: &a{n} [{refs}]\n");
        }
        assert!(documents(&bomb).is_err());
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(1000));
        assert!(documents(&long).unwrap_err().message.contains("unfolds to more"));
        assert!(documents(&" ".repeat(MAX_BYTES + 1)).unwrap_err().message.contains("limit"));
    }

    #[test]
    fn documents_know_their_lines() {
        let lines = |text: &str| -> Vec<usize> {
            parse(text).unwrap().iter().map(|document| document.line).collect()
        };
        assert_eq!(lines("%YAML 1.2\n---\na: 1\n...\n---\nb: 1\n"), [2, 5]);
        assert_eq!(lines("--- {a: 1}\n--- # second\nb: |\n  ---\n  c\n---\n"), [1, 2]);
        assert_eq!(lines("{\"a\": 1}"), [1]);
    }

    #[test]
    fn trees_survive_a_round() {
        let tree = json!({"a": ["yes", "1", "", {"b": null}], "c": "x\ny\n"});
        assert_eq!(documents(&to_string(&tree).unwrap()).unwrap(), [tree]);
    }
}
