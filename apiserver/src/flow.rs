//! Two limits on requests in flight, reading and mutating: beyond them the answer is 429, at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warren_api::{Reason, Status};

/// Kubernetes' own defaults. A request holds its permit until its answer's head is ready; watches, logs and the
/// connect verbs live long and hold none.
pub(crate) const MAX_READING: usize = 400;
pub(crate) const MAX_MUTATING: usize = 200;

#[derive(Debug)]
pub(crate) struct Flow {
    reading: Arc<Semaphore>,
    mutating: Arc<Semaphore>,
}

/// The right to be in flight; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Flow {
    pub(crate) fn new(reading: usize, mutating: usize) -> Self {
        Self {
            reading: Arc::new(Semaphore::new(reading)),
            mutating: Arc::new(Semaphore::new(mutating)),
        }
    }

    pub(crate) fn admit(&self, reads: bool) -> Result<Permit, Status> {
        let limit = if reads { &self.reading } else { &self.mutating };
        Arc::clone(limit).try_acquire_owned().map(Permit).map_err(|_| {
            let mut status =
                Status::new(Reason::TooManyRequests, "Too many requests, please try again later.");
            status.details = Some(Box::new(warren_api::Details {
                retry_after_seconds: Some(1),
                ..Default::default()
            }));
            status
        })
    }

    /// (reading, mutating) in flight now.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        (
            MAX_READING.saturating_sub(self.reading.available_permits()),
            MAX_MUTATING.saturating_sub(self.mutating.available_permits()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_and_writers_have_limits_of_their_own() {
        let flow = Flow::new(1, 1);
        let reading = flow.admit(true).unwrap();
        assert_eq!(flow.admit(true).unwrap_err().reason, Reason::TooManyRequests);
        let _mutating = flow.admit(false).unwrap();
        drop(reading);
        assert!(flow.admit(true).is_ok());
    }
}
