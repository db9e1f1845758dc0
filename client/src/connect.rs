//! Making a `kube::Client`.

use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig};

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("kubeconfig {}: cannot be read", path.display())]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error("kubeconfig {}: no client can be made of it", path.display())]
    Client { path: PathBuf, source: Box<kube::Error> },
}

/// A client over HTTPS (rustls with ring) for the current context of a kubeconfig. Makes no request.
pub async fn from_kubeconfig(path: &Path) -> Result<kube::Client, ConnectError> {
    let broken = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(broken)?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    kube::Client::try_from(config.map_err(broken)?)
        .map_err(|source| ConnectError::Client { path: path.to_owned(), source: Box::new(source) })
}

/// A client whose requests are calls of a service in this process, such as the API server's. Their URIs have a path and
/// no host.
pub fn in_process<S, B>(service: S) -> kube::Client
where
    S: tower::Service<
            http::Request<kube::client::Body>,
            Response = http::Response<B>,
            Future: Send + 'static,
            Error: Into<tower::BoxError>,
        > + Send
        + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    kube::Client::new(service, "default")
}
