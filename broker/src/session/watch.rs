//! Whether the heads that the server told of have come: a loss that no later event shows.

use super::*;
use crate::consume::{Outlook, Queue};

/// How often it is looked, while something is awaited.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What the broker has confirmed and what does not come within this does not come at all: a delivery takes milliseconds,
/// and nothing else is on its way.
const QUIET: Duration = Duration::from_secs(2);

/// What is known of one connection.
pub(super) struct Watch {
    /// Heads that have not come yet, and since when they are awaited.
    told: Option<(Heads, Instant)>,
    /// The reader was told that the connection is there again; what is to be listed, the heads say.
    asked: bool,
    /// When something came last, or the connection itself.
    came: Instant,
    /// Something was lost: the bindings may be.
    pub(super) rebind: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { told: None, asked: false, came: Instant::now(), rebind: false }
    }

    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    pub(super) fn came(&mut self) {
        self.came = Instant::now();
    }

    pub(super) fn waits(&self) -> bool {
        self.told.is_some()
    }
}

impl Session {
    pub(super) async fn heads_told(&mut self, heads: Option<Heads>) -> Result<(), End> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let Some(heads) = heads else {
            if std::mem::take(&mut self.watch.asked) {
                let relist = reader.connected(reason::RECONNECTED);
                self.relist(relist).await?;
            }
            return Ok(());
        };
        add(&self.metrics.heads, 1);
        // A queue of one's own ends with its connection; the server's keeps what comes meanwhile.
        let queue = match self.watch.asked && self.own.is_some() {
            true => Queue::New,
            false => Queue::Busy,
        };
        self.judge(heads, queue, Instant::now()).await
    }

    pub(super) async fn look_at_heads(&mut self) -> Result<(), End> {
        let Some((heads, since)) = self.watch.told.take() else { return Ok(()) };
        let quiet = self.held.is_empty()
            && self.returning.is_empty()
            && self.watch.came.elapsed() >= QUIET
            && since.elapsed() >= QUIET;
        self.judge(heads, if quiet { Queue::Idle } else { Queue::Busy }, since).await
    }

    async fn judge(&mut self, heads: Heads, queue: Queue, since: Instant) -> Result<(), End> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        match reader.heads(&heads, queue) {
            // Those that were told first are waited for to the end: a reader may ask more often than that takes.
            Outlook::Behind => drop(self.watch.told.get_or_insert((heads, since))),
            Outlook::Current => {
                self.watch.told = None;
                if std::mem::take(&mut self.watch.asked) {
                    add(&self.metrics.relists_skipped, 1);
                    tracing::info!("nothing was lost with the connection: nothing is listed again");
                }
            }
            Outlook::Lost(relist) => {
                self.watch.told = None;
                self.watch.asked = false;
                self.watch.rebind = true;
                add(&self.metrics.gaps, 1);
                self.relist(relist).await?;
            }
        }
        Ok(())
    }
}
