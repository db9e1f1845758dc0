//! What a request's body still holds when the answer is known: taken and thrown away, up to a bound. A client that
//! writes all of its body before it reads would else find a reset connection instead of a 401 or a 413.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use warren_process::Tasks;

use crate::response::{Body, BoxError};

/// What one request makes us throw away at most: five times the largest body that is taken
/// ([`MAX_BODY`](crate::write::MAX_BODY), 3 MiB), so that whoever errs by less than that reads why. It costs bandwidth
/// only (some 0.15 s at 1 Gbit/s): a frame is dropped before the next is read.
const MAX_DRAINED: usize = 16 << 20;
/// And how long it may take; who is slower loses the connection.
const MAX_DRAIN: Duration = Duration::from_secs(10);

/// A request's body that is drained when it is dropped before its end.
struct Draining {
    /// `None` only while it is dropped.
    body: Option<Body>,
    tasks: Tasks,
    ended: bool,
    /// A client that asked whether to send at all, and was never told to, sends nothing.
    sends: bool,
}

/// `waits`: the client sends its body when it is told to go on (`Expect: 100-continue`), which reading it does.
pub(crate) fn drained(body: Body, waits: bool, tasks: &Tasks) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Draining { body: Some(body), tasks: tasks.clone(), ended: false, sends: !waits }.boxed_unsync()
}

impl HttpBody for Draining {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.sends = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(context));
        self.ended |= !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        let over = self.ended || !self.sends || self.is_end_stream();
        let Some(body) = self.body.take().filter(|_| !over) else { return };
        let shutdown = self.tasks.shutdown().clone();
        self.tasks.spawn("unread-body", async move {
            tokio::select! {
                _ = tokio::time::timeout(MAX_DRAIN, drain(body)) => {}
                () = shutdown.draining() => {}
            }
        });
    }
}

async fn drain(mut body: Body) {
    let mut drained = 0;
    while drained < MAX_DRAINED
        && let Some(Ok(frame)) = body.frame().await
    {
        drained += frame.data_ref().map_or(0, Bytes::len);
    }
}
