//! A client whose writes carry the term.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use warren_api::FENCE_HEADER;

use super::{Shared, TERM};

/// How the API names the reason among the causes of its answer.
const TERM_OVER: &[u8] = b"\"TermOver\"";

/// Nothing was written, or what became of it is not known, as with a connection that ends.
#[derive(Debug, thiserror::Error)]
#[error("this process does not lead, or not any more")]
struct NotLeading;

pub(super) fn client(shared: Arc<Shared>, client: kube::Client) -> kube::Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (shared, client) = (Arc::clone(&shared), client.clone());
        // Runs in the task of whoever sends, and so in its turn.
        async move { shared.send(&client, request).await }
    });
    kube::Client::new(service, namespace)
}

impl Shared {
    async fn send(
        &self,
        client: &kube::Client,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, kube::Error> {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return client.send(request).await;
        }
        let not_leading = || kube::Error::Service(Box::new(NotLeading));
        let leading = *self.term.borrow();
        let decided = TERM.try_with(|term| *term).ok();
        let Some(term) = leading.filter(|term| decided.is_none_or(|decided| decided == *term))
        else {
            return Err(not_leading());
        };
        let fence = self.fence(term).to_string();
        let fence =
            HeaderValue::try_from(fence).map_err(|error| kube::Error::Service(error.into()))?;
        request.headers_mut().insert(FENCE_HEADER, fence);
        let mut now = self.term.subscribe();
        let answer = tokio::select! {
            biased;
            answer = client.send(request) => answer?,
            _ = now.wait_for(|now| *now != Some(term)) => return Err(not_leading()),
        };
        if answer.status() != StatusCode::CONFLICT {
            return Ok(answer);
        }
        let (parts, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        if body.windows(TERM_OVER.len()).any(|part| part == TERM_OVER) {
            self.is_over(term);
        }
        Ok(Response::from_parts(parts, Body::from(body)))
    }
}
