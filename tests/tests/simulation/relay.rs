//! The server's side of the broker: the relay's shell, with the real core in it, and the nodes' queues.

use std::sync::Arc;
use std::time::Duration;

use warren_api::Revision;
use warren_broker::envelope::Message;
use warren_broker::relay::{Action, Core};

use super::broker::Fate;
use super::check::Told;
use super::happens::Happens;
use super::world::World;

pub struct Relay {
    pub core: Core,
    pub generation: u64,
    pub connected: bool,
    /// Counts the server's processes.
    pub run: u64,
    /// What was sent before the connection was lost arrives until then.
    pub pipe_until: (u64, u64),
    pub waiting: Option<Revision>,
    pub arrival: u64,
    pub pumping: bool,
    pub told: Told,
}

impl World {
    pub fn relay_connects(&mut self) {
        if !self.server.up || self.relay.connected {
            return;
        }
        if !self.broker.up {
            let later = self.rng.range(100, 2_000);
            return self.after(later, Happens::RelayConnects);
        }
        if std::mem::take(&mut self.compacts) {
            self.server.compact();
        }
        self.relay.generation += 1;
        self.relay.connected = true;
        self.relay.core.connected();
        self.declare_nodes();
        self.say(|| "the server is connected to the broker".to_owned());
        self.pump();
    }

    /// The server declares the queue of each node that there is, and deletes the others.
    pub fn declare_nodes(&mut self) {
        (0..self.agents.len()).for_each(|node| self.declare_node(node));
    }

    pub fn declare_node(&mut self, node: usize) {
        if !self.relay.connected || !self.broker.up || !self.server.up {
            return;
        }
        let session = &self.readers[node].session;
        if self.server.nodes.contains(&self.agents[node].node) {
            self.broker.declare(&session.queue, &session.keys, false, self.bound);
        } else if self.broker.has(&session.queue) {
            self.broker.delete(&session.queue);
            self.lose_connection(node);
        }
    }

    pub fn relay_lost(&mut self) {
        if !self.relay.connected {
            return;
        }
        self.relay.connected = false;
        self.relay.core.lost();
        self.relay.pipe_until = (self.relay.generation, self.now + self.rng.range(0, 6));
        let later = self.rng.range(50, 1_500);
        self.after(later, Happens::RelayConnects);
    }

    pub fn wake_relay(&mut self) {
        if self.relay.waiting.is_some_and(|after| self.server.disk.last > after) {
            self.relay.waiting = None;
            self.relay.core.woken();
        }
        if !std::mem::replace(&mut self.relay.pumping, true) {
            self.after(0, Happens::Pump);
        }
    }

    pub fn pump(&mut self) {
        self.relay.pumping = false;
        if !self.server.up {
            return;
        }
        while let Some(action) = self.relay.core.poll() {
            match action {
                Action::Publish { tag, message } => {
                    let at = self.now + self.rng.range(0, 5);
                    self.relay.arrival = self.relay.arrival.max(at);
                    self.relay.told.sent(tag, &message);
                    let generation = self.relay.generation;
                    self.at(self.relay.arrival, Happens::Publish { generation, tag, message });
                }
                Action::Advance(to) => {
                    let open = self.server.between(self.server.cursor, to);
                    if let Some(open) = self.relay.told.advances(to, open) {
                        self.violate(format!("the cursor moves to {to}, past {open}"));
                    }
                    self.server.cursor = self.server.cursor.max(to);
                    let run = self.relay.run;
                    self.after(100, Happens::CursorOnDisk { run });
                }
                Action::Read { after, limit } => {
                    let (run, limit) = (self.relay.run, limit.min(8));
                    self.after(1, Happens::Read { run, after, limit });
                }
                Action::Reopen => {
                    // What was sent on the old channel arrives before; what is said of it is not heard any more.
                    self.count("channels opened anew");
                    self.relay.pipe_until = (self.relay.generation, self.relay.arrival);
                    self.relay.generation += 1;
                    self.relay.core.reopened();
                }
                Action::Pause(time) => {
                    let generation = self.relay.generation;
                    let later = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                    self.after(later, Happens::Retry { generation });
                }
                Action::Wait { after } => {
                    if self.server.disk.last > after {
                        self.relay.core.woken();
                    } else {
                        self.relay.waiting = Some(after);
                    }
                }
            }
        }
    }

    pub fn read(&mut self, run: u64, after: Revision, limit: usize) {
        if run != self.relay.run || !self.server.up {
            return;
        }
        let now = self.now / 1000;
        match self.server.read(after, limit) {
            Ok(events) => self.relay.core.read(&events, now),
            Err(floor) => {
                self.count("floors");
                self.relay.core.floor(self.server.disk.epoch, floor, now);
            }
        }
        self.pump();
    }

    pub fn arrives_at_broker(&mut self, generation: u64, tag: u64, message: &Arc<Message>) {
        let live = self.relay.connected && generation == self.relay.generation;
        let (of, until) = self.relay.pipe_until;
        if !self.broker.up || !(live || generation == of && self.now <= until) {
            return;
        }
        self.count("published");
        let (nacks, takes, mut chance) = (self.nacks, self.takes, self.rng.clone());
        let whole = self.broker.publish(message, || match () {
            () if nacks && chance.chance(50) => Fate::Refused,
            () if takes && chance.chance(100) => Fate::Taken,
            () => Fate::Kept,
        });
        self.rng = chance;
        if !whole {
            self.count("refused by a queue");
        }
        if live {
            let later = self.rng.range(1, 30);
            self.after(later, Happens::Confirm { generation, tag, acked: whole });
        }
        for queue in self.broker.names() {
            self.push(&queue);
        }
    }

    pub fn confirmed(&mut self, generation: u64, tag: u64, acked: bool) {
        if !self.relay.connected || self.relay.generation != generation {
            return;
        }
        self.relay.told.confirmed(tag, acked);
        if acked {
            self.relay.core.acked(tag, false);
        } else {
            let given_up = self.relay.core.nacked(tag, false, Duration::from_millis(self.now));
            given_up.iter().for_each(|_| self.count("events given up"));
        }
        self.pump();
    }

    pub fn retries(&mut self, generation: u64) {
        if self.relay.connected && self.relay.generation == generation {
            self.relay.core.retry(Duration::from_millis(self.now));
            self.pump();
        }
    }
}
