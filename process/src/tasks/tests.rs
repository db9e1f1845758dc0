use std::future::pending;

use super::*;

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_critical_task_that_ends_takes_the_process_down() {
    for (outcome, wanted) in
        [(Ok(()), "cache: ended unexpectedly"), (Err("no more"), "cache: no more")]
    {
        let tasks = Tasks::new();
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("other", async move { shutdown.draining().await });
        tasks.spawn_critical("cache", async move { outcome });
        assert_eq!(tasks.wait(LONG).await.unwrap_err().to_string(), wanted);
    }
}

#[tokio::test]
async fn a_critical_task_that_panics_takes_the_process_down() {
    let tasks = Tasks::new();
    tasks.spawn_critical("cache", async {
        tokio::task::yield_now().await;
        let luck: Result<(), String> = Err("out of luck".to_owned());
        if let Err(reason) = &luck {
            panic!("{reason}");
        }
        luck
    });
    assert_eq!(tasks.wait(LONG).await.unwrap_err().to_string(), "cache: panicked: out of luck");
}

#[tokio::test]
async fn the_first_error_is_the_one_that_is_told() {
    let tasks = Tasks::new();
    let shutdown = tasks.shutdown().clone();
    tasks.spawn_critical("second", async move {
        shutdown.draining().await;
        Err("late")
    });
    tasks.spawn_critical("first", async { Err("early") });
    // What ends while draining has ended as it should, or for the same reason.
    assert_eq!(tasks.wait(LONG).await.unwrap_err().to_string(), "first: early");
}

#[tokio::test]
async fn an_ordinary_task_may_end_or_panic() {
    let tasks = Tasks::new();
    tasks.spawn("short", async {});
    tasks.spawn("broken", async { panic!("as it may") });
    while !tasks.tracker.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!tasks.shutdown().is_draining());
}

#[tokio::test]
async fn draining_waits_for_the_tasks() {
    let tasks = Tasks::new();
    let shutdown = tasks.shutdown().clone();
    let (finished, mut result) = tokio::sync::oneshot::channel();
    tasks.spawn_critical("drains", async move {
        shutdown.draining().await;
        tokio::task::yield_now().await;
        let _ = finished.send("drained");
        Ok::<(), String>(())
    });
    tasks.shutdown().trigger();
    tasks.wait(LONG).await.unwrap();
    assert_eq!(result.try_recv(), Ok("drained"));
}

#[tokio::test]
async fn the_second_trigger_does_not_wait() {
    let tasks = Tasks::new();
    tasks.spawn("stuck", pending());
    tasks.shutdown().trigger();
    assert!(!tasks.shutdown().is_aborting());
    tasks.shutdown().trigger();
    tasks.wait(LONG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_has_a_bound() {
    let tasks = Tasks::new();
    tasks.spawn("stuck", pending());
    tasks.shutdown().trigger();
    let started = tokio::time::Instant::now();
    tasks.wait(Duration::from_secs(30)).await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(30));
}
