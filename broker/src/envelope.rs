//! A change as a message: body, properties, headers; and back. Pure, and total on hostile input.

use std::borrow::Cow;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use warren_api::{GroupResource, NodeName, ObjectKey, Revision, Shard, Uid};
use warren_process::trace::About;

use crate::event::leaves_hops;
use crate::topology;
use crate::{Event, EventType, Present};

/// What an event's body may have. The API takes objects of 3 MiB; the rest is the envelope.
pub const MAX_EVENT_BYTES: usize = 4 << 20;
/// Shards that one message may belong to: its own, the one it left, one for each node whose pods refer to it, and `*`. Their
/// words (258 bytes) and keys (204 bytes) must fit into one frame of headers, 128 KiB: 100 take 48 KiB. An event of more
/// shards becomes several messages.
pub const MAX_SHARDS: usize = 100;

const PERSISTENT: u8 = 2;
const EVENT_KIND: &str = "warren.event";
const FLOOR_KIND: &str = "warren.floor";
const PRESENT_KIND: &str = "warren.present";

/// A message to publish to `warren.events`.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub routing_key: String,
    pub properties: BasicProperties,
    pub body: Vec<u8>,
    /// Of an event whose way is remembered.
    pub about: Option<About>,
}

/// What the server's messages say.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    Event(Event),
    /// History up to here is gone and was not published: who has seen less lists again.
    Floor {
        epoch: u64,
        floor: Revision,
    },
    /// What a pod that comes next refers to.
    Present {
        epoch: u64,
        present: Present,
    },
}

/// Why a message is not one of the server's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("header {0}: missing")]
    Missing(&'static str),
    #[error("header {header}: {reason}")]
    Header { header: &'static str, reason: &'static str },
    #[error("body: {0} bytes, at most {MAX_EVENT_BYTES} are read")]
    TooLarge(usize),
    #[error("body: {0}")]
    Body(String),
}

/// One message but for an event of more than [`MAX_SHARDS`], and after what it brings. `account` is the server's, at most 255 bytes (a longer one
/// is left out, and readers will see a command); `now` is in seconds since 1970. Revisions above 2^63 - 1 do not exist.
pub fn encode(event: &Event, account: &str, now: u64) -> SmallVec<[Message; 1]> {
    let keys = topology::event_keys(event);
    let routed: Vec<&(Shard, Revision)> = topology::routed(event).collect();
    let every = event.shards.iter().find(|(shard, _)| *shard == Shard::Every);
    // Who reads all shards must know each part by its position.
    let own = MAX_SHARDS - 1;
    let part = |(shards, keys): (&[&(Shard, Revision)], &[String])| {
        let shards: Vec<_> = shards.iter().copied().chain(every).collect();
        encode_part(event, &shards, keys, account, now)
    };
    let parts = routed.chunks(own).zip(keys.chunks(own)).map(part);
    let node = event.shards.iter().find_map(|(shard, _)| match shard {
        Shard::Node(node) => Some(node),
        _ => None,
    });
    let present = |(present, node)| encode_present(event.epoch, present, node, account, now);
    event
        .brings
        .iter()
        .zip(std::iter::repeat(node))
        .filter_map(|(p, n)| Some((p, n?)))
        .map(present)
        .chain(parts)
        .collect()
}

/// Its body is what a Kubernetes watch says of what is there when it begins.
fn encode_present(
    epoch: u64,
    present: &Present,
    node: &NodeName,
    account: &str,
    now: u64,
) -> Message {
    let headers = about_object(epoch, present.revision, &present.uid, &present.key);
    let id = format!("{epoch}:{}:present", present.revision);
    Message {
        routing_key: topology::present_key(&present.key, node),
        properties: properties(PRESENT_KIND, id, headers, account, now),
        body: body(EventType::Added, &present.object),
        about: None,
    }
}

fn encode_part(
    event: &Event,
    shards: &[&(Shard, Revision)],
    keys: &[String],
    account: &str,
    now: u64,
) -> Message {
    let (first, copies) = keys.split_first().map_or(("", &[] as &[String]), |(k, c)| (k, c));
    let mut headers = about_object(event.epoch, event.revision, &event.uid, &event.key);
    headers.insert("shards".into(), list(shards.iter().map(|(shard, _)| text(&shard.word()))));
    headers.insert("prev".into(), list(shards.iter().map(|(_, prev)| number(prev.0))));
    if !copies.is_empty() {
        headers.insert("CC".into(), list(copies.iter().map(|key| text(key))));
    }
    let id = format!("{}:{}", event.epoch, event.revision);
    Message {
        routing_key: first.to_owned(),
        properties: properties(EVENT_KIND, id, headers, account, now),
        body: body(event.event_type, &event.object),
        about: leaves_hops(&event.key).then(|| event.about()),
    }
}

fn about_object(epoch: u64, revision: Revision, uid: &Uid, key: &ObjectKey) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert("epoch".into(), number(epoch));
    headers.insert("rv".into(), number(revision.0));
    headers.insert("uid".into(), text(&uid.0));
    headers.insert("group".into(), text(&key.resource.group));
    headers.insert("resource".into(), text(&key.resource.resource));
    headers.insert("namespace".into(), text(&key.namespace));
    headers.insert("name".into(), text(&key.name));
    headers
}

fn body(event_type: EventType, object: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(object.len() + 32);
    body.extend_from_slice(b"{\"type\":\"");
    body.extend_from_slice(type_word(event_type).as_bytes());
    body.extend_from_slice(b"\",\"object\":");
    body.extend_from_slice(object);
    body.push(b'}');
    body
}

/// The message that tells readers that history up to `floor` was not published. Its body is what a Kubernetes watch
/// says when it cannot go on, so that anybody's reader understands it.
pub fn encode_floor(epoch: u64, floor: Revision, account: &str, now: u64) -> Message {
    let mut headers = FieldTable::default();
    headers.insert("epoch".into(), number(epoch));
    headers.insert("rv".into(), number(floor.0));
    let gone = format!("the changes up to revision {floor} are no longer kept; list again");
    let status = warren_api::Status::new(warren_api::Reason::Expired, gone).to_json();
    let body = serde_json::json!({"type": "ERROR", "object": status}).to_string();
    Message {
        routing_key: topology::FLOOR_KEY.to_owned(),
        properties: properties(FLOOR_KIND, format!("{epoch}:{floor}:floor"), headers, account, now),
        body: body.into_bytes(),
        about: None,
    }
}

/// The reader has made sure before that the broker vouches for the server's account.
pub fn decode(properties: &BasicProperties, body: &Bytes) -> Result<Incoming, EnvelopeError> {
    if body.len() > MAX_EVENT_BYTES {
        return Err(EnvelopeError::TooLarge(body.len()));
    }
    let empty = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&empty);
    let epoch = read_number(headers, "epoch")?;
    let revision = Revision(read_number(headers, "rv")?);
    let kind = properties.kind().as_ref().map(|kind| kind.as_str());
    if kind == Some(FLOOR_KIND) {
        return Ok(Incoming::Floor { epoch, floor: revision });
    }
    let resource =
        GroupResource::new(read_text(headers, "group")?, read_text(headers, "resource")?);
    let (namespace, name) = (read_text(headers, "namespace")?, read_text(headers, "name")?);
    let uid = Uid(read_text(headers, "uid")?.into());
    let key = ObjectKey::new(resource, namespace, name);
    let parsed: Body<'_> =
        serde_json::from_slice(body).map_err(|e| EnvelopeError::Body(e.to_string()))?;
    let event_type = match &*parsed.event_type {
        "ADDED" => EventType::Added,
        "MODIFIED" => EventType::Modified,
        "DELETED" => EventType::Deleted,
        other => {
            let shown: String = other.chars().take(32).collect();
            return Err(EnvelopeError::Body(format!("type: unknown: {shown:?}")));
        }
    };
    let object = parsed.object.get();
    if !object.starts_with('{') {
        return Err(EnvelopeError::Body("object: must be a map".to_owned()));
    }
    let object = body.slice_ref(object.as_bytes());
    if kind == Some(PRESENT_KIND) {
        return Ok(Incoming::Present { epoch, present: Present { revision, uid, key, object } });
    }
    let shards = read_shards(headers)?;
    let brings = Vec::new();
    Ok(Incoming::Event(Event { epoch, revision, uid, key, event_type, shards, object, brings }))
}

/// Whether a message that is not the server's is dressed as if it were: its type, or the headers that no command has.
pub(crate) fn is_imitation(properties: &BasicProperties) -> bool {
    let kind = properties.kind().as_ref().map(|kind| kind.as_str());
    let has = |name| properties.headers().as_ref().is_some_and(|h| h.inner().contains_key(name));
    matches!(kind, Some(EVENT_KIND | FLOOR_KIND | PRESENT_KIND)) || (has("epoch") && has("rv"))
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

pub(crate) fn type_word(event_type: EventType) -> &'static str {
    match event_type {
        EventType::Added => "ADDED",
        EventType::Modified => "MODIFIED",
        EventType::Deleted => "DELETED",
    }
}

fn properties(
    kind: &str,
    id: String,
    headers: FieldTable,
    account: &str,
    now: u64,
) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_type(kind.into())
        .with_app_id("warren".into())
        .with_message_id(id.into())
        .with_timestamp(now)
        .with_headers(headers);
    match ShortString::try_new(account) {
        Ok(account) => properties.with_user_id(account),
        Err(_) => properties,
    }
}

fn number(value: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(value).unwrap_or(i64::MAX))
}

pub(crate) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

fn list(values: impl Iterator<Item = AMQPValue>) -> AMQPValue {
    AMQPValue::FieldArray(FieldArray::from(values.collect::<Vec<_>>()))
}

fn find<'a>(headers: &'a FieldTable, name: &'static str) -> Result<&'a AMQPValue, EnvelopeError> {
    headers.inner().get(name).ok_or(EnvelopeError::Missing(name))
}

fn read_number(headers: &FieldTable, header: &'static str) -> Result<u64, EnvelopeError> {
    to_number(find(headers, header)?).ok_or(EnvelopeError::Header {
        header,
        reason: "must be a whole number that is not negative",
    })
}

fn to_number(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::LongLongInt(n) => u64::try_from(*n).ok(),
        AMQPValue::LongInt(n) => u64::try_from(*n).ok(),
        AMQPValue::LongUInt(n) => Some(u64::from(*n)),
        AMQPValue::ShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortUInt(n) => Some(u64::from(*n)),
        AMQPValue::ShortShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortShortUInt(n) => Some(u64::from(*n)),
        _ => None,
    }
}

fn read_text<'a>(headers: &'a FieldTable, header: &'static str) -> Result<&'a str, EnvelopeError> {
    to_text(find(headers, header)?)
        .ok_or(EnvelopeError::Header { header, reason: "must be text in UTF-8" })
}

pub(crate) fn to_text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn read_shards(headers: &FieldTable) -> Result<SmallVec<[(Shard, Revision); 2]>, EnvelopeError> {
    let list = |header| match find(headers, header)? {
        AMQPValue::FieldArray(values) => Ok(values.as_slice()),
        _ => Err(EnvelopeError::Header { header, reason: "must be a list" }),
    };
    let (words, prevs) = (list("shards")?, list("prev")?);
    let bad = |header, reason| EnvelopeError::Header { header, reason };
    if words.len() != prevs.len() {
        return Err(bad("prev", "must have one entry for each shard"));
    }
    if words.is_empty() || words.len() > MAX_SHARDS {
        return Err(bad("shards", "must have between 1 and 100 entries"));
    }
    let pair = |(word, prev)| {
        let shard = to_text(word)
            .and_then(Shard::of_word)
            .ok_or(bad("shards", "must hold words of shards"))?;
        let prev =
            to_number(prev).ok_or(bad("prev", "must hold whole numbers that are not negative"))?;
        Ok((shard, Revision(prev)))
    };
    words.iter().zip(prevs).map(pair).collect()
}

#[cfg(test)]
mod tests;
