//! The API without a network: for clients in the same process, under a given identity.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;

use crate::api::{self, Api};
use crate::authn::User;
use crate::response::{Body, BoxError};

/// A `tower` service, for `kube::Client::new(service, "default")`. The whole request path runs, but for TLS. Verbs that
/// need an upgraded connection (exec, attach, portforward) are answered with an error.
#[derive(Clone)]
pub struct LocalService {
    pub(crate) api: Arc<Api>,
    pub(crate) user: Arc<User>,
}

impl<B> tower::Service<Request<B>> for LocalService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { api, user } = self.clone();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { Ok(api::handle(api, Some(user), request).await) })
    }
}
