//! The load generator: hyper by itself, bytes made before the clock starts, one thread.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::figure::Sample;

/// As stock clients have them, so that a window is not what is measured.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

type Body = Full<Bytes>;

/// Some connections to one server; requests go round them.
pub struct Client {
    senders: Vec<SendRequest<Body>>,
    authority: String,
    scheme: &'static str,
    next: Cell<usize>,
    _connections: JoinSet<()>,
}

impl Client {
    /// With the administrator's certificate of a data folder.
    pub async fn tls(data: &Path, port: u16, connections: usize) -> Result<Self> {
        let connector = TlsConnector::from(Arc::new(client_config(data)?));
        let mut client = Self::empty("https", port);
        for _ in 0..connections {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("127.0.0.1")?;
            let stream = connector.connect(name, stream).await?;
            client.add(stream).await?;
        }
        Ok(client)
    }

    /// HTTP/2 without TLS, as etcd speaks it.
    pub async fn plain(port: u16, connections: usize) -> Result<Self> {
        let mut client = Self::empty("http", port);
        for _ in 0..connections {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            client.add(stream).await?;
        }
        Ok(client)
    }

    fn empty(scheme: &'static str, port: u16) -> Self {
        Self {
            senders: vec![],
            authority: format!("127.0.0.1:{port}"),
            scheme,
            next: Cell::new(0),
            _connections: JoinSet::new(),
        }
    }

    async fn add<S>(&mut self, stream: S) -> Result<()>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(64 << 10)
            .handshake(TokioIo::new(stream))
            .await?;
        // It ends with its server or with this client; calls tell of either.
        self._connections.spawn(async move { drop(connection.await) });
        self.senders.push(sender);
        Ok(())
    }

    pub fn request(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Request<Body> {
        Request::builder()
            .method(method)
            .uri(format!("{}://{}{path}", self.scheme, self.authority))
            .header("content-type", kind)
            .body(Full::new(body))
            .expect("a request of our own is well formed")
    }

    pub fn get(&self, path: &str) -> Request<Body> {
        self.request(Method::GET, path, "application/json", Bytes::new())
    }

    pub fn post(&self, path: &str, body: Bytes) -> Request<Body> {
        self.request(Method::POST, path, "application/json", body)
    }

    /// The head of the answer; the body comes as it comes.
    pub async fn start(&self, request: Request<Body>) -> Result<http::Response<Incoming>> {
        let index = self.next.get();
        self.next.set((index + 1) % self.senders.len());
        let mut sender = self.senders[index].clone();
        Ok(sender.send_request(request).await?)
    }

    /// The whole answer; only its length is kept.
    async fn call(&self, request: Request<Body>) -> Result<(StatusCode, u64)> {
        let answer = self.start(request).await?;
        let (status, mut body) = (answer.status(), answer.into_body());
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            if let Some(data) = frame.data_ref() {
                length += data.len() as u64;
            }
            let failed = frame.trailers_ref().and_then(|t| t.get("grpc-status"));
            ensure!(failed.is_none_or(|code| code == "0"), "gRPC status {failed:?}");
        }
        Ok((status, length))
    }

    pub async fn text(&self, request: Request<Body>) -> Result<(StatusCode, String)> {
        let answer = self.start(request).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The answer to a request that must succeed.
    pub async fn ok(&self, request: Request<Body>) -> Result<String> {
        let what = format!("{} {}", request.method(), request.uri().path());
        let (status, text) = self.text(request).await.with_context(|| what.clone())?;
        ensure!(status.is_success(), "{what}: {status}: {text}");
        Ok(text)
    }

    /// All requests, `in_flight` at a time, each of which must succeed.
    pub async fn closed_loop(
        &self,
        requests: Vec<Request<Body>>,
        in_flight: usize,
    ) -> Result<Sample> {
        self.drive(requests, in_flight, None, |_| {}).await
    }

    /// `per_second`, as long as fewer than `in_flight` wait; `sent` is told the number of each request as it is sent.
    pub async fn paced(
        &self,
        requests: Vec<Request<Body>>,
        in_flight: usize,
        per_second: f64,
        sent: impl Fn(usize),
    ) -> Result<Sample> {
        self.drive(requests, in_flight, Some(per_second), sent).await
    }

    async fn drive(
        &self,
        requests: Vec<Request<Body>>,
        in_flight: usize,
        per_second: Option<f64>,
        sent: impl Fn(usize),
    ) -> Result<Sample> {
        let count = requests.len();
        let waiting = RefCell::new(requests.into_iter().enumerate());
        let latencies = RefCell::new(Vec::with_capacity(count));
        let bytes = Cell::new(0);
        let started = Instant::now();
        let worker = async |_| {
            loop {
                let Some((index, request)) = waiting.borrow_mut().next() else { break };
                if let Some(rate) = per_second {
                    let due = started + Duration::from_secs_f64(index as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                }
                sent(index);
                let begun = Instant::now();
                let (status, length) = self.call(request).await?;
                if !status.is_success() {
                    bail!("request {index} was answered {status}");
                }
                latencies.borrow_mut().push(begun.elapsed());
                bytes.set(bytes.get() + length);
            }
            Ok(())
        };
        try_join_all((0..in_flight).map(worker)).await?;
        let took = started.elapsed();
        Ok(Sample { count, took, latencies: latencies.into_inner(), bytes: bytes.get() })
    }

    /// A number out of `/metrics`.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.ok(self.get("/metrics")).await?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .with_context(|| format!("no {name} in /metrics"))
    }
}

fn client_config(data: &Path) -> Result<rustls::ClientConfig> {
    let pki = data.join("pki");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.crt"))?)?;
    let chain = CertificateDer::pem_file_iter(pki.join("admin.crt"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(pki.join("admin.key"))?;
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
