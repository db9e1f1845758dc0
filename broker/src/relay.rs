//! The relay: from the journal to `warren.events`, in order, nothing skipped. [`Core`] is the logic without I/O;
//! [`Relay`] is the shell that feeds it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use warren_api::Revision;

use crate::Event;
use crate::envelope::{self, Message};

mod shell;

pub use shell::Relay;

/// Messages published and not yet confirmed. At 5,000/s and a confirm after 50 ms (a broker that is busy writing) 250
/// are under way; four times that.
pub const WINDOW_MESSAGES: usize = 1_024;
/// The same in bytes: bodies are held until they are confirmed, so that they can be sent again.
pub const WINDOW_BYTES: usize = 8 << 20;
/// Events read from the journal at once, and only where the window has room for them: of a backlog each read is one of the
/// disk, and with room for one event after each confirm there would be as many reads as events.
pub const READ_LIMIT: usize = 256;
/// How often a message is sent that the broker refuses. Any queue that somebody binds to `warren.events` and that is
/// full and rejects, or whose node was lost, makes the broker refuse, so the relay must go on in the end: its readers see the
/// gap and list, all others have it.
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
}

/// What became of messages that the broker refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Sent again after [`Core::retry`].
    pub again: usize,
    /// Given up.
    pub abandoned: Vec<Revision>,
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
    queue: VecDeque<u64>,
    /// What the broker refused, until [`Core::retry`].
    refused: Vec<u64>,
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
            queue: VecDeque::new(),
            refused: Vec::new(),
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
        self.connected = true;
        self.blocked = false;
        self.next_tag = 1;
        self.in_flight.clear();
        self.queue.clear();
        self.refused.clear();
        for (number, entry) in (self.front..).zip(&mut self.entries) {
            if entry.state != State::Done {
                entry.state = State::Queued;
                self.queue.push_back(number);
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
            self.done(number);
        }
        self.advance();
    }

    /// The broker could not place a message everywhere. After [`Core::retry`] it is sent again, out of order (who got its
    /// successors sees a gap, who got it before drops it), at most [`MAX_ATTEMPTS`] times in all. Others go on meanwhile.
    pub fn nacked(&mut self, tag: u64, multiple: bool) -> Refused {
        let mut refused = Refused::default();
        for number in self.take(tag, multiple) {
            let Some(entry) = self.entry(number) else { continue };
            entry.refusals += 1;
            if entry.refusals < MAX_ATTEMPTS {
                entry.state = State::Queued;
                self.refused.push(number);
                refused.again += 1;
            } else {
                refused.abandoned.push(entry.revision);
                self.done(number);
            }
        }
        self.advance();
        refused
    }

    /// What was refused so far is sent again. The shell pauses before, once for all that were refused together.
    pub fn retry(&mut self) {
        self.queue.extend(self.refused.drain(..));
    }

    /// What to do next; `None` until the next input.
    pub fn poll(&mut self) -> Option<Action> {
        if std::mem::take(&mut self.advanced) {
            return Some(Action::Advance(self.cursor));
        }
        if !self.connected || self.blocked {
            return None;
        }
        if let Some(number) = self.queue.pop_front() {
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
        self.queue.push_back(self.front + self.entries.len() as u64);
        self.bytes += message.body.len();
        let message = Arc::new(message);
        self.entries.push_back(Entry {
            revision,
            last,
            message,
            state: State::Queued,
            refusals: 0,
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
        if let Some(entry) = self.entry(number) {
            entry.state = State::Done;
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
    }
}

#[cfg(test)]
mod tests;
