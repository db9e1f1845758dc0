//! Connections of which it is not known yet whose they are.
//!
//! Anybody who reaches the port can open some, and leave them at that. So they take no room of the API server's, and
//! where there are too many the oldest gives way to the newest: a handshake needs milliseconds, and whoever wants to
//! keep others out has to open all of them again within these.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Some ten KiB each.
pub(super) const MAX_HANDSHAKES: usize = 256;
/// For the handshake, and for the answer to who may not use the port.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// In the order in which they came.
    open: BTreeMap<u64, CancellationToken>,
    gave_way: u64,
}

/// Its place; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    lost: CancellationToken,
    of: Handshakes,
}

impl Handshakes {
    /// The newest always has a place.
    pub(super) fn enter(&self) -> Place {
        let lost = CancellationToken::new();
        let mut table = self.0.lock();
        if table.open.len() >= MAX_HANDSHAKES
            && let Some((_, oldest)) = table.open.pop_first()
        {
            oldest.cancel();
            table.gave_way += 1;
        }
        let number = table.next;
        table.next += 1;
        table.open.insert(number, lost.clone());
        Place { number, lost, of: self.clone() }
    }

    /// How many there are, and how many gave way to newer ones.
    pub(super) fn counts(&self) -> (u64, u64) {
        let table = self.0.lock();
        (table.open.len() as u64, table.gave_way)
    }
}

impl Place {
    /// What comes of it within its time; `None` where that is over, or the place was lost.
    pub(super) async fn hold<T>(&self, handshake: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake) => done.ok(),
            () = self.lost.cancelled() => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.0.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_newest_has_a_place() {
        let handshakes = Handshakes::default();
        let idle: Vec<_> = (0..MAX_HANDSHAKES).map(|_| handshakes.enter()).collect();
        assert_eq!(idle[0].hold(std::future::ready(1)).await, Some(1));
        assert_eq!(handshakes.counts(), (256, 0));
        let newest = handshakes.enter();
        assert_eq!(handshakes.counts(), (256, 1));
        assert_eq!(newest.hold(std::future::ready(2)).await, Some(2));
        let before = tokio::time::Instant::now();
        assert_eq!(idle[0].hold(std::future::pending::<()>()).await, None, "it lost its place");
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(idle[1].hold(std::future::pending::<()>()).await, None, "its time is over");
        assert_eq!(before.elapsed(), HANDSHAKE_TIMEOUT);
        drop(idle);
        assert_eq!(handshakes.counts(), (1, 1));
    }
}
