//! Connections to the nodes' own ports, by mutual TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use warren_api::{GroupResource, Object, Status};

use crate::api::Api;
use crate::authn;
use crate::response::Body;
use crate::serve::{certificates, private_key};
use crate::server::{Config, StartError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The way to the nodes' ports; without a client certificate there is none.
pub(crate) struct Nodes(Option<TlsConnector>);

impl Nodes {
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let Some(client) = &config.node_client else { return Ok(Self(None)) };
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&config.tls.client_ca)? {
            roots.add(certificate).map_err(|e| config.tls.client_ca.unusable(&e))?;
        }
        let verifier =
            NodeVerifier { roots, algorithms: provider.signature_verification_algorithms };
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| client.certificate.unusable(&e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(certificates(&client.certificate)?, private_key(&client.key)?)
            .map_err(|e| client.certificate.unusable(&e))?;
        Ok(Self(Some(TlsConnector::from(Arc::new(tls)))))
    }

    /// Sends a request to a node's port and hands back the answer's head; the body streams.
    pub(crate) async fn send(
        &self,
        api: &Api,
        node: &str,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Status> {
        self.exchange(api, node, request).await.map_err(|failure| match failure {
            Failure::Unknown(status) => status,
            Failure::Unreachable(why) => Status::unknown(format!("error dialing backend: {why}")),
        })
    }

    /// [`send`](Self::send), for who has words of its own for a node that cannot be reached.
    pub(super) async fn exchange(
        &self,
        api: &Api,
        node: &str,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        let unreachable = Failure::Unreachable;
        let connector = self.0.as_ref().ok_or_else(|| {
            unreachable("the server has no client certificate for the nodes' ports".to_owned())
        })?;
        let address = address_of(api, node).map_err(Failure::Unknown)?;
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let stream = TcpStream::connect(address).await?;
            let _ = stream.set_nodelay(true);
            connector.connect(ServerName::IpAddress(address.ip().into()), stream).await
        });
        let stream = connected
            .await
            .map_err(|_| unreachable(format!("node {node} at {address} did not answer in time")))?
            .map_err(|error| unreachable(format!("node {node} at {address}: {error}")))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(format!("node {node}: {error}")))?;
        api.tasks.spawn("node-connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "the connection to a node ended");
            }
        });
        sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(format!("node {node}: {error}")))
    }
}

/// Why a node has not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// There is no such node, or it has not said where it is.
    #[error("{}", .0.message)]
    Unknown(Status),
    #[error("{0}")]
    Unreachable(String),
}

/// The node's `InternalIP` and the port of its daemon endpoint.
pub(crate) fn address_of(api: &Api, node: &str) -> Result<SocketAddr, Status> {
    let nodes = GroupResource::new("", "nodes");
    let entry = api.cache.get(&nodes, "", node).ok_or_else(|| Status::not_found(&nodes, node))?;
    let object = entry.object();
    address_in(&object).ok_or_else(|| match object.at(&["status", "addresses"]) {
        Some(_) => Status::unknown(format!(
            "node {node:?} has no port of its own: it reaches this server over AMQP alone, which carries no logs, exec, \
             attach, port-forward and proxy"
        )),
        None => no_address(),
    })
}

pub(super) fn no_address() -> Status {
    Status::unknown("no preferred addresses found; known addresses: []")
}

pub(super) fn address_in(node: &Object) -> Option<SocketAddr> {
    let list = node.at(&["status", "addresses"])?.as_array()?;
    let ip: IpAddr = list
        .iter()
        .find(|address| address["type"] == "InternalIP")
        .and_then(|address| address["address"].as_str()?.parse().ok())?;
    let port = node.at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"])?.as_u64()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok().filter(|port| *port > 0)?))
}

/// A node is who its certificate says, not where it is: nodes in one process share a port, and addresses change.
#[derive(Debug)]
struct NodeVerifier {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let is_node =
            authn::user_of_certificate(end_entity).is_some_and(|user| user.as_node().is_some());
        match is_node {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
