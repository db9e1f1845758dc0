//! Whether there was a moment between a request and its answer at which the answer was right.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Change, Op, Outcome, Record, State, Time};

/// One version of one key: from its revision up to the next one's.
#[derive(Debug)]
pub(super) struct Version<'a> {
    pub revision: u64,
    /// Of the object that is there, or that went.
    pub uid: &'a str,
    pub state: Option<&'a State>,
    /// When the operation that made it can have begun at the earliest and ended at the latest.
    pub start: Time,
    pub end: Time,
    /// The earliest start of it and of all that follow, and the earliest end of those: both only grow.
    begun: Time,
    replaced: Time,
}

impl<'a> Version<'a> {
    fn new(
        revision: u64,
        uid: &'a str,
        state: Option<&'a State>,
        (start, end): (Time, Time),
    ) -> Self {
        Self { revision, uid, state, start, end, begun: start, replaced: Time::MAX }
    }
}

pub(super) struct Versions<'a> {
    pub keys: BTreeMap<&'a str, Vec<Version<'a>>>,
}

impl<'a> Versions<'a> {
    /// And the changes that nobody made, or that were made twice.
    pub(super) fn of(changes: &'a [Change], records: &'a [Record]) -> (Self, Vec<String>) {
        let makers = Makers::of(records);
        let mut keys: BTreeMap<&str, Vec<Version<'_>>> = BTreeMap::new();
        let all = records.iter().map(|record| &record.key);
        for key in all.chain(changes.iter().map(|change| &change.key)) {
            keys.entry(key).or_insert_with(|| vec![Version::new(0, "", None, (0, 0))]);
        }
        let (mut used, mut wrong) = (BTreeSet::new(), Vec::new());
        for change in changes {
            let Some(span) = makers.of_change(change) else {
                wrong.push(format!("{change:?}: nobody did that"));
                continue;
            };
            if !change.gone && !used.insert(&change.state.token) {
                wrong.push(format!("{change:?}: this write was done before"));
            }
            let state = (!change.gone).then_some(&change.state);
            let version = Version::new(change.revision, &change.state.uid, state, span);
            keys.entry(&change.key).or_default().push(version);
        }
        for versions in keys.values_mut() {
            let (mut begun, mut replaced) = (Time::MAX, Time::MAX);
            for version in versions.iter_mut().rev() {
                begun = begun.min(version.start);
                (version.begun, version.replaced) = (begun, replaced);
                replaced = replaced.min(version.end);
            }
        }
        (Self { keys }, wrong)
    }
}

/// Who may have made a change.
struct Makers<'a> {
    writes: HashMap<&'a str, &'a Record>,
    deletes: HashMap<&'a str, &'a Record>,
    /// Deletes without an answer, by key: any may have been it.
    unknown: HashMap<&'a str, Vec<&'a Record>>,
}

impl<'a> Makers<'a> {
    fn of(records: &'a [Record]) -> Self {
        let (mut writes, mut deletes) = (HashMap::new(), HashMap::new());
        let mut unknown = HashMap::<_, Vec<_>>::new();
        for record in records {
            match (&record.op, &record.outcome) {
                (Op::Create | Op::Replace(_) | Op::Patch, _) => {
                    writes.insert(&*record.token, record);
                }
                (Op::Delete(_), Outcome::Gone(uid)) => {
                    deletes.insert(&**uid, record);
                }
                (Op::Delete(_), Outcome::Unknown) => {
                    unknown.entry(&*record.key).or_default().push(record);
                }
                (Op::Delete(_) | Op::Get, _) => {}
            }
        }
        Self { writes, deletes, unknown }
    }

    fn of_change(&self, change: &Change) -> Option<(Time, Time)> {
        let of_key = |record: &&&Record| record.key == change.key;
        if !change.gone {
            let maker = self.writes.get(&*change.state.token).filter(of_key)?;
            return match maker.outcome {
                Outcome::Is(_) => Some((maker.start, maker.end)),
                Outcome::Unknown => Some((maker.start, Time::MAX)),
                _ => None,
            };
        }
        if let Some(maker) = self.deletes.get(&*change.state.uid).filter(of_key) {
            return Some((maker.start, maker.end));
        }
        let unknown = self.unknown.get(&*change.key)?;
        Some((unknown.iter().map(|record| record.start).min()?, Time::MAX))
    }
}

pub(super) fn check(records: &[Record], versions: &Versions<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ended = BTreeSet::new();
    for record in records {
        if let Err(why) = explain(record, &versions.keys[record.key.as_str()]) {
            wrong.push(format!("{record:?}: {why}"));
        }
        if let Outcome::Gone(uid) = &record.outcome
            && !ended.insert(uid)
        {
            wrong.push(format!("{record:?}: another one was told so, too"));
        }
    }
    wrong
}

fn explain(record: &Record, versions: &[Version<'_>]) -> Result<(), &'static str> {
    // The version may have been there in that time: its maker had begun, and not all that follow were over.
    let possible =
        |version: &Version<'_>| version.start <= record.end && version.replaced >= record.start;
    let any = |wanted: &dyn Fn(&Version<'_>) -> bool| {
        let first = versions.partition_point(|version| version.replaced < record.start);
        let candidates = versions[first..].iter().take_while(|version| version.begun <= record.end);
        candidates.into_iter().any(|version| wanted(version) && possible(version))
    };
    let at =
        |revision: u64| versions.binary_search_by_key(&revision, |version| version.revision).ok();
    let must = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
    match (&record.op, &record.outcome) {
        (_, Outcome::Unknown) => Ok(()),
        (Op::Get, Outcome::Is(state)) => {
            let version = &versions[at(state.revision).ok_or("this revision never was")?];
            must(version.state == Some(state), "it was something else at this revision")?;
            must(possible(version), "it was not like that at any moment meanwhile")
        }
        (Op::Create, Outcome::IsNot) => Err("a create answers what it made"),
        (_, Outcome::IsNot) => {
            must(any(&|v| v.state.is_none()), "it was there at every moment meanwhile")
        }
        (Op::Get, Outcome::Conflict) => Err("there is nothing that could conflict"),
        (Op::Create, Outcome::Conflict) => {
            must(any(&|v| v.state.is_some()), "it was not there at any moment meanwhile")
        }
        (Op::Replace(expected) | Op::Delete(Some(expected)), Outcome::Conflict) => {
            must(any(&|v| v.revision != *expected), "nobody had changed it")
        }
        // Who loses to others again and again may be told so.
        (Op::Patch | Op::Delete(None), Outcome::Conflict) => {
            let meanwhile = |v: &Version<'_>| v.start <= record.end && v.end >= record.start;
            must(versions.iter().skip(1).any(meanwhile), "nobody else changed it")
        }
        (Op::Delete(expected), Outcome::Gone(uid)) => {
            let ends = |v: &Version<'_>| v.state.is_none() && v.uid == uid;
            let at = versions.iter().position(ends).ok_or("it is there as before")?;
            let before = &versions[at.saturating_sub(1)];
            let is_it = expected.is_none_or(|expected| before.revision == expected);
            must(is_it, "it had changed meanwhile")
        }
        (Op::Delete(_), Outcome::Is(_)) => Err("a delete answers what is gone"),
        (_, Outcome::Gone(_)) => Err("only a delete answers that"),
        (op, Outcome::Is(state)) => {
            let at = at(state.revision).ok_or("it was acknowledged and is lost")?;
            let is_it = versions[at].state == Some(state) && state.token == record.token;
            must(is_it, "something else was written")?;
            let before = &versions[at.saturating_sub(1)];
            match op {
                Op::Create => must(before.state.is_none(), "it was there already"),
                Op::Replace(expected) => {
                    must(before.revision == *expected, "it had changed meanwhile")
                }
                _ => must(before.state.is_some(), "there was nothing to patch"),
            }
        }
    }
}
