//! Where the streams stand at the server. A reader that compares it with what it has seen learns of a loss that no later
//! event shows: of the last event of a stream, of a queue that was purged or deleted, of a binding that is gone. Pure.
//!
//! Any request to the API may carry the header [`ASK`]; its answer then carries [`TOLD`].

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Once;

use warren_api::{GroupResource, NodeName, Revision, Shard};

use crate::Stream;

/// `node=rabbit-1`, `node=rabbit-1; lost`, or `pods,deployments.apps`.
pub const ASK: &str = "warren-streams";
/// `epoch=1763766330 published=120 pods/node~rabbit-1=118 services/all=7`
pub const TOLD: &str = "warren-heads";

/// Resources that one request asks for; the names of all that a cluster has fit.
pub const MAX_ASKED: usize = 128;
/// What is read of an answer: 10 streams of a node whose name has 253 bytes, or 128 resources of 60, fit.
pub const MAX_BYTES: usize = 16 << 10;
const MAX_NAME: usize = 253;

/// Whose streams somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All that the node's queue gets. `lost`: the queue lost something, so its bindings should be looked at.
    Node { name: NodeName, lost: bool },
    /// Whole resources.
    Resources(Vec<GroupResource>),
}

/// The newest revision of each stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The incarnation of the database.
    pub epoch: u64,
    /// Up to here the broker has confirmed everything: what is newer may still come.
    pub published: Revision,
    /// Streams that never had an event are left out.
    pub streams: Vec<(Stream, Revision)>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadsError {
    #[error("{0} bytes, at most {MAX_BYTES} are read")]
    TooLarge(usize),
    #[error("{0} resources, at most {MAX_ASKED}")]
    TooMany(usize),
    #[error(
        "must be node=NAME or the names of resources such as pods,deployments.apps; {0:?} is neither"
    )]
    Unknown(String),
    #[error("{0:?}: must be {1}")]
    Word(String, &'static str),
    #[error("{0}=: missing")]
    Missing(&'static str),
}

/// What somebody wrote, as much of it as an error repeats.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(plain)
}

fn resource(text: &str) -> Option<GroupResource> {
    let (plural, group) = text.split_once('.').unwrap_or((text, ""));
    (is_name(plural) && (group.is_empty() || is_name(group)))
        .then(|| GroupResource::new(group, plural))
}

impl Asked {
    pub fn parse(text: &str) -> Result<Self, HeadsError> {
        if text.len() > MAX_BYTES {
            return Err(HeadsError::TooLarge(text.len()));
        }
        let text = text.trim();
        let unknown = |part: &str| HeadsError::Unknown(shown(part));
        if let Some(node) = text.strip_prefix("node=") {
            let (name, lost) = match node.split_once(';') {
                Some((name, flag)) if flag.trim() == "lost" => (name.trim_end(), true),
                Some(_) => return Err(unknown(text)),
                None => (node, false),
            };
            if !is_name(name) {
                return Err(HeadsError::Word(shown(name), "the name of a node"));
            }
            return Ok(Asked::Node { name: NodeName(name.into()), lost });
        }
        let mut resources = text
            .split(',')
            .map(|part| resource(part.trim()).ok_or_else(|| unknown(part)))
            .collect::<Result<Vec<_>, _>>()?;
        resources.sort();
        resources.dedup();
        match resources.len() {
            n if n > MAX_ASKED => Err(HeadsError::TooMany(n)),
            _ => Ok(Asked::Resources(resources)),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Node { name, lost: false } => write!(f, "node={name}"),
            Asked::Node { name, lost: true } => write!(f, "node={name}; lost"),
            Asked::Resources(resources) => {
                for (n, resource) in resources.iter().enumerate() {
                    write!(f, "{}{resource}", if n == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl Heads {
    /// What a server tells in its header. One that cannot be read is as none, from a server that does not know, so that the
    /// request that asked has not failed.
    pub fn told(header: Option<&[u8]>) -> Option<Self> {
        static SAID: Once = Once::new();
        let text = String::from_utf8_lossy(header?);
        Self::parse(&text)
            .inspect_err(|error| {
                SAID.call_once(|| {
                    tracing::warn!(%error, header = TOLD, "cannot be read, and is passed over from here on");
                });
            })
            .ok()
    }

    pub fn parse(text: &str) -> Result<Self, HeadsError> {
        if text.len() > MAX_BYTES {
            return Err(HeadsError::TooLarge(text.len()));
        }
        let (mut epoch, mut published, mut streams) = (None, None, Vec::new());
        for word in text.split_ascii_whitespace() {
            let bad = |wanted| HeadsError::Word(shown(word), wanted);
            let (name, number) = word.split_once('=').ok_or(bad("name=number"))?;
            let number: u64 = number.parse().map_err(|_| bad("name=number"))?;
            match name {
                "epoch" => epoch = Some(number),
                "published" => published = Some(Revision(number)),
                stream => {
                    let stream = parse_stream(stream).ok_or(bad("resource/shard=revision"))?;
                    let head = NonZeroU64::new(number).ok_or(bad("above 0"))?;
                    streams.push((stream, Revision(head.get())));
                }
            }
        }
        Ok(Self {
            epoch: epoch.ok_or(HeadsError::Missing("epoch"))?,
            published: published.ok_or(HeadsError::Missing("published"))?,
            streams,
        })
    }
}

fn parse_stream(text: &str) -> Option<Stream> {
    let (of, word) = text.split_once('/')?;
    let shard = match word.strip_prefix("node~") {
        Some(name) if !is_name(name) => return None,
        _ => Shard::of_word(word)?,
    };
    Some(Stream { resource: resource(of)?, shard })
}

impl fmt::Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch={} published={}", self.epoch, self.published)?;
        for (Stream { resource, shard }, head) in &self.streams {
            write!(f, " {resource}/{}={head}", shard.word())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
