//! Port-forward over SPDY: each connection is two streams, `data` and `error`, of one request id.
//!
//! A client may open, reset and leave alone as many as it likes: of a stream whose other half has not come, only what
//! pairs it is kept, and that until the stream is gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use warren_spdy::{MAX_STREAMS, StreamId};

use super::spdy::{End, Reader, Stream, Writer};
use super::{Target, copy};

/// How long the second stream of a pair may take; the kubelet's.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a client: halves that wait, and connections. More pairs than that cannot be open.
const MAX_PAIRS: usize = MAX_STREAMS / 2;
/// kubectl's are numbers.
const MAX_REQUEST_ID: usize = 64;
/// For what has arrived of a stream that was reset, as the pod takes it.
const RESET_GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// A stream without its headers, of which a client may send much.
struct Half {
    stream: StreamId,
    kind: Kind,
    port: u16,
    reader: Reader,
    writer: Writer,
    end: End,
}

impl Half {
    /// With what connects the two of a pair; `None` for a stream that says something else.
    fn of(stream: Stream) -> Option<(String, Self)> {
        let Stream { id, headers, reader, writer, end } = stream;
        let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
        // Old clients give no ids, and open the error stream first.
        let (kind, implied) = match headers.get("streamtype")? {
            "error" => (Kind::Error, id),
            "data" => (Kind::Data, id.wrapping_sub(2)),
            _ => return None,
        };
        let request = match headers.get("requestid").unwrap_or_default() {
            "" => implied.to_string(),
            named if named.len() <= MAX_REQUEST_ID => named.to_owned(),
            _ => return None,
        };
        Some((request, Self { stream: id, kind, port, reader, writer, end }))
    }
}

/// Pairs up the streams that a client opens, and connects each pair. A stream that is not to be used is dropped, and
/// with that reset, as the kubelet does.
pub(super) async fn serve(mut opened: mpsc::Receiver<Stream>, target: &Target) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    // As many as streams are open: each ends with its stream.
    let mut lost = FuturesUnordered::new();
    let mut connections = JoinSet::new();
    loop {
        let opened = tokio::select! {
            // What is gone makes room for what comes.
            biased;
            Some((request, stream, timed_out)) = lost.next() => {
                if let Entry::Occupied(entry) = halves.entry(request)
                    && entry.get().stream == stream
                {
                    let (request, half) = entry.remove_entry();
                    if timed_out && half.kind == Kind::Error {
                        let why = format!("request {request}: timed out waiting for streams");
                        let _ = half.writer.send(why.into()).await;
                        half.writer.finish().await;
                    }
                }
                continue;
            }
            Some(_) = connections.join_next() => continue,
            opened = opened.recv() => opened,
        };
        let Some(stream) = opened else { return };
        let Some((request, half)) = Half::of(stream) else { continue };
        let Some(other) = halves.remove(&request) else {
            if halves.len() < MAX_PAIRS {
                let (of, stream, end) = (request.clone(), half.stream, half.end.clone());
                lost.push(async move {
                    let timed_out = tokio::time::timeout(PAIR_TIMEOUT, end.gone()).await.is_err();
                    (of, stream, timed_out)
                });
                halves.insert(request, half);
            }
            continue;
        };
        let (data, error) = match (half.kind, other.kind) {
            (Kind::Data, Kind::Error) => (half, other),
            (Kind::Error, Kind::Data) => (other, half),
            _ => continue,
        };
        if connections.len() < MAX_PAIRS {
            let target = target.clone();
            connections.spawn(async move { pair(data, error, &target).await });
        }
    }
}

async fn pair(data: Half, error: Half, target: &Target) {
    let Half { port, mut reader, writer, end, .. } = data;
    let connected = tokio::select! {
        connected = target.connect(port) => connected,
        () = end.clone().reset() => return error.writer.finish().await,
    };
    match connected {
        Ok(connection) => {
            let abandoned = async {
                end.reset().await;
                tokio::time::sleep(RESET_GRACE).await;
            };
            tokio::select! {
                copied = copy(connection, &mut reader, writer) => if let Err(why) = copied {
                    tracing::debug!(port, pod = target.name, %why, "a forwarded connection broke");
                },
                // The pod takes nothing, and nobody waits for it.
                () = abandoned => {}
            }
        }
        Err(why) => {
            let _ = error.writer.send(why.into()).await;
            writer.finish().await;
        }
    }
    error.writer.finish().await;
}

#[cfg(test)]
mod tests {
    use warren_spdy::{Frame, Headers};

    use super::*;
    use crate::pod::index::PodIndex;
    use crate::server::spdy::tests::Client;

    /// Of a pod that is not there: each pair is told so at once.
    fn target() -> Target {
        Target { pods: PodIndex::default(), name: "gone".to_owned(), uid: "1".to_owned() }
    }

    fn open(stream: StreamId, kind: &str, request: &str) -> Frame {
        let headers = [("streamtype", kind), ("port", "80"), ("requestid", request)];
        Frame::open(stream, Headers::from_iter(headers))
    }

    fn taken(stream: StreamId) -> Option<Frame> {
        Some(Frame::SynReply { stream, fin: false, headers: Headers::default() })
    }

    fn reset(stream: StreamId) -> Frame {
        Frame::RstStream { stream, status: 5 }
    }

    fn end(stream: StreamId) -> Option<Frame> {
        Some(Frame::data(stream, "", true))
    }

    /// What is said on an error stream.
    async fn said(client: &mut Client, stream: StreamId) -> String {
        match client.next().await {
            Some(Frame::Data { stream: at, fin: false, data }) if at == stream => {
                String::from_utf8(data.to_vec()).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn talking<F: Future<Output = ()>>(talk: impl FnOnce(Client) -> F) {
        let (client, serving) =
            Client::with(|opened| async move { serve(opened, &target()).await });
        tokio::select! {
            () = serving => panic!("the connection is served on"),
            () = talk(client) => {}
        }
    }

    #[tokio::test]
    async fn a_half_that_is_reset_is_forgotten() {
        talking(|mut client| async move {
            client.send(open(1, "error", "a")).await;
            assert_eq!(client.next().await, taken(1));
            client.send(reset(1)).await;
            // It is no pair with what is gone, but with what comes.
            client.send(open(3, "data", "a")).await;
            assert_eq!(client.next().await, taken(3));
            client.send(open(5, "error", "a")).await;
            assert_eq!(client.next().await, taken(5));
            assert!(said(&mut client, 5).await.contains("not on this node any more"));
            assert_eq!((client.next().await, client.next().await), (end(3), end(5)));
        })
        .await;
    }

    #[tokio::test]
    async fn halves_and_their_ids_are_bounded() {
        talking(|mut client| async move {
            client.send(open(1, "error", &"a".repeat(MAX_REQUEST_ID + 1))).await;
            assert_eq!((client.next().await, client.next().await), (taken(1), Some(reset(1))));
            let last = 3 + 2 * u32::try_from(MAX_PAIRS).unwrap();
            for stream in (3..last).step_by(2) {
                client.send(open(stream, "error", &format!("{stream:064}"))).await;
                assert_eq!(client.next().await, taken(stream));
            }
            client.send(open(last, "error", "one more")).await;
            assert_eq!(
                (client.next().await, client.next().await),
                (taken(last), Some(reset(last)))
            );
            client.send(reset(3)).await;
            client.send(open(last + 2, "error", "in its place")).await;
            assert_eq!(client.next().await, taken(last + 2));
            client.send(open(last + 4, "data", "in its place")).await;
            assert_eq!(client.next().await, taken(last + 4));
            assert!(said(&mut client, last + 2).await.contains("not on this node any more"));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_waits_for_so_long() {
        talking(|mut client| async move {
            client.send(open(1, "data", "a")).await;
            assert_eq!((client.next().await, client.next().await), (taken(1), Some(reset(1))));
            client.send(open(3, "error", "b")).await;
            assert_eq!(client.next().await, taken(3));
            let why = said(&mut client, 3).await;
            assert_eq!(why, "request b: timed out waiting for streams");
            assert_eq!(client.next().await, end(3));
        })
        .await;
    }
}
