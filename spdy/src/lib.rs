//! SPDY/3.1, a server's side, as kubectl and the Go clients of Kubernetes speak it: exec and attach up to kubectl 1.29,
//! port-forward in every version.
//!
//! Pure: bytes go in ([`Server::push`]), events come out ([`Server::poll`]), and what is to be sent is taken
//! ([`Server::take_output`]). No I/O, no clock, no tasks. Whatever a peer sends, memory is bounded and nothing panics.
//!
//! ```
//! use warren_spdy::{Event, Frame, FrameEncoder, Headers, Server};
//!
//! let mut client = FrameEncoder::new();
//! let mut sent = Vec::new();
//! let headers = Headers::from_iter([("streamtype", "stdin")]);
//! client.encode(&Frame::open(1, headers), &mut sent);
//! client.encode(&Frame::data(1, "typed", true), &mut sent);
//!
//! let mut server = Server::new();
//! server.push(&sent);
//! let Some(Event::Opened { stream, headers, .. }) = server.poll()? else { panic!() };
//! assert_eq!(headers.get("streamType"), Some("stdin"));
//! server.accept(stream);
//! assert_eq!(server.poll()?, Some(Event::Data { stream, data: "typed".into() }));
//! assert_eq!(server.poll()?, Some(Event::Finished { stream }));
//! assert_eq!(server.poll()?, None);
//! # Ok::<(), warren_spdy::Error>(())
//! ```
//!
//! **Flow control.** The draft has a window for each stream; the library of the Go clients (and of the kubelet) neither
//! keeps to windows nor updates them: it stops reading the connection when a stream's reader is slow. Who waited for its
//! updates would stop after 64 KiB. So windows are read and not kept here, and back-pressure is the connection's: push
//! no more bytes while the reader of a stream has enough, produce no more while [`Server::output_len`] is large.

mod frame;
mod headers;
mod server;
#[cfg(test)]
mod tests;

pub use frame::{Frame, FrameDecoder, FrameEncoder, Setting};
pub use headers::Headers;
pub use server::{Event, Server};

/// A client's streams are odd, in rising order; 0 is none.
pub type StreamId = u32;

/// What a control frame may have; those of kubectl have some hundred bytes. A data frame may be as long as its length
/// field says: it is handed on in the pieces that arrive.
pub const MAX_CONTROL_FRAME: usize = 64 << 10;
/// A header block, decompressed.
pub const MAX_HEADER_BLOCK: usize = 64 << 10;
/// Streams that are open at once; the next is refused. A forwarded TCP connection is two.
pub const MAX_STREAMS: usize = 2048;
/// Answers to a peer that asks (pings, wrong streams) and does not read.
pub const MAX_UNREAD: usize = 1 << 20;

/// Why a stream was reset, or the whole connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reset {
    ProtocolError = 1,
    InvalidStream = 2,
    RefusedStream = 3,
    Cancel = 5,
    InternalError = 6,
    StreamAlreadyClosed = 9,
}

/// The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("version {0} of SPDY is not spoken")]
    Version(u16),
    #[error("a frame of type {kind} cannot have {length} bytes")]
    FrameLength { kind: u16, length: usize },
    #[error("headers: {0}")]
    Headers(&'static str),
    #[error("stream {stream}: {why}")]
    Stream { stream: StreamId, why: &'static str },
    #[error("the peer asks and does not read the answers")]
    Unread,
}
