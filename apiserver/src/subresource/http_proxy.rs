//! `proxy` of pods, Services and nodes: HTTP to what runs there, as Kubernetes hands it on.
//!
//! Pods are reached through the port of their node, which alone is sure to reach them. What is said goes both ways as it
//! comes: nobody holds a body, and who reads slowly slows the other side.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use warren_api::{Reason, Status};

use self::links::Links;
use self::place::Place;
use super::proxy::{before_upgrade, carry};
use crate::api::{Api, Call};
use crate::flow::too_many;
use crate::request::ResourceRequest;
use crate::response::{self, Body, BoxError};
use crate::serve::Peer;
use crate::write::{collect, resource};

mod head;
mod links;
mod place;
mod reach;

/// Proxied requests in flight: each holds one of the 1024 connections of its node's port until that is upgraded, two
/// sockets here and some 100 KB. Policy: beyond it, 429.
const MAX_PROXIED: usize = 512;
/// Of these, those to one pod or node: one that never answers leaves room for all others.
const MAX_OF_ONE: usize = 64;

pub(crate) async fn answer(api: &Api, call: Call) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let Call { http, .. } = call;
    let place = place::find(api, &request)?;
    let held = api.proxied.take(place.key())?;
    tokio::select! {
        answer = exchange(api, &request, http, place, held) => answer,
        () = api.shutdown.draining() => {
            Err(Status::new(Reason::ServiceUnavailable, "the server is stopping"))
        }
    }
}

async fn exchange(
    api: &Api,
    request: &ResourceRequest,
    mut http: Request<Body>,
    place: Place,
    held: Held,
) -> Result<Response<Body>, Status> {
    let whole = http.uri().path().to_owned();
    let query = http.uri().query().map(str::to_owned);
    let (prefix, rest) = head::split(&whole, head::steps(request));
    let upgrade = head::upgrade(&http).map(|to| (to, hyper::upgrade::on(&mut http)));
    if upgrade.is_none() && rest.is_empty() && [Method::GET, Method::HEAD].contains(http.method()) {
        return Ok(moved(&whole, query.as_deref()));
    }
    let path = head::clean(rest);
    let host = head::host(&http);
    let links = Links::new(prefix, &host, &place.authority());
    let onward = head::Onward {
        peer: http.extensions().get::<Peer>().map(|peer| peer.0.ip()),
        host: &host,
        uri: &format!("{prefix}{path}"),
        upgrade: upgrade.as_ref().map(|(to, _)| to),
    };
    let headers = head::request(http.headers(), &onward);
    let uri = head::uri(&path, query.as_deref(), place.of_node())?;
    let mut onward = Request::new(());
    *onward.method_mut() = http.method().clone();
    *onward.uri_mut() = uri;
    *onward.headers_mut() = headers;
    let body = match upgrade.is_some() {
        true => before_upgrade(http.into_body()).await?,
        false => http.into_body(),
    };
    let mut answer = reach::send(api, &place, onward.map(|()| body)).await?;
    let Some((_, client)) = upgrade else {
        return handed_on(api, answer, &links, held);
    };
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            carry(api, client, hyper::upgrade::on(&mut answer), held);
            let (mut parts, _) = answer.into_parts();
            parts.version = Version::HTTP_11;
            Ok(Response::from_parts(parts, response::full("")))
        }
        code if code.is_client_error() || code.is_server_error() => {
            handed_on(api, answer, &links, held)
        }
        code => {
            Err(Status::unknown(format!("invalid upgrade response: status code {}", code.as_u16())))
        }
    }
}

/// Relative links work from a path that ends in a slash.
fn moved(path: &str, query: Option<&str>) -> Response<Body> {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(response::full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::try_from(format!("{path}/{query}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn handed_on<B>(
    api: &Api,
    answer: Response<B>,
    links: &Links,
    held: Held,
) -> Result<Response<Body>, Status>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Status::internal("an upgrade that nobody asked for"));
    }
    let (mut parts, body) = answer.into_parts();
    // The other side may speak HTTP/1.0; that is between us and it.
    parts.version = Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    let has_links = head::answer(&mut parts.headers, links);
    let body = body.map_err(Into::into).boxed_unsync();
    let body = if has_links { links.rewrite_in(body) } else { body };
    let shutdown = api.shutdown.clone();
    let stopping = Box::pin(async move { shutdown.draining().await });
    Ok(Response::from_parts(parts, Carried { body, stopping, _held: held }.boxed_unsync()))
}

/// The text of an answer that is not the one that was wanted.
async fn said(body: Body) -> String {
    const MAX_MESSAGE: usize = 8 << 10;
    let text = collect(body, MAX_MESSAGE).await.unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

fn unreachable(why: &str) -> Status {
    let message = format!("error trying to reach service: {why}");
    Status::new(Reason::ServiceUnavailable, message)
}

/// A body on its way. On shutdown it breaks: an end would say that it was whole.
struct Carried {
    body: Body,
    stopping: BoxFuture<'static, ()>,
    _held: Held,
}

impl HttpBody for Carried {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        match self.stopping.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err("the server is stopping".into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How many proxied requests there are to each place.
#[derive(Debug, Default)]
pub(crate) struct Proxied(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<String, usize>,
}

/// One of them; given back when dropped.
#[derive(Debug)]
struct Held {
    counts: Arc<Mutex<Counts>>,
    key: String,
}

impl Proxied {
    fn take(&self, key: String) -> Result<Held, Status> {
        let mut counts = self.0.lock();
        let of_one = counts.of.get(&key).copied().unwrap_or_default();
        if counts.all >= MAX_PROXIED || of_one >= MAX_OF_ONE {
            return Err(too_many());
        }
        counts.all += 1;
        counts.of.insert(key.clone(), of_one + 1);
        Ok(Held { counts: Arc::clone(&self.0), key })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.all -= 1;
        if let Some(count) = counts.of.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.of.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_never_answers_leaves_room_for_others() {
        let proxied = Proxied::default();
        let take = |key: &str| proxied.take(key.to_owned());
        let mut held: Vec<Held> = (0..MAX_OF_ONE).map(|_| take("a").unwrap()).collect();
        assert_eq!(take("a").unwrap_err().reason, Reason::TooManyRequests);
        held.push(take("b").unwrap());
        held.remove(0);
        held.push(take("a").unwrap());
        for n in held.len()..MAX_PROXIED {
            held.push(take(&n.to_string()).unwrap());
        }
        assert_eq!(take("c").unwrap_err().reason, Reason::TooManyRequests);
        drop(held);
        assert!(proxied.0.lock().of.is_empty() && proxied.0.lock().all == 0);
    }
}
