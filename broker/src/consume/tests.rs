use std::collections::BTreeSet;

use expect_test::expect;
use proptest::collection::vec;
use proptest::prelude::*;
use warren_api::{ObjectKey, Uid};

use super::*;
use crate::EventType;

fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

fn shard(word: &str) -> Shard {
    match word {
        "all" => Shard::All,
        "unscheduled" => Shard::Unscheduled,
        "*" => Shard::Every,
        name => Shard::Node(NodeName(name.into())),
    }
}

fn event(epoch: u64, rv: u64, shards: &[(&str, u64)]) -> Event {
    Event {
        epoch,
        revision: Revision(rv),
        uid: Uid("u".into()),
        key: ObjectKey::new(pods(), "default", "web"),
        event_type: EventType::Modified,
        shards: shards.iter().map(|(s, prev)| (shard(s), Revision(*prev))).collect(),
        object: "{}".into(),
        brings: Vec::new(),
    }
}

fn node() -> Interest {
    Interest::Node(NodeName("a".into()))
}

fn every_pod() -> Interest {
    Interest::Resources(vec![pods()])
}

fn show(verdict: Verdict) -> String {
    match verdict {
        Verdict::Apply => "apply".to_owned(),
        Verdict::Drop(why) => format!("drop: {why:?}"),
        Verdict::Relist(relist) => show_relist(&relist),
    }
}

fn show_relist(relist: &Relist) -> String {
    let streams: Vec<String> = relist.streams.iter().map(|s| s.shard.word()).collect();
    format!("relist {streams:?} from {}: {}", relist.at_least, relist.reason)
}

#[test]
fn the_rule() {
    let mut reader = Reader::new(node());
    let mut out = vec![show_relist(&reader.connected("start"))];
    for (note, event) in [
        ("first of the stream", event(1, 10, &[("a", 7)])),
        ("next", event(1, 12, &[("a", 10)])),
        ("again", event(1, 12, &[("a", 10)])),
        ("older", event(1, 11, &[("a", 10)])),
        ("gap", event(1, 20, &[("a", 15)])),
        ("gap again is new knowledge", event(1, 30, &[("a", 25)])),
        ("another stream", event(1, 31, &[("all", 5)])),
        ("not for us", event(1, 32, &[("b", 5)])),
        ("moves away", event(1, 33, &[("b", 32), ("a", 30)])),
        ("a node named as the shard", event(1, 34, &[("unscheduled", 3)])),
        ("newer epoch", event(2, 5, &[("a", 4)])),
        ("older epoch", event(1, 40, &[("a", 33)])),
        ("goes on", event(2, 6, &[("a", 5)])),
    ] {
        out.push(format!("{note}: {}", show(reader.event(&event))));
    }
    expect![[r#"
        relist [] from 0: start
        first of the stream: apply
        next: apply
        again: drop: Seen
        older: drop: Seen
        gap: relist ["node~a"] from 12: gap
        gap again is new knowledge: relist ["node~a"] from 20: gap
        another stream: apply
        not for us: drop: NotOurs
        moves away: apply
        a node named as the shard: drop: NotOurs
        newer epoch: relist [] from 0: newer epoch
        older epoch: drop: OlderEpoch
        goes on: apply"#]]
    .assert_eq(&out.join("\n"));
}

#[test]
fn a_listing_says_what_must_follow() {
    let mut reader = Reader::new(node());
    reader.connected("start");
    assert_eq!(reader.listed(&[], Revision(10)), None);
    assert_eq!(show(reader.event(&event(1, 9, &[("a", 8)]))), "drop: Seen");
    assert_eq!(show(reader.event(&event(1, 12, &[("a", 9)]))), "apply");
    assert_eq!(show(reader.event(&event(1, 15, &[("all", 14)]))), "relist [\"all\"] from 10: gap");

    // Delivered before the listing's revision was known: judged as soon as it is.
    let mut reader = Reader::new(node());
    reader.connected("start");
    assert_eq!(show(reader.event(&event(1, 12, &[("a", 11)]))), "apply");
    assert_eq!(show(reader.event(&event(1, 13, &[("a", 12)]))), "apply");
    let relist = reader.listed(&[], Revision(10)).unwrap();
    assert_eq!(show_relist(&relist), "relist [\"node~a\"] from 10: gap");
    assert_eq!(reader.listed(&relist.streams, Revision(13)), None);
}

#[test]
fn a_list_while_the_connection_is_away_counts() {
    let next = |listed: u64| {
        let mut reader = Reader::new(node());
        reader.connected("start");
        assert_eq!(reader.event(&event(1, 12, &[("a", 11)])), Verdict::Apply);
        reader.listed_away(&[], Revision(listed));
        reader.reconnected().as_ref().map(show_relist)
    };
    assert_eq!(next(11), None);
    // What came before the event is not in the list.
    assert_eq!(next(10).as_deref(), Some("relist [] from 0: reconnected"));
}

#[test]
fn what_is_not_confirmed_comes_again() {
    let mut reader = Reader::new(node());
    reader.connected("start");
    let (one, two) = (event(1, 1, &[("a", 0)]), event(1, 2, &[("a", 1)]));
    assert_eq!(reader.event(&one), Verdict::Apply);
    assert_eq!(reader.event(&two), Verdict::Apply);
    reader.confirmed(Revision(2));
    reader.returned(Revision(1));
    assert_eq!(reader.event(&one), Verdict::Apply);
    assert_eq!(reader.event(&one), Verdict::Drop(Dropped::Seen));
    reader.connected("reconnected");
    assert_eq!(reader.event(&one), Verdict::Apply);
    assert_eq!(reader.event(&two), Verdict::Drop(Dropped::Seen));
}

#[test]
fn a_floor_lists_once() {
    let mut reader = Reader::new(node());
    reader.connected("start");
    assert_eq!(reader.event(&event(1, 1, &[("a", 0)])), Verdict::Apply);
    let relist = reader.floor(1, Revision(50)).unwrap();
    assert_eq!(show_relist(&relist), "relist [] from 50: floor");
    assert_eq!(reader.event(&event(1, 51, &[("a", 49)])), Verdict::Apply);
    assert_eq!(reader.floor(0, Revision(60)), None);
}

/// What the fabric does to one of the messages.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Deliver,
    Lose,
    Twice,
    /// After the next one.
    Late,
    /// The connection breaks after it, before it is confirmed.
    Break,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Deliver),
        1 => Just(Fate::Lose),
        1 => Just(Fate::Twice),
        1 => Just(Fate::Late),
        1 => Just(Fate::Break),
    ]
}

#[test]
fn a_reader_of_all_shards_has_one_position() {
    let mut reader = Reader::new(every_pod());
    reader.connected("start");
    assert_eq!(reader.listed(&[], Revision(10)), None);
    let mut out = Vec::new();
    for (note, event) in [
        ("before the list", event(1, 10, &[("a", 7), ("*", 9)])),
        ("next", event(1, 12, &[("a", 10), ("*", 10)])),
        ("of a shard that never was", event(1, 13, &[("b", 0), ("*", 12)])),
        ("another part of it", event(1, 13, &[("c", 0), ("*", 12)])),
        ("gap, though not of its shard", event(1, 20, &[("a", 12), ("*", 15)])),
        ("of an earlier release", event(1, 22, &[("a", 20)])),
        ("another, which the list had", event(1, 21, &[("b", 13)])),
        ("and again one", event(1, 23, &[("b", 13)])),
        ("goes on", event(1, 24, &[("b", 13), ("*", 23)])),
    ] {
        out.push(format!("{note}: {}", show(reader.event(&event))));
    }
    expect![[r#"
        before the list: drop: Seen
        next: apply
        of a shard that never was: apply
        another part of it: drop: Seen
        gap, though not of its shard: relist ["*"] from 13: gap
        of an earlier release: relist ["*"] from 22: no position
        another, which the list had: drop: Seen
        and again one: relist ["*"] from 23: no position
        goes on: apply"#]]
    .assert_eq(&out.join("\n"));
    assert_eq!(reader.positions.len(), 1);
}

fn heads(epoch: u64, published: u64, streams: &[(&str, u64)]) -> Heads {
    let stream = |name| Stream { resource: pods(), shard: shard(name) };
    let streams = streams.iter().map(|(name, head)| (stream(*name), Revision(*head)));
    Heads { epoch, published: Revision(published), streams: streams.collect() }
}

fn outlook(outlook: Outlook) -> String {
    match outlook {
        Outlook::Lost(relist) => show_relist(&relist),
        other => format!("{other:?}"),
    }
}

/// What heads say to a reader that has listed at 10 and then seen 12 of shard `a`.
#[test]
fn what_heads_say() {
    use Queue::{Busy, Idle, New};
    let mut out = Vec::new();
    for (note, told, queue) in [
        ("all came", heads(1, 12, &[("a", 12), ("all", 9)]), Idle),
        ("the last was lost", heads(1, 15, &[("a", 15), ("all", 9)]), Idle),
        ("it may still come", heads(1, 15, &[("a", 15)]), Busy),
        ("a later one came", heads(1, 15, &[("all", 11)]), Busy),
        ("not sent yet", heads(1, 12, &[("a", 15)]), Idle),
        ("two streams", heads(1, 20, &[("a", 20), ("all", 15)]), Idle),
        ("one of them is not sent", heads(1, 15, &[("a", 20), ("all", 15)]), Idle),
        ("a stream that never was", heads(1, 11, &[("all", 11)]), Idle),
        ("not ours", heads(1, 20, &[("b", 20), ("*", 20), ("unscheduled", 20)]), Idle),
        ("a new queue", heads(1, 12, &[("a", 15), ("all", 9)]), New),
        ("nothing since", heads(1, 12, &[("a", 12), ("all", 10)]), New),
        ("a restored database", heads(2, 5, &[("a", 5)]), Busy),
        ("the one before it", heads(0, 50, &[("a", 50)]), Idle),
        ("nothing there", heads(1, 0, &[]), Idle),
    ] {
        let mut reader = Reader::new(node());
        reader.connected("start");
        reader.listed(&[], Revision(10));
        assert_eq!(reader.event(&event(1, 12, &[("a", 10)])), Verdict::Apply);
        let first = outlook(reader.heads(&told, queue));
        // Whoever is told to list is told once.
        let again = outlook(reader.heads(&told, queue));
        let again = if again == first { "the same" } else { &again };
        out.push(format!("{note}: {first}, then {again}"));
    }
    expect![[r#"
        all came: Current, then the same
        the last was lost: relist ["node~a"] from 15: head, then Current
        it may still come: Behind, then the same
        a later one came: relist ["all"] from 11: head, then Current
        not sent yet: Current, then the same
        two streams: relist ["node~a", "all"] from 20: head, then Current
        one of them is not sent: relist ["all"] from 15: head, then Current
        a stream that never was: relist ["all"] from 11: head, then Current
        not ours: Current, then the same
        a new queue: relist ["node~a"] from 15: head, then Current
        nothing since: Current, then the same
        a restored database: relist [] from 0: newer epoch, then Current
        the one before it: Current, then the same
        nothing there: Current, then the same"#]]
    .assert_eq(&out.join("\n"));
}

#[test]
fn while_it_lists_heads_say_nothing() {
    let mut reader = Reader::new(node());
    reader.connected("start");
    let told = heads(1, 20, &[("a", 20)]);
    assert_eq!(reader.heads(&told, Queue::Idle), Outlook::Current);
    reader.listed(&[], Revision(10));
    assert!(matches!(reader.heads(&told, Queue::Idle), Outlook::Lost(_)));
    reader.floor(1, Revision(30)).unwrap();
    assert_eq!(reader.heads(&heads(1, 40, &[("a", 40)]), Queue::Idle), Outlook::Current);
}

#[test]
fn a_reconnection_forgets_nothing() {
    let mut reader = Reader::new(node());
    reader.connected("start");
    let relist = reader.reconnected().unwrap();
    assert_eq!(show_relist(&relist), "relist [] from 0: reconnected", "not listed yet");
    reader.listed(&[], Revision(10));
    let open = event(1, 12, &[("a", 10)]);
    assert_eq!(reader.event(&open), Verdict::Apply);
    assert_eq!(reader.reconnected(), None);
    assert_eq!(reader.event(&open), Verdict::Apply, "it was not confirmed");
    assert_eq!(show(reader.event(&event(1, 15, &[("a", 14)]))), "relist [\"node~a\"] from 12: gap");
    // A later event of the connection before says nothing of what comes over this one.
    assert_eq!(reader.reconnected(), None);
    let told = heads(1, 15, &[("all", 14)]);
    assert_eq!(reader.heads(&told, Queue::Busy), Outlook::Behind);
}

proptest! {
    /// Whatever is lost, doubled or reordered: what a reader did not get is listed after it was there, at the latest when
    /// it compares the heads. A reader that does not tell what it has listed sees what a later event of the stream shows.
    #[test]
    fn no_loss_goes_unnoticed(
        log in vec((0..3usize, proptest::option::of(0..3usize), fate()), 1..60),
        listings in any::<bool>(),
        whole in any::<bool>(),
    ) {
        let names = ["a", "all", "unscheduled", "*"];
        let ours: &[usize] = if whole { &[3] } else { &[0, 1] };
        let mut last = [0u64; 4];
        let mut messages = Vec::new();
        for (rv, (own, old, fate)) in (1u64..).zip(&log) {
            let mut shards = vec![];
            for at in [Some(*own), old.filter(|old| old != own), Some(3)].into_iter().flatten() {
                shards.push((names[at], last[at]));
                last[at] = rv;
            }
            messages.push((event(1, rv, &shards), *fate));
        }
        // The order of arrival.
        let mut arrivals: Vec<(Event, bool)> = Vec::new();
        let mut late: Option<Event> = None;
        for (event, fate) in &messages {
            let before = late.take();
            match fate {
                Fate::Lose => {}
                Fate::Late => late = Some(event.clone()),
                Fate::Twice => arrivals.extend([(event.clone(), false), (event.clone(), false)]),
                Fate::Deliver => arrivals.push((event.clone(), false)),
                Fate::Break => arrivals.extend([(event.clone(), true), (event.clone(), false)]),
            }
            arrivals.extend(before.map(|e| (e, false)));
        }
        arrivals.extend(late.map(|e| (e, false)));

        let mut reader = Reader::new(if whole { every_pod() } else { node() });
        reader.connected("start");
        let mut newest = 0;
        let mut applied = BTreeSet::new();
        // Per stream: listed up to here.
        let mut listed = [0u64; 4];
        let mut seen = [0u64; 4];
        // Without a listing's revision, what is lost between it and a stream's next event cannot be seen.
        let mut unsure = [true; 4];
        let mut blind = BTreeSet::new();
        if listings {
            prop_assert_eq!(reader.listed(&[], Revision(0)), None);
        }
        let mut list = |reader: &mut Reader, relist: Relist, newest: u64| {
            for at in ours {
                let all = relist.streams.is_empty();
                if all || relist.streams.iter().any(|s| s.shard == shard(names[*at])) {
                    listed[*at] = listed[*at].max(newest);
                }
            }
            if listings {
                assert_eq!(reader.listed(&relist.streams, Revision(newest)), None);
            }
        };
        for (event, breaks) in arrivals {
            newest = newest.max(event.revision.0);
            match reader.event(&event) {
                Verdict::Apply => { applied.insert(event.revision); }
                Verdict::Drop(Dropped::Seen | Dropped::NotOurs) => {}
                Verdict::Drop(other) => prop_assert!(false, "{:?}", other),
                Verdict::Relist(relist) => {
                    list(&mut reader, relist, newest);
                    applied.insert(event.revision);
                }
            }
            for at in ours {
                if event.shards.iter().any(|(s, _)| *s == shard(names[*at])) {
                    let rv = event.revision.0;
                    if unsure[*at] && rv > seen[*at] {
                        unsure[*at] = false;
                        blind.extend((seen[*at] + 1..rv).map(|lost| (*at, lost)));
                    }
                    seen[*at] = seen[*at].max(event.revision.0);
                }
            }
            if breaks {
                if let Some(relist) = reader.reconnected() {
                    unsure = [true; 4];
                    list(&mut reader, relist, newest);
                }
            } else {
                reader.confirmed(event.revision);
            }
        }
        let end = log.len() as u64;
        let of_ours = ours.iter().map(|at| (names[*at], last[*at])).filter(|(_, head)| *head > 0);
        let told = heads(1, end, &of_ours.collect::<Vec<_>>());
        if let Outlook::Lost(relist) = reader.heads(&told, Queue::Idle) {
            list(&mut reader, relist, end);
        }
        prop_assert_eq!(reader.heads(&told, Queue::Idle), Outlook::Current);
        for (event, _) in &messages {
            for at in ours {
                let of = event.shards.iter().any(|(s, _)| *s == shard(names[*at]));
                let rv = event.revision;
                let visible = listings || !blind.contains(&(*at, rv.0)) && rv.0 < seen[*at];
                if of && visible {
                    let known = applied.contains(&rv) || listed[*at] >= rv.0;
                    prop_assert!(known, "{} lost {rv}", names[*at]);
                }
            }
        }
    }
}

#[test]
fn a_restore_before_any_epoch_is_known_is_noticed() {
    let heads = |published| Heads { epoch: 2, published: Revision(published), streams: Vec::new() };
    for (listed, published, lost) in
        [(7, 9, false), (7, 1_000_000_006, false), (7, 1_000_000_007, true)]
    {
        let mut reader = Reader::new(Interest::Node(warren_api::NodeName("a".into())));
        let relist = reader.connected(reason::START);
        reader.listed(&relist.streams, Revision(listed));
        let outlook = reader.heads(&heads(published), Queue::Idle);
        let expected = match lost {
            true => Outlook::Lost(Relist::all(Revision(0), reason::EPOCH)),
            false => Outlook::Current,
        };
        assert_eq!(outlook, expected, "listed {listed}, published {published}");
    }
}
