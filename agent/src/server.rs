//! The node's own port: logs, exec, attach, port-forward and figures, on the kubelet's paths, for the API server alone.
//!
//! HTTPS; who connects must show a certificate of the cluster's CA for [`API_SERVER`]. One port serves all agents of a
//! process: pods are found in the shared [`PodIndex`].

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use warren_process::{Metrics, Tasks};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::pod::index::PodIndex;

mod channels;
mod forward;
mod logs;
mod route;
mod spdy;
mod stats;
mod stream;
mod terminal;
mod upgrade;

/// The only identity that may use the port.
pub const API_SERVER: &str = "system:apiserver";

/// Logs that are followed and terminals each hold one.
const MAX_CONNECTIONS: usize = 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where to listen and with what.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// PEM files.
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The nodes of this process have no machine: what their pods use is what they use.
    pub simulated: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on the node's port {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot use {}: {reason}", path.display())]
    Tls { path: PathBuf, reason: String },
}

/// Starts serving; answers the address that it listens on.
pub async fn start(
    settings: &ServerSettings,
    pods: PodIndex,
    metrics: Metrics,
    tasks: &Tasks,
) -> Result<SocketAddr, ServerError> {
    let address = settings.listen;
    let listen = |source| ServerError::Listen { address, source };
    let acceptor = TlsAcceptor::from(Arc::new(tls(settings)?));
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    let counted = pods.clone();
    metrics.values("agent", move || counts(&counted));
    let stats = stats::Rates::default();
    let (simulated, tasks_of_streams) = (settings.simulated, tasks.clone());
    let service =
        Arc::new(route::Service { pods, stats, metrics, simulated, tasks: tasks_of_streams });
    tasks.spawn("node port", accept(listener, acceptor, service, tasks.clone()));
    Ok(bound)
}

/// Of all nodes of the process.
fn counts(pods: &PodIndex) -> Vec<(&'static str, bool, &'static str, u64)> {
    let entries = pods.pods(None);
    let containers = entries.iter().flat_map(|entry| &entry.observed.containers);
    let running = containers.filter(|container| container.is_running()).count();
    vec![
        ("pods", true, "Pods that the nodes know.", entries.len() as u64),
        ("running_containers", true, "Containers that run.", running as u64),
    ]
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    service: Arc<route::Service>,
    tasks: Tasks,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.shutdown().draining() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: it passes when connections end.
                tracing::warn!(%error, "the node's port cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, service, shutdown) =
            (acceptor.clone(), Arc::clone(&service), tasks.shutdown().clone());
        tasks.spawn("node port connection", async move {
            let _slot = slot;
            tokio::select! {
                () = connection(acceptor, service, stream, peer) => {}
                () = shutdown.draining() => {}
            }
        });
    }
}

async fn connection(
    acceptor: TlsAcceptor,
    service: Arc<route::Service>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let allowed = certificate.is_some_and(|der| common_name(der).as_deref() == Some(API_SERVER));
    let handler = service_fn(|request| {
        let service = Arc::clone(&service);
        async move {
            Ok::<_, Infallible>(match allowed {
                true => route::handle(&service, request).await,
                false => route::forbidden(),
            })
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), handler)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection to the node's port ended");
    }
}

fn common_name(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

fn tls(settings: &ServerSettings) -> Result<ServerConfig, ServerError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |path: &Path, reason: &dyn std::fmt::Display| ServerError::Tls {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let chain = |path: &Path| -> Result<Vec<CertificateDer<'static>>, ServerError> {
        let read = CertificateDer::pem_file_iter(path).map_err(|e| unusable(path, &e))?;
        read.collect::<Result<_, _>>().map_err(|e| unusable(path, &e))
    };
    let mut roots = RootCertStore::empty();
    for certificate in chain(&settings.ca)? {
        roots.add(certificate).map_err(|e| unusable(&settings.ca, &e))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| unusable(&settings.ca, &e))?;
    let key =
        PrivateKeyDer::from_pem_file(&settings.key).map_err(|e| unusable(&settings.key, &e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&settings.certificate, &e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(&settings.certificate)?, key)
        .map_err(|e| unusable(&settings.certificate, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
