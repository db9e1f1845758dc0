//! What can be run beside Warren in the same run: bare TLS, etcd, bare Docker, bare SQLite.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use http::Method;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use warren_tests::cluster::free_port;

use crate::Scale;
use crate::api::{CONNECTIONS, IN_FLIGHT};
use crate::figure::{Figure, median};
use crate::load::Client;
use crate::pod;
use crate::server::{target_dir, warren};

/// How fast rustls alone moves bytes over loopback: a server's thread and a client's.
pub async fn tls(scale: &Scale) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let made = Command::new(warren()?)
        .args(["init", "--data-dir"])
        .arg(&data)
        .stdout(Stdio::null())
        .status()?;
    if !made.success() {
        bail!("warren init: {made}");
    }
    let mut speeds = Vec::new();
    for _ in 0..scale.runs {
        speeds.push(tls_run(&data.join("pki"), scale.tls_bytes).await?);
    }
    let mut figure =
        Figure::new("tls", "bare rustls over loopback, one connection", median(&speeds), "GB/s");
    figure.runs = speeds.len();
    Ok(vec![figure])
}

async fn tls_run(pki: &Path, total: u64) -> Result<f64> {
    /// As a list's frames.
    const PIECE: usize = 256 << 10;
    let chain =
        CertificateDer::pem_file_iter(pki.join("apiserver.crt"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(pki.join("apiserver.key"))?;
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.crt"))?)?;
    let client =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let (port, bound) = tokio::sync::oneshot::channel();
    let server = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let _ = port.send(listener.local_addr()?.port());
            let (stream, _) = listener.accept().await?;
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let mut stream = acceptor.accept(stream).await?;
            let piece = vec![b'x'; PIECE];
            let mut left = total;
            while left > 0 {
                let size = left.min(PIECE as u64) as usize;
                stream.write_all(&piece[..size]).await?;
                left -= size as u64;
            }
            stream.shutdown().await?;
            Ok(())
        })
    });
    let stream = TcpStream::connect(("127.0.0.1", bound.await?)).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let mut stream = connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?;
    let mut buffer = vec![0; PIECE];
    let started = Instant::now();
    let mut read = 0;
    while read < total {
        match stream.read(&mut buffer).await? {
            0 => bail!("the stream ended after {read} bytes"),
            n => read += n as u64,
        }
    }
    let took = started.elapsed();
    server.join().map_err(|_| anyhow::anyhow!("the server's thread panicked"))??;
    Ok(total as f64 / 1e9 / took.as_secs_f64())
}

struct Etcd {
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Puts of the same bytes: gRPC without TLS, on the same disk.
pub async fn etcd(scale: &Scale) -> Result<Vec<Figure>> {
    let binary = PathBuf::from("/usr/bin/etcd");
    if !binary.exists() {
        return Ok(vec![Figure::skipped("etcd", "no /usr/bin/etcd (Debian: etcd-server)")]);
    }
    let dir = tempfile::Builder::new().prefix("etcd-bench-").tempdir_in(target_dir()?)?;
    let (port, peer) = (free_port(), free_port());
    let (url, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
    let process = Command::new(binary)
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap"])
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start etcd")?;
    let _etcd = Etcd { process, _dir: dir };
    let client = etcd_ready(port).await?;
    let body = pod::pod(&pod::name("p-", 0), None);
    let body =
        Bytes::from([&body[..], &vec![b' '; 2800_usize.saturating_sub(body.len())]].concat());
    let mut runs = Vec::new();
    for run in 0..scale.runs {
        let requests = (0..scale.creates)
            .map(|n| put(&client, &format!("/registry/pods/default/r{run}-{n:06}"), &body))
            .collect();
        runs.push(client.closed_loop(requests, IN_FLIGHT).await?);
    }
    let what = format!("etcd, puts of {} B ({IN_FLIGHT} in flight, no TLS)", body.len());
    Ok(vec![Figure::of_rates("etcd", what, "1/s", &runs)])
}

async fn etcd_ready(port: u16) -> Result<Client> {
    let started = Instant::now();
    loop {
        if let Ok(client) = Client::plain(port, CONNECTIONS).await {
            let probe = put(&client, "/probe", &Bytes::from_static(b"x"));
            if client.closed_loop(vec![probe], 1).await.is_ok() {
                return Ok(client);
            }
        }
        if started.elapsed() > Duration::from_secs(20) {
            bail!("etcd is not ready");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `etcdserverpb.KV/Put`: a gRPC frame around a message of two fields.
fn put(client: &Client, key: &str, value: &Bytes) -> http::Request<http_body_util::Full<Bytes>> {
    let mut message = BytesMut::new();
    for (tag, field) in [(0x0a, key.as_bytes()), (0x12, &value[..])] {
        message.put_u8(tag);
        let mut length = field.len();
        while length >= 0x80 {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(field);
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    let path = "/etcdserverpb.KV/Put";
    let mut request = client.request(Method::POST, path, "application/grpc", frame.freeze());
    request.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
    request
}

/// What every durable write waits for at least: a page at the end of a file, and the disk's word that it is there.
pub fn disk(scale: &Scale) -> Result<Vec<Figure>> {
    const PAGE: [u8; 4096] = [b'x'; 4096];
    let mut file = tempfile::tempfile_in(target_dir()?)?;
    let write = |_| -> Result<Duration> {
        let started = Instant::now();
        file.write_all(&PAGE)?;
        file.sync_data()?;
        Ok(started.elapsed())
    };
    let times = (0..scale.creates / 5).map(write).collect::<Result<_>>()?;
    Ok(vec![Figure::of_times("disk", "one page appended, and fdatasync", times)])
}

/// What `store`'s own example measures: raw SQLite, and the journal on it.
pub fn sqlite(scale: &Scale) -> Result<Vec<Figure>> {
    let example = target_dir()?.join("examples/commit_rate");
    let output = Command::new(example)
        .arg(scale.creates.to_string())
        .arg(target_dir()?)
        .output()
        .context("commit_rate")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("commit_rate: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text.lines().filter_map(sqlite_line).collect())
}

/// `<what>: <rate> objects/s, p50 …`
fn sqlite_line(line: &str) -> Option<Figure> {
    let (before, note) = line.split_once(" objects/s")?;
    let (what, rate) = before.rsplit_once(": ")?;
    let note = note.trim_start_matches([',', ' ']);
    Some(Figure::new("sqlite", what, rate.parse().ok()?, "1/s").note(note))
}
