//! What people and metrics are told about the fabric.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;
use warren_api::Revision;
use warren_process::{Buckets, Family};

use crate::consume::reason;

/// How the fabric is, for `/readyz?verbose` and `warren status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FabricStatus {
    pub connected: bool,
    /// Since when it is connected, or not.
    pub since: SystemTime,
    /// Why the broker takes no publishes (`connection.blocked`); back-pressure, not an outage.
    pub blocked: Option<String>,
    /// Events that are committed and not yet confirmed by the broker; `None` where nobody counts them (readers).
    pub backlog: Option<u64>,
    /// Up to where everything is confirmed.
    pub cursor: Revision,
    /// The last reason for being disconnected; stays after the connection is back.
    pub last_error: Option<String>,
}

/// One line: `disconnected for 12s: connection refused; 3 events wait; published up to revision 42`.
impl std::fmt::Display for FabricStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.since.elapsed().unwrap_or_default().as_secs();
        match (&self.last_error, self.connected) {
            (_, true) => write!(f, "connected for {seconds}s")?,
            (Some(error), false) => write!(f, "disconnected for {seconds}s: {error}")?,
            (None, false) => write!(f, "connecting")?,
        }
        if let Some(reason) = &self.blocked {
            write!(f, "; blocked by the broker: {reason}")?;
        }
        match self.backlog {
            Some(1) => write!(f, "; 1 event waits")?,
            Some(backlog) => write!(f, "; {backlog} events wait")?,
            None => {}
        }
        match self.cursor {
            Revision(0) => Ok(()),
            cursor => write!(f, "; published up to revision {cursor}"),
        }
    }
}

/// The writers' side of a [`FabricStatus`]. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct StatusCell(Arc<Mutex<FabricStatus>>);

impl StatusCell {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(FabricStatus {
            connected: false,
            since: SystemTime::now(),
            blocked: None,
            backlog: None,
            cursor: Revision(0),
            last_error: None,
        })))
    }

    pub(crate) fn get(&self) -> FabricStatus {
        self.0.lock().clone()
    }

    pub(crate) fn connected(&self) {
        let mut status = self.0.lock();
        if !status.connected {
            (status.connected, status.since) = (true, SystemTime::now());
        }
        status.blocked = None;
    }

    pub(crate) fn disconnected(&self, reason: &str) {
        let mut status = self.0.lock();
        if status.connected {
            (status.connected, status.since) = (false, SystemTime::now());
        }
        status.blocked = None;
        status.last_error = Some(reason.to_owned());
    }

    pub(crate) fn blocked(&self, reason: Option<String>) {
        self.0.lock().blocked = reason;
    }

    pub(crate) fn progress(&self, cursor: Revision, backlog: u64) {
        let mut status = self.0.lock();
        (status.cursor, status.backlog) = (cursor, Some(backlog));
    }
}

/// Upper bounds of the time from publish to confirm, in seconds: a broker on the same machine takes under a millisecond,
/// one that waits for its disk some ten, one that is short of memory seconds.
const CONFIRM_BOUNDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Why a delivery became a dead letter; the letter itself says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dead {
    /// Over what is read.
    TooLarge,
    /// An event of the server's that cannot be read, or came where events do not belong.
    Unreadable,
    /// The reader says that nobody can use it.
    Refused,
}

impl Dead {
    const ALL: [(Dead, &'static str); 3] = [
        (Dead::TooLarge, "too large"),
        (Dead::Unreadable, "unreadable"),
        (Dead::Refused, "refused"),
    ];
}

/// One of our connections, as long as it is wanted.
#[derive(Debug)]
pub(crate) struct Connected {
    what: &'static str,
    pub(crate) up: AtomicBool,
    pub(crate) blocked: AtomicBool,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:ident,)+) => {
        /// Counters and gauges, for whoever exports them. All are monotonic but the gauges.
        #[derive(Debug)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: AtomicU64,)+
            relists_by_reason: [AtomicU64; reason::ALL.len()],
            dead_by_reason: [AtomicU64; Dead::ALL.len()],
            pub(crate) confirm: Buckets,
            connections: Mutex<Vec<Weak<Connected>>>,
        }

        impl Default for Metrics {
            fn default() -> Self {
                Self {
                    $($name: AtomicU64::default(),)+
                    relists_by_reason: Default::default(),
                    dead_by_reason: Default::default(),
                    confirm: Buckets::new(&CONFIRM_BOUNDS),
                    connections: Mutex::default(),
                }
            }
        }

        impl Metrics {
            /// All of it, as `fabric_<name>`.
            pub fn families(&self) -> Vec<Family> {
                let mut all = vec![$({
                    let (name, help) =
                        (concat!("fabric_", stringify!($name)), concat!($($doc),+).trim_ascii());
                    let family = match stringify!($kind) {
                        "gauge" => Family::gauge(name, help),
                        _ => Family::counter(name, help),
                    };
                    family.of(self.$name.load(Ordering::Relaxed))
                },)+];
                all.extend(self.labelled());
                all
            }
        }
    };
}

metrics! {
    /// Connections to the broker that were made.
    counter connects,
    /// Connections to the broker that were lost, or could not be made.
    counter disconnects,
    /// Messages handed to the broker, repetitions included.
    counter published,
    /// Messages the broker has confirmed.
    counter confirmed,
    /// Messages the broker has refused; each is sent again, a few times.
    counter nacked,
    /// Messages given up after the broker had refused them, or closed the channel for them, again and again; readers see the gap.
    counter abandoned,
    /// Floors: history was compacted before it could be published.
    counter floors,
    /// Messages published and not confirmed.
    gauge window_messages,
    /// Bytes of the messages published and not confirmed.
    gauge window_bytes,
    /// Events given to readers.
    counter events,
    /// Commands given to readers.
    counter commands,
    /// Events dropped as seen, of an older epoch, or of a stream that nobody asked for.
    counter dropped,
    /// Commands dropped as duplicates by content.
    counter duplicates,
    /// Deliveries that came again.
    counter redelivered,
    /// Deliveries given back by readers.
    counter returned,
    /// Relists because something in a stream was missing.
    counter gaps,
    /// Relists that a reconnection did not need: no stream's head had moved, or the queue brought it.
    counter relists_skipped,
    /// How often the server's heads were compared with what was seen.
    counter heads,
    /// Dead letters that could not be written with their reason: the broker moved the message itself.
    counter bare_dead_letters,
    /// Queues that were there with other arguments, and were replaced.
    counter queues_replaced,
    /// Deliveries in readers' hands.
    gauge open_deliveries,
    /// Deliveries that the readers' queues may have in their hands: the prefetch of all that are read.
    gauge prefetch,
    /// Requests that came over AMQP.
    counter api_requests,
    /// Requests over AMQP that were refused at the door: malformed, or with the id of another.
    counter api_refused,
    /// Requests over AMQP whose asker no longer waited.
    counter api_expired,
    /// Requests over AMQP that came again, and were answered with what the first came to.
    counter api_repeated,
    /// Requests over AMQP that were answered with 429: their account has too many.
    counter api_too_many,
    /// Requests over AMQP that are being done.
    gauge api_in_flight,
    /// Requests over AMQP that wait for their account's turn.
    gauge api_waiting,
    /// Requests of this process that went over AMQP.
    counter api_asked,
    /// Requests of this process that were sent again after a lost connection.
    counter api_asked_again,
    /// Requests of this process that nothing came back for.
    counter api_unanswered,
}

impl Metrics {
    /// Relists by [`reason`].
    pub fn relists_by_reason(&self) -> Vec<(&'static str, u64)> {
        reason::ALL.into_iter().zip(loaded(&self.relists_by_reason)).collect()
    }

    /// Deliveries that nobody could use, by why: `too large`, `unreadable`, `refused`.
    pub fn dead_letters_by_reason(&self) -> Vec<(&'static str, u64)> {
        let words = Dead::ALL.into_iter().map(|(_, word)| word);
        words.zip(loaded(&self.dead_by_reason)).collect()
    }

    pub(crate) fn relisted(&self, why: &str) {
        let index = reason::ALL.iter().position(|reason| *reason == why);
        if let Some(count) = index.and_then(|index| self.relists_by_reason.get(index)) {
            add(count, 1);
        }
    }

    pub(crate) fn buried(&self, why: Dead) {
        let index = Dead::ALL.iter().position(|(dead, _)| *dead == why);
        if let Some(count) = index.and_then(|index| self.dead_by_reason.get(index)) {
            add(count, 1);
        }
    }

    /// A connection that is wanted from now on, until what this answers is dropped.
    pub(crate) fn wants(&self, what: &'static str) -> Arc<Connected> {
        let one = Arc::new(Connected {
            what,
            up: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
        });
        let mut all = self.connections.lock();
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&one));
        one
    }

    fn labelled(&self) -> Vec<Family> {
        let named = |values: Vec<(&'static str, u64)>| {
            values.into_iter().map(|(word, count)| (word.to_owned(), count)).collect::<Vec<_>>()
        };
        let (mut wanted, mut up, mut blocked) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for one in self.connections.lock().iter().filter_map(Weak::upgrade) {
            let count = |of: &mut BTreeMap<String, u64>, is: bool| {
                *of.entry(one.what.to_owned()).or_default() += u64::from(is);
            };
            count(&mut wanted, true);
            count(&mut up, one.up.load(Ordering::Relaxed));
            count(&mut blocked, one.blocked.load(Ordering::Relaxed));
        }
        vec![
            Family::counter("fabric_relists", "Lists that readers of events were told to read.")
                .with("reason", named(self.relists_by_reason())),
            Family::counter("fabric_dead_letters", "Deliveries that nobody could use.")
                .with("reason", named(self.dead_letters_by_reason())),
            Family::histogram("fabric_confirm_seconds", "From publish to the broker's confirm.")
                .took(&[], &self.confirm),
            Family::gauge(
                "fabric_connections_wanted",
                "Connections to the broker that should be there.",
            )
            .with("connection", wanted),
            Family::gauge("fabric_connections_up", "Connections to the broker that are there.")
                .with("connection", up),
            Family::gauge(
                "fabric_connections_blocked",
                "Connections on which the broker takes no publishes: it is short of memory or of disk.",
            )
            .with("connection", blocked),
        ]
    }
}

fn loaded(counts: &[AtomicU64]) -> impl Iterator<Item = u64> {
    counts.iter().map(|count| count.load(Ordering::Relaxed))
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub(crate) fn set(gauge: &AtomicU64, n: u64) {
    gauge.store(n, Ordering::Relaxed);
}

pub(crate) fn sub(gauge: &AtomicU64, n: u64) {
    gauge.fetch_sub(n, Ordering::Relaxed);
}
