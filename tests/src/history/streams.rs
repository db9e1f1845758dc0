//! What each watch told, compared with all that happened: whole, in order, once, and filtered right.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Change, Selection, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Event {
        kind: Kind,
        key: String,
        state: State,
    },
    Bookmark(u64),
    /// The bookmark after what was there when the watch began.
    InitialEnd(u64),
}

impl Told {
    fn revision(&self) -> u64 {
        match self {
            Self::Event { state, .. } => state.revision,
            Self::Bookmark(at) | Self::InitialEnd(at) => *at,
        }
    }
}

/// One watch, from its request until it ended or its connection broke.
#[derive(Clone, Debug)]
pub struct Session {
    pub selection: Selection,
    /// `None`: it began with what was there.
    pub from: Option<u64>,
    pub told: Vec<Told>,
}

impl Session {
    /// From where its client goes on. What a watch begins with is in no order: whoever has not seen the end of that has
    /// seen nothing.
    pub fn cursor(&self) -> Option<u64> {
        match self.from.is_some() || self.end_of_initial().is_some() {
            true => self.told.last().map(Told::revision).or(self.from),
            false => None,
        }
    }

    fn end_of_initial(&self) -> Option<usize> {
        self.told.iter().position(|told| matches!(told, Told::InitialEnd(_)))
    }
}

/// All that happened to the objects of one resource.
pub struct Truth<'c> {
    changes: Vec<&'c Change>,
    written: HashMap<(&'c str, u64), &'c State>,
    /// What a watch of everything since the beginning tells.
    events: HashMap<Selection, Vec<Told>>,
}

impl<'c> Truth<'c> {
    /// `changes` are in the order of their revisions.
    pub fn of(resource: &str, changes: &'c [Change]) -> Self {
        let changes: Vec<&Change> =
            changes.iter().filter(|change| change.is_of(resource)).collect();
        let written = changes.iter().filter(|change| !change.gone);
        let written = written.map(|change| ((&*change.key, change.revision), &change.state));
        Self { written: written.collect(), changes, events: HashMap::new() }
    }

    /// What is wrong with a session, in words.
    pub fn check(&mut self, session: &Session) -> Vec<String> {
        let mut wrong = Vec::new();
        let (from, told) = match (session.from, session.end_of_initial()) {
            (Some(from), _) => (from, &session.told[..]),
            (None, None) => return self.initial_part(session),
            (None, Some(at)) => {
                let revision = session.told[at].revision();
                wrong.extend(self.initial(session, &session.told[..at], revision));
                (revision, &session.told[at + 1..])
            }
        };
        let selection = &session.selection;
        let events = self.events.entry(selection.clone());
        let events = events.or_insert_with(|| expected(&self.changes, selection));
        let first = events.partition_point(|event| event.revision() <= from);
        let mut expected = events[first..].iter().peekable();
        let mut last = from;
        for (number, told) in told.iter().enumerate() {
            let place = format!("{selection:?} from {from}, number {number}");
            match told {
                Told::InitialEnd(_) => wrong.push(format!("{place}: the beginning ends again")),
                Told::Bookmark(at) => {
                    if *at < last {
                        wrong.push(format!("{place}: a bookmark of {at} after {last}"));
                    }
                    last = *at;
                    while let Some(missed) = expected.next_if(|event| event.revision() <= *at) {
                        wrong.push(format!("{place}: a bookmark of {at}, but not {missed:?}"));
                    }
                }
                Told::Event { .. } => {
                    last = told.revision();
                    let next = expected.next();
                    if next != Some(told) {
                        // All that comes after would be wrong as well.
                        wrong.push(format!("{place}: told {told:?}, not {next:?}"));
                        return wrong;
                    }
                }
            }
        }
        wrong
    }

    /// What a watch begins with is what was there, each once.
    fn initial(&self, session: &Session, told: &[Told], revision: u64) -> Vec<String> {
        let mut there: BTreeMap<&str, &State> = BTreeMap::new();
        for change in self.changes.iter().take_while(|change| change.revision <= revision) {
            match change.gone {
                true => there.remove(&*change.key),
                false => there.insert(&change.key, &change.state),
            };
        }
        there.retain(|key, state| session.selection.selects(key, state));
        let place = format!("{:?} began at {revision}", session.selection);
        let mut wrong = Vec::new();
        for told in told {
            match told {
                Told::Event { kind: Kind::Added, key, state }
                    if there.get(&**key) == Some(&state) =>
                {
                    there.remove(&**key);
                }
                other => wrong.push(format!("{place} with {other:?}")),
            }
        }
        if !there.is_empty() {
            wrong.push(format!("{place} without {there:?}"));
        }
        wrong
    }

    /// The watch broke before it had told all: each was there, and is told once.
    fn initial_part(&self, session: &Session) -> Vec<String> {
        let mut keys = BTreeSet::new();
        let mut is_right = |told: &Told| match told {
            Told::Event { kind: Kind::Added, key, state } => {
                keys.insert(key.clone())
                    && session.selection.selects(key, state)
                    && self.written.get(&(&**key, state.revision)) == Some(&state)
            }
            _ => false,
        };
        let wrong = session.told.iter().filter(|told| !is_right(told));
        wrong.map(|told| format!("{:?} began with {told:?}", session.selection)).collect()
    }
}

/// All events that a watch with this selection has to tell.
fn expected(changes: &[&Change], selection: &Selection) -> Vec<Told> {
    let mut there: HashMap<&str, &State> = HashMap::new();
    let mut events = Vec::new();
    for change in changes {
        let key = &*change.key;
        let before = match change.gone {
            true => there.remove(key),
            false => there.insert(key, &change.state),
        };
        let was = before.filter(|state| selection.selects(key, state));
        let is = !change.gone && selection.selects(key, &change.state);
        let (kind, state) = match (was, is) {
            (None, false) => continue,
            (None, true) => (Kind::Added, change.state.clone()),
            (Some(_), true) => (Kind::Modified, change.state.clone()),
            // It went, or has left the selection: its last state that was selected, at this revision.
            (Some(was), false) => {
                (Kind::Deleted, State { revision: change.revision, ..was.clone() })
            }
        };
        events.push(Told::Event { kind, key: key.to_owned(), state });
    }
    events
}
