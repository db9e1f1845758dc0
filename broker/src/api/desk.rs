//! Who is served, who has to wait, and who has had the answer already. Pure: the clock is an argument.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use warren_api::{Details, Reason, Status};

use super::{ApiAnswer, ApiRequest};

/// How long the answer to a change is known, for an asker that lost its connection.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Changes of ten minutes at 100 a second would be more: the oldest answer is then forgotten early, and a change that is
/// repeated later than that is judged by the API alone, as over HTTPS.
pub const MAX_REMEMBERED: usize = 20_000;
/// Of their bodies. Policy: as above.
pub const MAX_REMEMBERED_BYTES: usize = 32 << 20;
/// Requests of one account that are being done; two of our own clients keep below it. Policy: beyond it, 429.
pub const MAX_OF_ONE: usize = 100;

type Key = [u8; 32];

/// A request as the desk sees it.
pub(crate) struct Arrival<'a> {
    pub(crate) account: Option<&'a str>,
    pub(crate) id: Option<&'a str>,
    pub(crate) request: &'a ApiRequest,
    pub(crate) arrived: Instant,
    pub(crate) patience: Duration,
}

pub(crate) enum Verdict<W> {
    /// Do it, and then [`Desk::done`] with this.
    Do(Ticket<W>),
    /// The same is being done; whoever does it answers here as well.
    Joined,
    /// It was done.
    Answered(W, Arc<ApiAnswer>),
    Refused(W, Box<Status>),
    /// Nobody waits for it any more.
    Late(W),
}

pub(crate) struct Ticket<W> {
    account: String,
    key: Option<Key>,
    waiter: W,
}

enum Entry<W> {
    /// With those who asked for the same meanwhile.
    Doing([u8; 32], Vec<W>),
    Done([u8; 32], Arc<ApiAnswer>),
}

/// `W` is where an answer goes.
pub(crate) struct Desk<W> {
    in_flight: HashMap<String, usize>,
    known: HashMap<Key, Entry<W>>,
    order: VecDeque<(Instant, Key)>,
    bytes: usize,
}

impl<W> Default for Desk<W> {
    fn default() -> Self {
        let (in_flight, known) = (HashMap::new(), HashMap::new());
        Self { in_flight, known, order: VecDeque::new(), bytes: 0 }
    }
}

impl<W> Desk<W> {
    pub(crate) fn arrive(&mut self, now: Instant, arrival: &Arrival<'_>, waiter: W) -> Verdict<W> {
        let Arrival { account, id, request, arrived, patience } = arrival;
        self.forget(now);
        let id = id.filter(|_| request.changes());
        let key = id.map(|id| hash(&[account.unwrap_or_default().as_bytes(), id.as_bytes()]));
        let content = key.map_or([0; 32], |_| {
            // Whom a node speaks for, or an administrator: what one may, another may not.
            let whose = request.headers.iter().filter(|(name, _)| name.starts_with("impersonate-"));
            let whose = whose.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
            let what = [request.method.as_bytes(), request.path.as_bytes(), &*request.body];
            hash(&what.into_iter().chain(whose).collect::<Vec<_>>())
        });
        match key.and_then(|key| self.known.get_mut(&key)) {
            Some(Entry::Doing(same, _) | Entry::Done(same, _)) if *same != content => {
                let why = "message_id: Invalid value: another request had it within ten minutes";
                return Verdict::Refused(waiter, Box::new(Status::bad_request(why)));
            }
            Some(Entry::Doing(_, others)) => {
                others.push(waiter);
                return Verdict::Joined;
            }
            Some(Entry::Done(_, answer)) => return Verdict::Answered(waiter, Arc::clone(answer)),
            None => {}
        }
        if now.saturating_duration_since(*arrived) >= *patience {
            return Verdict::Late(waiter);
        }
        let account = account.unwrap_or_default();
        let count = self.in_flight.entry(account.to_owned()).or_default();
        if *count >= MAX_OF_ONE {
            return Verdict::Refused(waiter, Box::new(too_many()));
        }
        *count += 1;
        if let Some(key) = key {
            self.known.insert(key, Entry::Doing(content, Vec::new()));
        }
        Verdict::Do(Ticket { account: account.to_owned(), key, waiter })
    }

    /// Answers who is to be told.
    pub(crate) fn done(
        &mut self,
        now: Instant,
        ticket: Ticket<W>,
        answer: &Arc<ApiAnswer>,
    ) -> Vec<W> {
        let Ticket { account, key, waiter } = ticket;
        if let Some(count) = self.in_flight.get_mut(&account) {
            *count -= 1;
            if *count == 0 {
                self.in_flight.remove(&account);
            }
        }
        let mut told = vec![waiter];
        let Some(key) = key else { return told };
        if let Some(Entry::Doing(content, others)) = self.known.remove(&key) {
            told.extend(others);
            // What could not be done now may be asked for again.
            if !matches!(answer.code, 429 | 503) {
                self.bytes += answer.body.len();
                self.known.insert(key, Entry::Done(content, Arc::clone(answer)));
                self.order.push_back((now, key));
                self.forget(now);
            }
        }
        told
    }

    /// How many are being done.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.values().sum()
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, key)) = self.order.front()
            && (now.saturating_duration_since(*at) >= REMEMBERED_FOR
                || self.order.len() > MAX_REMEMBERED
                || self.bytes > MAX_REMEMBERED_BYTES)
        {
            if let Some(Entry::Done(_, answer)) = self.known.remove(key) {
                self.bytes -= answer.body.len();
            }
            self.order.pop_front();
        }
    }
}

fn too_many() -> Status {
    let why = format!("Too many requests: an account has at most {MAX_OF_ONE} at a time over AMQP");
    let details = Details { retry_after_seconds: Some(1), ..Details::default() };
    Status { details: Some(Box::new(details)), ..Status::new(Reason::TooManyRequests, why) }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
