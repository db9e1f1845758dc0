//! SPDY's streams on a connection: [`warren_spdy`] knows the protocol, here are the bytes and the waiting.
//!
//! One future reads, one writes, one is the consumer of the streams. What is under way is bounded: a stream whose reader
//! is slow stops the reading of the connection (the clients know no other brake), and who writes waits for the writer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt as _};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use warren_spdy::{Event, Headers, Reset, Server, StreamId};

use super::upgrade::Transport;

/// Read from a connection, or from what is forwarded, at once.
pub(super) const READ_BYTES: usize = 32 << 10;
/// Pieces of up to [`READ_BYTES`] that wait for a stream's reader.
const STREAM_PIECES: usize = 16;
/// Bytes of all streams of a connection that wait for their readers.
const WAITING_BYTES: usize = 4 << 20;
/// Pieces of all streams of a connection that wait to be written.
const WRITE_QUEUE: usize = 16;
/// What is written at once, where so much waits.
const BATCH_BYTES: usize = 64 << 10;
/// Streams that wait for the consumer.
const OPENED: usize = 16;
/// How long a client may take to read the rest and to close, after everything was handed to the kernel: somebody may be
/// looking at it page by page.
const LINGER: Duration = Duration::from_secs(600);
/// For the last bytes, where the connection takes them at all.
const FAREWELL: Duration = Duration::from_secs(5);

/// A stream that a client opened; it is accepted.
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) headers: Headers,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) end: End,
}

/// When a stream ends, for who does not read it. Clones wait for the same.
#[derive(Clone)]
pub(super) struct End(watch::Receiver<bool>);

impl End {
    /// The stream is reset by either side, or over both ways, or the connection has ended.
    pub(super) async fn gone(mut self) {
        let _ = self.0.wait_for(|reset| *reset).await;
    }

    /// The stream is reset by either side: what has arrived of it is of no more use.
    pub(super) async fn reset(mut self) {
        if self.0.wait_for(|reset| *reset).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Dropping it loses what still comes.
pub(super) struct Reader(mpsc::Receiver<Piece>);

enum Piece {
    /// The permit goes back when the piece is taken.
    Data {
        data: Bytes,
        _permit: OwnedSemaphorePermit,
    },
    Finished,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Data(Bytes),
    /// The client sends no more.
    Finished,
    /// The stream is reset, or over both ways, or the connection has ended.
    Gone,
}

impl Reader {
    pub(super) async fn next(&mut self) -> Read {
        match self.0.recv().await {
            Some(Piece::Data { data, .. }) => Read::Data(data),
            Some(Piece::Finished) => Read::Finished,
            None => Read::Gone,
        }
    }

    /// Reads on, to no purpose, until the stream is gone.
    pub(super) async fn gone(&mut self) {
        while self.next().await != Read::Gone {}
    }
}

/// The stream, or the connection, takes no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

/// Dropping it resets the stream, but for one that was finished.
pub(super) struct Writer {
    stream: StreamId,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    finished: bool,
}

impl Writer {
    /// Waits while the connection is slow.
    pub(super) async fn send(&self, data: Bytes) -> Result<(), Gone> {
        if !self.shared.state.lock().server.sends(self.stream) {
            return Err(Gone);
        }
        let command = Command::Send { stream: self.stream, data, fin: false };
        self.commands.send(command).await.map_err(|_| Gone)
    }

    /// Nothing more comes; the other direction goes on.
    pub(super) async fn finish(mut self) {
        self.finished = true;
        let command = Command::Send { stream: self.stream, data: Bytes::new(), fin: true };
        let _ = self.commands.send(command).await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.state.lock().reset(self.stream);
            // A full queue is being written, and takes this along.
            let _ = self.commands.try_send(Command::Flush);
        }
    }
}

enum Command {
    Send {
        stream: StreamId,
        data: Bytes,
        fin: bool,
    },
    /// There is output of the protocol's own.
    Flush,
    /// The consumer is done.
    Close,
}

struct Shared {
    state: Mutex<State>,
    waiting: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    server: Server,
    open: HashMap<StreamId, Open>,
}

/// Dropping it ends the reader.
struct Open {
    pieces: mpsc::Sender<Piece>,
    /// True once the stream is reset.
    reset: watch::Sender<bool>,
}

impl State {
    fn reset(&mut self, stream: StreamId) {
        self.server.reset(stream, Reset::Cancel);
        self.forget_reset(stream);
    }

    fn forget_reset(&mut self, stream: StreamId) {
        if let Some(open) = self.open.remove(&stream) {
            open.reset.send_replace(true);
        }
    }

    /// True where the connection is to be closed.
    fn apply(&mut self, command: Command) -> bool {
        match command {
            Command::Send { stream, data, fin } => {
                self.server.send(stream, data, fin);
                self.forget_if_over(stream);
            }
            Command::Flush => {}
            Command::Close => {
                self.server.go_away();
                return true;
            }
        }
        false
    }

    fn forget_if_over(&mut self, stream: StreamId) {
        if !self.server.is_open(stream) {
            self.open.remove(&stream);
        }
    }
}

/// Carries the streams of a connection to `consume`, until it is done or the client has gone.
pub(super) async fn serve<F>(
    transport: Transport,
    consume: impl FnOnce(mpsc::Receiver<Stream>) -> F,
) where
    F: Future<Output = ()>,
{
    match transport {
        Transport::Spdy(io) => {
            let (read, write) = tokio::io::split(io);
            run(Plain(read, BytesMut::new()), PlainDrain(write), consume).await;
        }
        Transport::WebSocket(socket) => {
            let (write, read) = (*socket).split();
            run(read, write, consume).await;
        }
    }
}

async fn run<R, W, F>(
    mut source: R,
    mut drain: W,
    consume: impl FnOnce(mpsc::Receiver<Stream>) -> F,
) where
    R: Source,
    W: Drain,
    F: Future<Output = ()>,
{
    let waiting = Arc::new(Semaphore::new(WAITING_BYTES));
    let shared = Arc::new(Shared { state: Mutex::default(), waiting });
    let (commands, queue) = mpsc::channel(WRITE_QUEUE);
    let (opened, streams) = mpsc::channel(OPENED);
    let consumed = async {
        consume(streams).await;
        let _ = commands.send(Command::Close).await;
        std::future::pending().await
    };
    tokio::select! {
        () = receive(&shared, &mut source, opened, commands.clone()) => {}
        () = send(&shared, queue, &mut drain) => {}
        () = consumed => {}
    }
    let rest = shared.state.lock().server.take_output();
    let farewell = async {
        if rest.is_empty() || drain.write(rest).await {
            drain.close().await;
        }
    };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

async fn receive(
    shared: &Arc<Shared>,
    source: &mut impl Source,
    opened: mpsc::Sender<Stream>,
    commands: mpsc::Sender<Command>,
) {
    while let Some(bytes) = source.next().await {
        shared.state.lock().server.push(&bytes);
        loop {
            let event = shared.state.lock().server.poll();
            match event {
                Ok(None) => break,
                Ok(Some(event)) => deliver(shared, event, &opened, &commands).await,
                Err(error) => {
                    tracing::debug!(%error, "a client does not speak SPDY as we do");
                    return shared.state.lock().server.go_away();
                }
            }
        }
        if shared.state.lock().server.output_len() > 0 {
            let _ = commands.try_send(Command::Flush);
        }
    }
}

async fn deliver(
    shared: &Arc<Shared>,
    event: Event,
    opened: &mpsc::Sender<Stream>,
    commands: &mpsc::Sender<Command>,
) {
    let reader = |stream| shared.state.lock().open.get(&stream).map(|open| open.pieces.clone());
    match event {
        Event::Opened { stream: id, headers } => {
            let (pieces, reader) = mpsc::channel(STREAM_PIECES);
            let (reset, end) = watch::channel(false);
            let commands = commands.clone();
            let writer =
                Writer { stream: id, shared: Arc::clone(shared), commands, finished: false };
            {
                let mut state = shared.state.lock();
                state.server.accept(id);
                state.open.insert(id, Open { pieces, reset });
            }
            // Where the consumer is done, the stream is dropped and so reset.
            let (reader, end) = (Reader(reader), End(end));
            let _ = opened.send(Stream { id, headers, reader, writer, end }).await;
        }
        Event::Data { stream, data } => {
            let Some(reader) = reader(stream) else { return };
            let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let permit = tokio::select! {
                permit = Arc::clone(&shared.waiting).acquire_many_owned(size) => permit,
                () = reader.closed() => return,
            };
            if let Ok(_permit) = permit {
                let _ = reader.send(Piece::Data { data, _permit }).await;
            }
        }
        Event::Finished { stream } => {
            if let Some(reader) = reader(stream) {
                let _ = reader.send(Piece::Finished).await;
            }
            shared.state.lock().forget_if_over(stream);
        }
        Event::Reset { stream } => shared.state.lock().forget_reset(stream),
        Event::GoAway => {}
    }
}

async fn send(shared: &Shared, mut queue: mpsc::Receiver<Command>, drain: &mut impl Drain) {
    let mut end = None;
    loop {
        let command = match end {
            None => queue.recv().await,
            Some(end) => match tokio::time::timeout_at(end, queue.recv()).await {
                Ok(command) => command,
                Err(_) => return,
            },
        };
        let Some(command) = command else { return };
        let (output, close) = {
            let mut state = shared.state.lock();
            let mut close = state.apply(command);
            while !close && state.server.output_len() < BATCH_BYTES {
                let Ok(command) = queue.try_recv() else { break };
                close = state.apply(command);
            }
            (state.server.take_output(), close)
        };
        if !output.is_empty() && !drain.write(output).await {
            return;
        }
        if close {
            end = Some(tokio::time::Instant::now() + LINGER);
        }
    }
}

/// Where bytes come from; `None` is the end.
pub(super) trait Source: Send {
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// Where bytes go.
pub(super) trait Drain: Send {
    /// False where nobody takes them.
    fn write(&mut self, data: Bytes) -> impl Future<Output = bool> + Send;
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

struct Plain<R>(R, BytesMut);

impl<R: AsyncRead + Unpin + Send> Source for Plain<R> {
    async fn next(&mut self) -> Option<Bytes> {
        self.1.reserve(READ_BYTES);
        match self.0.read_buf(&mut self.1).await {
            Ok(1..) => Some(self.1.split().freeze()),
            Ok(0) | Err(_) => None,
        }
    }
}

struct PlainDrain<W>(W);

impl<W: AsyncWrite + Unpin + Send> Drain for PlainDrain<W> {
    async fn write(&mut self, data: Bytes) -> bool {
        self.0.write_all(&data).await.is_ok() && self.0.flush().await.is_ok()
    }

    async fn close(&mut self) {
        let _ = self.0.shutdown().await;
    }
}

/// Each message is the next bytes, as if there were no messages.
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Source for SplitStream<WebSocketStream<S>> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match futures::StreamExt::next(self).await? {
                Ok(Message::Binary(data)) => return Some(data),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Drain for SplitSink<WebSocketStream<S>, Message> {
    async fn write(&mut self, data: Bytes) -> bool {
        SinkExt::send(self, Message::Binary(data)).await.is_ok()
    }

    async fn close(&mut self) {
        // kubectl takes any other code for a broken stream.
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let _ = SinkExt::send(self, Message::Close(Some(normal))).await;
    }
}

#[cfg(test)]
pub(super) mod tests;
