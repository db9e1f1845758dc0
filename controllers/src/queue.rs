//! A queue of keys to look at.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first wait after a failure, and the longest; doubled with each failure in a row.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// After a lost race: the cache is a moment behind, and nothing has failed.
const AFTER_A_RACE: Duration = Duration::from_millis(20);
/// Races lost in a row about one key; then it backs off as after a failure.
const RACES: u32 = 50;

/// Keys to look at, each at most once: what is marked while it is worked on comes again afterwards. Its size is bounded
/// by the number of keys there are. Clones share it.
pub struct WorkQueue<K>(Arc<Shared<K>>);

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    running: HashSet<K>,
    /// Marked while running.
    again: HashSet<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    races: HashMap<K, u32>,
    sequence: u64,
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            races: HashMap::new(),
            sequence: 0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }))
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) -> bool {
        if self.running.contains(&key) {
            self.again.insert(key);
            return false;
        }
        if !self.queued.insert(key.clone()) {
            return false;
        }
        self.ready.push_back(key);
        true
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    pub fn add(&self, key: K) {
        if self.0.state.lock().add(key) {
            self.0.wake.notify_one();
        }
    }

    /// The earliest of several calls counts.
    pub fn add_after(&self, key: K, after: Duration) {
        let mut state = self.0.state.lock();
        state.sequence += 1;
        let at = (Instant::now() + after, state.sequence);
        match state.due.get(&key).copied() {
            Some(known) if known.0 <= at.0 => return,
            Some(known) => {
                state.delayed.remove(&known);
            }
            None => {}
        }
        state.due.insert(key.clone(), at);
        state.delayed.insert(at, key);
        drop(state);
        self.0.wake.notify_one();
    }

    /// The next key to work on; [`done`](Self::done) or [`failed`](Self::failed) must follow. Cancellation safe.
    pub async fn next(&self) -> K {
        loop {
            let wait = {
                let mut state = self.0.state.lock();
                let now = Instant::now();
                while let Some(entry) = state.delayed.first_entry() {
                    if entry.key().0 > now {
                        break;
                    }
                    let key = entry.remove();
                    state.due.remove(&key);
                    state.add(key);
                }
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.running.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.0.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.first_key_value().map(|(at, _)| at.0)
            };
            match wait {
                Some(at) => tokio::select! {
                    () = self.0.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.0.wake.notified().await,
            }
        }
    }

    pub fn done(&self, key: &K) {
        let mut state = self.0.state.lock();
        state.failures.remove(key);
        state.races.remove(key);
        self.finish(state, key);
    }

    /// Like [`failed`](Self::failed), where somebody else was faster: the key comes again almost at once.
    pub fn raced(&self, key: &K) {
        let mut state = self.0.state.lock();
        let races = state.races.entry(key.clone()).or_default();
        *races += 1;
        if *races > RACES {
            drop(state);
            return self.failed(key);
        }
        self.finish(state, key);
        self.add_after(key.clone(), AFTER_A_RACE);
    }

    /// Like [`done`](Self::done), and the key comes again after its back-off.
    pub fn failed(&self, key: &K) {
        let mut state = self.0.state.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        let wait = BACKOFF.0.saturating_mul(1 << (*failures).min(16)).min(BACKOFF.1);
        *failures = failures.saturating_add(1);
        self.finish(state, key);
        self.add_after(key.clone(), wait);
    }

    fn finish(&self, mut state: parking_lot::MutexGuard<'_, State<K>>, key: &K) {
        state.running.remove(key);
        let again = state.again.remove(key) && state.add(key.clone());
        drop(state);
        if again {
            self.0.wake.notify_one();
        }
    }

    /// How many keys wait, those with a delay included.
    pub fn len(&self) -> usize {
        let state = self.0.state.lock();
        state.ready.len() + state.delayed.len() + state.again.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_key_once_and_again_when_marked_while_running() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert!(tokio::time::timeout(Duration::from_secs(1), queue.next()).await.is_err());
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets_them() {
        let queue = WorkQueue::default();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            queue.next().await;
            waits.push(start.elapsed().as_millis());
            queue.failed(&"a");
        }
        assert_eq!(waits, [0, 50, 100, 200]);
        queue.next().await;
        queue.done(&"a");
        queue.add("a");
        queue.next().await;
        queue.failed(&"a");
        let start = Instant::now();
        queue.next().await;
        assert_eq!(start.elapsed().as_millis(), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_race_is_no_failure_until_there_are_very_many() {
        let queue = WorkQueue::default();
        queue.add("a");
        for race in 0..=RACES {
            let start = Instant::now();
            queue.next().await;
            assert_eq!(start.elapsed(), if race == 0 { Duration::ZERO } else { AFTER_A_RACE });
            queue.raced(&"a");
        }
        let start = Instant::now();
        queue.next().await;
        assert_eq!(start.elapsed(), BACKOFF.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_counts() {
        let queue = WorkQueue::default();
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(6));
        let start = Instant::now();
        queue.next().await;
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        queue.done(&"a");
        assert!(queue.is_empty());
    }
}
