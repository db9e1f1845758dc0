//! A reader's connection to its queue: what `warren-broker`'s session does around the real consumer rule, and what waits in
//! the reader's hands. Its process goes on with what it has read when the connection is lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use warren_api::Revision;
use warren_broker::consume::{Interest, Reader, Relist, Verdict};
use warren_broker::envelope::{Incoming, decode};
use warren_broker::{Event, Stream};

use super::broker::Delivery;

pub enum Item {
    Event { event: Arc<Event>, generation: u64, tag: u64 },
    Relist(Relist),
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
    interest: Interest,
    reader: Reader,
    held: BTreeMap<u64, Revision>,
    started: bool,
    pub relists: u64,
    pub gaps: u64,
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
            reader: Reader::new(interest.clone()),
            interest,
            held: BTreeMap::new(),
            started: false,
            relists: 0,
            gaps: 0,
        }
    }

    /// The process is another one.
    pub fn restart(&mut self) {
        self.reader = Reader::new(self.interest.clone());
        self.inbox.clear();
        self.held.clear();
        self.connected = false;
        self.started = false;
    }

    pub fn connect(&mut self) {
        self.generation += 1;
        self.connected = true;
        self.held.clear();
        let reason =
            if std::mem::replace(&mut self.started, true) { "reconnected" } else { "start" };
        let relist = self.reader.connected(reason);
        self.relist(relist);
    }

    pub fn lost(&mut self) {
        self.connected = false;
        self.held.clear();
    }

    fn relist(&mut self, relist: Relist) {
        self.relists += 1;
        self.inbox.push_back(Item::Relist(relist));
    }

    /// Whether the delivery is acknowledged at once.
    pub fn delivered(&mut self, delivery: &Delivery) -> bool {
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
                self.held.insert(tag, event.revision);
                self.inbox.push_back(Item::Event { event: Arc::new(event), generation, tag });
                false
            }
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
        let Some(revision) = self.held.remove(&tag) else { return false };
        self.reader.confirmed(revision);
        true
    }

    pub fn listed(&mut self, streams: &[Stream], at: Revision) {
        if let Some(relist) = self.reader.listed(streams, at) {
            self.gaps += 1;
            self.relist(relist);
        }
    }
}
