//! Whether the heads that the server told of have come: a loss that no later event shows. Pure; times are since any fixed
//! moment, on a clock that never goes back.

use std::time::Duration;

use super::{Outlook, Queue, Reader, Relist, reason};
use crate::Heads;

/// How often it is looked, while something is awaited.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What the broker has confirmed and what does not come within this does not come at all: a delivery takes milliseconds,
/// and nothing else is on its way.
pub const QUIET: Duration = Duration::from_secs(2);

/// What is known of one connection.
#[derive(Debug)]
pub struct Watch {
    /// The queue began with the connection, and has nothing that was published before.
    own: bool,
    /// Heads that have not come yet, and since when they are awaited.
    told: Option<(Heads, Duration)>,
    /// The reader was told that the connection is there again; what is to be listed, the heads say.
    asked: bool,
    /// When something came last, or the connection itself.
    came: Duration,
}

/// What follows from heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing, or nothing yet.
    Nothing,
    /// Nothing was lost with the connection before, so that nothing must be listed again.
    Whole,
    /// Nobody knows what was lost with the connection before.
    Unknown(Relist),
    /// Something was lost, and the bindings may be, too.
    Lost(Relist),
}

impl Watch {
    /// The queue is consumed from now on.
    pub fn new(own: bool, now: Duration) -> Self {
        Self { own, told: None, asked: false, came: now }
    }

    /// The next heads say what was lost with the connection before.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// A delivery came.
    pub fn came(&mut self, now: Duration) {
        self.came = now;
    }

    /// Whether [`Watch::look`] is of use.
    pub fn waits(&self) -> bool {
        self.told.is_some()
    }

    /// The answer of the server, which may not know.
    pub fn told(&mut self, reader: &mut Reader, heads: Option<Heads>, now: Duration) -> Finding {
        match heads {
            Some(heads) => {
                // A queue of one's own ends with its connection; the server's keeps what comes meanwhile.
                let queue = if self.asked && self.own { Queue::New } else { Queue::Busy };
                self.judge(reader, heads, queue, now)
            }
            None if std::mem::take(&mut self.asked) => {
                Finding::Unknown(reader.connected(reason::RECONNECTED))
            }
            None => Finding::Nothing,
        }
    }

    /// Some time has passed. `idle`: nothing that was delivered is in the reader's hands.
    pub fn look(&mut self, reader: &mut Reader, idle: bool, now: Duration) -> Finding {
        let Some((heads, since)) = self.told.take() else { return Finding::Nothing };
        let quiet = |at: Duration| now.saturating_sub(at) >= QUIET;
        let idle = idle && quiet(self.came) && quiet(since);
        self.judge(reader, heads, if idle { Queue::Idle } else { Queue::Busy }, since)
    }

    fn judge(
        &mut self,
        reader: &mut Reader,
        heads: Heads,
        queue: Queue,
        since: Duration,
    ) -> Finding {
        match reader.heads(&heads, queue) {
            // Those that were told first are waited for to the end: a reader may ask more often than that takes.
            Outlook::Behind => {
                self.told.get_or_insert((heads, since));
                Finding::Nothing
            }
            Outlook::Current => {
                self.told = None;
                match std::mem::take(&mut self.asked) {
                    true => Finding::Whole,
                    false => Finding::Nothing,
                }
            }
            Outlook::Lost(relist) => {
                self.told = None;
                self.asked = false;
                Finding::Lost(relist)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use warren_api::{GroupResource, NodeName, Revision, Shard};

    use super::*;
    use crate::Stream;
    use crate::consume::Interest;

    fn heads(published: u64, head: u64) -> Option<Heads> {
        let resource = GroupResource::new("", "pods");
        let stream = Stream { resource, shard: Shard::Node(NodeName("a".into())) };
        let streams = vec![(stream, Revision(head))];
        Some(Heads { epoch: 1, published: Revision(published), streams })
    }

    fn listed(own: bool) -> (Reader, Watch) {
        let mut reader = Reader::new(Interest::Node(NodeName("a".into())));
        reader.connected(reason::START);
        reader.listed(&[], Revision(10));
        (reader, Watch::new(own, ms(0)))
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn is_lost(finding: &Finding) -> bool {
        matches!(finding, Finding::Lost(relist) if relist.reason == reason::HEAD)
    }

    #[test]
    fn what_was_confirmed_is_waited_for() {
        let (mut reader, mut watch) = listed(false);
        assert_eq!(watch.told(&mut reader, heads(20, 20), ms(5_000)), Finding::Nothing);
        assert!(watch.waits());
        // Told again while it waits: the time counts from the first.
        assert_eq!(watch.told(&mut reader, heads(25, 25), ms(6_500)), Finding::Nothing);
        assert_eq!(watch.look(&mut reader, true, ms(6_900)), Finding::Nothing, "too soon");
        assert_eq!(watch.look(&mut reader, false, ms(7_100)), Finding::Nothing, "in hands");
        watch.came(ms(7_200));
        assert_eq!(watch.look(&mut reader, true, ms(9_100)), Finding::Nothing, "more may come");
        assert!(is_lost(&watch.look(&mut reader, true, ms(9_200))));
        assert!(!watch.waits());
        assert_eq!(watch.told(&mut reader, heads(20, 20), ms(9_300)), Finding::Nothing);
        // What is not confirmed is not waited for.
        assert_eq!(watch.told(&mut reader, heads(20, 30), ms(9_400)), Finding::Nothing);
        assert!(!watch.waits());
    }

    #[test]
    fn what_a_reconnection_asks() {
        let (mut reader, mut watch) = listed(false);
        watch.ask();
        assert_eq!(watch.told(&mut reader, heads(10, 10), ms(100)), Finding::Whole);
        assert_eq!(watch.told(&mut reader, heads(10, 10), ms(200)), Finding::Nothing);
        assert_eq!(watch.told(&mut reader, None, ms(300)), Finding::Nothing, "nobody asked");
        watch.ask();
        let unknown = watch.told(&mut reader, None, ms(400));
        assert!(matches!(unknown, Finding::Unknown(relist) if relist.streams.is_empty()));

        // A queue that began just now has nothing of before, a server's has.
        let (mut reader, mut watch) = listed(true);
        watch.ask();
        assert!(is_lost(&watch.told(&mut reader, heads(20, 20), ms(100))));
        assert_eq!(watch.told(&mut reader, heads(30, 30), ms(200)), Finding::Nothing);
        let (mut reader, mut watch) = listed(false);
        watch.ask();
        assert_eq!(watch.told(&mut reader, heads(20, 20), ms(100)), Finding::Nothing);
        assert!(watch.waits());
    }
}
