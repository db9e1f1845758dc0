//! The API by way of the broker: a service under a `kube::Client` whose requests are messages.
//!
//! Watches do not go over AMQP: informers are fed by the fabric. A list that is too large for one message is read in
//! pages, which get smaller until one fits, and put together again.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use warren_api::{Reason, Status};
use warren_broker::api::{ApiAnswer, ApiLink, ApiRequest, MAX_BODY_BYTES};

use self::pages::{Pages, Step};

mod pages;

/// From a request to its answer, waiting for one's turn included. A server that is restarted within it finds the request in
/// the queue.
const WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum Unserved {
    #[error("watches do not go over AMQP; changes come by the events of the broker")]
    Watch,
    #[error("the request's body cannot be read: {0}")]
    Body(String),
    #[error("the answer is none of HTTP: {0}")]
    Answer(#[from] http::Error),
}

/// A client whose requests go by the broker, with the identity that the link's account has there.
pub fn over_amqp(link: ApiLink) -> kube::Client {
    crate::in_process(OverAmqp { link })
}

#[derive(Clone)]
struct OverAmqp {
    link: ApiLink,
}

type Answered = Result<Response<Full<Bytes>>, tower::BoxError>;

impl tower::Service<Request<kube::client::Body>> for OverAmqp {
    type Response = Response<Full<Bytes>>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), tower::BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let link = self.link.clone();
        Box::pin(async move {
            let request = match read(request).await? {
                Ok(request) => request,
                Err(status) => return Ok(response(ApiAnswer::of(&status))?),
            };
            let first = link.ask(&request, WITHIN).await?;
            let mut pages = match Pages::of(&request.path, &first) {
                Some(pages) if request.method == "GET" => pages,
                _ => return Ok(response(first)?),
            };
            loop {
                let page = ApiRequest { path: pages.next(), ..request.clone() };
                match pages.step(link.ask(&page, WITHIN).await?) {
                    Step::Next => {}
                    Step::Done(answer) => return Ok(response(answer)?),
                }
            }
        })
    }
}

/// The request as a message, or the Status that the server would answer.
async fn read(
    request: Request<kube::client::Body>,
) -> Result<Result<ApiRequest, Status>, tower::BoxError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let is_watch = |pair: &str| matches!(pair, "watch" | "watch=true" | "watch=1");
    let query = parts.uri.query().unwrap_or_default();
    if parts.method == Method::GET && query.split('&').any(is_watch) {
        return Err(Unserved::Watch.into());
    }
    let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let why = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
            return Ok(Err(Status::new(Reason::RequestEntityTooLarge, why)));
        }
        Err(error) => return Err(Unserved::Body(error.to_string()).into()),
    };
    let headers = parts.headers.iter().filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    });
    Ok(Ok(ApiRequest {
        method: parts.method.as_str().to_owned(),
        path: path.to_owned(),
        headers: headers.collect(),
        body,
    }))
}

fn response(answer: ApiAnswer) -> Result<Response<Full<Bytes>>, Unserved> {
    let code = StatusCode::from_u16(answer.code).map_err(http::Error::from)?;
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = code;
    for (name, value) in &answer.headers {
        let name: HeaderName = name.parse().map_err(http::Error::from)?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(http::Error::from)?;
        response.headers_mut().append(name, value);
    }
    Ok(response)
}
