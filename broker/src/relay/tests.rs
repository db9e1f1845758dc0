use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use smallvec::smallvec;
use warren_api::{GroupResource, ObjectKey, Shard, Uid};

use super::*;
use crate::EventType;
use crate::envelope::Incoming;

fn event(rv: u64) -> Event {
    Event {
        epoch: 1,
        revision: Revision(rv),
        uid: Uid("u".into()),
        key: ObjectKey::new(GroupResource::new("", "pods"), "default", "web"),
        event_type: EventType::Modified,
        shards: smallvec![(Shard::All, Revision(rv - 1))],
        object: "{}".into(),
    }
}

fn revision(message: &Message) -> (Revision, bool) {
    match envelope::decode(&message.properties, &message.body.clone().into()) {
        Ok(Incoming::Event(event)) => (event.revision, false),
        Ok(Incoming::Floor { floor, .. }) => (floor, true),
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

#[test]
fn a_refused_message_is_sent_again_a_few_times_and_then_given_up() {
    let mut core = started(1..=2);
    drain(&mut core);
    core.acked(2, false);
    let again = Refused { again: 1, abandoned: vec![] };
    assert_eq!(core.nacked(1, false), again);
    assert_eq!(drain(&mut core), [""; 0]);
    core.retry();
    assert_eq!(drain(&mut core), ["3→1"]);
    assert_eq!(core.nacked(3, true), again);
    core.retry();
    assert_eq!(drain(&mut core), ["4→1"]);
    let given_up = Refused { again: 0, abandoned: vec![Revision(1)] };
    assert_eq!(core.nacked(4, false), given_up);
    assert_eq!(drain(&mut core), ["advance 2"]);
    assert_eq!(core.nacked(4, false), Refused::default());
}

#[test]
fn a_refused_window_waits_once_and_others_go_on_meanwhile() {
    let mut core = started(1..=4);
    drain(&mut core);
    assert_eq!(core.nacked(3, true).again, 3);
    core.acked(4, false);
    core.woken();
    core.read(&[event(5)], 7);
    assert_eq!(drain(&mut core)[0], "5→5");
    core.retry();
    assert_eq!(drain(&mut core), ["6→1", "7→2", "8→3"]);
    // Refused again, and then the connection is lost: sent once, in order.
    assert_eq!(core.nacked(6, false).again, 1);
    core.lost();
    core.connected();
    core.retry();
    assert_eq!(drain(&mut core), ["1→1", "2→2", "3→3", "4→5"]);
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
        1 => Just(Step::Lose),
        2 => Just(Step::Connect),
        1 => any::<bool>().prop_map(Step::Block),
        4 => (1..5u8).prop_map(Step::Write),
        1 => Just(Step::Compact),
    ]
}

proptest! {
    /// Whatever the broker does: each event is published in order, or a floor that covers it is; the cursor never
    /// passes what is not confirmed; and when the broker is well again, all gets through.
    #[test]
    fn nothing_is_skipped(steps in vec(step(), 1..80)) {
        let mut core = Core::new("server", Revision(0));
        let (mut head, mut floor, mut reported) = (0u64, 0u64, 0u64);
        let mut settled: BTreeSet<u64> = BTreeSet::new();
        let mut tags: Vec<(u64, u64)> = Vec::new();
        let mut once: BTreeSet<u64> = BTreeSet::new();
        let mut waiting = false;
        // The steps, then a broker that is well.
        let end = [Step::Connect, Step::Block(false)].into_iter();
        let well = std::iter::repeat_n(Step::Ack { at: 1_000, multiple: true }, 40);
        for step in steps.into_iter().chain(end).chain(well) {
            match step {
                Step::Ack { at, multiple } | Step::Nack { at, multiple } if !tags.is_empty() => {
                    let (tag, _) = tags[at.min(tags.len() - 1)];
                    let covered = |t: u64| if multiple { t <= tag } else { t == tag };
                    if matches!(step, Step::Ack { .. }) {
                        settled.extend(tags.iter().filter(|(t, _)| covered(*t)).map(|(_, rv)| *rv));
                        core.acked(tag, multiple);
                    } else {
                        settled.extend(core.nacked(tag, multiple).abandoned.iter().map(|rv| rv.0));
                    }
                    tags.retain(|(t, _)| !covered(*t));
                }
                Step::Ack { .. } | Step::Nack { .. } => {}
                Step::Lose => { core.lost(); tags.clear(); }
                Step::Connect => { core.connected(); tags.clear(); }
                Step::Retry => core.retry(),
                Step::Block(blocked) => core.blocked(blocked),
                Step::Write(n) => {
                    head += u64::from(n);
                    if std::mem::take(&mut waiting) { core.woken(); }
                }
                Step::Compact => floor = head,
            }
            while let Some(action) = core.poll() {
                match action {
                    Action::Publish { tag, message } => {
                        let (rv, is_floor) = revision(&message);
                        if once.insert(rv.0) {
                            let before = once.range(..rv.0).next_back().copied().unwrap_or(0);
                            prop_assert!(once.range(rv.0 + 1..).next().is_none(), "out of order");
                            prop_assert!(is_floor || before + 1 == rv.0, "skipped");
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
                    Action::Wait { after } => {
                        if after.0 < head { core.woken() } else { waiting = true }
                    }
                }
            }
        }
        prop_assert_eq!(core.cursor().0, head);
        prop_assert_eq!(core.window(), (0, 0));
    }
}
