//! One supervisor for all tasks of a process.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tells tasks to end. Two stages: *draining* (take nothing new, finish what you have) and *aborting* (stop now).
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    aborting: CancellationToken,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts the first stage; the second call starts the second.
    pub fn trigger(&self) {
        if self.draining.is_cancelled() {
            self.aborting.cancel();
        } else {
            self.draining.cancel();
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    pub fn is_aborting(&self) -> bool {
        self.aborting.is_cancelled()
    }

    /// Completes when draining starts. Cancellation safe.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Completes when the process must stop at once. Cancellation safe.
    pub async fn aborting(&self) {
        self.aborting.cancelled().await;
    }
}

/// A task ended that must not end.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{task}: {reason}")]
pub struct TaskError {
    pub task: &'static str,
    pub reason: String,
}

/// Spawns tasks and notices when they end. Clones share one supervisor.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
    failure: Arc<Mutex<Option<TaskError>>>,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// A task that the process cannot do without. When it ends before shutdown, by returning or by a panic, the process
    /// shuts down with its error.
    pub fn spawn_critical<E>(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Display + Send + 'static,
    {
        let (shutdown, failure) = (self.shutdown.clone(), Arc::clone(&self.failure));
        self.track(async move {
            let reason = match catch_panic(task).await {
                Ok(_) if shutdown.is_draining() => return,
                Ok(Ok(())) => "ended unexpectedly".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panicked: {panic}"),
            };
            tracing::error!(task = name, %reason, "a critical task ended; shutting down");
            failure.lock().get_or_insert(TaskError { task: name, reason });
            shutdown.trigger();
        });
    }

    /// A task that may end: a connection, a watch, a pod's worker. A panic is logged and takes nothing else down.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.track(async move {
            if let Err(panic) = catch_panic(task).await {
                tracing::error!(task = name, %panic, "a task panicked");
            }
        });
    }

    /// Waits for shutdown (a signal must trigger it), then for all tasks, at most `grace` and no longer than until the
    /// second stage. `Err` where a critical task had ended.
    pub async fn wait(&self, grace: Duration) -> Result<(), TaskError> {
        self.shutdown.draining().await;
        self.tracker.close();
        tokio::select! {
            () = self.tracker.wait() => {}
            () = tokio::time::sleep(grace) => {
                tracing::warn!(tasks = self.tracker.len(), "not all tasks ended in time");
            }
            () = self.shutdown.aborting() => {}
        }
        self.failure.lock().take().map_or(Ok(()), Err)
    }

    /// The one place that spawns.
    fn track(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }
}

/// Runs a future and turns its panic into an error.
async fn catch_panic<T>(task: impl Future<Output = T>) -> Result<T, String> {
    use futures::FutureExt;
    std::panic::AssertUnwindSafe(task).catch_unwind().await.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests;
