//! The fabric's metrics, as the server sees it.

use warren_process::Family;

use crate::api::Api;
use crate::degraded::{self, Facts, Link};
use crate::readers::Reader;

pub(super) fn families(api: &Api, facts: &Facts) -> Vec<Family> {
    let mut all = readers(facts);
    all.extend(leaders(facts));
    if let (Some(link), Some(broker)) = (&facts.broker, api.broker.get()) {
        all.extend(outbox(link));
        all.extend(queues(link));
        all.extend(broker.metrics().families());
    }
    all
}

fn readers(facts: &Facts) -> Vec<Family> {
    let count = |is: fn(&Reader) -> bool| facts.readers.iter().filter(|(one, _)| is(one)).count();
    let nodes = count(|one| matches!(one, Reader::Node(_)));
    let informers = count(|one| matches!(one, Reader::Informers(_)));
    let help = "Readers on HTTP watch because their broker is away.";
    vec![Family::gauge("fabric_fallback_readers", help).with(
        "reader",
        [("agent".to_owned(), nodes as u64), ("informers".to_owned(), informers as u64)],
    )]
}

fn leaders(facts: &Facts) -> Vec<Family> {
    let each = |name, help, value: &dyn Fn(&degraded::Leader) -> u64| {
        let values = facts.leaders.iter().map(|one| (one.lease.clone(), value(one)));
        Family::gauge(name, help).with("lease", values)
    };
    let mut all = vec![
        each("fabric_leader_held", "Whether somebody leads, by the Lease.", &|one| {
            u64::from(one.holder.is_some())
        }),
        each(
            "fabric_leader_term",
            "The term of the Lease: how often the leader changed.",
            &|one| one.term,
        ),
    ];
    if let Some(depths) = facts.broker.as_ref().and_then(|link| link.depths.as_deref()) {
        let standbys = facts.leaders.iter().filter_map(|one| {
            let depth = (*depths.leaders.get(one.queue.as_ref()?)?)?;
            Some((one.lease.clone(), u64::from(depth.consumers.saturating_sub(1))))
        });
        let help =
            "Processes that stand by, as the broker counts the consumers of the leader's queue.";
        all.push(Family::gauge("fabric_leader_standbys", help).with("lease", standbys));
    }
    all
}

fn outbox(link: &Link) -> Vec<Family> {
    let waiting = &link.waiting;
    let age = waiting.oldest_ms.map_or(0, |oldest| (link.now_ms - oldest).max(0));
    vec![
        Family::gauge("fabric_outbox_events", "Events that are committed and not confirmed.")
            .of(waiting.events),
        Family::gauge("fabric_outbox_bytes", "Bytes of their objects.").of(waiting.bytes),
        Family::gauge(
            "fabric_outbox_limit_bytes",
            "What the outbox holds before history is given up.",
        )
        .of(link.bound),
        Family::gauge(
            "fabric_outbox_oldest_seconds",
            "Since when the oldest of them waits; 0 where none does.",
        )
        .amount(age as f64 / 1e3),
    ]
}

/// What the broker said; nothing where it does not answer.
fn queues(link: &Link) -> Vec<Family> {
    let Some(depths) = link.depths.as_deref() else { return Vec::new() };
    let nodes = || depths.nodes.values().copied();
    let messages = nodes().flatten().map(|depth| u64::from(depth.messages));
    let behind = nodes().filter(|depth| degraded::behind(*depth).is_some()).count();
    let mut all = vec![
        Family::gauge(
            "fabric_node_queue_messages",
            "Messages that wait in the queues of all nodes.",
        )
        .of(messages.clone().sum()),
        Family::gauge(
            "fabric_node_queue_messages_max",
            "Messages that wait in the longest of them.",
        )
        .of(messages.max().unwrap_or(0)),
        Family::gauge(
            "fabric_nodes_behind",
            "Nodes that nobody reads for, or with a tenth of their queue full.",
        )
        .of(behind as u64),
    ];
    if let Some(dead) = depths.dead_letters {
        let help = "Messages in the queue warren.dead.";
        all.push(Family::gauge("fabric_dead_letters_waiting", help).of(dead.messages.into()));
    }
    all
}
