//! `/portForward`: TCP connections to the ports of a pod.
//!
//! Over SPDY, plain or within the messages of a WebSocket, a client opens two streams for each connection, `data` and
//! `error`, as many as it likes. The older WebSocket form ([`channels`]) has one connection for each port that the
//! request names. The API server itself, which proxies HTTP, has one connection and nothing around it ([`plain`]).

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::channels::{Form, UNNAMED, V4, V4_BASE64};
use super::route::{Body, Query, Refusal, Service};
use super::spdy::{self, READ_BYTES, Read};
use super::upgrade::{Offers, Transport, Upgrade};
use crate::pod::index::{PodEntry, PodIndex};
use crate::pod::spec;
use crate::runtime::Connection;

mod channels;
mod pairs;
mod plain;

const SPDY: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const OFFERS: Offers = Offers { websocket: &[TUNNEL, V4, V4_BASE64, UNNAMED], spdy: &[SPDY] };

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
        other => Some((Form::of(other), channels::ports(query)?)),
    };
    Ok(upgrade.serve(service, "port-forward", move |transport| async move {
        match (transport, form) {
            (Transport::WebSocket(socket), Some((form, ports))) => {
                channels::carry(*socket, form, &ports, &target).await;
            }
            (transport, _) => spdy::serve(transport, |opened| pairs::serve(opened, &target)).await,
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
