//! Where large objects are worked on.

use tokio::runtime::{Handle, RuntimeFlavor};

/// What is smaller takes a few milliseconds at the most.
const LARGE: usize = 128 << 10;

/// Does what takes long with so many bytes, so that the thread's other requests need not wait for it: another thread
/// takes them. On a runtime of one thread there is none.
pub(super) fn heavy<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_others = || {
        Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
    };
    match bytes >= LARGE && has_others() {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_need_not_wait() {
        let tasks = warren_process::Tasks::new();
        let (done, has_ended) = tokio::sync::oneshot::channel();
        tasks.clone().spawn("large", async move {
            let (say, said) = mpsc::channel();
            tasks.spawn("other", async move { say.send(()).unwrap() });
            let heard = heavy(LARGE, || said.recv_timeout(Duration::from_secs(20)));
            let _ = done.send(heard);
        });
        assert_eq!(has_ended.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn one_thread_does_it_itself() {
        assert_eq!(heavy(LARGE, || 1), 1);
    }
}
