//! A client in the same process, over a pipe.

use tokio::io::DuplexStream;
use warren_spdy::{Frame, FrameDecoder, FrameEncoder};

use super::*;

pub(in crate::server) struct Client {
    pipe: DuplexStream,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
}

impl Client {
    /// A client, and what serves it.
    pub(in crate::server) fn with<F>(
        consume: impl FnOnce(mpsc::Receiver<Stream>) -> F,
    ) -> (Self, impl Future<Output = ()>)
    where
        F: Future<Output = ()>,
    {
        let (pipe, theirs) = tokio::io::duplex(64 << 10);
        let (read, write) = tokio::io::split(theirs);
        let serving = run(Plain(read, BytesMut::new()), PlainDrain(write), consume);
        (Self { pipe, encoder: FrameEncoder::new(), decoder: FrameDecoder::new() }, serving)
    }

    pub(in crate::server) async fn send(&mut self, frame: Frame) {
        let mut bytes = Vec::new();
        self.encoder.encode(&frame, &mut bytes);
        self.pipe.write_all(&bytes).await.unwrap();
    }

    async fn open(&mut self, stream: StreamId) {
        self.send(Frame::open(stream, Headers::from_iter([("streamtype", "data")]))).await;
        let reply = Frame::SynReply { stream, fin: false, headers: Headers::default() };
        assert_eq!(self.next().await, Some(reply));
    }

    pub(in crate::server) async fn next(&mut self) -> Option<Frame> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            match self.pipe.read(&mut buffer).await.unwrap() {
                0 => return None,
                length => self.decoder.push(&buffer[..length]),
            }
        }
    }
}

/// Answers what it gets, and ends after the first stream.
async fn echo_once(mut opened: mpsc::Receiver<Stream>) {
    let Some(Stream { mut reader, writer, .. }) = opened.recv().await else { return };
    while let Read::Data(data) = reader.next().await {
        writer.send(data).await.unwrap();
    }
    writer.finish().await;
}

#[tokio::test]
async fn streams_carry_data_and_their_end() {
    let (mut client, serving) = Client::with(echo_once);
    let talk = async move {
        client.open(1).await;
        client.send(Frame::data(1, "there and back", true)).await;
        assert_eq!(client.next().await, Some(Frame::data(1, "there and back", false)));
        assert_eq!(client.next().await, Some(Frame::data(1, "", true)));
        // The consumer is done, and lingers until the client goes.
        assert_eq!(client.next().await, Some(Frame::GoAway { last_stream: 1, status: 0 }));
        client.send(Frame::Ping(1)).await;
        assert_eq!(client.next().await, Some(Frame::Ping(1)));
    };
    tokio::join!(serving, talk);
}

/// Where nobody reads a stream, no more of it is taken than the bound says; when somebody does, all of it arrives.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_stops_the_client() {
    let (read_on, go) = tokio::sync::oneshot::channel::<()>();
    let consume = |mut opened: mpsc::Receiver<Stream>| async move {
        let Some(mut stream) = opened.recv().await else { return };
        go.await.unwrap();
        let mut length = 0;
        while let Read::Data(data) = stream.reader.next().await {
            length += data.len();
        }
        stream.writer.send(length.to_string().into()).await.unwrap();
        stream.writer.finish().await;
    };
    let (mut client, serving) = Client::with(consume);
    let talk = async move {
        const PIECE: usize = 32 << 10;
        const ALL: usize = 1000;
        client.open(1).await;
        let mut sent = 0;
        let mut read_on = Some(read_on);
        while sent < ALL {
            let mut bytes = Vec::new();
            client.encoder.encode(&Frame::data(1, vec![0; PIECE], sent + 1 == ALL), &mut bytes);
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                // The clock moves only when nothing else does.
                let write = tokio::time::timeout(Duration::from_secs(1), client.pipe.write(rest));
                match write.await {
                    Ok(written) => rest = &rest[written.unwrap()..],
                    Err(_) => read_on.take().expect("it stops once").send(()).unwrap(),
                }
            }
            sent += 1;
            assert!(read_on.is_none() || sent * PIECE < 2 << 20, "{sent} pieces are taken");
        }
        assert!(read_on.is_none(), "it never stopped");
        let length = (PIECE * ALL).to_string();
        assert_eq!(client.next().await, Some(Frame::data(1, length, false)));
    };
    tokio::join!(serving, talk);
}

#[tokio::test]
async fn a_client_that_goes_ends_the_consumer() {
    struct Dropped(Arc<Mutex<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            *self.0.lock() = true;
        }
    }
    let dropped = Arc::new(Mutex::new(false));
    let witness = Dropped(Arc::clone(&dropped));
    let (mut client, serving) = Client::with(|mut opened: mpsc::Receiver<Stream>| async move {
        let _witness = witness;
        let stream = opened.recv().await;
        std::future::pending::<()>().await;
        drop(stream);
    });
    let talk = async move { client.open(1).await };
    tokio::join!(serving, talk);
    assert!(*dropped.lock());
}

#[tokio::test]
async fn what_is_dropped_is_reset_and_what_is_wrong_ends_the_connection() {
    let (mut client, serving) = Client::with(|mut opened: mpsc::Receiver<Stream>| async move {
        drop(opened.recv().await);
        let mut second = opened.recv().await.unwrap();
        assert_eq!(second.reader.next().await, Read::Gone, "reset by the client");
        assert!(second.writer.send(Bytes::from_static(b"late")).await.is_err());
        std::future::pending().await
    });
    let talk = async move {
        client.open(1).await;
        assert_eq!(client.next().await, Some(Frame::RstStream { stream: 1, status: 5 }));
        client.open(3).await;
        client.send(Frame::RstStream { stream: 3, status: 5 }).await;
        client.pipe.write_all(b"\x80\x02nonsense").await.unwrap();
        assert_eq!(client.next().await, Some(Frame::GoAway { last_stream: 3, status: 1 }));
        assert_eq!(client.next().await, None);
    };
    tokio::join!(serving, talk);
}
