//! Paths → what answers them.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use warren_process::trace::{Subject, Trace};
use warren_process::{METRICS_CONTENT_TYPE, Metrics, Tasks};

use super::{forward, logs, stats, stream};
use crate::pod::index::{PodEntry, PodIndex};

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) struct Service {
    pub(super) pods: PodIndex,
    pub(super) stats: stats::Rates,
    pub(super) metrics: Metrics,
    pub(super) trace: Trace,
    pub(super) simulated: bool,
    pub(super) tasks: Tasks,
}

/// An answer that is an error: its code and, in plain text, why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl Refusal {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, message.into())
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, message.into())
    }
}

pub(super) fn forbidden() -> Response<Body> {
    text(StatusCode::FORBIDDEN, "only the API server may use a node's port")
}

pub(super) async fn handle(service: &Service, request: Request<Incoming>) -> Response<Body> {
    let answer = answer(service, request).await;
    answer.unwrap_or_else(|Refusal(code, why)| text(code, why))
}

async fn answer(
    service: &Service,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let steps: Vec<&str> = path.trim_matches('/').split('/').collect();
    let readable = [Method::GET, Method::POST].contains(request.method());
    match steps.as_slice() {
        _ if !readable => {
            Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST".to_owned()))
        }
        ["healthz"] => Ok(text(StatusCode::OK, "ok")),
        ["metrics"] => {
            Ok(plain(StatusCode::OK, METRICS_CONTENT_TYPE, service.metrics.text().into()))
        }
        ["debug", "hops"] => hops(&service.trace, &query),
        ["stats", "summary"] => stats::summary(service, query.get("node")).await,
        ["containerLogs", namespace, pod, container] => {
            let entry = find(&service.pods, namespace, pod)?;
            logs::answer(service, &entry, container, &query).await
        }
        ["exec", namespace, pod, container] => {
            let entry = find(&service.pods, namespace, pod)?;
            stream::exec(service, &entry, container, &query, &mut request).await
        }
        ["attach", namespace, pod, container] => {
            let entry = find(&service.pods, namespace, pod)?;
            stream::attach(service, &entry, container, &query, &mut request).await
        }
        ["portForward", namespace, pod] => {
            let entry = find(&service.pods, namespace, pod)?;
            forward::answer(service, &entry, &query, &mut request).await
        }
        _ => Err(Refusal::not_found(format!("no such path: {path}"))),
    }
}

/// What is remembered of one object, in JSON.
fn hops(trace: &Trace, query: &Query) -> Result<Response<Body>, Refusal> {
    let [group, resource, namespace, name] =
        ["group", "resource", "namespace", "name"].map(|field| query.get(field));
    let report = trace.report(&Subject::new(group, resource, namespace, name));
    let text = serde_json::to_vec(&report).map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(plain(StatusCode::OK, "application/json", text.into()))
}

fn find(pods: &PodIndex, namespace: &str, name: &str) -> Result<PodEntry, Refusal> {
    pods.by_name(namespace, name)
        .ok_or_else(|| Refusal::not_found(format!("pod {name:?} is not on this node")))
}

pub(super) fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    plain(code, "text/plain; charset=utf-8", text.into().into())
}

pub(super) fn plain(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = code;
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// A query's pairs, decoded.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value; empty where there is none.
    pub(super) fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
    }

    pub(super) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, value)| value.clone()).collect()
    }

    /// `true` or `1`.
    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1")
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
                match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        rest = &tail[2..];
                    }
                    None => bytes.push(b'%'),
                }
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query =
            Query::parse("command=sh&command=-c&command=echo+a%20%26%3D%e2%82%ac%zz&tty=1&stdin");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a &=€%zz"]);
        assert!(query.flag("tty"));
        assert!(!query.flag("stdin"));
        assert_eq!(query.get("none"), "");
    }
}
