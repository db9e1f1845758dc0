//! Answers that were made for one request: lists as tables, in YAML, in protobuf. Each can be a hundred megabytes, and a
//! client that does not read keeps it; so the request's permit goes with it, and both only for a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use warren_process::Tasks;

use super::{Body, BoxError, FRAME};

/// As long as Kubernetes lets a request take. Who reads more slowly gets a broken answer.
const TIME: Duration = Duration::from_secs(60);
/// Smaller ones are no load: a connection's buffers hold more.
const LARGE: u64 = 16 << 10;

/// Marks such an answer until its permit is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made;

/// Whether an answer keeps the permit of its request.
pub(crate) fn is_made<B: HttpBody>(response: &Response<B>) -> bool {
    response.extensions().get::<Made>().is_some() && response.body().size_hint().lower() > LARGE
}

/// The body with what it keeps until it is written, or no longer than [`TIME`].
pub(crate) fn keeping<T: Send + 'static>(mut body: Body, kept: T, tasks: &Tasks) -> Body {
    // It is in one piece, and there.
    let whole = body.frame().now_or_never().flatten();
    let Some(Ok(rest)) =
        whole.map(|frame| frame.and_then(|f| f.into_data().map_err(|_| "".into())))
    else {
        return body;
    };
    let remaining = rest.len() as u64;
    let rest = Arc::new(Mutex::new(Some((rest, kept))));
    let (alive, ended) = oneshot::channel::<()>();
    let (late, shutdown) = (Arc::clone(&rest), tasks.shutdown().clone());
    tasks.spawn("answer", async move {
        tokio::select! {
            () = tokio::time::sleep(TIME) => drop(late.lock().take()),
            _ = ended => {}
            () = shutdown.draining() => {}
        }
    });
    Keeping { rest, remaining, _alive: alive }.boxed_unsync()
}

struct Keeping<T> {
    /// Nothing when all is written, or its time is over.
    rest: Arc<Mutex<Option<(Bytes, T)>>>,
    remaining: u64,
    /// Ends the clock.
    _alive: oneshot::Sender<()>,
}

impl<T> HttpBody for Keeping<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        let piece = match &mut *self.rest.lock() {
            // A copy: a slice would keep the whole, for as long as the connection has it.
            Some((rest, _)) => Bytes::copy_from_slice(&rest.split_to(rest.len().min(FRAME))),
            None => return Poll::Ready(Some(Err("the answer was not read in time".into()))),
        };
        self.remaining -= piece.len() as u64;
        if self.remaining == 0 {
            self.rest.lock().take();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::full;

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_goes_with_the_last_piece() {
        let page: Vec<u8> = (0..3 * FRAME + 1).map(|n| n as u8).collect();
        let kept = Arc::new(());
        let mut body = keeping(full(page.clone()), Arc::clone(&kept), &Tasks::new());
        assert_eq!(body.size_hint().exact(), Some(page.len() as u64));
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            assert_eq!(Arc::strong_count(&kept) == 2, !body.is_end_stream());
            let frame = frame.unwrap().into_data().unwrap();
            assert!(frame.len() <= FRAME);
            read.extend_from_slice(&frame);
        }
        assert_eq!(read, page);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_in_time_gets_no_more() {
        let kept = Arc::new(());
        let mut body = keeping(full(vec![0; 3 * FRAME]), Arc::clone(&kept), &Tasks::new());
        assert!(body.frame().await.unwrap().is_ok());
        tokio::time::sleep(TIME - Duration::from_secs(1)).await;
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(Arc::strong_count(&kept), 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(Arc::strong_count(&kept), 1, "nobody need ask for it");
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_went_keeps_nothing() {
        let (kept, tasks) = (Arc::new(()), Tasks::new());
        drop(keeping(full(vec![0; FRAME]), Arc::clone(&kept), &tasks));
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
