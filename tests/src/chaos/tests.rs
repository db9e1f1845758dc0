//! Good histories and bad ones: a checker that finds nothing has to be able to find something.

use super::containers::Event;
use super::reader::{Heard, Reader, Verdict};
use super::*;

fn did(op: Op, outcome: Outcome) -> Entry {
    Entry::Did { key: "r/k".into(), op, outcome }
}

fn create(token: &str) -> Op {
    Op::Create { token: token.into() }
}

fn update(born: &str, from: &str, to: &str) -> Op {
    Op::Update { born: born.into(), from: from.into(), to: to.into() }
}

fn delete(born: &str) -> Op {
    Op::Delete { born: born.into() }
}

#[expect(clippy::unnecessary_wraps, reason = "what is there, or not")]
fn is(born: &str, token: &str) -> Option<State> {
    Some(State { born: born.into(), token: token.into() })
}

fn done(op: Op) -> Entry {
    did(op, Outcome::Done(None))
}

fn at(op: Op, revision: u64) -> Entry {
    did(op, Outcome::Done(Some(revision)))
}

fn unknown(op: Op) -> Entry {
    did(op, Outcome::Unknown)
}

fn refused(op: Op) -> Entry {
    did(op, Outcome::Refused)
}

fn read(state: Option<State>) -> Entry {
    did(Op::Read, Outcome::Is(state))
}

#[test]
fn answers_against_what_is_stored() {
    use Wrong::*;
    let ab = || vec![done(create("a")), done(update("a", "a", "b"))];
    let more = |more: &[Entry]| [&ab()[..], more].concat();
    type Row = (&'static str, Vec<Entry>, Option<State>, Vec<Wrong>);
    let table: Vec<Row> = vec![
        ("as acknowledged", ab(), is("a", "b"), vec![]),
        ("nothing at all", vec![], None, vec![]),
        ("nobody wrote it", vec![], is("x", "x"), vec![Invented]),
        ("a create is lost", vec![done(create("a"))], None, vec![Lost]),
        ("an update is lost", ab(), is("a", "a"), vec![Lost]),
        ("the object is lost", ab(), None, vec![Lost]),
        ("a delete is lost", more(&[done(delete("a"))]), is("a", "b"), vec![Lost]),
        ("deleted", more(&[done(delete("a"))]), None, vec![]),
        ("refused and not done", more(&[refused(update("a", "b", "c"))]), is("a", "b"), vec![]),
        ("refused and done", more(&[refused(update("a", "b", "c"))]), is("a", "c"), vec![Invented]),
        ("a refused create", vec![refused(create("a"))], is("a", "a"), vec![Invented]),
        ("unknown and done", more(&[unknown(update("a", "b", "c"))]), is("a", "c"), vec![]),
        ("unknown and not done", more(&[unknown(update("a", "b", "c"))]), is("a", "b"), vec![]),
        (
            "unknown, and undone what was acknowledged",
            more(&[unknown(update("a", "b", "c"))]),
            is("a", "a"),
            vec![Lost],
        ),
        (
            "done later than it was looked for",
            more(&[unknown(update("a", "b", "c")), read(is("a", "b")), read(is("a", "c"))]),
            is("a", "c"),
            vec![],
        ),
        (
            "done, seen, and undone",
            more(&[unknown(update("a", "b", "c")), read(is("a", "c")), read(is("a", "b"))]),
            is("a", "b"),
            vec![Lost],
        ),
        (
            "too late to be done",
            more(&[unknown(update("a", "b", "c")), done(update("a", "b", "d"))]),
            is("a", "c"),
            vec![Lost],
        ),
        (
            "one unknown after another",
            more(&[unknown(update("a", "b", "c")), unknown(update("a", "c", "d"))]),
            is("a", "d"),
            vec![],
        ),
        (
            "a second one without the first",
            vec![unknown(create("a")), unknown(update("a", "a", "b")), unknown(delete("a"))],
            is("a", "b"),
            vec![],
        ),
        (
            "a create that comes after all, once the other is gone",
            vec![unknown(create("x")), done(create("a")), done(delete("a"))],
            is("x", "x"),
            vec![],
        ),
        ("a delete of another", vec![unknown(delete("x")), done(create("a"))], None, vec![Lost]),
        (
            "acknowledged twice",
            vec![done(create("a")), done(create("b"))],
            is("b", "b"),
            vec![Lost],
        ),
        (
            "revisions grow",
            vec![at(create("a"), 5), at(update("a", "a", "b"), 6)],
            is("a", "b"),
            vec![],
        ),
        (
            "a revision comes twice",
            vec![at(create("a"), 5), at(update("a", "a", "b"), 5)],
            is("a", "b"),
            vec![OutOfOrder],
        ),
        (
            "put back",
            [&[done(create("a")), Entry::Backup(1)], &ab()[1..], &[Entry::Restored(1)]].concat(),
            is("a", "a"),
            vec![],
        ),
        (
            "a restore that restores nothing",
            [&[done(create("a")), Entry::Backup(1)], &ab()[1..], &[Entry::Restored(1)]].concat(),
            is("a", "b"),
            vec![Lost],
        ),
        (
            "a restore that loses what is in the backup",
            more(&[Entry::Backup(1), Entry::Restored(1)]),
            is("a", "a"),
            vec![Lost],
        ),
        (
            "made after the backup",
            vec![Entry::Backup(1), done(create("a")), Entry::Restored(1)],
            None,
            vec![],
        ),
        (
            "a request that waited at the broker",
            vec![Entry::Backup(1), unknown(create("a")), Entry::Restored(1)],
            is("a", "a"),
            vec![],
        ),
        ("no such backup", vec![Entry::Restored(1)], None, vec![Invented]),
    ];
    for (name, history, state, wrong) in table {
        let stored = state.map(|state| ("r/k".to_owned(), state)).into_iter().collect();
        let found = worlds::check(&history, &stored).wrong;
        let kinds: Vec<_> = found.iter().map(|violation| violation.wrong).collect();
        assert_eq!(kinds, wrong, "{name}: {found:?}");
    }
}

#[test]
fn a_restore_undoes_what_came_after_and_is_counted_once() {
    let history = vec![
        done(create("a")),
        Entry::Backup(1),
        done(update("a", "a", "b")),
        Entry::Restored(1),
        done(update("a", "a", "c")),
        Entry::Restored(1),
    ];
    let stored = BTreeMap::from([("r/k".to_owned(), is("a", "a").unwrap())]);
    let checked = worlds::check(&history, &stored);
    assert_eq!((checked.wrong, checked.undone), (vec![], 2));
}

fn heard(epoch: u64, revision: u64, shards: &[(&str, u64)]) -> Heard {
    let shards = shards.iter().map(|(shard, prev)| ((*shard).to_owned(), *prev)).collect();
    Heard { epoch, revision, resource: "r".into(), shards, floor: false }
}

/// Lists, as of this revision, whenever it is told to.
fn follows(reader: &mut Reader, listed: u64, messages: &[Heard]) -> Vec<&'static str> {
    let mut all = Vec::new();
    for message in messages {
        let verdict = match reader.hears(message) {
            Verdict::Relist(_) => {
                all.push("list");
                reader.listed("r", listed.max(message.revision));
                reader.again(message)
            }
            other => other,
        };
        all.push(match verdict {
            Verdict::Apply => "apply",
            Verdict::Drop => "drop",
            Verdict::Relist(_) => "list again",
        });
    }
    all
}

#[test]
fn the_rule() {
    let table: Vec<(&str, Vec<Heard>, &[&str])> = vec![
        (
            "one after another",
            vec![heard(1, 11, &[("-", 10)]), heard(1, 12, &[("-", 11)])],
            &["apply", "apply"],
        ),
        ("known from the list", vec![heard(1, 9, &[("-", 8)])], &["drop"]),
        ("again", vec![heard(1, 11, &[("-", 10)]), heard(1, 11, &[("-", 10)])], &["apply", "drop"]),
        (
            "a gap",
            vec![heard(1, 11, &[("-", 10)]), heard(1, 15, &[("-", 13)])],
            &["apply", "list", "drop"],
        ),
        (
            "no gap, another stream's",
            vec![heard(1, 11, &[("a", 3)]), heard(1, 12, &[("b", 4)]), heard(1, 13, &[("a", 11)])],
            &["apply", "apply", "apply"],
        ),
        (
            "moved",
            vec![heard(1, 11, &[("a", 3)]), heard(1, 12, &[("b", 4), ("a", 11)])],
            &["apply", "apply"],
        ),
        (
            "a new world, and the rest of the old one",
            vec![
                heard(1, 11, &[("-", 10)]),
                heard(2, 111, &[("-", 10)]),
                heard(1, 12, &[("-", 11)]),
            ],
            &["apply", "list", "drop", "drop"],
        ),
        (
            "a floor",
            vec![
                Heard { floor: true, ..heard(1, 20, &[]) },
                Heard { floor: true, ..heard(1, 20, &[]) },
            ],
            &["list", "drop", "drop"],
        ),
    ];
    for (name, messages, expected) in table {
        let mut reader = Reader::default();
        reader.listed("r", 10);
        assert_eq!(follows(&mut reader, 0, &messages), expected, "{name}");
    }
}

#[test]
fn what_a_reader_must_have_heard() {
    let written = Written::of(&[
        at(create("a"), 11),
        at(update("a", "a", "b"), 12),
        at(update("a", "b", "c"), 13),
    ]);
    let one = |revision| heard(1, revision, &[("-", revision - 1)]);
    type Row = (&'static str, Vec<Heard>, Vec<Wrong>, usize);
    let table: Vec<Row> = vec![
        ("all", vec![one(11), one(12), one(13)], vec![], 0),
        ("a gap that it knows of", vec![one(11), one(13)], vec![], 1),
        ("the last one", vec![one(11), one(12)], vec![Wrong::Undetected], 0),
        (
            "a gap that it cannot know of",
            vec![one(11), heard(1, 13, &[("-", 11)])],
            vec![Wrong::Undetected],
            0,
        ),
        ("late", vec![one(11), heard(1, 13, &[("-", 11)]), one(12)], vec![Wrong::OutOfOrder], 0),
        ("late, and it knew", vec![one(11), one(13), one(12)], vec![], 0),
        ("again from before", vec![one(11), one(12), one(11), one(12), one(13)], vec![], 0),
    ];
    for (name, messages, wrong, missing) in table {
        let mut reader = Reader::default();
        reader.listed("r", 10);
        follows(&mut reader, 0, &messages);
        let (found, gaps) = reader.judge(&written);
        let kinds: Vec<_> = found.iter().map(|violation| violation.wrong).collect();
        assert_eq!((kinds, gaps), (wrong, missing), "{name}: {found:?}");
    }
}

#[test]
fn containers_that_run_twice() {
    let event = |id: &str, name: &str, starts| Event {
        id: id.into(),
        of: ("u".into(), name.into()),
        starts,
    };
    let table = [
        ("one", vec![event("1", "c", true)], 0),
        (
            "one after another",
            vec![event("1", "c", true), event("1", "c", false), event("2", "c", true)],
            0,
        ),
        ("two of one pod", vec![event("1", "c", true), event("2", "d", true)], 0),
        ("twice", vec![event("1", "c", true), event("2", "c", true), event("1", "c", false)], 1),
        ("told again", vec![event("1", "c", true), event("1", "c", true)], 0),
    ];
    for (name, events, wrong) in table {
        assert_eq!(containers::check(&events).len(), wrong, "{name}");
    }
}
