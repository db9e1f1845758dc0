//! Kubernetes' protobuf, of every type of the table: bytes from outside, and objects, in JSON or of choices, which answers are
//! made of.

use serde_json::{Map, Value};
use warren_api::Registry;
use warren_api::protobuf::{decode, encode};
use warren_api::schema::{self, FieldValidation};

use crate::shape::Choices;

pub(crate) fn run(data: &[u8]) {
    match Choices::of(data) {
        Some(choices) => chosen(choices),
        None => given(data),
    }
}

/// What the server takes it can also send, and a client's copy is taken as the same.
fn chosen(mut choices: Choices<'_>) {
    let schema = schema::builtin();
    let kinds: Vec<_> = Registry::builtin().iter().collect();
    let kind = kinds[choices.below(kinds.len())];
    let Some(of) = schema.named(kind.schema_type()) else { unreachable!("a kind has a type") };
    let mut tree = choices.object(schema, of);
    tree.insert("apiVersion".to_owned(), kind.api_version().into());
    tree.insert("kind".to_owned(), kind.kind().into());
    let take = |tree: Value| {
        schema::decode(schema, kind.schema_type(), tree, FieldValidation::Ignore).map(|(o, _)| o.0)
    };
    let Ok(object) = take(tree.into()) else { return };
    let bytes = encode(&object);
    let Ok(bytes) = bytes else { unreachable!("{bytes:?} of {object:?}") };
    let again = match decode(&bytes).map(take) {
        Ok(Ok(again)) => again,
        other => unreachable!("{other:?} of {object:?}"),
    };
    assert_eq!(encode(&again).as_deref(), Ok(&*bytes), "{object:?}");
}

fn given(data: &[u8]) {
    let object = match decode(data) {
        Ok(Value::Object(object)) => object,
        _ => match serde_json::from_slice(data) {
            Ok(Value::Object(object)) => object,
            _ => return,
        },
    };
    round(&object);
}

/// What was encoded decodes to what it was made from.
fn round(object: &Map<String, Value>) {
    let Ok(bytes) = encode(object) else { return };
    let again = match decode(&bytes) {
        Ok(Value::Object(again)) => again,
        other => unreachable!("what was encoded cannot be decoded: {other:?} of {object:?}"),
    };
    let twice = encode(&again);
    assert_eq!(twice.as_deref(), Ok(&*bytes), "{object:?}");
}
