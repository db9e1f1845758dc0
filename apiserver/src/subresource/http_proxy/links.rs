//! Links of what is proxied, so that they lead through the proxy again: `Location`, and those of HTML. A page is
//! rewritten as it comes; no more of it is held than one tag.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;

use self::html::Html;
use crate::response::{Body, BoxError};

mod html;

#[derive(Clone, Debug)]
pub(super) struct Links {
    /// The path here of what is `/` there.
    prefix: String,
    /// The host as the client names it, and where the request went: links to either lead here.
    client: String,
    target: String,
}

impl Links {
    pub(super) fn new(prefix: &str, client: &str, target: &str) -> Self {
        Self { prefix: prefix.into(), client: client.into(), target: target.into() }
    }

    /// `None` for what stays as it is: another host's, a relative one, no URL of a host at all.
    pub(super) fn rewrite(&self, url: &str) -> Option<String> {
        let (host, path) = match split_host(url)? {
            (_, "", path) => ("", path),
            (whole, host, path) if host == self.client => (whole, path),
            (_, host, path) if host == self.target => ("", path),
            _ => return None,
        };
        if !path.starts_with('/') {
            return None;
        }
        let prefix = if path.starts_with(&self.prefix) { "" } else { self.prefix.as_str() };
        Some(format!("{host}{prefix}{path}"))
    }

    pub(super) fn rewrite_in(&self, page: Body) -> Body {
        Rewritten { page: Some(page), html: Html::new(self.clone()) }.boxed_unsync()
    }
}

/// What comes before the path, the host in it, and the rest. `None` where there is a scheme and no host.
fn split_host(url: &str) -> Option<(&str, &str, &str)> {
    let end = url.find(['/', '?', '#']).unwrap_or(url.len());
    let scheme = url[..end].find(':').map_or(0, |colon| colon + 1);
    if scheme == 0 && !url.starts_with("//") {
        return Some(("", "", url));
    }
    let after = url[scheme..].strip_prefix("//")?;
    let length = after.find(['/', '?', '#']).unwrap_or(after.len());
    let (host, path) = after.split_at(length);
    Some((&url[..scheme + 2 + length], host, path))
}

struct Rewritten {
    /// `None` after its end.
    page: Option<Body>,
    html: Html,
}

impl HttpBody for Rewritten {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let Some(page) = &mut self.page else { return Poll::Ready(None) };
            let out = match std::task::ready!(Pin::new(page).poll_frame(context)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.html.feed(&data),
                    Err(_) => continue,
                },
                None => {
                    self.page = None;
                    self.html.finish()
                }
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links::new("/p/proxy", "localhost:8001", "10.0.0.1:8080")
    }

    #[test]
    fn urls() {
        for (url, expected) in [
            ("/", Some("/p/proxy/")),
            ("/a/b/?q=/c#d", Some("/p/proxy/a/b/?q=/c#d")),
            ("/p/proxy/a", Some("/p/proxy/a")),
            ("http://10.0.0.1:8080/a", Some("/p/proxy/a")),
            ("https://10.0.0.1:8080//other/a", Some("/p/proxy//other/a")),
            ("//10.0.0.1:8080/a", Some("/p/proxy/a")),
            ("http://localhost:8001/a", Some("http://localhost:8001/p/proxy/a")),
            ("http://localhost:8001/p/proxy/a", Some("http://localhost:8001/p/proxy/a")),
            ("http://10.0.0.1:8080", None),
            ("http://10.0.0.1/a", None),
            ("//other/a", None),
            ("http://other/a", None),
            ("http://me@10.0.0.1:8080/a", None),
            ("a/b", None),
            ("../a", None),
            ("?q=http://10.0.0.1:8080/a", None),
            ("#a", None),
            ("", None),
            ("mailto:me@example.com", None),
            ("javascript:open('/a')", None),
            ("data:text/html,/a", None),
        ] {
            assert_eq!(links().rewrite(url).as_deref(), expected, "{url}");
        }
    }
}
