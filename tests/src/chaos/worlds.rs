//! Every key in all the states that its answers leave possible.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Op, Outcome, State, Violation, Written, Wrong};

/// One way in which it may be: what is there, and which writes without an answer may still happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    state: Option<State>,
    pending: BTreeSet<Op>,
}

type Worlds = BTreeSet<World>;

/// How many acknowledged writes a restore undid.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub wrong: Vec<Violation>,
    pub undone: usize,
}

/// What the history says against what is stored at its end.
pub fn check(history: &[Entry], stored: &BTreeMap<String, State>) -> Checked {
    let mut keys = Keys { written: Written::of(history), ..Keys::default() };
    for entry in history {
        match entry {
            Entry::Did { key, op, outcome } => keys.did(key, op, outcome),
            Entry::Backup(number) => keys.backup(*number),
            Entry::Restored(number) => keys.restored(*number),
        }
    }
    let names: BTreeSet<String> = keys.now.keys().chain(stored.keys()).cloned().collect();
    for key in names {
        keys.did(&key, &Op::Read, &Outcome::Is(stored.get(&key).cloned()));
    }
    Checked { wrong: keys.wrong, undone: keys.undone }
}

#[derive(Default)]
struct Keys {
    written: Written,
    now: BTreeMap<String, Worlds>,
    backups: BTreeMap<u32, (BTreeMap<String, Worlds>, usize)>,
    revisions: BTreeMap<String, u64>,
    acknowledged: usize,
    undone: usize,
    wrong: Vec<Violation>,
}

impl Keys {
    fn did(&mut self, key: &str, op: &Op, outcome: &Outcome) {
        let worlds = self.now.remove(key).unwrap_or_else(|| Worlds::from([World::default()]));
        let worlds = match outcome {
            Outcome::Refused => worlds,
            Outcome::Unknown => pending(worlds, op),
            Outcome::Done(revision) => {
                self.acknowledged += 1;
                if let Some(revision) = *revision {
                    let before = self.revisions.insert(key.to_owned(), revision).unwrap_or(0);
                    if before >= revision {
                        let what = format!("{key}: {op:?} at revision {revision}, after {before}");
                        self.wrong.push(Violation::new(Wrong::OutOfOrder, what));
                    }
                }
                self.done(key, worlds, op)
            }
            Outcome::Is(state) => self.read(key, worlds, state.as_ref()),
        };
        self.now.insert(key.to_owned(), worlds);
    }

    fn done(&mut self, key: &str, worlds: Worlds, op: &Op) -> Worlds {
        let worlds = closure(worlds);
        let after: Worlds = worlds
            .iter()
            .filter_map(|world| {
                let state = apply(op, world.state.as_ref())?;
                Some(World { state, pending: world.pending.clone() }.pruned())
            })
            .collect();
        if !after.is_empty() {
            return after;
        }
        let what = format!("{key}: {op:?} was acknowledged, though {}", told(&worlds));
        self.wrong.push(Violation::new(Wrong::Lost, what));
        let state = match op {
            Op::Create { token } => Some(State { born: token.clone(), token: token.clone() }),
            Op::Update { born, to, .. } => Some(State { born: born.clone(), token: to.clone() }),
            Op::Delete { .. } | Op::Read => None,
        };
        Worlds::from([World { state, pending: BTreeSet::new() }])
    }

    fn read(&mut self, key: &str, worlds: Worlds, state: Option<&State>) -> Worlds {
        let mut worlds = closure(worlds);
        let before = worlds.clone();
        worlds.retain(|world| world.state.as_ref() == state);
        if !worlds.is_empty() {
            return worlds;
        }
        let known = |state: &State| {
            self.written.knows(key, &state.token) && self.written.knows(key, &state.born)
        };
        let wrong = match state {
            Some(state) if !known(state) => Wrong::Invented,
            _ => Wrong::Lost,
        };
        let what = format!("{key}: it is {state:?}, though {}", told(&before));
        self.wrong.push(Violation::new(wrong, what));
        Worlds::from([World { state: state.cloned(), pending: BTreeSet::new() }])
    }

    fn backup(&mut self, number: u32) {
        self.backups.insert(number, (self.now.clone(), self.acknowledged));
    }

    fn restored(&mut self, number: u32) {
        let Some((saved, acknowledged)) = self.backups.get(&number).cloned() else {
            let what = format!("backup {number} was restored and never made");
            return self.wrong.push(Violation::new(Wrong::Invented, what));
        };
        // What was undone before stays undone.
        self.undone += self.acknowledged - acknowledged;
        for (_, acknowledged) in self.backups.values_mut() {
            *acknowledged = (*acknowledged).min(self.acknowledged);
        }
        if let Some(backup) = self.backups.get_mut(&number) {
            backup.1 = self.acknowledged;
        }
        let now = std::mem::replace(&mut self.now, saved);
        // Requests may wait in a queue of the broker, which is not restored.
        for (key, worlds) in now {
            let waits: BTreeSet<Op> = worlds.into_iter().flat_map(|world| world.pending).collect();
            let back = self.now.remove(&key).unwrap_or_else(|| Worlds::from([World::default()]));
            let back = back.into_iter().map(|mut world| {
                world.pending.extend(waits.iter().cloned());
                world.pruned()
            });
            let back = back.collect();
            self.now.insert(key, back);
        }
    }
}

/// What a write makes of this; `None` where it cannot happen.
#[expect(
    clippy::option_option,
    reason = "whether it can happen, and whether something is there then"
)]
fn apply(op: &Op, state: Option<&State>) -> Option<Option<State>> {
    match (op, state) {
        (Op::Create { token }, None) => {
            Some(Some(State { born: token.clone(), token: token.clone() }))
        }
        (Op::Update { born, from, to }, Some(state)) => (state.born == *born
            && state.token == *from)
            .then(|| Some(State { born: born.clone(), token: to.clone() })),
        (Op::Delete { born }, Some(state)) => (state.born == *born).then_some(None),
        _ => None,
    }
}

fn pending(worlds: Worlds, op: &Op) -> Worlds {
    let with = |mut world: World| {
        if *op != Op::Read {
            world.pending.insert(op.clone());
        }
        world
    };
    worlds.into_iter().map(with).collect()
}

/// With all that may have happened without an answer.
fn closure(worlds: Worlds) -> Worlds {
    let mut all = Worlds::new();
    let mut open: Vec<World> = worlds.into_iter().collect();
    while let Some(world) = open.pop() {
        for op in &world.pending {
            if let Some(state) = apply(op, world.state.as_ref()) {
                let mut pending = world.pending.clone();
                pending.remove(op);
                open.push(World { state, pending }.pruned());
            }
        }
        all.insert(world);
    }
    all
}

impl World {
    /// Without the writes that cannot happen any more: tokens are unique, so what an object said once it says never again.
    fn pruned(mut self) -> Self {
        loop {
            let may = |op: &Op| match op {
                Op::Create { .. } => true,
                Op::Update { from, .. } => self.may_say(from),
                Op::Delete { born } => self.may_say(born) || self.is_born(born),
                Op::Read => false,
            };
            let left: BTreeSet<Op> = self.pending.iter().filter(|op| may(op)).cloned().collect();
            if left.len() == self.pending.len() {
                return self;
            }
            self.pending = left;
        }
    }

    fn is_born(&self, born: &str) -> bool {
        self.state.as_ref().is_some_and(|state| state.born == born)
    }

    fn may_say(&self, token: &str) -> bool {
        self.state.as_ref().is_some_and(|state| state.token == token)
            || self.pending.iter().any(|op| match op {
                Op::Create { token: says } | Op::Update { to: says, .. } => says == token,
                Op::Delete { .. } | Op::Read => false,
            })
    }
}

fn told(worlds: &Worlds) -> String {
    let few = worlds.iter().take(4).map(|world| format!("{world:?}"));
    format!("possible is only {}", few.collect::<Vec<_>>().join(" or "))
}
