//! The v2 document in protobuf, the one form in which clients in Go ask for it.
//!
//! Field numbers are those of `OpenAPIv2.proto` of gnostic-models.

use serde_json::{Map, Value};

use crate::yaml;

/// A v2 document, as [`super::v2`] makes it, as `openapi.v2.Document`.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    if let Some(info) = document.get("info") {
        let mut message = Message::default();
        message.text(1, info.get("title"));
        message.text(2, info.get("version"));
        out.message(2, message);
    }
    let mut paths = Message::default();
    for (name, item) in entries(document.get("paths")) {
        paths.named(2, name, path_item(item));
    }
    out.message(8, paths);
    let mut definitions = Message::default();
    for (name, made) in entries(document.get("definitions")) {
        definitions.named(1, name, schema(made));
    }
    out.message(9, definitions);
    out.0
}

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: u64, message: Message) {
        self.bytes(number, &message.0);
    }

    fn text(&mut self, number: u64, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten() {
            self.text(number, Some(text));
        }
    }

    fn boolean(&mut self, number: u64, value: Option<&Value>) {
        if value.and_then(Value::as_bool) == Some(true) {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    /// A pair of name and value.
    fn named(&mut self, number: u64, name: &str, value: Message) {
        let mut pair = Message::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(number, pair);
    }

    /// What starts with `x-`, as YAML.
    fn extensions(&mut self, number: u64, of: &Value) {
        for (name, value) in entries(Some(of)).filter(|(name, _)| name.starts_with("x-")) {
            self.named(number, name, any(value));
        }
    }
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&str, &Value)> {
    let map: Option<&Map<String, Value>> = value.and_then(Value::as_object);
    map.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn any(value: &Value) -> Message {
    let mut message = Message::default();
    let text = yaml::to_string(value).unwrap_or_default();
    message.bytes(2, text.as_bytes());
    message
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(made) = item.get(method) {
            message.message(number, operation(made));
        }
    }
    for made in item.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        message.message(9, parameter(made));
    }
    message
}

fn operation(made: &Value) -> Message {
    let mut message = Message::default();
    message.texts(1, made.get("tags"));
    message.text(5, made.get("operationId"));
    message.texts(6, made.get("produces"));
    message.texts(7, made.get("consumes"));
    for made in made.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        message.message(8, parameter(made));
    }
    let mut responses = Message::default();
    for (code, made) in entries(made.get("responses")) {
        let mut response = Message::default();
        response.text(1, made.get("description"));
        if let Some(of) = made.get("schema") {
            // SchemaItem: schema = 1
            let mut item = Message::default();
            item.message(1, schema(of));
            response.message(2, item);
        }
        // ResponseValue: response = 1
        let mut value = Message::default();
        value.message(1, response);
        responses.named(1, code, value);
    }
    message.message(9, responses);
    message.extensions(13, made);
    message
}

/// ParametersItem: parameter = 1. Parameter: body = 1, other = 2. Other: query = 3, path = 4.
fn parameter(made: &Value) -> Message {
    let mut inner = Message::default();
    let mut either = Message::default();
    match made.get("in").and_then(Value::as_str) {
        Some("body") => {
            inner.text(2, made.get("name"));
            inner.text(3, made.get("in"));
            inner.boolean(4, made.get("required"));
            if let Some(of) = made.get("schema") {
                inner.message(5, schema(of));
            }
            either.message(1, inner);
        }
        place => {
            let is_path = place == Some("path");
            inner.boolean(1, made.get("required"));
            inner.text(2, made.get("in"));
            inner.text(4, made.get("name"));
            // A query parameter has `allowEmptyValue` at 5, so that the type moves by one.
            inner.text(if is_path { 5 } else { 6 }, made.get("type"));
            inner.boolean(if is_path { 18 } else { 19 }, made.get("uniqueItems"));
            let mut other = Message::default();
            other.message(if is_path { 4 } else { 3 }, inner);
            either.message(2, other);
        }
    }
    let mut item = Message::default();
    item.message(1, either);
    item
}

fn schema(made: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, made.get("$ref"));
    message.text(2, made.get("format"));
    message.text(4, made.get("description"));
    if let Some(default) = made.get("default") {
        message.message(5, any(default));
    }
    message.texts(19, made.get("required"));
    for value in made.get("enum").and_then(Value::as_array).into_iter().flatten() {
        message.message(20, any(value));
    }
    if let Some(of) = made.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, schema(of));
        message.message(21, item);
    }
    if let Some(name) = made.get("type") {
        let mut item = Message::default();
        item.text(1, Some(name));
        message.message(22, item);
    }
    if let Some(of) = made.get("items") {
        let mut item = Message::default();
        item.message(1, schema(of));
        message.message(23, item);
    }
    if let Some(properties) = made.get("properties") {
        let mut list = Message::default();
        for (name, of) in entries(Some(properties)) {
            list.named(1, name, schema(of));
        }
        message.message(25, list);
    }
    message.extensions(31, made);
    message
}
