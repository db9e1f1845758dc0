//! How long messages that the broker refuses are tried again.

use std::time::Duration;

/// A quorum queue that changes its leader, or a node whose loss the others have yet to notice, may make the broker refuse for
/// seconds. Nobody is kept waiting for longer by a queue that refuses for ever: what is spent comes back ten times as slowly.
pub const PATIENCE: Duration = Duration::from_secs(10);
const COMES_BACK: u32 = 10;
/// Doubled from one repetition to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// A channel of RabbitMQ 3.10 that was opened in the moment in which a quorum queue's leader was lost refuses that queue's messages
/// for as long as the node is away, though there is another leader: after such a pause another channel is tried.
const ANOTHER_CHANNEL_AFTER: Duration = Duration::from_millis(400);

/// It is spent while something is refused, and grows again while nothing is.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
    pause: Duration,
    /// Messages that were refused, and are neither confirmed nor given up.
    refused: usize,
    /// When it was reckoned up last.
    at: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { left: PATIENCE, pause: FIRST_PAUSE, refused: 0, at: Duration::ZERO }
    }

    /// Time has passed.
    pub(super) fn reckon(&mut self, now: Duration) {
        let since = now.saturating_sub(self.at);
        self.at = now;
        self.left = match self.refused {
            0 => PATIENCE.min(self.left + since / COMES_BACK),
            _ => self.left.saturating_sub(since),
        };
    }

    /// A message is refused for the first time.
    pub(super) fn refused(&mut self) {
        if self.refused == 0 {
            self.pause = FIRST_PAUSE;
        }
        self.refused += 1;
    }

    /// One of these is confirmed, or given up.
    pub(super) fn settled(&mut self) {
        self.refused = self.refused.saturating_sub(1);
    }

    /// On a new connection nothing has been refused.
    pub(super) fn connected(&mut self) {
        self.refused = 0;
    }

    pub(super) fn is_over(&self) -> bool {
        self.left.is_zero()
    }

    /// Before what was refused is sent again, and whether on another channel.
    pub(super) fn pause(&mut self) -> (Duration, bool) {
        if self.is_over() {
            return (FIRST_PAUSE, false);
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        (pause.min(self.left).max(FIRST_PAUSE), pause >= ANOTHER_CHANNEL_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_end_with_the_patience() {
        let (mut patience, mut now) = (Patience::new(), seconds(70));
        patience.reckon(now);
        patience.refused();
        let mut pauses = Vec::new();
        while !patience.is_over() {
            let (pause, another) = patience.pause();
            pauses.push((pause.as_millis(), another));
            now += pause;
            patience.reckon(now);
        }
        let on_the_same = [50, 100, 200].map(|pause| (pause, false));
        let on_others = [400, 800, 1_600, 2_000, 2_000, 2_000, 850].map(|pause| (pause, true));
        assert_eq!(pauses, [&on_the_same[..], &on_others].concat());
        assert_eq!([patience.pause(), patience.pause()], [(FIRST_PAUSE, false); 2]);
    }

    #[test]
    fn it_comes_back_slowly_while_nothing_is_refused() {
        let mut patience = Patience::new();
        patience.refused();
        patience.reckon(seconds(30));
        assert!(patience.is_over());
        patience.refused();
        patience.settled();
        patience.reckon(seconds(90));
        assert!(patience.is_over(), "another is still refused");
        patience.settled();
        patience.reckon(seconds(110));
        assert_eq!(patience.left, seconds(2));
        patience.reckon(seconds(1_000));
        assert_eq!(patience.left, PATIENCE);
        patience.refused();
        assert_eq!(patience.pause(), (FIRST_PAUSE, false));
        patience.connected();
        patience.reckon(seconds(2_000));
        assert_eq!(patience.left, PATIENCE);
    }
}
