//! What is done, what is being done already, and what has been. Pure: the clock is an argument.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use warren_api::Status;

use super::{ApiAnswer, ApiRequest};

/// How long the answer to a change is known, for an asker that lost its connection.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Changes of ten minutes at 100 a second would be more: the oldest answer is then forgotten early, and a change that is
/// repeated later than that is judged by the API alone, as over HTTPS.
pub const MAX_REMEMBERED: usize = 20_000;
/// Of their bodies. Policy: as above.
pub const MAX_REMEMBERED_BYTES: usize = 32 << 20;

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
    /// Do it, and then [`Desk::done`] with this; or [`Desk::abandon`].
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
    known: HashMap<Key, Entry<W>>,
    order: VecDeque<(Instant, Key)>,
    bytes: usize,
}

impl<W> Default for Desk<W> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), bytes: 0 }
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
        if let Some(key) = key {
            self.known.insert(key, Entry::Doing(content, Vec::new()));
        }
        Verdict::Do(Ticket { key, waiter })
    }

    /// Answers who is to be told.
    pub(crate) fn done(
        &mut self,
        now: Instant,
        ticket: Ticket<W>,
        answer: &Arc<ApiAnswer>,
    ) -> Vec<W> {
        let Ticket { key, waiter } = ticket;
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

    /// It is not done. Answers who is to be told; the same may be asked for again.
    pub(crate) fn abandon(&mut self, ticket: Ticket<W>) -> Vec<W> {
        let Ticket { key, waiter } = ticket;
        let mut told = vec![waiter];
        if let Some(Entry::Doing(_, others)) = key.and_then(|key| self.known.remove(&key)) {
            told.extend(others);
        }
        told
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
