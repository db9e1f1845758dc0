//! Whether what clients were told is linearizable, and what watches told them ([`streams`]) whole and in order.
//!
//! The server gives every change a revision, so that the order need not be searched for: it is said. A watch of everything
//! that was kept for the whole run is the truth; all other streams and the answers that clients got are compared with it,
//! and it with them. Times are the clients' own, all of one clock.

mod answers;
mod lists;
mod order;
pub mod streams;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use self::answers::Versions;

/// Of one clock, in nanoseconds.
pub type Time = u64;

/// What an object says, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub revision: u64,
    pub uid: String,
    /// Who wrote it: unique for every write.
    pub token: String,
    /// What selectors look at; empty where there is none.
    pub colour: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    /// Over this revision only.
    Replace(u64),
    /// Whatever is there.
    Patch,
    /// At this revision only, or whatever is there.
    Delete(Option<u64>),
    Get,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is an object now, or it was read.
    Is(State),
    /// The object of this uid is deleted.
    Gone(String),
    /// None was found (404).
    IsNot,
    /// 409: it is there already, or has changed.
    Conflict,
    /// The connection broke: it may have happened.
    Unknown,
}

/// What one client did. A key is a resource and a name: `configmaps/a`.
#[derive(Clone, Debug)]
pub struct Record {
    pub key: String,
    pub op: Op,
    /// Of a write: what it put into the object.
    pub token: String,
    pub start: Time,
    pub end: Time,
    pub outcome: Outcome,
}

/// A list, and the revision that it says it is of.
#[derive(Clone, Debug)]
pub struct Listing {
    pub resource: String,
    pub selection: Selection,
    pub start: Time,
    pub end: Time,
    pub revision: u64,
    pub items: BTreeMap<String, State>,
}

/// What a list or a watch is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    All,
    Colour(String),
    /// Also those without one.
    NotColour(String),
    Key(String),
}

impl Selection {
    pub fn selects(&self, key: &str, state: &State) -> bool {
        match self {
            Self::All => true,
            Self::Colour(colour) => state.colour == *colour,
            Self::NotColour(colour) => state.colour != *colour,
            Self::Key(only) => key == only,
        }
    }
}

/// What the watch of everything told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: u64,
    pub key: String,
    /// Of what is gone, its last state.
    pub state: State,
    pub gone: bool,
}

impl Change {
    /// `configmaps` of `configmaps/a`.
    pub fn is_of(&self, resource: &str) -> bool {
        self.key.strip_prefix(resource).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// Everything that is wrong, in words. The changes are those of all resources, in the order of their revisions.
pub fn check(changes: &[Change], records: &[Record], listings: &[Listing]) -> Vec<String> {
    let mut wrong = lives(changes);
    let (versions, strange) = Versions::of(changes, records);
    wrong.extend(strange);
    wrong.extend(answers::check(records, &versions));
    wrong.extend(lists::check(listings, changes));
    wrong.extend(order::check(records, listings, &versions));
    wrong
}

/// The promises of the watch of everything: ordered, unique, without a gap in the life of an object.
fn lives(changes: &[Change]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last = 0;
    let mut there: HashMap<&str, &State> = HashMap::new();
    for change in changes {
        if change.revision <= last {
            wrong.push(format!("{change:?} comes after revision {last}"));
        }
        last = change.revision;
        let before = match change.gone {
            true => there.remove(change.key.as_str()),
            false => there.insert(&change.key, &change.state),
        };
        match before {
            None if change.gone => wrong.push(format!("{change:?}: it was not there")),
            Some(before) if before.uid != change.state.uid => {
                wrong.push(format!("{change:?}: another one was there, {before:?}"));
            }
            Some(before) if change.gone && before.token != change.state.token => {
                wrong.push(format!("{change:?}: its last state was another, {before:?}"));
            }
            _ => {}
        }
    }
    wrong
}
