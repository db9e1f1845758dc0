//! What a connection is owed when the server stops: answers to whole requests, as long as it takes them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, io::IoSlice};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::response::{Body, BoxError};

/// Who has asked nothing that is whole is left alone so long: what was sent before the server's word came may arrive.
const UNASKED: Duration = Duration::from_millis(500);
/// Who is owed an answer, and takes no byte of it for so long, gets none.
const STALLED: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Requests that are whole, or answered, and whose answer has not all been handed to the connection.
    answers: AtomicUsize,
    written: AtomicU64,
    /// Whether something waits for the client to take it.
    blocked: AtomicBool,
}

impl Owed {
    /// For one request.
    pub(super) fn answer(self: &Arc<Self>) -> Arc<Answer> {
        Arc::new(Answer { of: Arc::clone(self), is_owed: AtomicBool::new(false) })
    }

    fn is_any(&self) -> bool {
        self.answers.load(Ordering::Relaxed) > 0 || self.blocked.load(Ordering::Relaxed)
    }

    /// Completes when nothing is owed any more, or is not taken. Cancellation safe.
    pub(super) async fn nothing_more(&self) {
        let mut written = self.written.load(Ordering::Relaxed);
        let mut since = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.written.load(Ordering::Relaxed);
            if now != written {
                (written, since) = (now, tokio::time::Instant::now());
                continue;
            }
            let patience = if self.is_any() { STALLED } else { UNASKED };
            if since.elapsed() >= patience {
                return;
            }
        }
    }
}

/// The answer to one request.
#[derive(Debug)]
pub(super) struct Answer {
    of: Arc<Owed>,
    is_owed: AtomicBool,
}

impl Answer {
    fn owe(&self) {
        if !self.is_owed.swap(true, Ordering::Relaxed) {
            self.of.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is owed from the end of the request's body.
    pub(super) fn owed_after(self: &Arc<Self>, body: Body) -> Body {
        if body.is_end_stream() {
            self.owe();
            return body;
        }
        Told { body, answer: Arc::clone(self) }.boxed_unsync()
    }

    /// It is owed until the end of its own body.
    pub(super) fn given_with(self: Arc<Self>, body: Body) -> Body {
        self.owe();
        if body.is_end_stream() {
            return body;
        }
        Told { body, answer: self }.boxed_unsync()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if *self.is_owed.get_mut() {
            self.of.answers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct Told {
    body: Body,
    answer: Arc<Answer>,
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.answer.owe();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that says what is written to it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    owed: Arc<Owed>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, owed: Arc<Owed>) -> Self {
        Self { stream, owed }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.owed.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        self.owed.blocked.store(written.is_pending(), Ordering::Relaxed);
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.owed.blocked.store(flushed.is_pending(), Ordering::Relaxed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::full;

    async fn lasts(owed: &Owed) -> Duration {
        let started = tokio::time::Instant::now();
        owed.nothing_more().await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_owed_from_the_end_of_its_request_until_it_is_taken() {
        let owed = Arc::new(Owed::default());
        assert_eq!(lasts(&owed).await, UNASKED, "half a head");
        let answer = owed.answer();
        let mut request = answer.owed_after(full("body"));
        assert_eq!(lasts(&owed).await, UNASKED, "a body that does not come");
        while request.frame().await.is_some() {}
        assert_eq!(lasts(&owed).await, STALLED);
        drop(request);
        let mut response = answer.given_with(full("said"));
        assert_eq!(lasts(&owed).await, STALLED);
        while response.frame().await.is_some() {}
        drop(response);
        owed.blocked.store(true, Ordering::Relaxed);
        assert_eq!(lasts(&owed).await, STALLED, "nobody reads it");
        owed.blocked.store(false, Ordering::Relaxed);
        assert_eq!(lasts(&owed).await, UNASKED);
        drop(owed.answer().given_with(full("")));
        assert!(!owed.is_any());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_it_slowly_gets_it_all() {
        let owed = Owed { blocked: AtomicBool::new(true), ..Owed::default() };
        let taking = async {
            for _ in 0..10 {
                tokio::time::sleep(STALLED - LOOK * 2).await;
                owed.written.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (lasted, ()) = tokio::join!(lasts(&owed), taking);
        assert!(lasted >= STALLED * 10, "{lasted:?}");
    }
}
