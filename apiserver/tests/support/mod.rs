//! A server on a random port with certificates of its own, and a plain HTTP client for it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "tests and examples each use their part of this"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warren_apiserver::{Config, NodeClient, Pem, Server, Tls};
use warren_process::Tasks;

pub struct Authority {
    pub ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "warren-test");
        let ca_pem = params.self_signed(&key).unwrap().pem();
        Self { ca_pem, issuer: Issuer::new(params, key) }
    }

    /// (certificate, key)
    pub fn issue(&self, name: &str, groups: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.subject_alt_names = vec![
            SanType::IpAddress("127.0.0.1".parse().unwrap()),
            SanType::DnsName("localhost".try_into().unwrap()),
        ];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

pub struct World {
    pub authority: Authority,
    pub server: Server,
    pub tasks: Tasks,
    pub folder: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Authority::new(), |_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Authority::new(), change).await
    }

    pub async fn start_in(
        folder: tempfile::TempDir,
        authority: Authority,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let (certificate, key) = authority.issue("apiserver", &[]);
        let (node_certificate, node_key) = authority.issue("system:apiserver", &[]);
        let pem = |text: String| Pem::Bytes(text.into_bytes());
        let tls = Tls {
            client_ca: pem(authority.ca_pem.clone()),
            certificate: pem(certificate),
            key: pem(key),
        };
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::new(folder.path().join("warren.db"), listen, tls);
        config.node_client =
            Some(NodeClient { certificate: pem(node_certificate), key: pem(node_key) });
        change(&mut config);
        let tasks = Tasks::new();
        let server = Server::start(config, &tasks).await.unwrap();
        Self { authority, server, tasks, folder }
    }

    pub async fn admin(&self) -> Client {
        self.client("admin", &["system:masters"]).await
    }

    pub async fn client(&self, name: &str, groups: &[&str]) -> Client {
        Client::connect(self, Some(self.authority.issue(name, groups))).await
    }

    pub async fn anonymous(&self) -> Client {
        Client::connect(self, None).await
    }

    pub fn kubeconfig(&self) -> std::path::PathBuf {
        let path = self.folder.path().join("kubeconfig");
        write_kubeconfig(&path, &self.authority, self.server.address());
        path
    }

    pub async fn stop(self) -> (tempfile::TempDir, Authority) {
        self.tasks.shutdown().trigger();
        self.tasks.wait(std::time::Duration::from_secs(10)).await.unwrap();
        self.server.close().await;
        (self.folder, self.authority)
    }
}

pub fn write_kubeconfig(path: &Path, authority: &Authority, address: SocketAddr) {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let (certificate, key) = authority.issue("admin", &["system:masters"]);
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: w\ncontexts:\n- name: w\n  context: {{cluster: w, user: w}}\n\
         clusters:\n- name: w\n  cluster:\n    server: https://{address}\n    certificate-authority-data: {}\n\
         users:\n- name: w\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encode(&authority.ca_pem),
        encode(&certificate),
        encode(&key),
    );
    std::fs::write(path, text).unwrap();
}

pub struct Client {
    sender: SendRequest<Full<Bytes>>,
}

pub struct Answer {
    pub code: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{}: {:?}", self.code, self.body))
    }

    /// Code, reason and message: what clients show.
    pub fn error(&self) -> String {
        let status = self.json();
        format!(
            "{} {}: {}",
            self.code.as_u16(),
            status["reason"].as_str().unwrap_or("-"),
            status["message"].as_str().unwrap_or("-")
        )
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.code.is_success(), "{}: {}", self.code, String::from_utf8_lossy(&self.body));
        self.json()
    }
}

/// A connection that the caller speaks HTTP on.
pub async fn tls(world: &World, identity: Option<(String, String)>) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(world.authority.ca_pem.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let stream = TcpStream::connect(world.server.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

impl Client {
    async fn connect(world: &World, identity: Option<(String, String)>) -> Self {
        let stream = tls(world, identity).await;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        Tasks::new().spawn("client", async move {
            let _ = connection.with_upgrades().await;
        });
        Self { sender }
    }

    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method.parse::<Method>().unwrap())
            .uri(path)
            .header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await.unwrap();
        self.sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
    }

    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let (parts, incoming) = self.send(method, path, headers, body).await.into_parts();
        let body = incoming.collect().await.unwrap().to_bytes();
        Answer { code: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.call("GET", path, &[], "").await
    }

    pub async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.call("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&mut self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn delete(&mut self, path: &str) -> Answer {
        self.call("DELETE", path, &[], "").await
    }

    pub async fn patch(&mut self, kind: &str, path: &str, body: Value) -> Answer {
        let kind = format!("application/{kind}");
        self.call("PATCH", path, &[("content-type", &kind)], body.to_string()).await
    }

    /// A watch; needs a connection of its own.
    pub async fn watch(mut self, path: &str) -> Watch {
        let response = self.send("GET", path, &[], "").await;
        assert_eq!(response.status(), StatusCode::OK);
        Watch { body: response.into_body(), buffer: Vec::new(), _client: self }
    }
}

pub struct Watch {
    body: Incoming,
    buffer: Vec<u8>,
    _client: Client,
}

impl Watch {
    /// The next event; `None` where the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(20), self.body.frame());
            let frame = frame.await.expect("an event in time")?.ok()?;
            self.buffer.extend_from_slice(frame.data_ref()?);
        }
    }

    /// `ADDED name` of each event until `n` came.
    pub async fn take(&mut self, n: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < n {
            let Some(event) = self.next().await else { break };
            seen.push(format!(
                "{} {}",
                event["type"].as_str().unwrap(),
                event["object"]["metadata"]["name"].as_str().unwrap_or("-")
            ));
        }
        seen
    }
}
