//! Frames and their bytes, both ways.

use bytes::{Buf, Bytes, BytesMut};

use crate::headers::{Deflater, Headers, Inflater};
use crate::{Error, MAX_CONTROL_FRAME, StreamId};

const VERSION: u16 = 3;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
/// What is sent in one data frame.
const MAX_DATA: usize = 64 << 10;
const ID: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: StreamId,
        associated: StreamId,
        /// 0 to 7; 0 is the most urgent.
        priority: u8,
        /// The sender has no more for this stream.
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        stream: StreamId,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        stream: StreamId,
        status: u32,
    },
    Settings(Vec<Setting>),
    Ping(u32),
    GoAway {
        last_stream: StreamId,
        status: u32,
    },
    Headers {
        stream: StreamId,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        stream: StreamId,
        delta: u32,
    },
    /// A data frame, or a piece of a long one: `fin` stands with the last.
    Data {
        stream: StreamId,
        fin: bool,
        data: Bytes,
    },
    /// Of a type that the draft does not know; to be ignored.
    Unknown(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub flags: u8,
    /// 24 bits.
    pub id: u32,
    pub value: u32,
}

impl Frame {
    pub fn open(stream: StreamId, headers: Headers) -> Self {
        let (associated, priority, fin, unidirectional) = (0, 0, false, false);
        Self::SynStream { stream, associated, priority, fin, unidirectional, headers }
    }

    pub fn data(stream: StreamId, data: impl Into<Bytes>, fin: bool) -> Self {
        Self::Data { stream, fin, data: data.into() }
    }
}

/// Bytes to frames, for one direction of a connection.
///
/// What is pushed is kept until [`next`](Self::next) has taken it: take all frames before pushing more.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    inflater: Inflater,
    /// The data frame that is under way.
    data: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    stream: StreamId,
    fin: bool,
    left: usize,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    pub fn new() -> Self {
        Self { buffer: BytesMut::new(), inflater: Inflater::new(), data: None }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None` where it has not arrived as a whole. An error is final.
    #[expect(clippy::should_implement_trait, reason = "it goes on after None")]
    pub fn next(&mut self) -> Result<Option<Frame>, Error> {
        if let Some(rest) = &mut self.data {
            let length = rest.left.min(self.buffer.len());
            if length == 0 && rest.left > 0 {
                return Ok(None);
            }
            // Copied: a slice would keep the whole buffer for as long as it waits for its reader.
            let data = Bytes::copy_from_slice(&self.buffer[..length]);
            self.buffer.advance(length);
            rest.left -= length;
            let (stream, last) = (rest.stream, rest.left == 0);
            let fin = rest.fin && last;
            if last {
                self.data = None;
            }
            return Ok(Some(Frame::Data { stream, fin, data }));
        }
        let Some(head) = self.buffer.first_chunk::<8>() else { return Ok(None) };
        let [a, b, c, d, flags, length @ ..] = *head;
        let length =
            usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            self.buffer.advance(8);
            self.data = Some(Rest { stream, fin: flags & FIN != 0, left: length });
            return self.next();
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let kind = u16::from_be_bytes([c, d]);
        if length > MAX_CONTROL_FRAME {
            return Err(Error::FrameLength { kind, length });
        }
        if self.buffer.len() < 8 + length {
            return Ok(None);
        }
        let mut payload = self.buffer.split_to(8 + length);
        payload.advance(8);
        control(kind, flags, &payload, &mut self.inflater).map(Some)
    }
}

fn control(kind: u16, flags: u8, payload: &[u8], inflater: &mut Inflater) -> Result<Frame, Error> {
    let wrong = Error::FrameLength { kind, length: payload.len() };
    let word = |at: usize| -> Result<u32, Error> {
        let bytes = payload.get(at..).and_then(<[u8]>::first_chunk::<4>);
        bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(wrong)
    };
    let exactly = |length: usize| if payload.len() == length { Ok(()) } else { Err(wrong) };
    let fin = flags & FIN != 0;
    Ok(match kind {
        SYN_STREAM => {
            let block = payload.get(10..).ok_or(wrong)?;
            Frame::SynStream {
                stream: word(0)? & ID,
                associated: word(4)? & ID,
                priority: payload[8] >> 5,
                fin,
                unidirectional: flags & UNIDIRECTIONAL != 0,
                headers: inflater.block(block)?,
            }
        }
        SYN_REPLY | HEADERS => {
            let stream = word(0)? & ID;
            let headers = inflater.block(&payload[4..])?;
            match kind {
                SYN_REPLY => Frame::SynReply { stream, fin, headers },
                _ => Frame::Headers { stream, fin, headers },
            }
        }
        RST_STREAM => {
            exactly(8)?;
            Frame::RstStream { stream: word(0)? & ID, status: word(4)? }
        }
        SETTINGS => {
            let count = usize::try_from(word(0)?).unwrap_or(usize::MAX);
            exactly(count.saturating_mul(8).saturating_add(4))?;
            let setting = |entry: &[u8]| Setting {
                flags: entry[0],
                id: u32::from_be_bytes([0, entry[1], entry[2], entry[3]]),
                value: u32::from_be_bytes([entry[4], entry[5], entry[6], entry[7]]),
            };
            Frame::Settings(payload[4..].chunks_exact(8).map(setting).collect())
        }
        PING => {
            exactly(4)?;
            Frame::Ping(word(0)?)
        }
        GOAWAY => {
            exactly(8)?;
            Frame::GoAway { last_stream: word(0)? & ID, status: word(4)? }
        }
        WINDOW_UPDATE => {
            exactly(8)?;
            Frame::WindowUpdate { stream: word(0)? & ID, delta: word(4)? & ID }
        }
        other => Frame::Unknown(other),
    })
}

/// Frames to bytes, for one direction of a connection.
#[derive(Debug)]
pub struct FrameEncoder(Deflater);

impl Default for FrameEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameEncoder {
    pub fn new() -> Self {
        Self(Deflater::new())
    }

    /// Appends the frame; long data becomes several. Every frame that is encoded has to be sent: those with headers
    /// build on each other.
    pub fn encode(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        let fin_of = |fin: bool| if fin { FIN } else { 0 };
        match frame {
            Frame::SynStream { stream, associated, priority, fin, unidirectional, headers } => {
                let block = self.0.block(headers);
                let one_way = if *unidirectional { UNIDIRECTIONAL } else { 0 };
                head(out, SYN_STREAM, fin_of(*fin) | one_way, 10 + block.len());
                words(out, &[stream & ID, associated & ID]);
                out.extend_from_slice(&[priority << 5, 0]);
                out.extend_from_slice(&block);
            }
            Frame::SynReply { stream, fin, headers } | Frame::Headers { stream, fin, headers } => {
                let block = self.0.block(headers);
                let is_reply = matches!(frame, Frame::SynReply { .. });
                let kind = if is_reply { SYN_REPLY } else { HEADERS };
                head(out, kind, fin_of(*fin), 4 + block.len());
                words(out, &[stream & ID]);
                out.extend_from_slice(&block);
            }
            Frame::RstStream { stream, status } => {
                head(out, RST_STREAM, 0, 8);
                words(out, &[stream & ID, *status]);
            }
            Frame::Settings(settings) => {
                head(out, SETTINGS, 0, 4 + 8 * settings.len());
                words(out, &[u32::try_from(settings.len()).unwrap_or(u32::MAX)]);
                for Setting { flags, id, value } in settings {
                    words(out, &[u32::from(*flags) << 24 | id & 0xff_ffff, *value]);
                }
            }
            Frame::Ping(id) => {
                head(out, PING, 0, 4);
                words(out, &[*id]);
            }
            Frame::GoAway { last_stream, status } => {
                head(out, GOAWAY, 0, 8);
                words(out, &[last_stream & ID, *status]);
            }
            Frame::WindowUpdate { stream, delta } => {
                head(out, WINDOW_UPDATE, 0, 8);
                words(out, &[stream & ID, delta & ID]);
            }
            Frame::Data { stream, fin, data } => {
                let mut rest = data.as_ref();
                loop {
                    let (piece, tail) = rest.split_at(rest.len().min(MAX_DATA));
                    rest = tail;
                    words(out, &[stream & ID]);
                    length(out, fin_of(*fin && rest.is_empty()), piece.len());
                    out.extend_from_slice(piece);
                    if rest.is_empty() {
                        break;
                    }
                }
            }
            Frame::Unknown(kind) => head(out, *kind, 0, 0),
        }
    }
}

fn head(out: &mut Vec<u8>, kind: u16, flags: u8, size: usize) {
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    length(out, flags, size);
}

fn length(out: &mut Vec<u8>, flags: u8, length: usize) {
    let [_, high, middle, low] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&[flags, high, middle, low]);
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}
