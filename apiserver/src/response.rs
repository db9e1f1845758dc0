//! Answers, and the one place from errors to them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::Value;
use warren_api::Status;

use crate::accept::{Accept, Protobuf, not_acceptable};
use crate::cache::Entry;

mod made;

pub(crate) use made::{is_made, keeping};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// What requests and answers carry here.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn json(code: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// Bytes of JSON in the form that was asked for.
pub(crate) fn encoded(code: StatusCode, bytes: Bytes, accept: Accept) -> Response<Body> {
    if !accept.yaml && !accept.pretty && accept.protobuf.is_none() {
        return json(code, bytes);
    }
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) => tree(code, &value, accept),
        Err(_) => json(code, bytes),
    }
}

/// A body in Kubernetes' protobuf.
pub(crate) fn protobuf(code: StatusCode, bytes: Vec<u8>) -> Response<Body> {
    let mut response = json(code, bytes);
    let media_type = HeaderValue::from_static(warren_api::protobuf::MEDIA_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response.extensions_mut().insert(made::Made);
    response
}

pub(crate) fn tree(code: StatusCode, value: &Value, accept: Accept) -> Response<Body> {
    let mut response = shown(code, value, accept);
    response.extensions_mut().insert(made::Made);
    response
}

fn shown(code: StatusCode, value: &Value, accept: Accept) -> Response<Body> {
    if let (Some(wanted), Value::Object(object)) = (accept.protobuf, value) {
        match warren_api::protobuf::encode(object) {
            Ok(bytes) => return protobuf(code, bytes),
            Err(_) if wanted == Protobuf::OrJson => {}
            Err(_) => return error(&not_acceptable(), Accept::default()),
        }
    }
    if accept.yaml {
        let text = warren_api::yaml::to_string(value).unwrap_or_default();
        let mut response = Response::new(full(text));
        *response.status_mut() = code;
        let yaml = HeaderValue::from_static("application/yaml");
        response.headers_mut().insert(header::CONTENT_TYPE, yaml);
        return response;
    }
    let bytes = match accept.pretty {
        true => serde_json::to_vec_pretty(value),
        false => serde_json::to_vec(value),
    };
    json(code, bytes.unwrap_or_default())
}

pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// In the form in which an answer was wanted, where that is a form of its own.
pub(crate) fn error_form(headers: &http::HeaderMap) -> Accept {
    let accept = crate::accept::accept(headers, "").unwrap_or_default();
    Accept { form: crate::accept::Form::Object, pretty: false, ..accept }
}

/// A path that nothing is at, as Kubernetes answers it; within a group that is served, the answer is a Status.
pub(crate) fn no_such_path() -> Response<Body> {
    nosniff(text(StatusCode::NOT_FOUND, "404 page not found\n"))
}

fn nosniff(mut response: Response<Body>) -> Response<Body> {
    let value = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, value);
    response
}

pub(crate) fn error(status: &Status, accept: Accept) -> Response<Body> {
    let code =
        StatusCode::from_u16(status.reason.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let value = status.to_json();
    let protobuf = accept.protobuf.map(|_| Protobuf::OrJson);
    let mut response = tree(code, &value, Accept { protobuf, ..accept });
    if code == StatusCode::FORBIDDEN {
        response = nosniff(response);
    }
    let retry = status.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// One `Warning: 299` header each, at most as many as a client shows.
pub(crate) fn warn(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    const MAX_WARNINGS: usize = 64;
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let quoted: String = warning
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// A list as a concatenation of ready slices, copied into frames as the connection takes them.
pub(crate) struct ListBody {
    head: Bytes,
    entries: Vec<Arc<Entry>>,
    next: usize,
    remaining: u64,
}

/// As much as goes into eight TLS records.
const FRAME: usize = 128 << 10;
const TAIL: &[u8] = b"]}\n";

impl ListBody {
    /// `head` ends with `"items":[`.
    pub(crate) fn new(head: Vec<u8>, entries: Vec<Arc<Entry>>) -> Self {
        let bodies: usize = entries.iter().map(|entry| entry.body().len() + 1).sum();
        let commas = bodies.saturating_sub(usize::from(!entries.is_empty()));
        let remaining = (head.len() + commas + TAIL.len()) as u64;
        Self { head: head.into(), entries, next: 0, remaining }
    }

    pub(crate) fn len(&self) -> u64 {
        self.remaining
    }

    fn fill(&mut self) -> Bytes {
        let capacity = usize::try_from(self.remaining).unwrap_or(FRAME).min(FRAME + (16 << 10));
        let mut out = BytesMut::with_capacity(capacity);
        out.extend_from_slice(&std::mem::take(&mut self.head));
        while out.len() < FRAME {
            let Some(entry) = self.entries.get(self.next) else {
                out.extend_from_slice(TAIL);
                break;
            };
            if self.next > 0 {
                out.extend_from_slice(b",");
            }
            out.extend_from_slice(entry.body());
            self.next += 1;
        }
        self.remaining = self.remaining.saturating_sub(out.len() as u64);
        out.freeze()
    }
}

impl HttpBody for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(self.fill()))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
