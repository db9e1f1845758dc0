//! `/portForward`: TCP connections to the ports of a pod.
//!
//! Over SPDY, plain or within the messages of a WebSocket, a client opens two streams for each connection, `data` and
//! `error`, as many as it likes. The older WebSocket form ([`channels`]) has one connection for each port that the
//! request names. The API server itself, which proxies HTTP, has one connection and nothing around it ([`plain`]).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::route::{Body, Query, Refusal, Service};
use super::spdy::{self, READ_BYTES, Read, Stream};
use super::upgrade::{Offers, Transport, Upgrade};
use crate::pod::index::{PodEntry, PodIndex};
use crate::pod::spec;
use crate::runtime::Connection;

mod channels;
mod plain;

const SPDY: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const OFFERS: Offers = Offers {
    websocket: &[TUNNEL, channels::BINARY, channels::BASE64, channels::UNNAMED],
    spdy: &[SPDY],
};

/// How long the second stream of a pair may take; the kubelet's.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// The pod is on this machine; what takes longer is a listener that takes nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn answer(
    service: &Service,
    entry: &PodEntry,
    query: &Query,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let target = Target {
        pods: service.pods.clone(),
        name: entry.pod.metadata.name.clone().unwrap_or_default(),
        uid: entry.uid().to_owned(),
    };
    if plain::is_asked(request) {
        return plain::answer(service, &target, query, request).await;
    }
    let upgrade = Upgrade::of(request, &OFFERS)?;
    let form = match upgrade.protocol {
        SPDY | TUNNEL => None,
        other => Some((channels::Form::of(other), channels::ports(query)?)),
    };
    Ok(upgrade.serve(service, "port-forward", move |transport| async move {
        match (transport, form) {
            (Transport::WebSocket(socket), Some((form, ports))) => {
                channels::carry(*socket, form, &ports, &target).await;
            }
            (transport, _) => spdy::serve(transport, |opened| pairs(opened, &target)).await,
        }
    }))
}

/// The pod that was asked for; its containers and its sandbox may be others by the time of a connection.
#[derive(Clone)]
struct Target {
    pods: PodIndex,
    name: String,
    uid: String,
}

impl Target {
    /// The error is the kubelet's text, which kubectl prints.
    async fn connect(&self, port: u16) -> Result<Connection, String> {
        self.reach(port).await.map_err(|why| self.failed(port, &why))
    }

    async fn reach(&self, port: u16) -> Result<Connection, String> {
        let gone = || "the pod is not on this node any more".to_owned();
        let entry = self.pods.by_uid(&self.uid).ok_or_else(gone)?;
        let sandbox = entry.observed.sandbox().filter(|sandbox| sandbox.ready);
        let sandbox = sandbox.ok_or_else(|| "the pod has no network now".to_owned())?;
        let host_network = spec::spec(&entry.pod).host_network == Some(true);
        let connecting = entry.runtime.connect(sandbox, host_network, port);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err("connect: connection timed out".to_owned()),
        }
    }

    fn failed(&self, port: u16, why: &str) -> String {
        format!("error forwarding port {port} to pod {}, uid {}: {why}", self.name, self.uid)
    }
}

/// Pairs up the streams that a client opens, and connects each pair.
async fn pairs(mut opened: mpsc::Receiver<Stream>, target: &Target) {
    let mut halves: HashMap<String, Stream> = HashMap::new();
    let mut deadlines: VecDeque<(Instant, String)> = VecDeque::new();
    let mut connections = JoinSet::new();
    loop {
        let next = deadlines.front().map(|(at, _)| *at);
        let overdue = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            stream = opened.recv() => stream,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = overdue => {
                if let Some((_, request)) = deadlines.pop_front()
                    && let Some(half) = halves.remove(&request)
                    && is_error(&half)
                {
                    let why = format!("request {request}: timed out waiting for streams");
                    let _ = half.writer.send(why.into()).await;
                    half.writer.finish().await;
                }
                continue;
            }
        };
        let Some(stream) = stream else { return };
        // A stream that is not to be used is dropped, and with that reset, as the kubelet does.
        let Some((request, port)) = request_of(&stream) else { continue };
        let Some(other) = halves.remove(&request) else {
            deadlines.push_back((Instant::now() + PAIR_TIMEOUT, request.clone()));
            halves.insert(request, stream);
            continue;
        };
        deadlines.retain(|(_, known)| *known != request);
        let (data, error) = match (is_error(&other), is_error(&stream)) {
            (true, false) => (stream, other),
            (false, true) => (other, stream),
            _ => continue,
        };
        let target = target.clone();
        connections.spawn(async move { pair(port, data, error, &target).await });
    }
}

fn is_error(stream: &Stream) -> bool {
    stream.headers.get("streamtype") == Some("error")
}

/// What connects the two streams of a pair, and the port; `None` for a stream that says something else.
fn request_of(stream: &Stream) -> Option<(String, u16)> {
    let port = stream.headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let kind = stream.headers.get("streamtype")?;
    // Old clients give no ids, and open the error stream first.
    let implied = match kind {
        "error" => stream.id,
        "data" => stream.id.wrapping_sub(2),
        _ => return None,
    };
    let named = stream.headers.get("requestid").filter(|id| !id.is_empty());
    Some((named.map_or_else(|| implied.to_string(), str::to_owned), port))
}

async fn pair(port: u16, mut data: Stream, error: Stream, target: &Target) {
    match target.connect(port).await {
        Ok(connection) => {
            if let Err(why) = copy(connection, &mut data.reader, data.writer).await {
                tracing::debug!(port, pod = target.name, %why, "a forwarded connection broke");
            }
        }
        Err(why) => {
            let _ = error.writer.send(why.into()).await;
            data.writer.finish().await;
        }
    }
    error.writer.finish().await;
}

/// What comes from a client.
trait Upstream: Send {
    fn next(&mut self) -> impl Future<Output = Read> + Send;
}

/// What goes to a client.
trait Downstream: Send {
    /// Whether the client can be told that nothing more comes, and go on sending.
    const HALF_CLOSES: bool;
    fn send(&self, data: Bytes) -> impl Future<Output = Result<(), spdy::Gone>> + Send;
    fn finish(self) -> impl Future<Output = ()> + Send;
}

impl Upstream for spdy::Reader {
    async fn next(&mut self) -> Read {
        spdy::Reader::next(self).await
    }
}

impl Downstream for spdy::Writer {
    const HALF_CLOSES: bool = true;

    async fn send(&self, data: Bytes) -> Result<(), spdy::Gone> {
        spdy::Writer::send(self, data).await
    }

    async fn finish(self) {
        spdy::Writer::finish(self).await;
    }
}

/// Both directions, each until its end: one that is half closed goes on. An error of the pod's side drops `writer`, so
/// that the client sees no end where there was a break.
async fn copy<R: Upstream, W: Downstream>(
    connection: Connection,
    reader: &mut R,
    writer: W,
) -> io::Result<()> {
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let mut down = pin!(async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            if from_pod.read_buf(&mut buffer).await? == 0 {
                writer.finish().await;
                return io::Result::Ok(());
            }
            if writer.send(buffer.split().freeze()).await.is_err() {
                return Ok(());
            }
        }
    });
    {
        let mut up = pin!(async {
            loop {
                match reader.next().await {
                    Read::Data(data) => {
                        to_pod.write_all(&data).await?;
                        to_pod.flush().await?;
                    }
                    Read::Finished => {
                        to_pod.shutdown().await?;
                        return io::Result::Ok(true);
                    }
                    Read::Gone => return Ok(false),
                }
            }
        });
        tokio::select! {
            ended = &mut down => {
                ended?;
                // The pod may still listen.
                return if W::HALF_CLOSES { up.await.map(drop) } else { Ok(()) };
            }
            ended = &mut up => if let Ok(false) = ended {
                return Ok(());
            },
        }
    }
    // The client has said all, or the pod takes no more: what it has said is still to arrive.
    let gone = async { while reader.next().await != Read::Gone {} };
    tokio::select! {
        ended = down => ended,
        () = gone => Ok(()),
    }
}
