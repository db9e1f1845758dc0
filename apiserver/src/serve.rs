//! Connections: TLS with client certificates, HTTP/1.1 and HTTP/2, bounds, and an end that loses no answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::api::{self, Api};
use crate::authn::{self, User};
use crate::server::{Pem, StartError, Tls};
use crate::unread;

mod owed;

use owed::{Owed, Watched};

/// Each costs a file descriptor and some 30 KB; beyond it connections wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8192;
/// Of these, those that may belong to nobody in particular: they can ask for probes and the version only. Policy: more are
/// closed at once, so that whoever has no credential cannot keep out those who have one.
const MAX_ANONYMOUS: usize = 512;
/// And how long one may last.
const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(60);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of each request; a slow client loses its connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 128;
/// Also what a connection's buffers grow to. Policy: beyond it, 431. (HTTP/2 has no answer for who sends far more: the
/// connection ends.)
const MAX_HEADER_BYTES: usize = 128 << 10;
const MAX_STREAMS: u32 = 250;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

pub(crate) fn tls_config(tls: &Tls) -> Result<ServerConfig, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.client_ca)? {
        roots.add(certificate).map_err(|e| tls.client_ca.unusable(&e))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|e| tls.client_ca.unusable(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| tls.certificate.unusable(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tls.certificate)?, private_key(&tls.key)?)
        .map_err(|e| tls.certificate.unusable(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

pub(crate) fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let bytes = pem.read()?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| pem.unusable(&error))?;
    if found.is_empty() { Err(pem.unusable(&"it holds no certificate")) } else { Ok(found) }
}

pub(crate) fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, StartError> {
    PrivateKeyDer::from_pem_slice(&pem.read()?).map_err(|error| pem.unusable(&error))
}

/// Accepts until shutdown; connections finish what they have.
pub(crate) async fn accept(
    api: Arc<Api>,
    listener: TcpListener,
    config: ServerConfig,
) -> Result<(), Infallible> {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let anonymous = Arc::new(Semaphore::new(MAX_ANONYMOUS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = api.shutdown.draining() => return Ok(()),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: it passes when connections end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (api, acceptor, anonymous) =
            (Arc::clone(&api), acceptor.clone(), Arc::clone(&anonymous));
        let tasks = api.tasks.clone();
        tasks.spawn("connection", async move {
            let _slot = slot;
            connection(&api, acceptor, stream, peer, &anonymous).await;
        });
    }
}

async fn connection(
    api: &Arc<Api>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    anonymous: &Semaphore,
) {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let handshake = tokio::select! {
        done = handshake => done,
        () = api.shutdown.draining() => return,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            api.metrics.refused_connections.inc();
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            api.metrics.refused_connections.inc();
            tracing::debug!(%peer, "TLS handshake timed out");
            return;
        }
    };
    api.metrics.connections.inc();
    // Who this is holds for the connection: the certificate was verified in the handshake.
    let certificates = stream.get_ref().1.peer_certificates();
    let user = certificates.and_then(|chain| chain.first());
    let user: Option<Arc<User>> =
        user.and_then(|der| authn::user_of_certificate(der)).map(Arc::new);
    let lifetime = user.is_none().then_some(ANONYMOUS_LIFETIME);
    let _of_nobody = match user.is_none().then(|| anonymous.try_acquire()).transpose() {
        Ok(slot) => slot,
        Err(_) => {
            api.metrics.refused_connections.inc();
            return tracing::debug!(%peer, "too many connections without a credential");
        }
    };
    let asked = AtomicBool::new(false);
    let owed = Arc::new(Owed::default());
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        asked.store(true, Ordering::Relaxed);
        let (api, user) = (Arc::clone(api), user.clone());
        let answer = owed.answer();
        async move {
            let waits = request.headers().contains_key(http::header::EXPECT);
            let mut request = request.map(|body| {
                let body = answer.owed_after(body.map_err(Into::into).boxed_unsync());
                unread::drained(body, waits, &api.tasks)
            });
            request.extensions_mut().insert(Peer(peer));
            let response = api::handle(api, user, request).await;
            Ok::<_, Infallible>(response.map(|body| answer.given_with(body)))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES.max(8192))
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let stream = Watched::new(stream, Arc::clone(&owed));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = api.shutdown.draining() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = owed.nothing_more() => {
                    return tracing::debug!(%peer, "a connection was given up at shutdown");
                }
            }
        }
        () = over(lifetime) => {
            return tracing::debug!(%peer, "a connection without a credential lasted long enough");
        }
        () = silent(&asked) => {
            return tracing::debug!(%peer, "nothing was asked on a connection");
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

async fn over(lifetime: Option<Duration>) {
    match lifetime {
        Some(lifetime) => tokio::time::sleep(lifetime).await,
        None => std::future::pending().await,
    }
}

/// Until its first request a connection has no other bound: the builder waits for the bytes that tell the protocol.
async fn silent(asked: &AtomicBool) {
    tokio::time::sleep(HEADER_TIMEOUT).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_nothing_ends() {
        silent(&AtomicBool::new(false)).await;
        let asked = AtomicBool::new(true);
        let goes_on = tokio::time::timeout(HEADER_TIMEOUT * 100, silent(&asked)).await;
        assert!(goes_on.is_err());
    }
}
