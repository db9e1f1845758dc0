//! What people and metrics are told about the fabric.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use warren_api::Revision;

use crate::consume::reason;

/// How the fabric is, for `/readyz?verbose` and `warren status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FabricStatus {
    pub connected: bool,
    /// Since when it is connected, or not.
    pub since: SystemTime,
    /// Why the broker takes no more publishes for now (`connection.blocked`); back-pressure, not an outage.
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

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:ident,)+) => {
        /// Counters and gauges, for whoever exports them. All are monotonic but the gauges.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: AtomicU64,)+
            relists_by_reason: [AtomicU64; reason::ALL.len()],
        }

        impl Metrics {
            /// Name, whether it is a gauge, what it is, and the value now.
            pub fn snapshot(&self) -> Vec<(&'static str, bool, &'static str, u64)> {
                vec![$((
                    stringify!($name),
                    stringify!($kind) == "gauge",
                    concat!($($doc),+).trim_ascii(),
                    self.$name.load(Ordering::Relaxed),
                ),)+]
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
    /// Messages given up after the broker had refused them again and again; readers see the gap.
    counter abandoned,
    /// Floors: history was compacted before it could be published.
    counter floors,
    /// Microseconds from publish to confirm, summed over `confirmed`.
    counter confirm_micros,
    /// The longest time from publish to confirm, in microseconds.
    gauge confirm_micros_max,
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
    /// Deliveries that nobody could use.
    counter dead_lettered,
    /// Relists, whatever the reason.
    counter relists,
    /// Relists because something in a stream was missing.
    counter gaps,
    /// Relists that a reconnection did not need: no stream's head had moved, or the queue brought it.
    counter relists_skipped,
    /// How often the server's heads were compared with what was seen.
    counter heads,
    /// Deliveries in readers' hands.
    gauge open_deliveries,
    /// Requests that came over AMQP.
    counter api_requests,
    /// Requests over AMQP that were refused at the door: malformed, or too many of one account.
    counter api_refused,
    /// Requests over AMQP whose asker no longer waited.
    counter api_expired,
    /// Requests over AMQP that came again, and were answered with what the first came to.
    counter api_repeated,
    /// Requests over AMQP that are being done.
    gauge api_in_flight,
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
        let counts = self.relists_by_reason.iter().map(|count| count.load(Ordering::Relaxed));
        reason::ALL.into_iter().zip(counts).collect()
    }

    pub(crate) fn relisted(&self, why: &str) {
        add(&self.relists, 1);
        let index = reason::ALL.iter().position(|reason| *reason == why);
        if let Some(count) = index.and_then(|index| self.relists_by_reason.get(index)) {
            add(count, 1);
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub(crate) fn set(gauge: &AtomicU64, n: u64) {
    gauge.store(n, Ordering::Relaxed);
}
