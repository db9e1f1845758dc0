//! Connections to where a proxied request goes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use warren_api::Status;

use super::place::{self, Place};
use super::{said, unreachable};
use crate::api::Api;
use crate::response::{self, Body};

/// To a port, and for what comes before the first byte of HTTP.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// What the node's port calls bytes as they are.
const TCP: &str = "tcp";

/// The answer's head; how long it takes is the other side's affair, and the client's patience.
pub(super) async fn send(
    api: &Api,
    place: &Place,
    request: Request<Body>,
) -> Result<Response<Incoming>, Status> {
    match place {
        Place::Node { name, .. } => {
            let sent = api.nodes.exchange(api, name, request).await;
            sent.map_err(|failure| unreachable(&failure.to_string()))
        }
        Place::Port { address, https, .. } => {
            let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
            let stream = connecting
                .await
                .map_err(|_| unreachable(&format!("dial tcp {address}: i/o timeout")))?
                .map_err(|error| unreachable(&format!("dial tcp {address}: {error}")))?;
            let _ = stream.set_nodelay(true);
            over(api, stream, address.ip(), *https, request).await
        }
        Place::Pod { node, namespace, name, ip, port, https } => {
            let port = match port.as_str() {
                "" if *https => 443,
                "" => 80,
                text => place::number(text)?,
            };
            let path = format!("/portForward/{namespace}/{name}?port={port}");
            let stream = through_node(api, node, path).await?;
            over(api, TokioIo::new(stream), *ip, *https, request).await
        }
    }
}

/// A connection to a port of a pod, made by its node.
async fn through_node(api: &Api, node: &str, path: String) -> Result<Upgraded, Status> {
    let request = Request::get(path)
        .header(header::HOST, "node")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, TCP)
        .body(response::full(""))
        .map_err(|error| Status::internal(error.to_string()))?;
    let sent = api.nodes.exchange(api, node, request).await;
    let mut answer = sent.map_err(|failure| unreachable(&failure.to_string()))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let body = answer.into_body().map_err(Into::into).boxed_unsync();
        return Err(unreachable(&said(body).await));
    }
    hyper::upgrade::on(&mut answer).await.map_err(|error| unreachable(&error.to_string()))
}

async fn over<S>(
    api: &Api,
    stream: S,
    ip: IpAddr,
    https: bool,
    request: Request<Body>,
) -> Result<Response<Incoming>, Status>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if !https {
        return http(api, stream, request).await;
    }
    let connector = unverified().map_err(|error| Status::internal(error.to_string()))?;
    let handshake = connector.connect(ServerName::IpAddress(ip.into()), stream);
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, handshake)
        .await
        .map_err(|_| unreachable("net/http: TLS handshake timeout"))?
        .map_err(|error| unreachable(&error.to_string()))?;
    http(api, stream, request).await
}

async fn http<S>(api: &Api, stream: S, request: Request<Body>) -> Result<Response<Incoming>, Status>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| unreachable(&error.to_string());
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    api.tasks.spawn("proxied-connection", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    sender.send_request(request).await.map_err(failed)
}

/// As in Kubernetes: what a pod shows nobody has vouched for. It is shown no certificate either.
fn unverified() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Anybody(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::ServerConfig;
    use rustls_pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[tokio::test]
    async fn a_pod_may_show_any_certificate() {
        let key = KeyPair::generate().unwrap();
        let names = vec!["somewhere.else".to_owned()];
        let own = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)
            .unwrap();
        let (near, far) = tokio::io::duplex(4096);
        let ip: IpAddr = "10.1.2.3".parse().unwrap();
        let name = ServerName::IpAddress(ip.into());
        let connector = unverified().unwrap();
        let (client, server) = tokio::join!(
            connector.connect(name, near),
            TlsAcceptor::from(Arc::new(config)).accept(far)
        );
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        server.write_all(b"hello").await.unwrap();
        server.flush().await.unwrap();
        let mut said = [0; 5];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
    }
}
