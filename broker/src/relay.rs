//! The relay: from the journal to `warren.events`, in order, nothing skipped. [`Core`] is the logic without I/O;
//! [`Relay`] is the shell that feeds it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use warren_api::Revision;

use crate::Event;
use crate::envelope::{self, Message};

mod patience;
mod shell;
mod suspects;

pub use patience::PATIENCE;
pub use shell::Relay;

use patience::Patience;
use suspects::Suspects;

/// Messages published and not yet confirmed. At 5,000/s and a confirm after 50 ms (a broker that is busy writing) 250
/// are under way; four times that.
pub const WINDOW_MESSAGES: usize = 1_024;
/// The same in bytes: bodies are held until they are confirmed, so that they can be sent again.
pub const WINDOW_BYTES: usize = 8 << 20;
/// Events read from the journal at once, and only where the window has room for them: of a backlog each read is one of the
/// disk, and with room for one event after each confirm there would be as many reads as events.
pub const READ_LIMIT: usize = 256;
/// How often a message is sent at least that the broker refuses, and at most once [`PATIENCE`] is over; and how often one is
/// sent alone for which it closes the channel. Any queue that
/// somebody binds to `warren.events` and that is full and rejects, or whose node was lost, makes the broker refuse, so the relay
/// must go on in the end: its readers see the gap and list, all others have it.
pub const MAX_ATTEMPTS: u32 = 3;

/// What the shell must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Publish, and say by the tag what became of it.
    Publish { tag: u64, message: Arc<Message> },
    /// Everything up to here is confirmed.
    Advance(Revision),
    /// Read up to `limit` events after a revision; answer with [`Core::read`] or [`Core::floor`].
    Read { after: Revision, limit: usize },
    /// Wait until there is something after the revision; answer with [`Core::woken`].
    Wait { after: Revision },
    /// Wait for so long, then say so with [`Core::retry`]. A new connection forgets it.
    Pause(Duration),
    /// Go on with another channel, then say so with [`Core::reopened`].
    Reopen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    InFlight,
    Done,
}

#[derive(Debug)]
struct Entry {
    revision: Revision,
    /// An event of very many shards is several messages; the last one completes its revision.
    last: bool,
    message: Arc<Message>,
    state: State,
    refusals: u32,
    /// How often the channel was closed for it: it was the only one in flight.
    rejections: u32,
}

/// Invariants: the cursor moves only past confirmed rows (or abandoned ones); within a connection messages are published
/// in the order of revisions, but for those that the broker refused; the window is bounded.
#[derive(Debug)]
pub struct Core {
    account: String,
    cursor: Revision,
    read_to: Revision,
    /// In the order of revisions; the front is the oldest that is not confirmed.
    entries: VecDeque<Entry>,
    /// The number of the front entry; numbers are never used twice.
    front: u64,
    /// What must be published, by number.
    queue: BTreeSet<u64>,
    /// What the broker refused, until [`Core::retry`].
    refused: BTreeSet<u64>,
    patience: Patience,
    suspects: Suspects,
    pausing: bool,
    another_channel: bool,
    in_flight: BTreeMap<u64, u64>,
    bytes: usize,
    next_tag: u64,
    advanced: bool,
    connected: bool,
    blocked: bool,
    /// A read or a wait is under way.
    asked: bool,
    caught_up: bool,
}

impl Core {
    /// `account` is the server's at the broker, `cursor` up to where everything was confirmed before.
    pub fn new(account: &str, cursor: Revision) -> Self {
        Self {
            account: account.to_owned(),
            cursor,
            read_to: cursor,
            entries: VecDeque::new(),
            front: 0,
            queue: BTreeSet::new(),
            refused: BTreeSet::new(),
            patience: Patience::new(),
            suspects: Suspects::new(),
            pausing: false,
            another_channel: false,
            in_flight: BTreeMap::new(),
            bytes: 0,
            next_tag: 1,
            advanced: false,
            connected: false,
            blocked: false,
            asked: false,
            caught_up: false,
        }
    }

    pub fn cursor(&self) -> Revision {
        self.cursor
    }

    /// Messages and bytes that are held.
    pub fn window(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// A new connection: tags start again at 1, and what is not confirmed is published again, in order.
    pub fn connected(&mut self) {
        self.blocked = false;
        self.patience.connected();
        self.entries.iter_mut().for_each(|entry| entry.refusals = 0);
        self.reopened();
    }

    /// A new channel: the same, but what was refused is known to have been.
    pub fn reopened(&mut self) {
        self.connected = true;
        self.next_tag = 1;
        self.in_flight.clear();
        self.queue.clear();
        self.refused.clear();
        (self.pausing, self.another_channel) = (false, false);
        for (number, entry) in (self.front..).zip(&mut self.entries) {
            if entry.state != State::Done {
                entry.state = State::Queued;
                self.queue.insert(number);
            }
        }
    }

    pub fn lost(&mut self) {
        self.connected = false;
        self.blocked = false;
        self.in_flight.clear();
    }

    pub fn blocked(&mut self, blocked: bool) {
        self.blocked = blocked;
    }

    /// The answer to [`Action::Read`]; `now` in seconds since 1970. Events that are not newer than what was read before
    /// are ignored.
    pub fn read(&mut self, events: &[Event], now: u64) {
        self.asked = false;
        self.caught_up = events.is_empty();
        for event in events {
            if event.revision <= self.read_to {
                continue;
            }
            self.read_to = event.revision;
            let messages = envelope::encode(event, &self.account, now);
            let count = messages.len();
            for (at, message) in messages.into_iter().enumerate() {
                self.push(event.revision, at + 1 == count, message);
            }
        }
    }

    /// The other answer to [`Action::Read`]: history up to `floor` is gone.
    pub fn floor(&mut self, epoch: u64, floor: Revision, now: u64) {
        self.asked = false;
        if floor <= self.read_to {
            // Nothing is missing; an outbox that says so would be asked again and again.
            self.caught_up = true;
            return;
        }
        self.read_to = floor;
        self.push(floor, true, envelope::encode_floor(epoch, floor, &self.account, now));
    }

    /// The answer to [`Action::Wait`].
    pub fn woken(&mut self) {
        (self.asked, self.caught_up) = (false, false);
    }

    pub fn acked(&mut self, tag: u64, multiple: bool) {
        for number in self.take(tag, multiple) {
            if let Some(entry) = self.entry(number) {
                let bytes = entry.message.body.len();
                self.suspects.taken(bytes);
            }
            self.done(number);
        }
        self.advance();
    }

    /// The broker could not place a message everywhere. After a pause it is sent again, out of order (who got its
    /// successors sees a gap, who got it before drops it), until [`PATIENCE`] is over and it was sent [`MAX_ATTEMPTS`] times.
    /// Others go on meanwhile. Answers what is given up. `now` is the time since any fixed point.
    pub fn nacked(&mut self, tag: u64, multiple: bool, now: Duration) -> Vec<Revision> {
        self.patience.reckon(now);
        let over = self.patience.is_over();
        let mut given_up = Vec::new();
        for number in self.take(tag, multiple) {
            let Some(entry) = self.entry(number) else { continue };
            entry.refusals += 1;
            let (revision, refusals) = (entry.revision, entry.refusals);
            if refusals == 1 {
                self.patience.refused();
            }
            if over && refusals >= MAX_ATTEMPTS {
                given_up.push(revision);
                self.done(number);
            } else {
                self.refused.insert(number);
            }
        }
        self.advance();
        given_up
    }

    /// The broker closed the channel for something in a message (it is larger than `max_message_size`, above all): sent again
    /// with all others, it would be for ever. Fewer and fewer are sent at once, until it is alone; where the channel is closed
    /// [`MAX_ATTEMPTS`] times for it, or once for what resembles one that was, it is given up, which this answers. Its readers
    /// see the gap. [`Action::Reopen`] follows.
    pub fn rejected(&mut self) -> Option<Revision> {
        (self.pausing, self.another_channel) = (false, true);
        let in_flight = std::mem::take(&mut self.in_flight);
        let number = *in_flight.values().max()?;
        if in_flight.len() > 1 {
            self.suspects.narrow(in_flight.len(), number);
            return None;
        }
        let entry = self.entry(number)?;
        entry.rejections += 1;
        let (revision, rejections) = (entry.revision, entry.rejections);
        let bytes = entry.message.body.len();
        if rejections < MAX_ATTEMPTS && !self.suspects.resembles(bytes) {
            return None;
        }
        self.suspects.found(bytes);
        self.done(number);
        self.advance();
        Some(revision)
    }

    /// The answer to [`Action::Pause`]: what was refused so far is sent again, in order.
    pub fn retry(&mut self, now: Duration) {
        self.pausing = false;
        self.patience.reckon(now);
        if self.another_channel {
            return;
        }
        while let Some(number) = self.refused.pop_first() {
            if let Some(entry) = self.entry(number) {
                entry.state = State::Queued;
                self.queue.insert(number);
            }
        }
    }

    /// What to do next; `None` until the next input.
    pub fn poll(&mut self) -> Option<Action> {
        if std::mem::take(&mut self.advanced) {
            return Some(Action::Advance(self.cursor));
        }
        if !self.connected {
            return None;
        }
        // Once for all that were refused meanwhile: where a node of the broker is lost, it refuses a whole window.
        if !self.pausing && self.another_channel {
            self.connected = false;
            self.in_flight.clear();
            return Some(Action::Reopen);
        }
        if !self.refused.is_empty() && !std::mem::replace(&mut self.pausing, true) {
            let (pause, another_channel) = self.patience.pause();
            self.another_channel = another_channel;
            return Some(Action::Pause(pause));
        }
        if self.blocked {
            return None;
        }
        if let Some(&number) = self.queue.first() {
            let bytes = self.entry(number)?.message.body.len();
            if !self.suspects.admit(self.in_flight.len(), bytes) {
                return None;
            }
            self.queue.remove(&number);
            let tag = self.next_tag;
            let entry = self.entry(number)?;
            entry.state = State::InFlight;
            let message = Arc::clone(&entry.message);
            self.in_flight.insert(tag, number);
            self.next_tag += 1;
            return Some(Action::Publish { tag, message });
        }
        let room = WINDOW_MESSAGES.saturating_sub(self.entries.len());
        if self.asked || room < READ_LIMIT || self.bytes >= WINDOW_BYTES {
            return None;
        }
        self.asked = true;
        let after = self.read_to;
        if self.caught_up {
            return Some(Action::Wait { after });
        }
        Some(Action::Read { after, limit: READ_LIMIT })
    }

    fn push(&mut self, revision: Revision, last: bool, message: Message) {
        self.queue.insert(self.front + self.entries.len() as u64);
        self.bytes += message.body.len();
        let message = Arc::new(message);
        self.entries.push_back(Entry {
            revision,
            last,
            message,
            state: State::Queued,
            refusals: 0,
            rejections: 0,
        });
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let at = usize::try_from(number.checked_sub(self.front)?).ok()?;
        self.entries.get_mut(at)
    }

    /// The numbers of what a tag stands for; they are no longer in flight.
    fn take(&mut self, tag: u64, multiple: bool) -> Vec<u64> {
        if !multiple {
            return self.in_flight.remove(&tag).into_iter().collect();
        }
        let after = self.in_flight.split_off(&tag.saturating_add(1));
        std::mem::replace(&mut self.in_flight, after).into_values().collect()
    }

    fn done(&mut self, number: u64) {
        let Some(entry) = self.entry(number) else { return };
        entry.state = State::Done;
        if entry.refusals > 0 {
            self.patience.settled();
        }
    }

    fn advance(&mut self) {
        while let Some(entry) = self.entries.front()
            && entry.state == State::Done
        {
            if entry.last {
                self.cursor = entry.revision;
                self.advanced = true;
            }
            self.bytes -= entry.message.body.len();
            self.entries.pop_front();
            self.front += 1;
        }
        self.suspects.settled(self.front);
    }
}

#[cfg(test)]
mod tests;
