//! What waits for the writer.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot, watch};

use super::{CommitError, Item};
use crate::journal::writer::Answer;

/// Items that may wait; beyond it, committers wait for a place. With 2.8 KB each it is 12 MB.
pub(crate) const QUEUE_ITEMS: usize = 4096;
/// The most that goes into one transaction, unless a single item is larger.
pub(crate) const BATCH_ITEMS: usize = 256;
pub(crate) const BATCH_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) item: Item,
    pub(crate) answer: oneshot::Sender<Answer>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Jobs,
    /// The deadline passed, or somebody nudged.
    Woken,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Queue {
    places: Semaphore,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closing: bool,
    nudged: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            places: Semaphore::new(QUEUE_ITEMS),
            waiting: Mutex::default(),
            wake: Condvar::new(),
            ended: watch::Sender::new(false),
        }
    }
}

impl Queue {
    /// Waits for a place. Once in the queue, the item is committed whether or not somebody waits for the answer.
    pub(crate) async fn push(&self, item: Item) -> Result<oneshot::Receiver<Answer>, CommitError> {
        let place = self.places.acquire().await.map_err(|_| CommitError::Closed)?;
        let (answer, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.closing {
            return Err(CommitError::Closed);
        }
        place.forget();
        waiting.jobs.push_back(Job { item, answer });
        drop(waiting);
        self.wake.notify_one();
        Ok(receiver)
    }

    /// Wakes the writer to look at what changed beside the queue.
    pub(crate) fn nudge(&self) {
        let mut waiting = self.waiting.lock();
        if !waiting.nudged {
            waiting.nudged = true;
            drop(waiting);
            self.wake.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.waiting.lock().closing = true;
        self.places.close();
        self.wake.notify_one();
    }

    /// Completes when the writer has ended.
    pub(crate) async fn closed(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives in `self`.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.lock().jobs.len() as u64
    }

    /// For the writer: moves the next batch into `into`, or says why there is none. Jobs come before all else.
    pub(crate) fn take(&self, into: &mut Vec<Job>, deadline: Option<Instant>) -> Taken {
        let mut waiting = self.waiting.lock();
        loop {
            if !waiting.jobs.is_empty() {
                let mut bytes = 0;
                while into.len() < BATCH_ITEMS
                    && let Some(job) = waiting.jobs.front()
                {
                    bytes += job.item.writes.iter().map(|w| w.body.json.len()).sum::<usize>();
                    if bytes > BATCH_BYTES && !into.is_empty() {
                        break;
                    }
                    into.extend(waiting.jobs.pop_front());
                }
                drop(waiting);
                self.places.add_permits(into.len());
                return Taken::Jobs;
            }
            if waiting.closing {
                return Taken::Closed;
            }
            if std::mem::take(&mut waiting.nudged) {
                return Taken::Woken;
            }
            match deadline {
                None => self.wake.wait(&mut waiting),
                Some(deadline) => {
                    if self.wake.wait_until(&mut waiting, deadline).timed_out() {
                        // A job may have come with the deadline.
                        if waiting.jobs.is_empty() && !waiting.closing {
                            return Taken::Woken;
                        }
                    }
                }
            }
        }
    }

    /// For the writer's end, however it comes: nobody waits for an answer that cannot come.
    pub(crate) fn end(&self) {
        self.close();
        self.waiting.lock().jobs.clear();
        self.ended.send_replace(true);
    }
}
