//! A reader of the exchange that knows nothing but the rule of docs/events.md, and what can be said of it afterwards.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Violation, Written, Wrong};

/// What stands in the headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub epoch: u64,
    pub revision: u64,
    pub resource: String,
    /// Each with the revision before it in that stream.
    pub shards: Vec<(String, u64)>,
    /// History up to here was given up.
    pub floor: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Apply,
    /// Lists these resources first; of all where none is named.
    Relist(Option<String>),
}

type Stream = (String, String);

/// Between these revisions the reader has listed instead of reading.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gap {
    resource: String,
    after: u64,
    to: u64,
}

#[derive(Debug, Default)]
pub struct Reader {
    epoch: u64,
    /// The revision of the last list of a resource: what is not newer is known.
    listed: BTreeMap<String, u64>,
    seen: HashMap<Stream, u64>,
    gaps: Vec<Gap>,
    heard: BTreeSet<u64>,
    /// What came after newer ones of its stream, and was not heard before.
    late: Vec<(String, u64)>,
    newest: HashMap<Stream, (u64, u64)>,
    pub messages: usize,
    pub again: usize,
    pub relists: BTreeMap<&'static str, usize>,
}

impl Reader {
    /// What to do with a message, once what it asked for is listed.
    pub fn again(&mut self, heard: &Heard) -> Verdict {
        if heard.epoch < self.epoch { Verdict::Drop } else { self.hears_known(heard) }
    }

    /// What to do with a message.
    pub fn hears(&mut self, heard: &Heard) -> Verdict {
        self.messages += 1;
        if heard.epoch < self.epoch {
            return Verdict::Drop;
        }
        self.order(heard);
        if heard.epoch > self.epoch {
            let first = self.epoch == 0;
            self.epoch = heard.epoch;
            self.seen.clear();
            if first && !self.listed.is_empty() {
                // Its first message: it has listed a moment ago.
                return self.hears_known(heard);
            }
            self.listed.clear();
            return self.relist("epoch", None);
        }
        self.hears_known(heard)
    }

    fn hears_known(&mut self, heard: &Heard) -> Verdict {
        if heard.floor {
            let older = self.listed.values().any(|listed| *listed < heard.revision);
            return if older { self.relist("floor", None) } else { Verdict::Drop };
        }
        let streams: Vec<_> = heard
            .shards
            .iter()
            .map(|(shard, prev)| ((heard.resource.clone(), shard.clone()), *prev))
            .collect();
        if streams.iter().any(|(stream, prev)| *prev > self.seen(stream)) {
            return self.relist("gap", Some(heard.resource.clone()));
        }
        let news = streams.iter().any(|(stream, _)| heard.revision > self.seen(stream));
        for (stream, _) in streams {
            let seen = self.seen(&stream);
            self.seen.insert(stream, seen.max(heard.revision));
        }
        if news { Verdict::Apply } else { Verdict::Drop }
    }

    /// A list was made, and is of this revision. Afterwards the message is looked at [`Self::again`].
    pub fn listed(&mut self, resource: &str, revision: u64) {
        // The oldest that any stream of it may lack.
        let streams = self.seen.iter().filter(|((of, _), _)| of == resource);
        let after = streams.map(|(_, seen)| *seen).min().unwrap_or(0);
        let after = after.min(self.listed.get(resource).copied().unwrap_or(0));
        self.gaps.push(Gap { resource: resource.to_owned(), after, to: revision });
        self.listed.insert(resource.to_owned(), revision);
        self.seen.retain(|(of, _), seen| of != resource || *seen > revision);
    }

    pub fn has_heard(&self, revision: u64) -> bool {
        self.heard.contains(&revision)
    }

    fn seen(&self, stream: &Stream) -> u64 {
        let listed = self.listed.get(&stream.0).copied().unwrap_or(0);
        self.seen.get(stream).copied().unwrap_or(0).max(listed)
    }

    fn relist(&mut self, why: &'static str, resource: Option<String>) -> Verdict {
        *self.relists.entry(why).or_default() += 1;
        Verdict::Relist(resource)
    }

    fn order(&mut self, heard: &Heard) {
        let again = !self.heard.insert(heard.revision);
        self.again += usize::from(again);
        for (shard, _) in &heard.shards {
            let stream = (heard.resource.clone(), shard.clone());
            let at = (heard.epoch, heard.revision);
            let newest = self.newest.entry(stream).or_default();
            if !again && *newest > at && newest.0 == at.0 {
                self.late.push((heard.resource.clone(), heard.revision));
            }
            *newest = (*newest).max(at);
        }
    }

    fn knows_of_a_gap(&self, resource: &str, revision: u64) -> bool {
        let covers = |gap: &Gap| gap.after < revision && revision <= gap.to;
        self.gaps.iter().any(|gap| gap.resource == resource && covers(gap))
    }

    /// Order, and what was acknowledged and neither heard nor known to be missing. The second number: known to be.
    pub fn judge(&self, written: &Written) -> (Vec<Violation>, usize) {
        let mut wrong = Vec::new();
        for (resource, revision) in &self.late {
            if !self.knows_of_a_gap(resource, *revision) {
                let what = format!("{resource} at {revision} was heard after a newer one");
                wrong.push(Violation::new(Wrong::OutOfOrder, what));
            }
        }
        let mut missing = 0;
        for (key, revision, token) in &written.acknowledged {
            let resource = key.split('/').next().unwrap_or_default();
            if self.heard.contains(revision) {
                continue;
            }
            if self.knows_of_a_gap(resource, *revision) {
                missing += 1;
                continue;
            }
            let what = format!("{key} = {token} at {revision} was neither heard nor missed");
            wrong.push(Violation::new(Wrong::Undetected, what));
        }
        (wrong, missing)
    }
}
