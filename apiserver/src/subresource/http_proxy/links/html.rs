//! The links of a page as it comes. Every byte is looked at once, whatever a page has and in whatever pieces it comes: a
//! page is a pod's, and its reading is the server's time.

use super::Links;

/// A longer tag goes on as it is: so much of a page is held at most.
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

/// Where in a page the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    /// After so many bytes of `<!--`, at least one; they are held.
    Opening(usize),
    /// After so many of the two dashes that end it.
    Comment(usize),
    /// Within that element, after so many bytes of its end tag.
    Raw(&'static str, usize),
    /// A start tag, which is held unless it is too long.
    Tag(Part),
}

/// Where in a start tag the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Name,
    Between,
    Key,
    AfterKey,
    /// After `=`.
    BeforeValue,
    Value,
    Quoted(u8),
}

/// What is known of the tag that is being read.
#[derive(Debug, Default)]
struct Tag {
    /// As it came; nothing of one that is too long.
    held: Vec<u8>,
    is_too_long: bool,
    /// Which of its attributes are URLs, and the element that has no tags in it, once its name is known.
    urls: &'static [&'static str],
    raw: Option<&'static str>,
    /// Where the attribute's name, or its value, began.
    start: usize,
    is_url: bool,
    /// Where the URLs are.
    found: Vec<std::ops::Range<usize>>,
}

pub(super) struct Html {
    links: Links,
    state: State,
    tag: Tag,
    /// How often a byte was looked at.
    #[cfg(test)]
    looks: usize,
}

impl Html {
    pub(super) fn new(links: Links) -> Self {
        Self {
            links,
            state: State::Text,
            tag: Tag::default(),
            #[cfg(test)]
            looks: 0,
        }
    }

    /// What can be said of the page now.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.tag.held.len() + piece.len() + 1024);
        for byte in piece {
            // Where a byte ends one thing and begins the next, it is the next one's too: three times at the most.
            while !self.byte(*byte, &mut out) {}
        }
        out
    }

    /// The rest of a page that ended.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.tag.held)
    }

    /// Whether the byte was taken; else it is asked about again, in another state.
    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) -> bool {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        match self.state {
            State::Tag(part) => return self.in_tag(part, byte, out),
            State::Opening(read) => return self.opening(read, byte, out),
            State::Text if byte == b'<' => {
                self.tag.held.push(byte);
                self.state = State::Opening(1);
                return true;
            }
            State::Text => {}
            State::Comment(dashes) => {
                self.state = match byte {
                    b'-' => State::Comment((dashes + 1).min(2)),
                    b'>' if dashes == 2 => State::Text,
                    _ => State::Comment(0),
                };
            }
            State::Raw(name, read) => self.state = in_raw(name, read, byte),
        }
        out.push(byte);
        true
    }

    fn opening(&mut self, read: usize, byte: u8, out: &mut Vec<u8>) -> bool {
        const COMMENT: &[u8] = b"<!--";
        if read == 1 && byte.is_ascii_alphabetic() {
            self.state = State::Tag(Part::Name);
            return false;
        }
        if COMMENT.get(read) != Some(&byte) {
            self.state = State::Text;
            out.append(&mut self.tag.held);
            return false;
        }
        self.tag.held.push(byte);
        self.state = State::Opening(read + 1);
        if read + 1 == COMMENT.len() {
            self.state = State::Comment(0);
            out.append(&mut self.tag.held);
        }
        true
    }

    fn in_tag(&mut self, part: Part, byte: u8, out: &mut Vec<u8>) -> bool {
        let blank = byte.is_ascii_whitespace();
        let at = self.tag.held.len();
        let (next, taken) = match part {
            Part::Name if blank || matches!(byte, b'/' | b'>') => {
                self.tag.named();
                (Part::Between, false)
            }
            Part::Between if blank || byte == b'/' => (Part::Between, true),
            Part::Between if byte == b'>' => {
                self.take(byte, out);
                self.end(out);
                return true;
            }
            // A name may begin with what ends it elsewhere.
            Part::Between => {
                self.tag.start = at;
                (Part::Key, true)
            }
            Part::Key if blank || matches!(byte, b'/' | b'>' | b'=') => {
                self.tag.is_url = self.tag.is_url_now();
                (Part::AfterKey, false)
            }
            Part::AfterKey if byte == b'=' => (Part::BeforeValue, true),
            Part::AfterKey if !blank => (Part::Between, false),
            Part::BeforeValue if matches!(byte, b'"' | b'\'') => {
                self.tag.start = at + 1;
                (Part::Quoted(byte), true)
            }
            Part::BeforeValue if !blank => {
                self.tag.start = at;
                (Part::Value, false)
            }
            Part::Value if blank || byte == b'>' => {
                self.tag.valued();
                (Part::Between, false)
            }
            Part::Quoted(quote) if byte == quote => {
                self.tag.valued();
                (Part::Between, true)
            }
            part => (part, true),
        };
        self.state = State::Tag(next);
        if taken {
            self.take(byte, out);
        }
        taken
    }

    fn take(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.tag.is_too_long {
            return out.push(byte);
        }
        self.tag.held.push(byte);
        if self.tag.held.len() >= MAX_TAG {
            self.tag.is_too_long = true;
            self.tag.found.clear();
            out.append(&mut self.tag.held);
        }
    }

    /// The tag is whole.
    fn end(&mut self, out: &mut Vec<u8>) {
        let Tag { held, raw, found, .. } = &mut self.tag;
        let mut done = 0;
        for range in found.drain(..) {
            let url = std::str::from_utf8(&held[range.clone()]).ok();
            if let Some(url) = url.and_then(|url| self.links.rewrite(url)) {
                out.extend_from_slice(&held[done..range.start]);
                out.extend_from_slice(url.as_bytes());
                done = range.end;
            }
        }
        out.extend_from_slice(&held[done..]);
        held.clear();
        self.state = raw.map_or(State::Text, |name| State::Raw(name, 0));
        let (held, found) = (std::mem::take(held), std::mem::take(found));
        self.tag = Tag { held, found, ..Tag::default() };
    }
}

impl Tag {
    /// Its name has ended.
    fn named(&mut self) {
        let name = self.held.get(1..).unwrap_or_default();
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let known = ATTRIBUTES.iter().find(|(known, _)| is(known));
        self.urls = known.map_or(&[], |(_, urls)| urls);
        self.raw = RAW.into_iter().find(|known| is(known));
    }

    /// Whether the attribute whose name has ended is a URL.
    fn is_url_now(&self) -> bool {
        let name = self.held.get(self.start..).unwrap_or_default();
        !self.is_too_long && self.urls.iter().any(|url| name.eq_ignore_ascii_case(url.as_bytes()))
    }

    /// An attribute's value has ended.
    fn valued(&mut self) {
        if self.is_url && !self.is_too_long {
            self.found.push(self.start..self.held.len());
        }
    }
}

/// Where the end tag's name has come, a tag begins or none, as in any text.
fn in_raw(name: &'static str, read: usize, byte: u8) -> State {
    let fits = match read {
        0 => byte == b'<',
        1 => byte == b'/',
        _ => name.as_bytes().get(read - 2).is_some_and(|wanted| wanted.eq_ignore_ascii_case(&byte)),
    };
    match fits {
        true if read + 1 == name.len() + 2 => State::Text,
        true => State::Raw(name, read + 1),
        false => State::Raw(name, usize::from(byte == b'<')),
    }
}

#[cfg(test)]
mod tests;
