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
use warren_process::trace::Trace;
use warren_process::{Family, Metrics, Tasks};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::pod::index::PodIndex;
use crate::provisional::Logs;
use handshakes::{HANDSHAKE_TIMEOUT, Handshakes, Place};

mod channels;
mod forward;
mod handshakes;
mod logs;
mod route;
mod spdy;
mod stats;
mod stream;
mod terminal;
mod upgrade;

/// The only identity that may use the port.
pub const API_SERVER: &str = "system:apiserver";

/// The API server's: logs that are followed and terminals each hold one.
const MAX_CONNECTIONS: usize = 1024;
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
    (pods, logs): (PodIndex, Logs),
    metrics: Metrics,
    trace: Trace,
    tasks: &Tasks,
) -> Result<SocketAddr, ServerError> {
    let address = settings.listen;
    let listen = |source| ServerError::Listen { address, source };
    let acceptor = TlsAcceptor::from(Arc::new(tls(settings)?));
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    let room = Room::default();
    let (counted, taken, remembered) = (pods.clone(), room.clone(), trace.clone());
    metrics.families(move || {
        [families(&counted, &logs), taken.families(), remembered.families("agent")].concat()
    });
    let stats = stats::Rates::default();
    let (simulated, tasks_of_streams) = (settings.simulated, tasks.clone());
    let service = Arc::new(route::Service {
        pods,
        stats,
        metrics,
        trace,
        simulated,
        tasks: tasks_of_streams,
    });
    tasks.spawn("node port", accept(listener, acceptor, service, room, tasks.clone()));
    Ok(bound)
}

/// Of all nodes of the process.
fn families(pods: &PodIndex, logs: &Logs) -> Vec<Family> {
    let entries = pods.pods(None);
    let containers = entries.iter().flat_map(|entry| &entry.observed.containers);
    let running = containers.filter(|container| container.is_running()).count();
    let (records, bytes) = logs.counts();
    let done = "Commands that nodes have carried out and the API has not heard of.";
    vec![
        Family::gauge("agent_provisional_records", done).of(records),
        Family::gauge("agent_provisional_bytes", "That these take.").of(bytes),
        Family::gauge("agent_pods", "Pods that the nodes know.").of(entries.len() as u64),
        Family::gauge("agent_running_containers", "Containers that run.").of(running as u64),
    ]
}

/// What connections take up. Clones share it.
#[derive(Clone)]
struct Room {
    handshakes: Handshakes,
    slots: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Self { handshakes: Handshakes::default(), slots }
    }
}

impl Room {
    fn families(&self) -> Vec<Family> {
        let (handshakes, gave_way) = self.handshakes.counts();
        let taken = MAX_CONNECTIONS.saturating_sub(self.slots.available_permits());
        let unknown = "Connections to the nodes' port of which it is not known yet whose they are.";
        let closed =
            "Connections to the nodes' port that were closed in the handshake for newer ones.";
        vec![
            Family::gauge("agent_port_connections", "The API server's, to the nodes' port.")
                .of(taken as u64),
            Family::gauge("agent_port_handshakes", unknown).of(handshakes),
            Family::counter("agent_port_handshakes_dropped", closed).of(gave_way),
        ]
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    service: Arc<route::Service>,
    room: Room,
    tasks: Tasks,
) {
    loop {
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
        let (place, slots) = (room.handshakes.enter(), Arc::clone(&room.slots));
        tasks.spawn("node port connection", async move {
            tokio::select! {
                () = connection(acceptor, service, place, slots, stream, peer) => {}
                () = shutdown.draining() => {}
            }
        });
    }
}

async fn connection(
    acceptor: TlsAcceptor,
    service: Arc<route::Service>,
    place: Place,
    slots: Arc<Semaphore>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let _ = stream.set_nodelay(true);
    let stream = match place.hold(acceptor.accept(stream)).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        None => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new());
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    if certificate.and_then(common_name).as_deref() != Some(API_SERVER) {
        // One answer, for whoever looks at the port by hand.
        server.keep_alive(false).header_read_timeout(HANDSHAKE_TIMEOUT);
        let refuse = service_fn(|_| async { Ok::<_, Infallible>(route::forbidden()) });
        place.hold(server.serve_connection(TokioIo::new(stream), refuse)).await;
        return tracing::debug!(%peer, "not the API server: closed");
    }
    let Some(_slot) = place.hold(slots.acquire_owned()).await else {
        return tracing::warn!(%peer, most = MAX_CONNECTIONS, "closed: so many connections are open");
    };
    drop(place);
    let handler = service_fn(|request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(route::handle(&service, request).await) }
    });
    let served = server
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
