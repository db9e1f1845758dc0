//! Links of what is proxied, so that they lead through the proxy again: `Location`, and those of HTML. A page is
//! rewritten as it comes; no more of it is held than one tag.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;

use crate::response::{Body, BoxError};

/// A longer tag goes on as it is.
const MAX_TAG: usize = 64 << 10;

/// Which attributes of which elements are URLs.
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content has no tags.
const RAW: [&str; 8] =
    ["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

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

#[derive(Debug, PartialEq, Eq)]
enum State {
    Text,
    Comment,
    /// Until that element's end tag.
    Raw(&'static str),
}

struct Html {
    links: Links,
    state: State,
    /// What cannot be told yet.
    pending: Vec<u8>,
}

impl Html {
    fn new(links: Links) -> Self {
        Self { links, state: State::Text, pending: Vec::new() }
    }

    /// What can be said of the page now.
    fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.pending);
        text.extend_from_slice(piece);
        let mut out = Vec::with_capacity(text.len() + 1024);
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let Some(read) = self.step(rest, &mut out) else { break };
            at += read;
        }
        self.pending = text.split_off(at);
        out
    }

    /// The rest of a page that ended.
    fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    /// How much was read; `None` where more must come first.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let (read, state) = match &self.state {
            State::Text => return self.text(rest, out),
            State::Comment => match find(rest, b"-->") {
                Some(at) => (at + 3, State::Text),
                None => (rest.len().saturating_sub(2), State::Comment),
            },
            State::Raw(name) => match find_end_tag(rest, name) {
                Some(at) => (at, State::Text),
                None => (rest.len().saturating_sub(name.len() + 1), State::Raw(name)),
            },
        };
        out.extend_from_slice(&rest[..read]);
        let goes_on = read > 0 || state != self.state;
        self.state = state;
        goes_on.then_some(read)
    }

    fn text(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let start = rest.iter().position(|byte| *byte == b'<').unwrap_or(rest.len());
        if start > 0 {
            out.extend_from_slice(&rest[..start]);
            return Some(start);
        }
        if rest.starts_with(b"<!--") {
            out.extend_from_slice(&rest[..4]);
            self.state = State::Comment;
            return Some(4);
        }
        if b"<!--".starts_with(rest) {
            return None;
        }
        let tag = rest[1].is_ascii_alphabetic().then(|| Tag::read(rest));
        match tag {
            Some(Some(tag)) => {
                self.tag(rest, &tag, out);
                Some(tag.length)
            }
            Some(None) if rest.len() < MAX_TAG => None,
            _ => {
                out.push(b'<');
                Some(1)
            }
        }
    }

    fn tag(&mut self, rest: &[u8], tag: &Tag, out: &mut Vec<u8>) {
        let known = ATTRIBUTES.iter().find(|(name, _)| *name == tag.name);
        let mut done = 0;
        for (name, value) in &tag.attributes {
            let is_url = known.is_some_and(|(_, names)| names.contains(&name.as_str()));
            let text = std::str::from_utf8(&rest[value.clone()]).ok().filter(|_| is_url);
            if let Some(url) = text.and_then(|url| self.links.rewrite(url)) {
                out.extend_from_slice(&rest[done..value.start]);
                out.extend_from_slice(url.as_bytes());
                done = value.end;
            }
        }
        out.extend_from_slice(&rest[done..tag.length]);
        if let Some(name) = RAW.iter().find(|name| **name == tag.name) {
            self.state = State::Raw(name);
        }
    }
}

/// A start tag.
struct Tag {
    name: String,
    /// Names, and where the values are.
    attributes: Vec<(String, std::ops::Range<usize>)>,
    length: usize,
}

impl Tag {
    /// `None` where it has no end yet.
    fn read(text: &[u8]) -> Option<Self> {
        let lower = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&text[range]).to_ascii_lowercase()
        };
        let until = |from: usize, ends: &dyn Fn(u8) -> bool| {
            text[from..].iter().position(|byte| ends(*byte)).map(|length| from + length)
        };
        let blank = |byte: u8| byte.is_ascii_whitespace();
        let mut at = until(1, &|byte| blank(byte) || matches!(byte, b'/' | b'>'))?;
        let name = lower(1..at);
        let mut attributes = Vec::new();
        loop {
            at = until(at, &|byte| !blank(byte) && byte != b'/')?;
            if text[at] == b'>' {
                return Some(Self { name, attributes, length: at + 1 });
            }
            // A name may begin with what ends it elsewhere.
            let end = until(at + 1, &|byte| blank(byte) || matches!(byte, b'/' | b'>' | b'='))?;
            let key = lower(at..end);
            at = until(end, &|byte| !blank(byte))?;
            if text[at] != b'=' {
                continue;
            }
            at = until(at + 1, &|byte| !blank(byte))?;
            let value = match text[at] {
                quote @ (b'"' | b'\'') => at + 1..until(at + 1, &|byte| byte == quote)?,
                _ => at..until(at, &|byte| blank(byte) || byte == b'>')?,
            };
            let quoted = value.start > at;
            at = value.end + usize::from(quoted);
            attributes.push((key, value));
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn find_end_tag(text: &[u8], name: &str) -> Option<usize> {
    text.windows(name.len() + 2).position(|window| {
        window.starts_with(b"</") && window[2..].eq_ignore_ascii_case(name.as_bytes())
    })
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

    const PAGES: [(&str, &str); 14] = [
        ("<a href=\"/a\">/a</a>", "<a href=\"/p/proxy/a\">/a</a>"),
        ("<A HREF='/a' class=x>", "<A HREF='/p/proxy/a' class=x>"),
        ("<a href=/a>", "<a href=/p/proxy/a>"),
        (
            "<img\n src = \"/a.png\" alt=\"/a > b\"/>",
            "<img\n src = \"/p/proxy/a.png\" alt=\"/a > b\"/>",
        ),
        ("<a title=\"/a\" href=\"b\">", "<a title=\"/a\" href=\"b\">"),
        (
            "<form action=/a><input formaction=\"/b\" disabled>",
            "<form action=/p/proxy/a><input formaction=\"/p/proxy/b\" disabled>",
        ),
        (
            "<script src=\"/a.js\">if (a < b) { w('<a href=\"/c\">') }</script><a href='/d'>",
            "<script src=\"/p/proxy/a.js\">if (a < b) { w('<a href=\"/c\">') }</script><a href='/p/proxy/d'>",
        ),
        (
            "<!-- <a href=\"/a\"> --><a href=\"/b\">",
            "<!-- <a href=\"/a\"> --><a href=\"/p/proxy/b\">",
        ),
        ("<!doctype html><p>1 < 2 <3 </p>", "<!doctype html><p>1 < 2 <3 </p>"),
        ("<a href=\"/a?b=1&amp;c=/d\">", "<a href=\"/p/proxy/a?b=1&amp;c=/d\">"),
        ("<a href=\"/never ended", "<a href=\"/never ended"),
        (
            "<title><a href=\"/a\"></TITLE><q cite=\"/b\">",
            "<title><a href=\"/a\"></TITLE><q cite=\"/p/proxy/b\">",
        ),
        ("text <", "text <"),
        ("<style>a { b: '/c' }", "<style>a { b: '/c' }"),
    ];

    #[test]
    fn pages_in_whatever_pieces_they_come() {
        for (page, expected) in PAGES {
            for size in 1..=page.len() {
                let mut html = Html::new(links());
                let pieces = page.as_bytes().chunks(size);
                let mut out: Vec<u8> = pieces.flat_map(|piece| html.feed(piece)).collect();
                out.extend(html.finish());
                assert_eq!(String::from_utf8(out).unwrap(), expected, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn little_is_held() {
        let mut html = Html::new(links());
        let mut come = html.feed(b"<a href=\"").len();
        let mut held = 0;
        for _ in 0..100 {
            come += html.feed(&[b'x'; 4096]).len();
            held = held.max(html.pending.len());
        }
        assert!(held <= MAX_TAG + 4096 && come + html.pending.len() == 9 + 100 * 4096, "{held}");
        assert_eq!(html.feed(b"\"><a href=\"/a\">"), b"\"><a href=\"/p/proxy/a\">");
    }
}
