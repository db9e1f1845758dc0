//! What comes from `warren.events`. An input is one header a line (`name=text`, `name#number`, `name*a,2` for a list, and
//! `!text` for the message's type), an empty line, the body.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use warren_api::{NodeName, Revision, Shard};
use warren_broker::envelope::{Incoming, Message, decode, encode, encode_floor};
use warren_broker::{Event, EventType};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((head, body)) = text.split_once("\n\n") else { return };
    match decode(&properties(head), &Bytes::copy_from_slice(body.as_bytes())) {
        Ok(Incoming::Event(event)) => round(&event),
        Ok(Incoming::Floor { epoch, floor }) if is_number(epoch) && is_number(floor.0) => {
            let read = read(&encode_floor(epoch, floor, "server", 0));
            assert_eq!(read, Ok(Incoming::Floor { epoch, floor }));
        }
        Ok(Incoming::Present { epoch, present }) => {
            let shards = [(Shard::Node(NodeName("n".into())), Revision(0))].into_iter().collect();
            let (revision, uid, key) = (present.revision, present.uid.clone(), present.key.clone());
            let (event_type, object) = (EventType::Added, present.object.clone());
            let brings = vec![present.clone()];
            let event = Event { epoch, revision, uid, key, event_type, shards, object, brings };
            let first = encode(&event, "server", 0).swap_remove(0);
            assert_eq!(read(&first), Ok(Incoming::Present { epoch, present }));
        }
        Ok(Incoming::Floor { .. }) | Err(_) => {}
    }
}

fn properties(head: &str) -> BasicProperties {
    let mut properties = BasicProperties::default();
    let mut headers = FieldTable::default();
    for line in head.lines() {
        if let Some(kind) = line.strip_prefix('!') {
            // A longer one cannot be on the wire, here and below.
            properties =
                ShortString::try_new(kind).map_or(properties.clone(), |k| properties.with_type(k));
            continue;
        }
        let Some(at) = line.find(['=', '#', '*']) else { continue };
        let (name, value) = (&line[..at], &line[at + 1..]);
        let value = match line.as_bytes()[at] {
            b'=' => AMQPValue::LongString(value.into()),
            b'#' => AMQPValue::LongLongInt(value.parse().unwrap_or(-1)),
            _ => AMQPValue::FieldArray(value.split(',').map(item).collect::<Vec<_>>().into()),
        };
        if let Ok(name) = ShortString::try_new(name) {
            headers.insert(name, value);
        }
    }
    properties.with_headers(headers)
}

fn item(text: &str) -> AMQPValue {
    match text.parse() {
        Ok(number) => AMQPValue::LongLongInt(number),
        Err(_) => AMQPValue::LongString(text.into()),
    }
}

/// What is read and written again reads as the same, its shards one message after the other.
fn round(event: &Event) {
    let mut shards = Vec::new();
    for message in encode(event, "server", 0) {
        let Ok(Incoming::Event(mut part)) = read(&message) else {
            unreachable!("what was written cannot be read: {message:?}")
        };
        shards.append(&mut part.shards.drain(..).collect());
        part.shards.clone_from(&event.shards);
        assert_eq!(&part, event);
    }
    assert_eq!(shards[..], event.shards[..]);
}

fn read(message: &Message) -> Result<Incoming, warren_broker::envelope::EnvelopeError> {
    decode(&message.properties, &Bytes::from(message.body.clone()))
}

/// What AMQP's signed numbers hold, and so what revisions and epochs are.
fn is_number(number: u64) -> bool {
    i64::try_from(number).is_ok()
}
