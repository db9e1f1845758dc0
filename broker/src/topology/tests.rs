use expect_test::expect;
use proptest::prelude::*;
use smallvec::smallvec;
use warren_api::{ObjectKey, Revision, Uid};

use super::*;

fn event(group: &str, resource: &str, namespace: &str, shards: &[Shard]) -> Event {
    Event {
        epoch: 1,
        revision: Revision(2),
        uid: Uid("u".into()),
        key: ObjectKey::new(GroupResource::new(group, resource), namespace, "web"),
        event_type: EventType::Modified,
        shards: shards.iter().map(|s| (s.clone(), Revision(1))).collect(),
        object: "{}".into(),
        brings: Vec::new(),
    }
}

fn node_named(name: &str) -> Shard {
    Shard::Node(NodeName(name.into()))
}

#[test]
fn keys() {
    let long = "n".repeat(253);
    let rows = [
        event("", "pods", "default", &[node_named("rabbit-1"), Shard::Unscheduled, Shard::Every]),
        event("", "pods", "default", &[node_named("rabbit.example.org")]),
        event("", "nodes", "", &[node_named("all")]),
        event("networking.k8s.io", "networkpolicies", "a", &[Shard::All]),
        event("apps", "deployments", "a", &[Shard::None]),
        event("", "pods", "default", &[node_named(&long)]),
    ];
    let shown: Vec<String> = rows.iter().map(|e| event_keys(e).join(" ")).collect();
    expect![[r#"
        core.pods.default.node~rabbit-1.modified core.pods.default.unscheduled.modified
        core.pods.default.node~rabbit_example_org.modified
        core.nodes.-.node~all.modified
        networking_k8s_io.networkpolicies.a.all.modified
        apps.deployments.a.-.modified
        core.pods.default.node~nnnnnnnnnnnnnnnnnnnnnnnnnn~d54d3781e28c166e.modified"#]]
    .assert_eq(&shown.join("\n"));
}

#[test]
fn bindings() {
    let node = NodeName("rabbit-1".into());
    expect!["*.*.*.node~rabbit-1.* *.*.*.all.* *.*.*.ref~rabbit-1.* warren.floor.-.all.floor"]
        .assert_eq(&node_keys(&node).join(" "));
    let resources = [GroupResource::new("", "pods"), GroupResource::new("apps", "replicasets")];
    expect!["core.pods.*.*.* apps.replicasets.*.*.* warren.floor.-.all.floor"]
        .assert_eq(&controller_keys(&resources).join(" "));
}

#[test]
fn names() {
    let long = NodeName("n".repeat(253).into());
    assert_eq!(node_queue(&NodeName("a.b".into())), "node.a.b");
    assert_eq!(node_queue(&long).len(), MAX_NAME_BYTES);
    assert_eq!(node_account(&long).len(), MAX_NAME_BYTES);
    assert!(is_reserved(&node_queue(&long)) && is_reserved(DEAD) && !is_reserved("amq.gen-x"));
}

/// How the broker matches a topic binding.
fn matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => (0..=key.len()).any(|n| matches(rest, &key[n..])),
        (Some((p, ps)), Some((k, ks))) => (*p == "*" || p == k) && matches(ps, ks),
        _ => false,
    }
}

fn received(bindings: &[String], key: &str) -> bool {
    let key: Vec<&str> = key.split('.').collect();
    bindings.iter().any(|b| matches(&b.split('.').collect::<Vec<_>>(), &key))
}

proptest! {
    #[test]
    fn a_word_is_one_short_word(text in any::<String>()) {
        let word = word(&text);
        prop_assert!(!word.is_empty() && word.len() <= MAX_WORD_BYTES);
        prop_assert!(!word.contains(['.', '*', '#']));
    }

    #[test]
    fn a_key_fits_and_reaches_whom_it_should(
        group in "[a-z.]{0,253}", resource in "[a-z]{1,80}", namespace in "[a-z0-9-]{0,63}",
        name in "[a-z0-9.-]{1,253}", other in "[a-z0-9.-]{1,253}",
    ) {
        prop_assume!(name != other);
        let shard = node_named(&name);
        let mut event = event(&group, &resource, &namespace, &[]);
        event.shards = smallvec![(shard, Revision(0)), (Shard::Unscheduled, Revision(0))];
        let keys = event_keys(&event);
        for key in &keys {
            prop_assert!(key.len() <= MAX_NAME_BYTES);
            prop_assert_eq!(key.split('.').count(), 5);
            prop_assert!(received(&controller_keys(&[event.key.resource.clone()]), key));
        }
        prop_assert!(received(&node_keys(&NodeName(name.as_str().into())), &keys[0]));
        prop_assert!(!received(&node_keys(&NodeName(name.as_str().into())), &keys[1]));
        prop_assert!(!received(&node_keys(&NodeName(other.as_str().into())), &keys[0]));
    }

    #[test]
    fn names_fit(text in any::<String>()) {
        let node = NodeName(text.as_str().into());
        prop_assert!(node_queue(&node).len() <= MAX_NAME_BYTES);
        prop_assert!(controller_queue(&text, &text).len() <= MAX_NAME_BYTES);
    }
}

#[test]
fn what_leaders_use_is_bounded_and_the_controllers_own() {
    let (shared, own) = (leader("x", QueueType::Classic), leader_replies("x", "host_1", 2));
    let mut names = vec![LEADER.to_owned()];
    for queue in shared.queues.iter().chain(&own.queues) {
        names.push(queue.name.clone());
        for bound in ["x-max-length", "x-max-length-bytes", "x-message-ttl", "x-overflow"] {
            assert!(queue.arguments.inner().contains_key(bound), "{}: {bound}", queue.name);
        }
    }
    let keys = shared.bindings.iter().chain(&own.bindings).map(|binding| &binding.key);
    names.extend(keys.cloned());
    expect![[r#"
        [
            "controllers.leader",
            "controllers.x.leader",
            "controllers.x.leader.host_1~2",
            "controllers.x.leader",
            "controllers.x.leader.host_1",
        ]
    "#]]
    .assert_debug_eq(&names);
    assert!(names.iter().all(|name| is_reserved(name)));
    let single = |queue: &Queue| queue.arguments.inner().contains_key("x-single-active-consumer");
    assert!(shared.queues.iter().all(single) && !own.queues.iter().any(single));
    let long = leader_replies(&"n".repeat(200), &"i".repeat(253), u64::MAX);
    assert!(long.queues[0].name.len() <= MAX_NAME_BYTES && long.bindings[0].key.len() <= 255);
}

/// What is shared and for one node, as RabbitMQ is told.
fn told(queues: QueueType) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let node = NodeName("n".into());
    for topology in [shared(queues), super::node(&node, queues), leader("x", queues)] {
        for queue in topology.queues {
            assert!(!queue.exclusive);
            let _ = write!(out, "{}:", queue.name);
            for (name, value) in queue.arguments.inner() {
                let value = match value {
                    AMQPValue::LongString(text) => text.to_string(),
                    AMQPValue::LongLongInt(number) => number.to_string(),
                    AMQPValue::Boolean(is) => is.to_string(),
                    other => format!("{other:?}"),
                };
                let _ = write!(out, " {}={value}", name.as_str().trim_start_matches("x-"));
            }
            out.push('\n');
        }
    }
    out
}

#[test]
fn bounds_of_both_types() {
    expect![[r#"
        warren.commands: dead-letter-exchange=warren.dead max-length=10000 max-length-bytes=67108864 overflow=reject-publish queue-type=classic
        warren.dead: max-length=10000 max-length-bytes=33554432 overflow=drop-head queue-type=classic
        warren.replies: max-length=10000 max-length-bytes=33554432 overflow=drop-head queue-type=classic
        warren.api: max-length=10000 max-length-bytes=67108864 message-ttl=60000 overflow=reject-publish queue-type=classic
        node.n: dead-letter-exchange=warren.dead max-length=10000 max-length-bytes=33554432 overflow=drop-head queue-type=classic
        controllers.x.leader: max-length=100 max-length-bytes=262144 message-ttl=1000 overflow=drop-head queue-type=classic single-active-consumer=true
    "#]]
    .assert_eq(&told(QueueType::Classic));
    expect![[r#"
        warren.commands: dead-letter-exchange=warren.dead dead-letter-strategy=at-least-once delivery-limit=10000 max-length=10000 max-length-bytes=67108864 overflow=reject-publish queue-type=quorum
        warren.dead: delivery-limit=10000 max-length=10000 max-length-bytes=33554432 overflow=drop-head queue-type=quorum
        warren.replies: delivery-limit=10000 max-length=10000 max-length-bytes=33554432 overflow=drop-head queue-type=quorum
        warren.api: delivery-limit=10000 max-length=10000 max-length-bytes=67108864 message-ttl=60000 overflow=reject-publish queue-type=quorum
        node.n: dead-letter-exchange=warren.dead dead-letter-strategy=at-most-once delivery-limit=10000 max-length=10000 max-length-bytes=33554432 overflow=drop-head queue-type=quorum
        controllers.x.leader: delivery-limit=10000 max-length=100 max-length-bytes=262144 message-ttl=1000 overflow=drop-head queue-type=quorum single-active-consumer=true
    "#]]
    .assert_eq(&told(QueueType::Quorum));
}

#[test]
fn what_is_in_between_is_the_same_under_another_name() {
    let all = shared(QueueType::Quorum);
    for queue in &all.queues {
        let one = all.only(&queue.name);
        let other = one.in_between();
        assert_eq!((one.queues.len(), one.bindings.is_empty()), (1, false), "{}", queue.name);
        assert_eq!(other.queues[0].name, format!("{}.moving", queue.name));
        assert!(is_reserved(&other.queues[0].name));
        assert_eq!(other.queues[0].arguments, queue.arguments);
        assert!(other.bindings.iter().zip(&one.bindings).all(|(a, b)| {
            a.queue == other.queues[0].name
                && (a.exchange, &a.key, &a.arguments) == (b.exchange, &b.key, &b.arguments)
        }));
        assert_eq!(other.bindings.len(), one.bindings.len());
    }
}
