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
    }
}

fn node() -> Interest {
    Interest::Node(NodeName("a".into()))
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

proptest! {
    /// Whatever is lost, doubled or reordered: what a reader did not get, and that something later of the same stream
    /// shows, was listed after it was there.
    #[test]
    fn no_gap_goes_unnoticed(
        log in vec((0..3usize, proptest::option::of(0..3usize), fate()), 1..60),
        listings in any::<bool>(),
    ) {
        let names = ["a", "all", "unscheduled"];
        let interest = Interest::Resources(vec![pods()]);
        let mut heads = [0u64; 3];
        let mut messages = Vec::new();
        for (rv, (own, old, fate)) in (1u64..).zip(&log) {
            let mut shards = vec![(names[*own], heads[*own])];
            heads[*own] = rv;
            if let Some(old) = old.filter(|old| old != own) {
                shards.push((names[old], heads[old]));
                heads[old] = rv;
            }
            messages.push((event(1, rv, &shards), *fate));
        }
        // The order of arrival: each with the revision that a listing at that moment would have.
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

        let mut reader = Reader::new(interest);
        reader.connected("start");
        let mut newest = 0;
        let mut applied = BTreeSet::new();
        // Per stream: listed up to here.
        let mut listed = [0u64; 3];
        let mut seen = [0u64; 3];
        // Without a listing's revision, what is lost between it and a stream's next event cannot be seen.
        let mut unsure = [true; 3];
        let mut blind = BTreeSet::new();
        if listings {
            prop_assert_eq!(reader.listed(&[], Revision(0)), None);
        }
        let mut list = |reader: &mut Reader, relist: Relist, newest: u64| {
            for (at, name) in names.iter().enumerate() {
                let all = relist.streams.is_empty();
                if all || relist.streams.iter().any(|s| s.shard == shard(name)) {
                    listed[at] = listed[at].max(newest);
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
                Verdict::Drop(Dropped::Seen) => {}
                Verdict::Drop(other) => prop_assert!(false, "{:?}", other),
                Verdict::Relist(relist) => {
                    list(&mut reader, relist, newest);
                    applied.insert(event.revision);
                }
            }
            for (at, name) in names.iter().enumerate() {
                if event.shards.iter().any(|(s, _)| *s == shard(name)) {
                    let rv = event.revision.0;
                    if unsure[at] && rv > seen[at] {
                        unsure[at] = false;
                        blind.extend((seen[at] + 1..rv).map(|lost| (at, lost)));
                    }
                    seen[at] = seen[at].max(event.revision.0);
                }
            }
            if breaks {
                let relist = reader.connected("reconnected");
                unsure = [true; 3];
                list(&mut reader, relist, newest);
            } else {
                reader.confirmed(event.revision);
            }
        }
        for (event, _) in &messages {
            for (at, name) in names.iter().enumerate() {
                let of = event.shards.iter().any(|(s, _)| *s == shard(name));
                let rv = event.revision;
                let visible = listings || !blind.contains(&(at, rv.0));
                if of && visible && rv.0 < seen[at] {
                    prop_assert!(applied.contains(&rv) || listed[at] >= rv.0, "{name} lost {rv}");
                }
            }
        }
    }
}
