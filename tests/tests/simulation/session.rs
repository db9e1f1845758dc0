//! A reader's connection to its queue: what `warren-broker`'s session does around the real consumer rule, and what waits in
//! the reader's hands. Its process goes on with what it has read when the connection is lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use warren_api::Revision;
use warren_broker::consume::watch::{Finding, Watch};
use warren_broker::consume::{Interest, Reader, Relist, Verdict, reason};
use warren_broker::envelope::{Incoming, decode};
use warren_broker::{Event, Heads, Stream};

use super::broker::Delivery;

pub enum Item {
    Event {
        event: Arc<Event>,
        generation: u64,
        tag: u64,
    },
    Relist(Relist),
    /// The connection is there again, with its number: heads are asked for.
    Reconnected(u64),
    Down,
}

/// What the reader tells its session, which hears it while it is connected.
enum Tell {
    Listed(Vec<Stream>, Revision),
    Heads(u64, Option<Heads>),
}

pub struct Session {
    pub queue: String,
    pub keys: Vec<String>,
    /// Goes with its connection, and is declared by the reader itself.
    pub own: bool,
    pub connected: bool,
    /// Counts connections; those of earlier processes too.
    pub generation: u64,
    pub inbox: VecDeque<Item>,
    /// When the last delivery under way arrives: they come in order.
    pub arrival: u64,
    /// The last connection that the reader has heard of, and whether it is there as far as it knows.
    pub known: u64,
    pub up: bool,
    /// Something was lost: the bindings may be.
    pub rebinds: bool,
    /// It is looked at the heads that are awaited.
    pub looks: bool,
    interest: Interest,
    reader: Reader,
    held: BTreeMap<u64, (u64, Revision)>,
    tells: Vec<Tell>,
    /// What the reader has done with, by epoch and revision: within a database's life they do not come again.
    done: BTreeSet<(u64, Revision)>,
    /// What must not be.
    pub wrong: Option<String>,
    started: bool,
    connection: u64,
    watch: Watch,
    pub gaps: u64,
    /// Losses that the heads have shown, and lists that they have saved.
    pub behind: u64,
    pub whole: u64,
}

impl Session {
    pub fn new(queue: String, keys: Vec<String>, own: bool, interest: Interest) -> Self {
        Self {
            queue,
            keys,
            own,
            connected: false,
            generation: 0,
            inbox: VecDeque::new(),
            arrival: 0,
            known: 0,
            up: false,
            rebinds: false,
            looks: false,
            reader: Reader::new(interest.clone()),
            interest,
            held: BTreeMap::new(),
            tells: Vec::new(),
            done: BTreeSet::new(),
            wrong: None,
            started: false,
            connection: 0,
            watch: Watch::new(own, Duration::ZERO),
            gaps: 0,
            behind: 0,
            whole: 0,
        }
    }

    /// The process is another one.
    pub fn restart(&mut self) {
        self.reader = Reader::new(self.interest.clone());
        self.inbox.clear();
        self.held.clear();
        self.tells.clear();
        self.done.clear();
        self.connected = false;
        self.started = false;
        self.up = false;
        (self.connection, self.known) = (0, 0);
    }

    pub fn connect(&mut self, now: Duration) {
        self.generation += 1;
        self.connected = true;
        self.held.clear();
        self.rebinds = false;
        self.watch = Watch::new(self.own, now);
        if !std::mem::replace(&mut self.started, true) {
            let relist = self.reader.connected(reason::START);
            self.relist(relist);
        } else if let Some(relist) = self.reader.reconnected() {
            self.relist(relist);
        } else {
            self.connection += 1;
            self.watch.ask();
            self.inbox.push_back(Item::Reconnected(self.connection));
        }
        for tell in std::mem::take(&mut self.tells) {
            match tell {
                Tell::Listed(streams, at) => self.listed(&streams, at),
                Tell::Heads(connection, heads) => self.heads(connection, heads, now),
            }
        }
    }

    pub fn lost(&mut self) {
        self.connected = false;
        self.held.clear();
        self.inbox.push_back(Item::Down);
    }

    fn relist(&mut self, relist: Relist) {
        self.inbox.push_back(Item::Relist(relist));
    }

    /// Whether the delivery is acknowledged at once.
    pub fn delivered(&mut self, delivery: &Delivery, now: Duration) -> bool {
        self.watch.came(now);
        let (generation, tag) = (self.generation, delivery.tag);
        let body = Bytes::from(delivery.message.body.clone());
        match decode(&delivery.message.properties, &body) {
            Ok(Incoming::Event(event)) => {
                let verdict = self.reader.event(&event);
                if let Verdict::Drop(_) = verdict {
                    return true;
                }
                if let Verdict::Relist(relist) = verdict {
                    self.gaps += u64::from(!relist.streams.is_empty());
                    self.relist(relist);
                }
                if self.done.contains(&(event.epoch, event.revision)) {
                    let (at, queue) = (event.revision, &self.queue);
                    self.wrong =
                        Some(format!("{queue}: {at} is handed on again, after it was done with"));
                }
                self.held.insert(tag, (event.epoch, event.revision));
                self.inbox.push_back(Item::Event { event: Arc::new(event), generation, tag });
                false
            }
            // The simulated agents ask for what their pods refer to.
            Ok(Incoming::Present { .. }) => true,
            Ok(Incoming::Floor { epoch, floor }) => {
                if let Some(relist) = self.reader.floor(epoch, floor) {
                    self.relist(relist);
                }
                true
            }
            Err(error) => panic!("the server's own message cannot be read: {error}"),
        }
    }

    /// The reader has done with a delivery; `true` where the broker is to be told.
    pub fn settle(&mut self, generation: u64, tag: u64) -> bool {
        if generation != self.generation || !self.connected {
            return false;
        }
        let Some((epoch, revision)) = self.held.remove(&tag) else { return false };
        self.reader.confirmed(revision);
        self.done.insert((epoch, revision));
        true
    }

    pub fn listed(&mut self, streams: &[Stream], at: Revision) {
        if !self.connected {
            return self.tells.push(Tell::Listed(streams.to_vec(), at));
        }
        if let Some(relist) = self.reader.listed(streams, at) {
            self.gaps += 1;
            self.relist(relist);
        }
    }

    /// The reader hands on what the server said after a connection that it knew of.
    pub fn heads(&mut self, connection: u64, heads: Option<Heads>, now: Duration) {
        if !self.connected {
            return self.tells.push(Tell::Heads(connection, heads));
        }
        if connection == self.connection {
            let finding = self.watch.told(&mut self.reader, heads, now);
            self.found(finding);
        }
    }

    pub fn waits(&self) -> bool {
        self.connected && self.watch.waits()
    }

    pub fn look(&mut self, now: Duration) {
        let finding = self.watch.look(&mut self.reader, self.held.is_empty(), now);
        self.found(finding);
    }

    fn found(&mut self, finding: Finding) {
        match finding {
            Finding::Nothing => {}
            Finding::Whole => self.whole += 1,
            Finding::Unknown(relist) => self.relist(relist),
            Finding::Lost(relist) => {
                self.rebinds = true;
                self.behind += 1;
                self.relist(relist);
            }
        }
    }
}
