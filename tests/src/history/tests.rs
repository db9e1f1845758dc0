//! Histories, good ones and bad ones: a checker that finds nothing has to be able to find something.

use super::streams::{Kind, Session, Told, Truth};
use super::*;

/// A name, what happened, what clients were told, and a part of each complaint.
type Row<'a> = (&'a str, Vec<Change>, Vec<Record>, &'a [&'a str]);
/// A name, what is watched and from where, what was told, and a part of each complaint.
type StreamRow<'a> = (&'a str, Selection, Option<u64>, Vec<Told>, &'a [&'a str]);

fn state(revision: u64, token: &str) -> State {
    State { revision, uid: "u".into(), token: token.into(), colour: String::new() }
}

fn change(revision: u64, token: &str) -> Change {
    Change { revision, key: "r/k".into(), state: state(revision, token), gone: false }
}

fn gone(revision: u64, token: &str) -> Change {
    Change { gone: true, ..change(revision, token) }
}

fn record(op: Op, token: &str, (start, end): (Time, Time), outcome: Outcome) -> Record {
    Record { key: "r/k".into(), op, token: token.into(), start, end, outcome }
}

fn made(op: Op, token: &str, span: (Time, Time), revision: u64) -> Record {
    record(op, token, span, Outcome::Is(state(revision, token)))
}

fn read(span: (Time, Time), revision: u64, token: &str) -> Record {
    record(Op::Get, "", span, Outcome::Is(state(revision, token)))
}

#[test]
fn histories_and_what_is_wrong_with_them() {
    let one = || made(Op::Create, "a", (10, 20), 1);
    let two = || made(Op::Patch, "b", (30, 40), 2);
    let both = [change(1, "a"), change(2, "b")];
    let ended = [change(1, "a"), gone(2, "a")];
    let absent = |span| record(Op::Get, "", span, Outcome::IsNot);
    let unknown = || record(Op::Patch, "b", (30, 40), Outcome::Unknown);
    let deleted = |span| record(Op::Delete(None), "", span, Outcome::Gone("u".into()));
    let deleted_at = |revision, span| Record { op: Op::Delete(Some(revision)), ..deleted(span) };
    let refused = |op, token, span| record(op, token, span, Outcome::Conflict);
    let table: Vec<Row<'_>> = vec![
        (
            "good",
            both.to_vec(),
            vec![one(), read((21, 29), 1, "a"), two(), read((35, 36), 1, "a")],
            &[],
        ),
        ("read meanwhile: either", both.to_vec(), vec![one(), two(), read((35, 36), 2, "b")], &[]),
        (
            "stale read",
            both.to_vec(),
            vec![one(), two(), read((41, 42), 1, "a")],
            &["at any moment"],
        ),
        (
            "read of the future",
            both.to_vec(),
            vec![one(), two(), read((21, 22), 2, "b")],
            &["at any moment", "had ended"],
        ),
        (
            "read of what never was",
            both.to_vec(),
            vec![one(), two(), read((35, 36), 3, "c")],
            &["never was"],
        ),
        (
            "read of a mixture",
            both.to_vec(),
            vec![one(), two(), read((35, 36), 2, "a")],
            &["something else"],
        ),
        ("read before", both.to_vec(), vec![one(), two(), absent((1, 2))], &[]),
        ("lost sight", both.to_vec(), vec![one(), two(), absent((21, 22))], &["at every moment"]),
        ("lost write", both[..1].to_vec(), vec![one(), two()], &["is lost"]),
        ("lost, but nobody was told", both[..1].to_vec(), vec![one(), unknown()], &[]),
        ("happened, though nobody was told", both.to_vec(), vec![one(), unknown()], &[]),
        ("invented", both.to_vec(), vec![one()], &["nobody did that"]),
        (
            "refused and done",
            both.to_vec(),
            vec![one(), refused(Op::Patch, "b", (30, 40))],
            &["nobody did that", "nobody else changed"],
        ),
        (
            "order against the clock",
            vec![change(1, "b"), change(2, "a")],
            vec![made(Op::Patch, "a", (10, 20), 2), made(Op::Create, "b", (30, 40), 1)],
            &["had ended"],
        ),
        (
            "replaced what had changed",
            vec![change(1, "a"), change(2, "b"), change(3, "c")],
            vec![one(), two(), made(Op::Replace(1), "c", (50, 60), 3)],
            &["it had changed"],
        ),
        (
            "conflict without a reason",
            both[..1].to_vec(),
            vec![one(), refused(Op::Replace(1), "x", (50, 60))],
            &["nobody had changed"],
        ),
        (
            "conflict with one",
            both.to_vec(),
            vec![one(), two(), refused(Op::Replace(1), "x", (50, 60))],
            &[],
        ),
        (
            "created again",
            both.to_vec(),
            vec![one(), made(Op::Create, "b", (30, 40), 2)],
            &["there already"],
        ),
        (
            "said to be there",
            ended.to_vec(),
            vec![one(), deleted((30, 40)), refused(Op::Create, "x", (41, 42))],
            &["not there at any"],
        ),
        ("deleted", ended.to_vec(), vec![one(), deleted((30, 40)), absent((41, 42))], &[]),
        ("deleted as it was", ended.to_vec(), vec![one(), deleted_at(1, (30, 40))], &[]),
        (
            "deleted as it was no more",
            vec![change(1, "a"), change(2, "b"), gone(3, "b")],
            vec![one(), two(), deleted_at(1, (50, 60))],
            &["had changed"],
        ),
        (
            "deleted and seen",
            ended.to_vec(),
            vec![one(), deleted((30, 40)), read((41, 42), 1, "a")],
            &["at any moment"],
        ),
        ("said to be deleted", both[..1].to_vec(), vec![one(), deleted((30, 40))], &["as before"]),
        (
            "deleted for two",
            ended.to_vec(),
            vec![one(), deleted((30, 40)), deleted((30, 40))],
            &["another one was told"],
        ),
        (
            "patched what was not there",
            vec![change(1, "a"), gone(2, "a"), change(3, "b")],
            vec![one(), deleted((21, 29)), made(Op::Patch, "b", (30, 40), 3)],
            &["nothing to patch"],
        ),
        (
            "twice",
            vec![change(1, "a"), change(1, "a")],
            vec![one()],
            &["comes after", "done before", "there already"],
        ),
        ("gone without a life", vec![gone(1, "a")], vec![deleted((1, 2))], &["was not there"]),
        (
            "gone as another",
            vec![change(1, "a"), gone(2, "b")],
            vec![one(), deleted((30, 40))],
            &["last state was another"],
        ),
    ];
    for (name, changes, records, wrong) in table {
        compare(name, &check(&changes, &records, &[]), wrong);
    }
}

/// As many complaints as parts, each with one of them.
fn compare(name: &str, found: &[String], parts: &[&str]) {
    let all = found.len() == parts.len()
        && parts.iter().all(|part| found.iter().any(|found| found.contains(part)));
    assert!(all, "{name}: {found:#?}, expected {parts:?}");
}

#[test]
fn lists_and_what_is_wrong_with_them() {
    let records = [made(Op::Create, "a", (10, 20), 1), made(Op::Patch, "b", (30, 40), 2)];
    let changes = [change(1, "a"), change(2, "b")];
    let list = |(start, end): (Time, Time), revision, items: &[State]| Listing {
        resource: "r".into(),
        selection: Selection::All,
        start,
        end,
        revision,
        items: items.iter().map(|state| ("r/k".to_owned(), state.clone())).collect(),
    };
    let table: [(&str, Vec<Listing>, &[&str]); 7] = [
        ("good", vec![list((21, 22), 1, &[state(1, "a")])], &[]),
        ("too old", vec![list((41, 42), 1, &[state(1, "a")])], &["had ended"]),
        ("too new", vec![list((21, 22), 2, &[state(2, "b")])], &["had ended"]),
        ("of two times", vec![list((35, 36), 2, &[state(1, "a")])], &["at its revision"]),
        ("without one", vec![list((35, 36), 1, &[])], &["at its revision"]),
        ("before all", vec![list((1, 2), 0, &[])], &[]),
        (
            "back in time",
            vec![list((35, 36), 2, &[state(2, "b")]), list((37, 38), 1, &[state(1, "a")])],
            &["had ended"],
        ),
    ];
    for (name, listings, wrong) in table {
        compare(name, &check(&changes, &records, &listings), wrong);
    }
}

/// Red, blue, red, gone.
fn colours() -> [Change; 4] {
    let coloured = |revision, colour: &str, gone| {
        let state = State { colour: colour.into(), ..state(revision, &revision.to_string()) };
        Change { gone, state, ..change(revision, "") }
    };
    let mut all = [
        coloured(1, "red", false),
        coloured(2, "blue", false),
        coloured(3, "red", false),
        coloured(4, "red", true),
    ];
    all[3].state.token = "3".into();
    all
}

#[test]
fn streams_and_what_is_wrong_with_them() {
    use Kind::{Added, Deleted, Modified};
    let changes = colours();
    let event = |kind, revision: u64, token: u64, colour: &str| Told::Event {
        kind,
        key: "r/k".into(),
        state: State { colour: colour.into(), ..state(revision, &token.to_string()) },
    };
    let all = [
        event(Added, 1, 1, "red"),
        event(Modified, 2, 2, "blue"),
        event(Modified, 3, 3, "red"),
        event(Deleted, 4, 3, "red"),
    ];
    let red = [
        event(Added, 1, 1, "red"),
        event(Deleted, 2, 1, "red"),
        event(Added, 3, 3, "red"),
        event(Deleted, 4, 3, "red"),
    ];
    let mark = Told::Bookmark;
    let of_red = || Selection::Colour("red".into());
    let join = |parts: &[&[Told]]| parts.concat();
    let table: Vec<StreamRow<'_>> = vec![
        ("all", Selection::All, Some(0), all.to_vec(), &[]),
        ("from the middle", Selection::All, Some(2), all[2..].to_vec(), &[]),
        ("ended early", Selection::All, Some(0), all[..2].to_vec(), &[]),
        ("nothing", Selection::All, Some(1), vec![], &[]),
        ("a gap", Selection::All, Some(0), join(&[&all[..1], &all[2..]]), &["not Some"]),
        ("begun late", Selection::All, Some(0), all[1..].to_vec(), &["not Some"]),
        ("begun again", Selection::All, Some(2), all[1..].to_vec(), &["not Some"]),
        ("twice", Selection::All, Some(0), join(&[&all[..1], &all[..1]]), &["not Some"]),
        (
            "out of order",
            Selection::All,
            Some(0),
            vec![all[1].clone(), all[0].clone()],
            &["not Some"],
        ),
        ("too much", Selection::All, Some(0), join(&[&all, &all[3..]]), &["not None"]),
        ("another state", Selection::All, Some(0), vec![event(Added, 1, 9, "red")], &["not Some"]),
        (
            "another type",
            Selection::All,
            Some(0),
            vec![event(Modified, 1, 1, "red")],
            &["not Some"],
        ),
        ("filtered", of_red(), Some(0), red.to_vec(), &[]),
        ("filtered, from the middle", of_red(), Some(1), red[1..].to_vec(), &[]),
        ("not filtered", of_red(), Some(0), all.to_vec(), &["not Some"]),
        ("left in silence", of_red(), Some(0), join(&[&red[..1], &red[2..]]), &["not Some"]),
        (
            "left as what it became",
            of_red(),
            Some(1),
            vec![event(Deleted, 2, 2, "blue")],
            &["not Some"],
        ),
        (
            "the others",
            Selection::NotColour("red".into()),
            Some(0),
            vec![event(Added, 2, 2, "blue"), event(Deleted, 3, 2, "blue")],
            &[],
        ),
        ("another key", Selection::Key("r/x".into()), Some(0), vec![mark(4)], &[]),
        ("marked", of_red(), Some(0), join(&[&red[..2], &[mark(2)], &red[2..], &[mark(9)]]), &[]),
        ("marked too far", of_red(), Some(0), join(&[&red[..1], &[mark(2)]]), &["but not"]),
        ("marked back", of_red(), Some(0), join(&[&red[..2], &[mark(1)]]), &["a bookmark of 1"]),
        (
            "with what is there",
            Selection::All,
            None,
            join(&[&[event(Added, 2, 2, "blue"), Told::InitialEnd(2)], &all[2..]]),
            &[],
        ),
        (
            "with nothing, as there is",
            of_red(),
            None,
            join(&[&[Told::InitialEnd(2)], &red[2..]]),
            &[],
        ),
        ("without what is there", Selection::All, None, vec![Told::InitialEnd(2)], &["without"]),
        (
            "with what was there",
            Selection::All,
            None,
            vec![all[0].clone(), Told::InitialEnd(2)],
            &["with Event", "without"],
        ),
        ("broken while it began", Selection::All, None, vec![all[0].clone()], &[]),
        (
            "broken, and nothing right",
            Selection::All,
            None,
            vec![all[0].clone(), all[0].clone(), all[1].clone(), mark(1)],
            &["began with Event", "kind: Modified", "began with Bookmark"],
        ),
    ];
    for (name, selection, from, told, wrong) in table {
        let found = Truth::of("r", &changes).check(&Session { selection, from, told });
        compare(name, &found, wrong);
    }
}

#[test]
fn whoever_goes_on_goes_on_from_what_was_told() {
    let session =
        |from, told: &[Told]| Session { selection: Selection::All, from, told: told.to_vec() };
    let event = Told::Event { kind: Kind::Added, key: "r/k".into(), state: state(3, "a") };
    for (session, cursor) in [
        (session(Some(2), &[]), Some(2)),
        (session(Some(2), std::slice::from_ref(&event)), Some(3)),
        (session(Some(2), &[event.clone(), Told::Bookmark(5)]), Some(5)),
        (session(None, &[]), None),
        (session(None, std::slice::from_ref(&event)), None),
        (session(None, &[event, Told::InitialEnd(4)]), Some(4)),
    ] {
        assert_eq!(session.cursor(), cursor, "{session:?}");
    }
}
