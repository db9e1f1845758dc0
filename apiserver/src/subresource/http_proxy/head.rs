//! Paths and headers of what is proxied. Pure.

use std::net::IpAddr;

use http::header::{self, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Uri, Version};
use warren_api::Status;

use super::links::Links;
use crate::request::ResourceRequest;

const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// About one connection, not about what is said over it; and so is all that `Connection` names.
const OF_A_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    PROXY_CONNECTION,
    KEEP_ALIVE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A page of a pod must not say who may read the API: it has the API's own address.
const CORS: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// A client's token, where it can set no headers.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// What is told to the other side beside the client's own headers.
pub(super) struct Onward<'a> {
    pub(super) peer: Option<IpAddr>,
    pub(super) host: &'a str,
    /// The path here.
    pub(super) uri: &'a str,
    pub(super) upgrade: Option<&'a HeaderValue>,
}

/// How many steps of the path name the subresource.
pub(super) fn steps(request: &ResourceRequest) -> usize {
    if request.namespace.is_empty() { 5 } else { 7 }
}

/// The path up to that step, and what follows it as it stands there.
pub(super) fn split(path: &str, mut steps: usize) -> (&str, &str) {
    let mut within = false;
    for (at, byte) in path.bytes().enumerate() {
        if byte != b'/' {
            steps -= usize::from(!within);
            within = true;
        } else if within && steps == 0 {
            return path.split_at(at);
        } else {
            within = false;
        }
    }
    (path, "")
}

/// Without empty steps and those that go up, also where they are escaped.
pub(super) fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step.to_ascii_lowercase().replace("%2e", ".").as_str() {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(step),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}", kept.join("/"))
}

/// What is asked of the other side; a node is told which it is.
pub(super) fn uri(path: &str, query: Option<&str>, node: Option<&str>) -> Result<Uri, Status> {
    let told = node.filter(|_| path == "/stats/summary").map(|node| format!("node={node}"));
    let query: Vec<&str> = told.as_deref().into_iter().chain(query).collect();
    let whole = match query.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", query.join("&")),
    };
    let read = PathAndQuery::try_from(whole).map(Uri::from);
    read.map_err(|_| Status::bad_request("the path cannot be passed on"))
}

/// To what a client wants to be upgraded. In HTTP/2 there is no such thing.
pub(super) fn upgrade<B>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    let wished = words(headers, header::CONNECTION).any(|word| word == "upgrade");
    let to = headers.get(header::UPGRADE).filter(|_| wished)?;
    (request.version() == Version::HTTP_11).then(|| to.clone())
}

/// The host as the client names it.
pub(super) fn host<B>(request: &Request<B>) -> String {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    host.unwrap_or_default().to_owned()
}

fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = String> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase())
}

/// Who the client is, and how it showed that.
fn is_credential(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "authorization" | "x-remote-user" | "x-remote-group" | "x-remote-uid")
        || name.starts_with("impersonate-")
        || name.starts_with("x-remote-extra-")
}

/// A client's headers as they go on.
pub(super) fn request(headers: &HeaderMap, onward: &Onward<'_>) -> HeaderMap {
    let named: Vec<String> = words(headers, header::CONNECTION).collect();
    // Compressed pages would have links that nobody sees.
    let page = words(headers, header::ACCEPT).any(|media| media.starts_with("text/html"));
    let mut kept = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers {
        let ends_here = OF_A_CONNECTION.contains(name)
            || named.iter().any(|named| named == name.as_str())
            || is_credential(name)
            // Reading the body tells the client to go on.
            || matches!(*name, header::HOST | header::EXPECT | header::COOKIE)
            || *name == header::SEC_WEBSOCKET_PROTOCOL
            || *name == FORWARDED_FOR
            || page && *name == header::ACCEPT_ENCODING;
        if !ends_here {
            kept.append(name, value.clone());
        }
    }
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value)
            && !value.is_empty()
        {
            kept.insert(name, value);
        }
    };
    set(header::HOST, onward.host);
    let texts = |name: HeaderName| -> Vec<&str> {
        let values = headers.get_all(name).into_iter();
        values.filter_map(|value| value.to_str().ok()).map(str::trim).collect()
    };
    // HTTP/2 has a header for each.
    set(header::COOKIE, &texts(header::COOKIE).join("; "));
    let protocols = texts(header::SEC_WEBSOCKET_PROTOCOL).join(",");
    let protocols = protocols.split(',').map(str::trim);
    let protocols: Vec<&str> = protocols.filter(|p| !p.starts_with(TOKEN_PROTOCOL)).collect();
    set(header::SEC_WEBSOCKET_PROTOCOL, &protocols.join(", "));
    let peer = onward.peer.map(|ip| ip.to_canonical().to_string());
    let by: Vec<&str> = texts(FORWARDED_FOR).into_iter().chain(peer.as_deref()).collect();
    set(FORWARDED_FOR, &by.join(", "));
    set(FORWARDED_URI, onward.uri);
    if let Some(to) = onward.upgrade {
        // The body goes in one piece, whose length is known.
        kept.remove(header::CONTENT_LENGTH);
        kept.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        kept.insert(header::UPGRADE, to.clone());
    }
    kept
}

/// Makes an answer's headers those of an answer from here. Whether its body has links to rewrite.
pub(super) fn answer(headers: &mut HeaderMap, links: &Links) -> bool {
    let named: Vec<String> = words(headers, header::CONNECTION).collect();
    for name in OF_A_CONNECTION.iter().chain(&CORS) {
        headers.remove(name);
    }
    for name in named {
        headers.remove(name);
    }
    if let Some(location) = headers.get(header::LOCATION) {
        let rewritten = location.to_str().ok().and_then(|location| links.rewrite(location));
        if let Some(Ok(location)) = rewritten.map(HeaderValue::try_from) {
            headers.insert(header::LOCATION, location);
        }
        return false;
    }
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
    let media = media.and_then(|media| media.split(';').next()).unwrap_or_default();
    let plain = headers.get(header::CONTENT_ENCODING).is_none_or(HeaderValue::is_empty);
    let has_links = plain && media.trim() == "text/html";
    if has_links {
        headers.remove(header::CONTENT_LENGTH);
    }
    has_links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_and_cleaned() {
        for (path, steps, expected) in [
            ("/api/v1/namespaces/x/pods/web:80/proxy", 7, ("proxy", "", "/")),
            ("/api/v1/namespaces/x/pods/web:80/proxy/", 7, ("proxy", "/", "/")),
            ("/api/v1/namespaces/x/pods/web/proxy/a/b", 7, ("proxy", "/a/b", "/a/b")),
            ("/api//v1/namespaces/x/pods/proxy/proxy/a//b/", 7, ("proxy", "/a//b/", "/a/b/")),
            (
                "/api/v1/nodes/one/proxy/stats/summary",
                5,
                ("proxy", "/stats/summary", "/stats/summary"),
            ),
            (
                "/api/v1/nodes/one/proxy/a/../../..//b/./c",
                5,
                ("proxy", "/a/../../..//b/./c", "/b/c"),
            ),
            ("/api/v1/nodes/one/proxy/%2e%2E/%2F%41", 5, ("proxy", "/%2e%2E/%2F%41", "/%2F%41")),
        ] {
            let (prefix, rest) = split(path, steps);
            let last = prefix.rsplit('/').next().unwrap();
            assert_eq!((last, rest, clean(rest).as_str()), expected, "{path}");
        }
    }

    #[test]
    fn queries_go_on() {
        let shown = |path, query, node| uri(path, query, node).unwrap().to_string();
        assert_eq!(shown("/a", Some("b=c&d"), None), "/a?b=c&d");
        assert_eq!(shown("/stats/summary", None, Some("one")), "/stats/summary?node=one");
        assert_eq!(
            shown("/stats/summary", Some("node=two"), Some("one")),
            "/stats/summary?node=one&node=two"
        );
        assert_eq!(shown("/stats/summary", None, None), "/stats/summary");
    }

    fn map(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let lines =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines
    }

    #[test]
    fn headers_of_requests() {
        let check = |given: &[&str], upgrade: Option<&str>, expected: &[&str]| {
            let upgrade = upgrade.map(|to| to.parse().unwrap());
            let peer = Some("192.0.2.7".parse().unwrap());
            let onward = Onward { peer, host: "h", uri: "/p/a", upgrade: upgrade.as_ref() };
            let always = ["host: h", "x-forwarded-uri: /p/a"].map(str::to_owned);
            let mut lines = shown(&request(&map(given), &onward));
            lines.retain(|line| !always.contains(line));
            if !expected.iter().any(|line| line.starts_with("x-forwarded-for")) {
                lines.retain(|line| line != "x-forwarded-for: 192.0.2.7");
            }
            assert_eq!(lines, expected);
        };
        check(
            &["accept: */*", "x-own: 1", "x-own: 2"],
            None,
            &["accept: */*", "x-own: 1", "x-own: 2"],
        );
        check(
            &[
                "authorization: Bearer secret",
                "proxy-authorization: Basic c2VjcmV0",
                "impersonate-user: admin",
                "impersonate-extra-scopes: all",
                "x-remote-user: admin",
                "x-remote-extra-a: b",
                "sec-websocket-protocol: base64url.bearer.authorization.k8s.io.c2VjcmV0, chat",
            ],
            None,
            &["sec-websocket-protocol: chat"],
        );
        check(
            &[
                "connection: close, X-Hop",
                "x-hop: 1",
                "keep-alive: 5",
                "te: trailers",
                "trailer: x",
                "transfer-encoding: chunked",
                "upgrade: h2c",
                "proxy-connection: close",
                "expect: 100-continue",
                "host: other",
                "content-length: 3",
            ],
            None,
            &["content-length: 3"],
        );
        check(
            &["x-forwarded-for: 198.51.100.1", "x-forwarded-uri: /forged"],
            None,
            &["x-forwarded-for: 198.51.100.1, 192.0.2.7"],
        );
        check(&["cookie: a=b", "cookie: c=d"], None, &["cookie: a=b; c=d"]);
        check(
            &["accept: text/html,*/*", "accept-encoding: gzip"],
            None,
            &["accept: text/html,*/*"],
        );
        check(&["accept-encoding: gzip"], None, &["accept-encoding: gzip"]);
        check(
            &[
                "connection: keep-alive, Upgrade",
                "upgrade: websocket",
                "sec-websocket-key: k",
                "content-length: 5",
            ],
            Some("websocket"),
            &["connection: Upgrade", "sec-websocket-key: k", "upgrade: websocket"],
        );
    }

    #[test]
    fn headers_of_answers() {
        let links = Links::new("/p", "localhost:8001", "10.0.0.1:8080");
        let check = |given: &[&str], rewrites: bool, expected: &[&str]| {
            let mut headers = map(given);
            assert_eq!(answer(&mut headers, &links), rewrites, "{given:?}");
            assert_eq!(shown(&headers), expected);
        };
        check(
            &["connection: x-hop", "x-hop: 1", "transfer-encoding: chunked", "x-own: 1"],
            false,
            &["x-own: 1"],
        );
        check(&["access-control-allow-origin: *", "vary: Origin"], false, &["vary: Origin"]);
        check(
            &["location: /login", "content-type: text/html", "content-length: 3"],
            false,
            &["content-length: 3", "content-type: text/html", "location: /p/login"],
        );
        check(&["location: http://other/login"], false, &["location: http://other/login"]);
        check(
            &["content-type: text/html; charset=utf-8", "content-length: 3"],
            true,
            &["content-type: text/html; charset=utf-8"],
        );
        check(
            &["content-type: text/html", "content-encoding: gzip", "content-length: 3"],
            false,
            &["content-encoding: gzip", "content-length: 3", "content-type: text/html"],
        );
    }
}
