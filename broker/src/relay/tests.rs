use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use smallvec::smallvec;
use warren_api::{GroupResource, NodeName, ObjectKey, Shard, Uid};

use super::*;
use crate::envelope::Incoming;
use crate::{EventType, Present};

fn event(rv: u64) -> Event {
    Event {
        epoch: 1,
        revision: Revision(rv),
        uid: Uid("u".into()),
        key: ObjectKey::new(GroupResource::new("", "pods"), "default", "web"),
        event_type: EventType::Modified,
        shards: smallvec![(Shard::All, Revision(rv - 1))],
        object: "{}".into(),
        brings: Vec::new(),
    }
}

fn revision(message: &Message) -> (Revision, bool) {
    match envelope::decode(&message.properties, &message.body.clone().into()) {
        Ok(Incoming::Event(event)) => (event.revision, false),
        Ok(Incoming::Floor { floor, .. }) => (floor, true),
        Ok(Incoming::Present { present, .. }) => (present.revision, false),
        Err(error) => panic!("{error}"),
    }
}

/// All that the core wants now, as words.
fn drain(core: &mut Core) -> Vec<String> {
    std::iter::from_fn(|| core.poll())
        .map(|action| match action {
            Action::Publish { tag, message } => format!("{tag}→{}", revision(&message).0),
            Action::Advance(to) => format!("advance {to}"),
            Action::Read { after, limit } => format!("read {limit} after {after}"),
            Action::Wait { after } => format!("wait after {after}"),
            Action::Pause(time) => format!("pause {}", time.as_millis()),
            Action::Reopen => "reopen".to_owned(),
        })
        .collect()
}

fn started(events: std::ops::RangeInclusive<u64>) -> Core {
    let mut core = Core::new("server", Revision(0));
    core.connected();
    assert_eq!(drain(&mut core), ["read 256 after 0"]);
    core.read(&events.map(event).collect::<Vec<_>>(), 7);
    core
}

#[test]
fn acks_in_any_order_move_the_cursor_past_what_is_confirmed() {
    let mut core = started(1..=4);
    assert_eq!(drain(&mut core), ["1→1", "2→2", "3→3", "4→4", "read 256 after 4"]);
    core.read(&[], 7);
    assert_eq!(drain(&mut core), ["wait after 4"]);
    core.acked(2, false);
    assert_eq!(drain(&mut core), [""; 0]);
    core.acked(1, false);
    assert_eq!(drain(&mut core), ["advance 2"]);
    core.acked(9, false);
    core.acked(4, true);
    assert_eq!(drain(&mut core), ["advance 4"]);
    core.woken();
    assert_eq!(drain(&mut core), ["read 256 after 4"]);
}

#[test]
fn what_is_not_confirmed_is_published_again_after_an_outage() {
    let mut core = started(1..=3);
    drain(&mut core);
    core.acked(2, false);
    core.lost();
    assert_eq!(drain(&mut core), [""; 0]);
    core.connected();
    assert_eq!(drain(&mut core), ["1→1", "2→3"]);
    core.acked(2, true);
    assert_eq!(drain(&mut core), ["advance 3"]);
}

#[test]
fn blocked_is_a_pause() {
    let mut core = started(1..=2);
    core.blocked(true);
    assert_eq!(drain(&mut core), [""; 0]);
    core.blocked(false);
    assert_eq!(drain(&mut core).len(), 3);
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_refused_message_is_sent_again_for_a_while_and_then_given_up() {
    let mut core = started(1..=2);
    drain(&mut core);
    core.acked(2, false);
    let (mut now, mut tag, mut pauses, mut channels) = (ms(5_000), 1, Vec::new(), 1);
    let given_up = loop {
        let given_up = core.nacked(tag, false, now);
        if !given_up.is_empty() {
            break given_up;
        }
        let Some(Action::Pause(pause)) = core.poll() else { panic!("it waits") };
        assert_eq!(core.poll(), None, "once");
        pauses.push(pause);
        now += pause;
        core.retry(now);
        let mut all = drain(&mut core);
        tag = if tag == 1 && channels == 1 { 3 } else { tag + 1 };
        if all == ["reopen"] {
            core.reopened();
            (tag, channels) = (1, channels + 1);
            all = drain(&mut core);
        }
        assert_eq!(all, [format!("{tag}→1")]);
    };
    assert_eq!(given_up, [Revision(1)]);
    assert_eq!((pauses.iter().sum::<Duration>(), pauses.len(), channels), (PATIENCE, 10, 8));
    assert_eq!(drain(&mut core), ["advance 2"]);
    assert_eq!(core.nacked(tag, false, now), []);

    // A queue that refuses for ever keeps nobody waiting: what comes next is tried no more than a few times.
    core.woken();
    core.read(&[event(3), event(4)], 7);
    let all = drain(&mut core);
    assert_eq!(all[..2], ["2→3", "3→4"]);
    core.acked(3, false);
    for tag in [2, 4] {
        assert_eq!(core.nacked(tag, false, now), []);
        assert_eq!(drain(&mut core), ["pause 50"]);
        now += ms(50);
        core.retry(now);
        assert_eq!(drain(&mut core), [format!("{}→3", if tag == 2 { 4 } else { 5 })]);
    }
    assert_eq!(core.nacked(5, false, now), [Revision(3)]);
    assert_eq!(drain(&mut core), ["advance 4"]);
}

/// A channel that was opened while a queue lost its leader may go on to refuse.
#[test]
fn what_is_refused_for_long_is_sent_again_on_another_channel_in_order() {
    let mut core = started(1..=4);
    drain(&mut core);
    let mut now = ms(0);
    // All but the last are refused.
    for (tag, pause) in [(3, 50), (7, 100), (10, 200), (13, 400)] {
        assert_eq!(core.nacked(tag, true, now), []);
        assert_eq!(drain(&mut core), [format!("pause {pause}")]);
        now += ms(pause);
        core.retry(now);
        if pause < 400 {
            assert_eq!(drain(&mut core).len(), 3);
        }
        if tag == 3 {
            core.acked(4, false);
        }
    }
    assert_eq!(drain(&mut core), ["reopen"]);
    // Until there is another channel, nothing is said.
    core.acked(11, true);
    core.woken();
    core.read(&[event(5)], 7);
    assert_eq!(drain(&mut core), [""; 0]);
    core.reopened();
    assert_eq!(drain(&mut core)[..4], ["1→1", "2→2", "3→3", "4→5"]);
    core.acked(4, true);
    assert_eq!(drain(&mut core)[0], "advance 5");
}

/// The tag of the one message that is sent now, perhaps on another channel.
fn sent_again(core: &mut Core) -> u64 {
    loop {
        match core.poll() {
            Some(Action::Publish { tag, .. }) => return tag,
            Some(Action::Reopen) => core.reopened(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn patience_is_there_again_when_nothing_was_refused_for_long() {
    let mut core = started(1..=1);
    drain(&mut core);
    // The broker refuses for nine seconds, and then no more.
    assert_eq!(core.nacked(1, false, ms(0)), []);
    assert_eq!(drain(&mut core), ["pause 50"]);
    core.retry(ms(9_000));
    assert_eq!(drain(&mut core), ["2→1"]);
    core.acked(2, false);
    assert_eq!(drain(&mut core), ["advance 1"]);
    core.read(&[event(2)], 7);
    assert_eq!(drain(&mut core)[0], "3→2");
    // A minute later there are seven seconds of it.
    let start = 69_000;
    assert_eq!(core.nacked(3, false, ms(start)), []);
    for n in 1..6 {
        assert_eq!(drain(&mut core).len(), 1);
        core.retry(ms(start + n * 1_000));
        let tag = sent_again(&mut core);
        assert_eq!(core.nacked(tag, false, ms(start + n * 1_000)), []);
    }
    assert_eq!(drain(&mut core).len(), 1);
    core.retry(ms(start + 8_000));
    let tag = sent_again(&mut core);
    assert_eq!(core.nacked(tag, false, ms(start + 8_000)), [Revision(2)]);
}

#[test]
fn a_refused_window_waits_once_and_others_go_on_meanwhile() {
    let mut core = started(1..=4);
    drain(&mut core);
    core.woken();
    // In whatever order the refusals come.
    assert_eq!(core.nacked(3, false, ms(0)), []);
    assert_eq!(core.nacked(2, true, ms(1)), []);
    core.acked(4, false);
    core.read(&[event(5)], 7);
    let all = drain(&mut core);
    assert_eq!(all[..2], ["pause 50", "5→5"]);
    // What is sent again goes before what was not sent yet.
    core.blocked(true);
    core.read(&[event(6)], 7);
    core.retry(ms(50));
    core.blocked(false);
    assert_eq!(drain(&mut core)[..4], ["6→1", "7→2", "8→3", "9→6"]);
    // Refused again, and then the connection is lost: sent once, in order.
    assert_eq!(core.nacked(6, false, ms(60)), []);
    core.lost();
    assert_eq!(drain(&mut core), [""; 0]);
    core.connected();
    core.retry(ms(150));
    assert_eq!(drain(&mut core), ["1→1", "2→2", "3→3", "4→5", "5→6"]);
}

fn large(rv: u64) -> Event {
    Event { object: format!("{:1000}", "{}").into(), ..event(rv) }
}

#[test]
fn a_message_for_which_the_channel_is_closed_is_found_and_given_up() {
    let mut core = started(1..=69);
    drain(&mut core);
    core.read(
        &(70..=100).map(|rv| if rv == 70 { large(rv) } else { event(rv) }).collect::<Vec<_>>(),
        7,
    );
    assert_eq!(drain(&mut core).len(), 32);
    let mut in_flight = 100;
    let mut seen = Vec::new();
    let given_up = loop {
        // The 70th is not taken.
        if let Some(revision) = core.rejected() {
            break revision;
        }
        assert_eq!(core.poll(), Some(Action::Reopen));
        assert_eq!(core.poll(), None, "there is no channel");
        core.reopened();
        in_flight = drain(&mut core).len();
        seen.push(in_flight);
        // What was sent before it is.
        for tag in 1.. {
            if core.cursor() == Revision(69) {
                break;
            }
            core.acked(tag, false);
            drain(&mut core);
        }
    };
    assert_eq!((given_up, in_flight), (Revision(70), 1));
    assert_eq!(seen, [25, 6, 1, 1, 1]);
    assert_eq!(drain(&mut core), ["advance 70", "reopen"]);
    core.reopened();
    assert_eq!(drain(&mut core).len(), 30, "all others at once");
    core.acked(30, true);
    assert_eq!(drain(&mut core)[0], "advance 100");
}

#[test]
fn what_is_as_large_as_one_given_up_goes_alone_and_once() {
    let mut core = Core::new("server", Revision(0));
    core.connected();
    drain(&mut core);
    core.read(&[event(1), large(2), event(3), large(4), event(5)], 7);
    assert_eq!(drain(&mut core).len(), 6);
    core.acked(1, false);
    assert_eq!(drain(&mut core), ["advance 1"]);
    for _ in 0..3 {
        assert_eq!(core.rejected(), None);
        assert_eq!(drain(&mut core), ["reopen"]);
        core.reopened();
        assert_eq!(drain(&mut core), ["1→2"]);
    }
    assert_eq!(core.rejected(), Some(Revision(2)));
    assert_eq!(drain(&mut core), ["advance 2", "reopen"]);
    core.reopened();
    assert_eq!(drain(&mut core), ["1→3"]);
    core.acked(1, false);
    assert_eq!(drain(&mut core), ["advance 3", "2→4"]);
    assert_eq!(core.rejected(), Some(Revision(4)), "it is known by its size");
    assert_eq!(drain(&mut core), ["advance 4", "reopen"]);
    core.reopened();
    assert_eq!(drain(&mut core), ["1→5"]);
    // Somebody has raised the bound.
    core.woken();
    core.read(&[large(6), large(7)], 7);
    core.acked(1, false);
    assert_eq!(drain(&mut core), ["advance 5", "2→6"]);
    core.acked(2, false);
    assert_eq!(drain(&mut core)[..2], ["advance 6", "3→7"]);
    core.woken();
    core.read(&[large(8)], 7);
    assert_eq!(drain(&mut core)[0], "4→8", "together");
    // Nothing was in flight: nothing is to blame.
    core.acked(4, true);
    drain(&mut core);
    assert_eq!(core.rejected(), None);
    assert_eq!(drain(&mut core), ["reopen"]);
}

#[test]
fn what_an_event_brings_goes_before_it_and_counts() {
    let mut core = Core::new("server", Revision(0));
    core.connected();
    drain(&mut core);
    let map = |rv| Present {
        revision: Revision(rv),
        uid: Uid("u".into()),
        key: ObjectKey::new(GroupResource::new("", "configmaps"), "default", "map"),
        object: "{}".into(),
    };
    let shards = smallvec![(Shard::Node(NodeName("n".into())), Revision(0))];
    core.read(&[Event { brings: vec![map(3), map(4)], shards, ..event(7) }], 7);
    assert_eq!(drain(&mut core), ["1→3", "2→4", "3→7", "read 256 after 7"]);
    core.acked(3, false);
    core.acked(1, false);
    assert_eq!(drain(&mut core), [""; 0], "not yet");
    core.acked(2, false);
    assert_eq!(drain(&mut core), ["advance 7"]);
}

#[test]
fn a_floor_is_published_and_reading_goes_on_from_there() {
    let mut core = Core::new("server", Revision(5));
    core.connected();
    assert_eq!(drain(&mut core), ["read 256 after 5"]);
    core.floor(1, Revision(90), 7);
    assert_eq!(drain(&mut core), ["1→90", "read 256 after 90"]);
    core.acked(1, false);
    assert_eq!(drain(&mut core), ["advance 90"]);
    core.floor(1, Revision(90), 7);
    assert_eq!(drain(&mut core), ["wait after 90"]);
}

#[test]
fn the_window_is_bounded() {
    let mut core = Core::new("server", Revision(0));
    core.connected();
    let mut rv = 0;
    while let Some(action) = core.poll() {
        if let Action::Read { limit, .. } = action {
            let events: Vec<Event> = (rv + 1..=rv + limit as u64).map(event).collect();
            rv += limit as u64;
            core.read(&events, 7);
        }
    }
    assert_eq!(core.window().0, WINDOW_MESSAGES);

    let mut core = Core::new("server", Revision(0));
    core.connected();
    core.poll();
    let big = Event { object: vec![b' '; WINDOW_BYTES].into(), ..event(1) };
    core.read(&[big], 7);
    assert!(matches!(core.poll(), Some(Action::Publish { .. })));
    assert_eq!(core.poll(), None);
}

#[test]
fn a_backlog_is_read_in_whole_pages() {
    let mut core = Core::new("server", Revision(0));
    core.connected();
    for page in 0..4 {
        let first = page * 256 + 1;
        assert_eq!(drain(&mut core).pop(), Some(format!("read 256 after {}", first - 1)));
        core.read(&(first..first + 256).map(event).collect::<Vec<_>>(), 7);
    }
    assert_eq!(drain(&mut core).len(), 256, "the window is full");
    core.acked(255, true);
    assert_eq!(drain(&mut core), ["advance 255"]);
    core.acked(256, false);
    assert_eq!(drain(&mut core), ["advance 256", "read 256 after 1024"]);
}

#[derive(Clone, Debug)]
enum Step {
    Ack { at: usize, multiple: bool },
    Nack { at: usize, multiple: bool },
    Lose,
    Connect,
    Retry,
    Later(u16),
    Block(bool),
    Write(u8),
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let which = (0..20usize, any::<bool>());
    prop_oneof![
        6 => which.clone().prop_map(|(at, multiple)| Step::Ack { at, multiple }),
        1 => which.prop_map(|(at, multiple)| Step::Nack { at, multiple }),
        1 => Just(Step::Retry),
        1 => any::<u16>().prop_map(Step::Later),
        1 => Just(Step::Lose),
        2 => Just(Step::Connect),
        1 => any::<bool>().prop_map(Step::Block),
        4 => (1..5u8).prop_map(Step::Write),
        1 => Just(Step::Compact),
    ]
}

proptest! {
    /// Whatever the broker does: each event is published in order, or a floor that covers it is; the cursor never
    /// passes what is not confirmed; and when the broker is well again, all gets through, but for the messages for which it
    /// closes the channel: nothing else is given up for them.
    #[test]
    fn nothing_is_skipped(steps in vec(step(), 1..80), bad in btree_set(1..60u64, 0..6)) {
        let mut core = Core::new("server", Revision(0));
        let (mut head, mut floor, mut reported) = (0u64, 0u64, 0u64);
        let mut settled: BTreeSet<u64> = BTreeSet::new();
        let mut tags: Vec<(u64, u64)> = Vec::new();
        let mut once: BTreeSet<u64> = BTreeSet::new();
        let (mut waiting, mut pausing, mut now) = (false, false, Duration::ZERO);
        // The steps, then a broker that is well.
        let end = [Step::Connect, Step::Block(false)].into_iter();
        let well = std::iter::repeat_n(Step::Ack { at: 1_000, multiple: true }, 200);
        let mut rejected: BTreeSet<u64> = BTreeSet::new();
        for step in steps.into_iter().chain(end).chain(well) {
            match step {
                Step::Ack { at, multiple } | Step::Nack { at, multiple } if !tags.is_empty() => {
                    let (mut tag, _) = tags[at.min(tags.len() - 1)];
                    // Messages come to the broker in order; it reads none after one that it does not take.
                    let closes = tags.iter().position(|(t, rv)| *t <= tag && bad.contains(rv));
                    if let Some(first) = closes {
                        tag = if multiple && first > 0 { tags[first - 1].0 } else { 0 };
                    }
                    let covered = |t: u64| if multiple { t <= tag } else { t == tag };
                    if matches!(step, Step::Ack { .. }) {
                        settled.extend(tags.iter().filter(|(t, _)| covered(*t)).map(|(_, rv)| *rv));
                        core.acked(tag, multiple);
                    } else {
                        settled.extend(core.nacked(tag, multiple, now).iter().map(|rv| rv.0));
                    }
                    tags.retain(|(t, _)| !covered(*t));
                    if closes.is_some() {
                        let given_up = core.rejected();
                        prop_assert!(given_up.is_none_or(|rv| bad.contains(&rv.0)), "{given_up:?}");
                        settled.extend(given_up.map(|rv| rv.0));
                        rejected.extend(given_up.map(|rv| rv.0));
                    }
                }
                Step::Ack { .. } | Step::Nack { .. } => {}
                Step::Lose => { core.lost(); tags.clear(); }
                Step::Connect => { core.connected(); tags.clear(); pausing = false; }
                Step::Retry => { core.retry(now); pausing = false; }
                Step::Later(time) => now += ms(time.into()),
                Step::Block(blocked) => core.blocked(blocked),
                Step::Write(n) => {
                    head += u64::from(n);
                    if std::mem::take(&mut waiting) { core.woken(); }
                }
                Step::Compact => floor = head,
            }
            let mut burst: Option<(u64, u64)> = None;
            while let Some(action) = core.poll() {
                match action {
                    Action::Publish { tag, message } => {
                        let (rv, is_floor) = revision(&message);
                        if once.insert(rv.0) {
                            let before = once.range(..rv.0).next_back().copied().unwrap_or(0);
                            prop_assert!(once.range(rv.0 + 1..).next().is_none(), "out of order");
                            prop_assert!(is_floor || before + 1 == rv.0, "skipped");
                        }
                        // What is sent again is sent in order.
                        if let Some((_, before)) = burst.replace((tag, rv.0)) {
                            prop_assert!(before < rv.0, "{before} before {rv}");
                        }
                        tags.push((tag, rv.0));
                    }
                    Action::Advance(to) => {
                        prop_assert!(to.0 > reported);
                        reported = to.0;
                        prop_assert!(once.range(..=to.0).all(|rv| settled.contains(rv)));
                    }
                    Action::Read { after, limit } if after.0 < floor => {
                        prop_assert!(limit > 0);
                        core.floor(1, Revision(floor), 7);
                    }
                    Action::Read { after, limit } => {
                        let to = head.min(after.0 + limit as u64);
                        core.read(&(after.0 + 1..=to).map(event).collect::<Vec<_>>(), 7);
                    }
                    Action::Reopen => {
                        core.reopened();
                        (burst, pausing) = (None, false);
                        tags.clear();
                    }
                    Action::Pause(time) => {
                        prop_assert!(!std::mem::replace(&mut pausing, true), "one at a time");
                        prop_assert!(!time.is_zero() && time <= ms(2_000));
                    }
                    Action::Wait { after } => {
                        if after.0 < head { core.woken() } else { waiting = true }
                    }
                }
            }
        }
        prop_assert_eq!(core.cursor().0, head);
        prop_assert_eq!(core.window(), (0, 0));
        prop_assert!(rejected.iter().all(|rv| once.contains(rv)));
    }
}
