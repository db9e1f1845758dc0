//! The streams of one connection, on the side that did not open it. Streams are the client's; the server opens none.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::frame::{Frame, FrameDecoder, FrameEncoder};
use crate::headers::Headers;
use crate::{Error, MAX_STREAMS, MAX_UNREAD, Reset, StreamId};

/// What the client did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream that is to be [accepted](Server::accept) or [reset](Server::reset).
    Opened { stream: StreamId, headers: Headers },
    /// Never empty.
    Data { stream: StreamId, data: Bytes },
    /// No more data comes; the other direction goes on.
    Finished { stream: StreamId },
    /// The stream is gone, both ways.
    Reset { stream: StreamId },
    /// The client opens no more streams.
    GoAway,
}

#[derive(Debug)]
pub struct Server {
    decoder: FrameDecoder,
    encoder: FrameEncoder,
    streams: HashMap<StreamId, Stream>,
    /// The newest stream of the client.
    last: StreamId,
    gone: bool,
    output: Vec<u8>,
    events: VecDeque<Event>,
    failed: Option<Error>,
}

#[derive(Debug)]
struct Stream {
    accepted: bool,
    /// The client may send.
    receives: bool,
    /// We may send.
    sends: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    pub fn new() -> Self {
        Self {
            decoder: FrameDecoder::new(),
            encoder: FrameEncoder::new(),
            streams: HashMap::new(),
            last: 0,
            gone: false,
            output: Vec::new(),
            events: VecDeque::new(),
            failed: None,
        }
    }

    /// Takes what arrived. Poll until `None` before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.decoder.push(bytes);
        }
    }

    /// What the client did next; `None` until more has arrived.
    ///
    /// # Errors
    /// The connection is of no more use; every further call says so again.
    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if let Some(error) = self.failed {
                return Err(error);
            }
            let handled = self.decoder.next().and_then(|frame| match frame {
                Some(frame) => self.handle(frame).map(|()| true),
                None => Ok(false),
            });
            match handled {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => self.failed = Some(error),
            }
        }
    }

    fn handle(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers, .. } => {
                self.opened(stream, fin, unidirectional, headers)?;
            }
            Frame::Data { stream, fin, data } => self.received(stream, data, fin)?,
            Frame::Headers { stream, fin: true, .. } => {
                self.received(stream, Bytes::new(), true)?
            }
            Frame::RstStream { stream, .. } => {
                if self.streams.remove(&stream).is_some() {
                    self.events.push_back(Event::Reset { stream });
                }
            }
            // The client's own are odd; we send none.
            Frame::Ping(id) if id % 2 == 1 => self.answer(&Frame::Ping(id))?,
            Frame::GoAway { .. } => self.events.push_back(Event::GoAway),
            Frame::SynReply { stream, .. } => {
                return Err(Error::Stream {
                    stream,
                    why: "a reply to a stream that nobody opened",
                });
            }
            Frame::Ping(_)
            | Frame::Headers { .. }
            | Frame::Settings(_)
            | Frame::WindowUpdate { .. }
            | Frame::Unknown(_) => {}
        }
        Ok(())
    }

    fn opened(
        &mut self,
        stream: StreamId,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    ) -> Result<(), Error> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Error::Stream { stream, why: "not an odd and rising number" });
        }
        self.last = stream;
        if self.gone {
            // The client may not have read yet that we are going.
            return Ok(());
        }
        // To each one that is opened there is an answer, and often a reset.
        if self.output.len() > MAX_UNREAD {
            return Err(Error::Unread);
        }
        if self.streams.len() >= MAX_STREAMS {
            return self.refuse(stream, Reset::RefusedStream);
        }
        let (receives, sends) = (!fin, !unidirectional);
        self.streams.insert(stream, Stream { accepted: false, receives, sends });
        self.events.push_back(Event::Opened { stream, headers });
        if fin {
            self.events.push_back(Event::Finished { stream });
        }
        Ok(())
    }

    fn received(&mut self, stream: StreamId, data: Bytes, fin: bool) -> Result<(), Error> {
        let Some(state) = self.streams.get_mut(&stream) else {
            // One that we have ended may still send for a while.
            return match stream <= self.last && stream % 2 == 1 {
                true => Ok(()),
                false => self.refuse(stream, Reset::InvalidStream),
            };
        };
        if !state.receives {
            self.streams.remove(&stream);
            self.events.push_back(Event::Reset { stream });
            return self.refuse(stream, Reset::StreamAlreadyClosed);
        }
        if !data.is_empty() {
            self.events.push_back(Event::Data { stream, data });
        }
        if fin {
            state.receives = false;
            self.events.push_back(Event::Finished { stream });
            self.forget_if_over(stream);
        }
        Ok(())
    }

    /// Sends what the client's frames ask for. One that asks for much and reads nothing is not served on.
    fn answer(&mut self, frame: &Frame) -> Result<(), Error> {
        if self.output.len() > MAX_UNREAD {
            return Err(Error::Unread);
        }
        self.encoder.encode(frame, &mut self.output);
        Ok(())
    }

    fn refuse(&mut self, stream: StreamId, why: Reset) -> Result<(), Error> {
        self.answer(&Frame::RstStream { stream, status: why as u32 })
    }

    fn forget_if_over(&mut self, stream: StreamId) {
        if self.streams.get(&stream).is_some_and(|state| !state.receives && !state.sends) {
            self.streams.remove(&stream);
        }
    }

    /// Answers the opening of a stream; clients send and take data after that. False where the stream is gone, or was
    /// accepted before.
    pub fn accept(&mut self, stream: StreamId) -> bool {
        let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.accepted) else {
            return false;
        };
        state.accepted = true;
        if state.sends {
            let reply = Frame::SynReply { stream, fin: false, headers: Headers::default() };
            self.encoder.encode(&reply, &mut self.output);
        }
        // One that the client opened to say no more than its headers.
        self.forget_if_over(stream);
        true
    }

    /// Whether data can still be sent on it.
    pub fn sends(&self, stream: StreamId) -> bool {
        self.streams.get(&stream).is_some_and(|state| state.accepted && state.sends)
    }

    /// Whether any direction of it is open.
    pub fn is_open(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Sends data, with `fin` the last. False, and nothing is sent, where the stream takes none.
    pub fn send(&mut self, stream: StreamId, data: Bytes, fin: bool) -> bool {
        let Some(state) = self.streams.get_mut(&stream).filter(|s| s.accepted && s.sends) else {
            return false;
        };
        state.sends = !fin;
        if fin || !data.is_empty() {
            self.encoder.encode(&Frame::Data { stream, fin, data }, &mut self.output);
        }
        self.forget_if_over(stream);
        true
    }

    /// Ends a stream both ways, or refuses it.
    pub fn reset(&mut self, stream: StreamId, why: Reset) {
        if self.streams.remove(&stream).is_some() {
            let reset = Frame::RstStream { stream, status: why as u32 };
            self.encoder.encode(&reset, &mut self.output);
        }
    }

    /// Says that no more streams are taken; those that are open go on.
    pub fn go_away(&mut self) {
        if !std::mem::replace(&mut self.gone, true) {
            let status = u32::from(self.failed.is_some());
            let frame = Frame::GoAway { last_stream: self.last, status };
            self.encoder.encode(&frame, &mut self.output);
        }
    }

    /// Bytes that wait to be sent.
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    pub fn take_output(&mut self) -> Bytes {
        std::mem::take(&mut self.output).into()
    }
}
