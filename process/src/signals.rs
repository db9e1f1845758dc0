//! SIGINT and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Shutdown;

/// The first SIGINT or SIGTERM starts the draining stage of the shutdown, the second the aborting one; a third kills
/// the process as if nobody handled it, in case that something hangs.
///
/// The handlers are in place when this returns. Must be called on a runtime. Errors where the system refuses a handler.
pub fn shutdown_on_signals(shutdown: Shutdown) -> std::io::Result<()> {
    let interrupt = signal(SignalKind::interrupt())?;
    let terminate = signal(SignalKind::terminate())?;
    listen(interrupt, terminate, shutdown);
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "outlives all tasks that shutdown waits for: it must hear the second signal"
)]
fn listen(mut interrupt: Signal, mut terminate: Signal, shutdown: Shutdown) {
    tokio::spawn(async move {
        for stage in ["draining", "aborting"] {
            tokio::select! {
                _ = interrupt.recv() => tracing::info!(stage, "SIGINT"),
                _ = terminate.recv() => tracing::info!(stage, "SIGTERM"),
            }
            shutdown.trigger();
        }
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::abort();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_drains_and_the_second_aborts() {
        let shutdown = Shutdown::new();
        shutdown_on_signals(shutdown.clone()).unwrap();
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::TERM).unwrap();
        shutdown.draining().await;
        assert!(shutdown.is_draining() && !shutdown.is_aborting());
        rustix::process::kill_process(me, rustix::process::Signal::INT).unwrap();
        shutdown.aborting().await;
    }
}
