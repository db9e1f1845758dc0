//! How columns and bodies are written and read.

use smallvec::SmallVec;
use warren_api::{Revision, Shard};

use super::{Body, CommitError, Item, MAX_BODY_BYTES, Op, StreamPosition};

/// Whether an item keeps the contract of its types.
pub(crate) fn check(item: &Item) -> Result<(), CommitError> {
    for write in &item.writes {
        let Body { json, hole } = &write.body;
        if json.len() > MAX_BODY_BYTES {
            return Err(CommitError::Invalid("the body is too large"));
        }
        let quoted = *hole > 0 && json.get(*hole - 1..*hole + 1) == Some(b"\"\"");
        if !quoted {
            return Err(CommitError::Invalid("the body has no hole for its resourceVersion"));
        }
        if write.shards.is_empty() {
            return Err(CommitError::Invalid("the write has no shard"));
        }
        if write.shards.iter().any(|s| matches!(s, Shard::Node(n) if n.0.contains('\n'))) {
            return Err(CommitError::Invalid("the name of a node has a line break"));
        }
    }
    Ok(())
}

/// Fills the hole in place; answers how many digits went in.
pub(crate) fn fill(body: &mut Body, revision: u64) -> usize {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    let mut rest = revision;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let digits = &digits[start..];
    body.json.reserve_exact(digits.len());
    body.json.splice(body.hole..body.hole, digits.iter().copied());
    digits.len()
}

/// Takes the digits out again, for another attempt.
pub(crate) fn unfill(body: &mut Body, digits: usize) {
    body.json.drain(body.hole..body.hole + digits);
}

pub(crate) fn op_code(op: Op) -> i64 {
    match op {
        Op::Added => 1,
        Op::Modified => 2,
        Op::Deleted => 3,
    }
}

pub(crate) fn op_of(code: i64) -> Option<Op> {
    match code {
        1 => Some(Op::Added),
        2 => Some(Op::Modified),
        3 => Some(Op::Deleted),
        _ => None,
    }
}

pub(crate) fn encode_streams(streams: &[StreamPosition], into: &mut String) {
    use std::fmt::Write;
    into.clear();
    for (index, position) in streams.iter().enumerate() {
        if index > 0 {
            into.push('\n');
        }
        let _ = write!(into, "{} ", position.prev);
        match &position.shard {
            Shard::None => into.push('-'),
            Shard::All => into.push_str("all"),
            Shard::Unscheduled => into.push_str("unscheduled"),
            Shard::Every => into.push('*'),
            Shard::Node(name) => {
                into.push_str("node~");
                into.push_str(&name.0);
            }
        }
    }
}

pub(crate) fn decode_streams(
    text: &str,
    mut shard: impl FnMut(&str) -> Option<Shard>,
) -> Option<SmallVec<[StreamPosition; 2]>> {
    text.split('\n')
        .map(|line| {
            let (prev, word) = line.split_once(' ')?;
            Some(StreamPosition { shard: shard(word)?, prev: Revision(prev.parse().ok()?) })
        })
        .collect()
}
