//! Between the heartbeat, which asks the server where the node's streams stand, and the feed, which compares that with
//! what has come.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use warren_api::NodeName;
use warren_broker::Heads;
use warren_broker::heads::Asked;

#[derive(Debug, Default)]
pub(crate) struct HeadsCell {
    /// Events come by a broker, and it is there.
    wanted: AtomicBool,
    /// The queue lost something, and the server was not told yet.
    lost: AtomicBool,
    soon: Notify,
    told: Mutex<Option<Option<Heads>>>,
    came: Notify,
}

impl HeadsCell {
    /// Whether the heads are of use now.
    pub(crate) fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// With the next heartbeat, and that now; what was told before does not count. `lost`: the server looks at the
    /// queue, too.
    pub(crate) fn ask_soon(&self, lost: bool) {
        self.want(true);
        self.lost.fetch_or(lost, Ordering::Relaxed);
        *self.told.lock() = None;
        self.soon.notify_one();
    }

    /// Waits until the feed wants to know. Cancellation safe.
    pub(crate) async fn soon(&self) {
        self.soon.notified().await;
    }

    /// What a heartbeat asks for.
    pub(crate) fn asked(&self, name: &NodeName) -> Option<Asked> {
        let lost = self.lost.swap(false, Ordering::Relaxed);
        let wanted = self.wanted.load(Ordering::Relaxed) || lost;
        wanted.then(|| Asked::Node { name: name.clone(), lost })
    }

    /// The heartbeat that asked was answered, or `Err` where it was not.
    pub(crate) fn answered(&self, asked: &Asked, heads: Result<Option<Heads>, ()>) {
        match heads {
            Ok(heads) => {
                *self.told.lock() = Some(heads);
                self.came.notify_one();
            }
            Err(()) => {
                let lost = matches!(asked, Asked::Node { lost: true, .. });
                self.lost.fetch_or(lost, Ordering::Relaxed);
            }
        }
    }

    /// What the server says, as soon as it says something. Cancellation safe.
    pub(crate) async fn told(&self) -> Option<Heads> {
        loop {
            if let Some(told) = self.told.lock().take() {
                return told;
            }
            self.came.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(cell: &HeadsCell) -> Option<String> {
        cell.asked(&NodeName("a".into())).map(|asked| asked.to_string())
    }

    #[tokio::test]
    async fn what_is_asked_is_told() {
        let cell = HeadsCell::default();
        assert_eq!(asked(&cell), None, "without a broker");
        cell.want(true);
        assert_eq!(asked(&cell).as_deref(), Some("node=a"));
        cell.ask_soon(true);
        cell.soon().await;
        let first = cell.asked(&NodeName("a".into())).unwrap();
        assert_eq!(first.to_string(), "node=a; lost");
        cell.answered(&first, Err(()));
        let second = cell.asked(&NodeName("a".into())).unwrap();
        assert_eq!(second, first, "said until it is heard");
        let heads = Heads { epoch: 1, published: warren_api::Revision(2), streams: Vec::new() };
        cell.answered(&second, Ok(Some(heads.clone())));
        assert_eq!(asked(&cell).as_deref(), Some("node=a"), "and then no more");
        assert_eq!(cell.told().await, Some(heads.clone()));
        // What was told before the connection was lost says nothing of what was lost with it.
        cell.answered(&second, Ok(Some(heads)));
        cell.ask_soon(false);
        cell.answered(&second, Ok(None));
        assert_eq!(cell.told().await, None);
    }
}
