//! What clients were told, what a reader of the exchange heard, what is stored and what ran: what does not fit together.
//!
//! Pure: a history goes in, violations come out. Every write carries a token of its own, and only one client at a time
//! writes to a key, so that a key's history is a list. An answer that never came leaves two worlds, one where the write
//! happened and one where it did not, or will later; [`worlds`] keeps all that are possible. A restore puts every key back
//! to where it was at the backup: what came after is gone by design, and nothing else is.

pub mod containers;
pub mod reader;
#[cfg(test)]
mod tests;
pub mod worlds;

use std::collections::{BTreeMap, BTreeSet};

/// What an object says, to the clients of a run. What is being deleted is not there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// The token of the create.
    pub born: String,
    /// The token of the last write.
    pub token: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Where there is none.
    Create {
        token: String,
    },
    /// Where this object says `from`.
    Update {
        born: String,
        from: String,
        to: String,
    },
    /// This object only, whatever it says.
    Delete {
        born: String,
    },
    Read,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, at this revision where the answer says one.
    Done(Option<u64>),
    /// An answer said no: it did not happen and will not.
    Refused,
    /// No answer: it may have happened, or may yet.
    Unknown,
    /// What was read.
    Is(Option<State>),
}

/// One thing after another, for each key.
#[derive(Clone, Debug)]
pub enum Entry {
    Did {
        /// A resource and a name: `configmaps/a`.
        key: String,
        op: Op,
        outcome: Outcome,
    },
    /// Nobody writes while it is made, nor during a restore.
    Backup(u32),
    Restored(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// What was acknowledged is not so.
    Lost,
    /// What nobody wrote is there, or what was refused.
    Invented,
    OutOfOrder,
    /// A reader that keeps to the rule does not know what it must.
    Undetected,
    /// One container, at the same time.
    Twice,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub wrong: Wrong,
    pub what: String,
}

impl Violation {
    pub fn new(wrong: Wrong, what: impl Into<String>) -> Self {
        Self { wrong, what: what.into() }
    }
}

/// What clients asked for, by key: tokens that may be seen, and those that may not.
#[derive(Debug, Default)]
pub struct Written {
    tokens: BTreeMap<String, BTreeSet<String>>,
    /// Key, revision and token of what was acknowledged.
    pub acknowledged: Vec<(String, u64, String)>,
    pub writes: usize,
    pub refused: usize,
    pub unknown: usize,
}

impl Written {
    pub fn of(history: &[Entry]) -> Self {
        let mut written = Self::default();
        for entry in history {
            let Entry::Did { key, op, outcome } = entry else { continue };
            match outcome {
                Outcome::Done(_) => written.writes += 1,
                Outcome::Unknown if *op != Op::Read => written.unknown += 1,
                Outcome::Refused => {
                    written.refused += 1;
                    continue;
                }
                Outcome::Unknown | Outcome::Is(_) => continue,
            }
            if let Op::Create { token } | Op::Update { to: token, .. } = op {
                written.tokens.entry(key.clone()).or_default().insert(token.clone());
                if let Outcome::Done(Some(revision)) = outcome {
                    written.acknowledged.push((key.clone(), *revision, token.clone()));
                }
            }
        }
        written
    }

    /// Whether somebody put this token there and was not refused.
    pub fn knows(&self, key: &str, token: &str) -> bool {
        self.tokens.get(key).is_some_and(|tokens| tokens.contains(token))
    }
}
