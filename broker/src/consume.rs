//! The consumer rule: what a reader does with an event. Pure.
//!
//! Older epoch → drop; newer epoch → relist; rv ≤ seen → drop; prev > seen → relist that stream. What was delivered and
//! not confirmed comes again and is not a duplicate. What the server says of its streams' heads shows the losses that no
//! later event does.

use std::collections::{BTreeMap, HashMap};

use warren_api::{GroupResource, NodeName, Revision, Shard};

use crate::{Event, Heads, Stream};

pub mod watch;

/// Streams that a reader remembers: one for each resource, or a node's. Beyond the bound all is forgotten and listed again.
pub const MAX_STREAMS: usize = 10_000;
/// Deliveries that may come again after a lost connection; above the prefetch, so that none is forgotten.
pub const MAX_OPEN: usize = 10_000;

/// Which streams a reader wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// A node's own shards and the shard `all`.
    Node(NodeName),
    /// All shards of some resources, judged by [`Shard::Every`].
    Resources(Vec<GroupResource>),
}

impl Interest {
    fn wants(&self, stream: &Stream) -> bool {
        match self {
            Interest::Node(node) => match &stream.shard {
                Shard::All => true,
                Shard::Node(name) => name == node,
                Shard::None | Shard::Unscheduled | Shard::Every => false,
            },
            Interest::Resources(resources) => {
                stream.shard == Shard::Every && resources.contains(&stream.resource)
            }
        }
    }

    /// The stream by which a reader of whole resources judges; `None` where the resource is not its own.
    fn whole(&self, resource: &GroupResource) -> Option<Stream> {
        let stream = Stream { resource: resource.clone(), shard: Shard::Every };
        self.wants(&stream).then_some(stream)
    }
}

/// What to do with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Apply,
    Drop(Dropped),
    /// List, then apply the event.
    Relist(Relist),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    OlderEpoch,
    Seen,
    NotOurs,
}

/// Events of these streams (of all where empty) may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relist {
    pub streams: Vec<Stream>,
    pub at_least: Revision,
    pub reason: &'static str,
}

impl Relist {
    fn all(at_least: Revision, reason: &'static str) -> Self {
        Self { streams: Vec::new(), at_least, reason }
    }
}

/// Why something is listed; the label of a metric.
pub mod reason {
    pub const START: &str = "start";
    /// The connection was lost, and nobody could say that nothing else was.
    pub const RECONNECTED: &str = "reconnected";
    /// An event came after one that did not.
    pub const GAP: &str = "gap";
    /// The head of a stream did not come.
    pub const HEAD: &str = "head";
    pub const EPOCH: &str = "newer epoch";
    pub const FLOOR: &str = "floor";
    pub const UNREADABLE: &str = "unreadable event";
    pub const TOO_MANY: &str = "too many streams";
    /// An event of an earlier release, which does not say what preceded it.
    pub const UNPLACED: &str = "no position";
    pub const ALL: [&str; 9] =
        [START, RECONNECTED, GAP, HEAD, EPOCH, FLOOR, UNREADABLE, TOO_MANY, UNPLACED];
}

/// What may still come to a reader whose stream stands behind its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Nothing that was published before it was bound, which is just now.
    New,
    /// All that is published came long ago.
    Idle,
    /// What is published is on its way, but in order.
    Busy,
}

/// What the heads say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Nothing is missing that was published.
    Current,
    /// Something is missing, and may still come.
    Behind,
    Lost(Relist),
}

#[derive(Clone, Copy, Debug)]
struct Position {
    /// The newest revision that was delivered or listed.
    seen: Revision,
    /// Whether `seen` is enough to judge the next event's `prev` by; not after a relist whose revision is not known.
    sure: bool,
    /// What the first event that could not be judged came after.
    unjudged: Option<Revision>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// In the reader's hands.
    Delivered,
    /// Given back, or lost with the connection: it comes again.
    Returned,
}

/// What a reader has seen.
#[derive(Debug)]
pub struct Reader {
    interest: Interest,
    epoch: Option<u64>,
    /// What the last listing of everything has seen; `None` until it is known.
    listed: Option<Revision>,
    positions: HashMap<Stream, Position>,
    open: BTreeMap<Revision, Open>,
    /// The newest revision that came over this connection.
    newest: Revision,
}

impl Reader {
    pub fn new(interest: Interest) -> Self {
        Self {
            interest,
            epoch: None,
            listed: None,
            positions: HashMap::new(),
            open: BTreeMap::new(),
            newest: Revision(0),
        }
    }

    /// The connection is there (again) and everything must be listed; what was not confirmed will come again.
    pub fn connected(&mut self, reason: &'static str) -> Relist {
        self.lost_connection();
        self.unsure();
        Relist::all(self.listed.unwrap_or_default(), reason)
    }

    /// The connection is there again. What was seen stays seen: events are judged as ever, and the heads say whether
    /// something else was lost. `Some` where it is not known what was seen, so that all must be listed.
    pub fn reconnected(&mut self) -> Option<Relist> {
        self.lost_connection();
        let unsure = self.listed.is_none() || self.positions.values().any(|p| !p.sure);
        unsure.then(|| self.connected(reason::RECONNECTED))
    }

    fn lost_connection(&mut self) {
        for open in self.open.values_mut() {
            *open = Open::Returned;
        }
        self.newest = Revision(0);
    }

    /// The server says how far the streams are. What is lost counts as seen from now on: the reader lists it.
    pub fn heads(&mut self, heads: &Heads, queue: Queue) -> Outlook {
        match self.epoch {
            Some(epoch) if heads.epoch < epoch => return Outlook::Current,
            known
                if known.is_some_and(|known| heads.epoch > known)
                    || self.leaps(heads.published) =>
            {
                self.reset(heads.epoch);
                return Outlook::Lost(Relist::all(Revision(0), reason::EPOCH));
            }
            _ => self.epoch = Some(heads.epoch),
        }
        let mut lost = Vec::new();
        let mut behind = false;
        for (stream, head) in &heads.streams {
            if !self.interest.wants(stream) {
                continue;
            }
            let missing = match self.known(stream) {
                Some((seen, true)) => *head > seen,
                // It is being listed.
                _ => false,
            };
            let came = match queue {
                Queue::New => true,
                Queue::Idle => *head <= heads.published,
                // The order on the queue is that of the changes.
                Queue::Busy => *head <= heads.published && self.newest > *head,
            };
            match (missing, came) {
                (true, true) => lost.push((stream.clone(), *head)),
                (true, false) => behind |= *head <= heads.published,
                (false, _) => {}
            }
        }
        let Some(at_least) = lost.iter().map(|(_, head)| *head).max() else {
            return if behind { Outlook::Behind } else { Outlook::Current };
        };
        for (stream, head) in &lost {
            let new = Position { seen: *head, sure: true, unjudged: None };
            self.positions.entry(stream.clone()).or_insert(new).seen = *head;
        }
        let streams = lost.into_iter().map(|(stream, _)| stream).collect();
        Outlook::Lost(Relist { streams, at_least, reason: reason::HEAD })
    }

    pub fn event(&mut self, event: &Event) -> Verdict {
        match self.epoch {
            Some(epoch) if event.epoch < epoch => return Verdict::Drop(Dropped::OlderEpoch),
            known
                if known.is_some_and(|known| event.epoch > known) || self.leaps(event.revision) =>
            {
                self.reset(event.epoch);
                self.newest = event.revision;
                self.see(event);
                return Verdict::Relist(Relist::all(Revision(0), reason::EPOCH));
            }
            _ => self.epoch = Some(event.epoch),
        }
        self.newest = self.newest.max(event.revision);
        let resource = &event.key.resource;
        let stream = |shard: &Shard| Stream { resource: resource.clone(), shard: shard.clone() };
        let (mut ours, mut news) = (false, false);
        let mut gaps = Vec::new();
        let mut at_least = Revision(u64::MAX);
        for (shard, prev) in &event.shards {
            let stream = stream(shard);
            if !self.interest.wants(&stream) {
                continue;
            }
            ours = true;
            let known = self.known(&stream);
            news |= known.is_none_or(|(seen, _)| event.revision > seen);
            if let Some((seen, true)) = known
                && event.revision > seen
                && *prev > seen
            {
                at_least = at_least.min(seen);
                gaps.push(stream);
            }
        }
        let unplaced = if ours { None } else { self.interest.whole(resource) };
        if let Some(stream) = &unplaced {
            news = self.known(stream).is_none_or(|(seen, _)| event.revision > seen);
        } else if !ours {
            return Verdict::Drop(Dropped::NotOurs);
        }
        if !news && self.open.get(&event.revision) != Some(&Open::Returned) {
            return Verdict::Drop(Dropped::Seen);
        }
        self.see(event);
        if let Some(stream) = unplaced.filter(|_| news) {
            // What was lost before it does not show; the list is newer than all such events.
            let new = Position { seen: event.revision, sure: true, unjudged: None };
            self.positions.entry(stream.clone()).or_insert(new).seen = event.revision;
            let at_least = event.revision;
            let relist = Relist { streams: vec![stream], at_least, reason: reason::UNPLACED };
            return Verdict::Relist(relist);
        }
        if self.positions.len() > MAX_STREAMS {
            self.reset(event.epoch);
            return Verdict::Relist(Relist::all(Revision(0), reason::TOO_MANY));
        }
        if gaps.is_empty() {
            Verdict::Apply
        } else {
            Verdict::Relist(Relist { streams: gaps, at_least, reason: reason::GAP })
        }
    }

    /// Whether something of this incarnation is of a database that is no more.
    pub fn is_past(&self, epoch: u64) -> bool {
        self.epoch.is_some_and(|known| epoch < known)
    }

    /// History up to `floor` was not published.
    pub fn floor(&mut self, epoch: u64, floor: Revision) -> Option<Relist> {
        match self.epoch {
            Some(known) if epoch < known => return None,
            Some(known) if epoch == known => {}
            _ => self.reset(epoch),
        }
        self.unsure();
        Some(Relist::all(floor, reason::FLOOR))
    }

    /// Something of the server's came that cannot be read.
    pub fn unreadable(&mut self) -> Relist {
        self.unsure();
        Relist::all(self.listed.unwrap_or_default(), reason::UNREADABLE)
    }

    /// The reader has listed streams (all where empty) at a revision. `Some` where what was delivered meanwhile shows
    /// that this was not enough.
    pub fn listed(&mut self, streams: &[Stream], at: Revision) -> Option<Relist> {
        let mut gaps = Vec::new();
        let mut judge = |stream: &Stream, position: &mut Position| {
            if position.unjudged.take().is_some_and(|prev| prev > at) {
                gaps.push(stream.clone());
            }
            position.seen = position.seen.max(at);
            position.sure = true;
        };
        if streams.is_empty() {
            self.listed = Some(at);
            self.positions.iter_mut().for_each(|(stream, position)| judge(stream, position));
        }
        for stream in streams.iter().filter(|stream| self.interest.wants(stream)) {
            let new = Position { seen: at, sure: true, unjudged: None };
            judge(stream, self.positions.entry(stream.clone()).or_insert(new));
        }
        gaps.sort();
        (!gaps.is_empty()).then_some(Relist { streams: gaps, at_least: at, reason: reason::GAP })
    }

    /// The same while the connection is away; what was not enough is made up for by the list that it begins with.
    pub fn listed_away(&mut self, streams: &[Stream], at: Revision) {
        if self.listed(streams, at).is_some() {
            self.unsure();
        }
    }

    /// A delivered event is confirmed.
    pub fn confirmed(&mut self, revision: Revision) {
        self.open.remove(&revision);
    }

    /// A delivered event was given back and will come again.
    pub fn returned(&mut self, revision: Revision) {
        if let Some(open) = self.open.get_mut(&revision) {
            *open = Open::Returned;
        }
    }

    /// What is seen of a stream, and whether a gap can be judged by it.
    fn known(&self, stream: &Stream) -> Option<(Revision, bool)> {
        match (self.positions.get(stream), self.listed) {
            (Some(position), _) => Some((position.seen, position.sure)),
            (None, Some(listed)) => Some((listed, true)),
            (None, None) => None,
        }
    }

    fn see(&mut self, event: &Event) {
        for (shard, prev) in &event.shards {
            let stream = Stream { resource: event.key.resource.clone(), shard: shard.clone() };
            if !self.interest.wants(&stream) {
                continue;
            }
            let known = self.known(&stream);
            let unjudged = match known {
                Some((seen, _)) if event.revision <= seen => continue,
                Some((_, true)) => None,
                _ => Some(*prev),
            };
            let new = Position { seen: event.revision, sure: true, unjudged };
            let position = self.positions.entry(stream).or_insert(new);
            position.seen = event.revision;
            position.sure = true;
            position.unjudged = position.unjudged.or(unjudged);
        }
        self.open.insert(event.revision, Open::Delivered);
        while self.open.len() > MAX_OPEN {
            self.open.pop_first();
        }
    }

    fn unsure(&mut self) {
        self.listed = None;
        for position in self.positions.values_mut() {
            (position.sure, position.unjudged) = (false, None);
        }
    }

    /// What was listed before any epoch was known may be of an older one: nothing but a restore raises the revision so far
    /// at once.
    fn leaps(&self, to: Revision) -> bool {
        let listed = self.listed.filter(|_| self.epoch.is_none());
        listed.is_some_and(|listed| to.0.saturating_sub(listed.0) >= Revision::RESTORE_STEP)
    }

    fn reset(&mut self, epoch: u64) {
        self.epoch = Some(epoch);
        self.listed = None;
        self.positions.clear();
        self.open.clear();
        self.newest = Revision(0);
    }
}

#[cfg(test)]
mod tests;
