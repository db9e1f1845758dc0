//! Requests as they are, for what no client would send, and answers as they came.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use serde_json::Value;

/// What a request carries; it may be a stream that does not end.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Connections under one identity.
#[derive(Clone)]
pub struct Http {
    /// The connector's type is kube's affair.
    call: Arc<Call>,
    server: String,
}

type Answered = Result<http::Response<Incoming>, hyper_util::client::legacy::Error>;
type Call = dyn Fn(http::Request<Body>) -> BoxFuture<'static, Answered> + Send + Sync;

pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; as a text where it is none.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.body).into_owned()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

impl Http {
    /// As the user of a kubeconfig.
    ///
    /// # Panics
    /// Where there is none that can be used.
    pub async fn of(kubeconfig: &Path) -> Self {
        Self::with(&config(kubeconfig).await)
    }

    /// At the same server as nobody.
    ///
    /// # Panics
    /// As [`Http::of`].
    pub async fn nobody(kubeconfig: &Path) -> Self {
        let mut config = config(kubeconfig).await;
        config.auth_info = kube::config::AuthInfo::default();
        Self::with(&config)
    }

    fn with(config: &kube::Config) -> Self {
        let connector = config.rustls_https_connector().expect("a connector");
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { call: Arc::new(move |request| client.request(request).boxed()), server }
    }

    /// The head of the answer, and its body as it comes.
    ///
    /// # Panics
    /// Where there is no answer.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Body,
    ) -> http::Response<Incoming> {
        let uri = format!("{}{path}", self.server);
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(body).expect("a request");
        let answer = (self.call)(request).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }

    /// The whole answer.
    ///
    /// # Panics
    /// Where there is none.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
    ) -> Answer {
        let (parts, body) = self.open(method, path, headers, full(body)).await.into_parts();
        let body = body.collect().await.expect("a body").to_bytes().to_vec();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The answer's head and the first line of a stream that goes on; the stream is closed.
    ///
    /// # Panics
    /// Where there is none.
    pub async fn first_line(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
    ) -> Answer {
        let answer = self.open(method, path, headers, full(Vec::new())).await;
        let (parts, mut stream) = answer.into_parts();
        let mut body = Vec::new();
        while !body.contains(&b'\n')
            && let Some(frame) = stream.frame().await
        {
            body.extend(frame.expect("a frame").into_data().unwrap_or_default());
        }
        body.truncate(body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len()));
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }
}

async fn config(kubeconfig: &Path) -> kube::Config {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let options = kube::config::KubeConfigOptions::default();
    kube::Config::from_custom_kubeconfig(config, &options).await.expect("a kubeconfig")
}

/// A body that is there.
pub fn full(bytes: Vec<u8>) -> Body {
    Full::from(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// What an answer's status was, and its body, from a client that does not judge. `None`: there was no whole answer.
/// `patch` is the media type of a PATCH's body.
pub async fn call(
    client: &kube::Client,
    method: http::Method,
    patch: &str,
    path: &str,
    body: &Value,
) -> Option<(u16, Value)> {
    let kind = if method == http::Method::PATCH { patch } else { "application/json" };
    let bytes = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let answer = client.send(request.body(kube::client::Body::from(bytes)).ok()?).await.ok()?;
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, serde_json::from_slice(&bytes).ok()?))
}
