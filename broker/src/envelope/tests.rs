use expect_test::expect;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use warren_api::NodeName;

fn encode_one(event: &Event, now: u64) -> Message {
    let mut all = encode(event, "server", now);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn shard() -> impl Strategy<Value = Shard> {
    prop_oneof![
        Just(Shard::None),
        Just(Shard::All),
        Just(Shard::Unscheduled),
        "[a-z0-9.-]{1,253}".prop_map(|name| Shard::Node(NodeName(name.as_str().into()))),
    ]
}

prop_compose! {
    fn event()(
        epoch in 0..i64::MAX as u64, rv in 0..i64::MAX as u64, names in vec(".{0,253}", 5),
        shards in vec((shard(), 0..i64::MAX as u64), 1..5), kind in 0..3usize,
        every in proptest::option::of(0..i64::MAX as u64),
    ) -> Event {
        let object = serde_json::json!({"kind": "Pod", "metadata": {"name": names[0]}});
        Event {
            epoch,
            revision: Revision(rv),
            uid: Uid(names[1].as_str().into()),
            key: ObjectKey::new(
                GroupResource::new(names[2].as_str(), names[3].as_str()),
                names[4].as_str(),
                names[0].as_str(),
            ),
            event_type: [EventType::Added, EventType::Modified, EventType::Deleted][kind],
            shards: (shards.into_iter().chain(every.map(|prev| (Shard::Every, prev))))
                .map(|(s, prev)| (s, Revision(prev)))
                .collect(),
            object: object.to_string().into(),
            brings: Vec::new(),
        }
    }
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<f64>().prop_map(AMQPValue::Double),
        vec(any::<u8>(), 0..20).prop_map(|b| AMQPValue::LongString(LongString::from(b))),
        "node~[a-z]{0,3}|all|-".prop_map(|s| AMQPValue::LongString(LongString::from(s))),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        vec(inner, 0..4).prop_map(|v| AMQPValue::FieldArray(v.into()))
    })
}

const HEADERS: [&str; 9] =
    ["epoch", "rv", "uid", "group", "resource", "namespace", "name", "shards", "prev"];

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(event in event()) {
        let message = encode_one(&event, 7);
        let body = Bytes::from(message.body);
        prop_assert_eq!(decode(&message.properties, &body), Ok(Incoming::Event(event)));
    }

    /// One header or the body of a good message replaced by something else: an error or an event, never a panic.
    #[test]
    fn hostile_input_is_an_error(
        event in event(),
        changes in btree_map(0..HEADERS.len(), proptest::option::of(value()), 0..4),
        body in proptest::option::of(vec(any::<u8>(), 0..60)),
    ) {
        let message = encode_one(&event, 7);
        let mut headers = FieldTable::default();
        for (name, value) in message.properties.headers().as_ref().unwrap() {
            let at = HEADERS.iter().position(|h| *h == name.as_str());
            match at.and_then(|at| changes.get(&at)) {
                None => { headers.insert(name.clone(), value.clone()); }
                Some(Some(other)) => { headers.insert(name.clone(), other.clone()); }
                Some(None) => {}
            }
        }
        let bytes = Bytes::from(body.unwrap_or(message.body));
        let _ = decode(&message.properties.clone().with_headers(headers), &bytes);
    }

    #[test]
    fn any_body_is_an_error_or_an_event(event in event(), body in ".{0,80}") {
        let message = encode_one(&event, 7);
        let _ = decode(&message.properties, &Bytes::from(body));
    }
}

fn pod() -> Event {
    Event {
        epoch: 3,
        revision: Revision(42),
        uid: Uid("2c0f".into()),
        key: ObjectKey::new(GroupResource::new("", "pods"), "default", "web"),
        event_type: EventType::Modified,
        shards: smallvec::smallvec![
            (Shard::Node(NodeName("rabbit-1".into())), Revision(40)),
            (Shard::Unscheduled, Revision(41)),
            (Shard::Every, Revision(41)),
        ],
        object: r#"{"kind":"Pod"}"#.into(),
        brings: Vec::new(),
    }
}

#[test]
fn a_message_as_people_see_it() {
    let message = encode_one(&pod(), 1_700_000_000);
    let properties = &message.properties;
    let mut shown = format!(
        "{}\n{}\n{:?} {:?} {:?} {:?}\n",
        message.routing_key,
        String::from_utf8(message.body).unwrap(),
        properties.message_id().as_ref().unwrap().as_str(),
        properties.user_id().as_ref().unwrap().as_str(),
        properties.content_type().as_ref().unwrap().as_str(),
        properties.delivery_mode(),
    );
    for (name, value) in properties.headers().as_ref().unwrap() {
        let value = match value {
            AMQPValue::LongString(text) => text.to_string(),
            AMQPValue::LongLongInt(n) => n.to_string(),
            AMQPValue::FieldArray(values) => {
                let one =
                    |v: &AMQPValue| to_text(v).map_or(format!("{:?}", to_number(v)), String::from);
                values.as_slice().iter().map(one).collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        };
        shown += &format!("{name}: {value}\n");
    }
    expect![[r#"
        core.pods.default.node~rabbit-1.modified
        {"type":"MODIFIED","object":{"kind":"Pod"}}
        "3:42" "server" "application/json" Some(2)
        CC: core.pods.default.unscheduled.modified
        epoch: 3
        group: 
        name: web
        namespace: default
        prev: Some(40) Some(41) Some(41)
        resource: pods
        rv: 42
        shards: node~rabbit-1 unscheduled *
        uid: 2c0f
    "#]]
    .assert_eq(&shown);
}

#[test]
fn a_floor_comes_back() {
    let message = encode_floor(3, Revision(9), "server", 7);
    assert_eq!(message.routing_key, topology::FLOOR_KEY);
    assert_eq!(
        decode(&message.properties, &Bytes::from(message.body)),
        Ok(Incoming::Floor { epoch: 3, floor: Revision(9) })
    );
}

#[test]
fn what_an_event_brings_comes_before_it() {
    let map = |name: &str| Present {
        revision: Revision(9),
        uid: Uid("1f".into()),
        key: ObjectKey::new(GroupResource::new("", "configmaps"), "a.b", name),
        object: r#"{"kind":"ConfigMap"}"#.into(),
    };
    let event = Event { brings: vec![map("one"), map("two")], ..pod() };
    let messages = encode(&event, "server", 7);
    let keys: Vec<_> = messages.iter().map(|message| &*message.routing_key).collect();
    let present = "warren.present.a_b.ref~rabbit-1.configmaps";
    assert_eq!(keys, [present, present, "core.pods.default.node~rabbit-1.modified"]);
    let read = |message: &Message| decode(&message.properties, &Bytes::from(message.body.clone()));
    assert_eq!(read(&messages[0]), Ok(Incoming::Present { epoch: 3, present: map("one") }));
    assert_eq!(read(&messages[1]), Ok(Incoming::Present { epoch: 3, present: map("two") }));
    assert_eq!(read(&messages[2]), Ok(Incoming::Event(pod())));
    assert_eq!(messages[0].body, br#"{"type":"ADDED","object":{"kind":"ConfigMap"}}"#);
    // Nobody is forgiven who says it himself.
    assert!(is_imitation(&messages[0].properties));
    let nobody = Event { shards: smallvec::smallvec![(Shard::Unscheduled, Revision(1))], ..event };
    assert_eq!(encode(&nobody, "server", 7).len(), 1, "there is no node to have it");
}

#[test]
fn errors_name_what_is_wrong() {
    let message = encode_one(&pod(), 7);
    let body = Bytes::from(message.body);
    let with = |name: &str, value: Option<AMQPValue>| {
        let mut headers = FieldTable::default();
        for (key, old) in message.properties.headers().as_ref().unwrap() {
            if key.as_str() != name {
                headers.insert(key.clone(), old.clone());
            }
        }
        if let Some(value) = value {
            headers.insert(name.into(), value);
        }
        decode(&message.properties.clone().with_headers(headers), &body).unwrap_err().to_string()
    };
    let say = |body: &'static str| {
        decode(&message.properties, &Bytes::from(body)).unwrap_err().to_string()
    };
    let all = [
        with("epoch", None),
        with("rv", Some(AMQPValue::LongLongInt(-1))),
        with("uid", Some(AMQPValue::LongString(LongString::from(vec![0xff])))),
        with("shards", Some(AMQPValue::FieldArray(FieldArray::default()))),
        with("shards", Some(AMQPValue::FieldArray(vec![text("x"), text("all"), text("*")].into()))),
        say("not JSON"),
        say(r#"{"type":"BOOKMARK","object":{}}"#),
        say(r#"{"type":"ADDED","object":[]}"#),
        say(r#"{"type":"ADDED"}"#),
    ];
    expect![[r#"
        header epoch: missing
        header rv: must be a whole number that is not negative
        header uid: must be text in UTF-8
        header prev: must have one entry for each shard
        header shards: must hold words of shards
        body: expected ident at line 1 column 2
        body: type: unknown: "BOOKMARK"
        body: object: must be a map
        body: missing field `object` at line 1 column 16"#]]
    .assert_eq(&all.join("\n"));
}

/// Also the longest names must fit into one frame of headers.
#[test]
fn an_event_of_many_shards_is_several_messages() {
    let mut event = pod();
    let node = |n: usize| Shard::Node(NodeName(format!("{n:03}{}", "n".repeat(250)).into()));
    event.shards = (0..250).map(|n| (node(n), Revision(1))).collect();
    event.shards.push((Shard::Every, Revision(41)));
    let messages = encode(&event, "server", 7);
    let read = |m: &Message| match decode(&m.properties, &Bytes::from(m.body.clone())) {
        Ok(Incoming::Event(event)) => event.shards,
        other => panic!("{other:?}"),
    };
    // Each of them is of the stream of all shards: who reads that one drops the others as seen.
    let (every, own): (Vec<_>, Vec<_>) =
        messages.iter().flat_map(read).partition(|(shard, _)| *shard == Shard::Every);
    assert_eq!((messages.len(), own.as_slice()), (3, &event.shards[..250]));
    assert_eq!(every, vec![(Shard::Every, Revision(41)); 3]);
    let keys = |m: &Message| match m.properties.headers().as_ref().unwrap().inner().get("CC") {
        Some(AMQPValue::FieldArray(copies)) => 1 + copies.as_slice().len(),
        _ => 1,
    };
    assert_eq!(messages.iter().map(keys).collect::<Vec<_>>(), [99, 99, 52]);
    let size = |m: &Message| -> usize {
        m.properties.headers().iter().flatten().map(|(k, v)| k.as_str().len() + 5 + bytes(v)).sum()
    };
    assert!(messages.iter().map(size).max() < Some(100 << 10));
}

fn bytes(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => text.len() + 5,
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(bytes).sum(),
        _ => 9,
    }
}
