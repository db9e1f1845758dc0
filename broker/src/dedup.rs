//! Messages are known by their id, those without one by their content, for a while. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// How long a content counts as seen.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// 48 bytes each. Beyond it the oldest is forgotten early: a repetition then reaches the API, which takes it as it takes
/// any.
pub const MAX_REMEMBERED: usize = 10_000;

pub(crate) type Fingerprint = [u8; 32];

/// What tells a message from others of its sender.
pub(crate) enum Said<'a> {
    Id(&'a str),
    Body(&'a [u8]),
}

/// What makes two messages the same: id or body, who sent it, and to where.
pub(crate) fn fingerprint(
    routing_key: &str,
    publisher: Option<&str>,
    said: Said<'_>,
) -> Fingerprint {
    let mut hash = Sha256::new();
    let (kind, said) = match said {
        Said::Id(id) => ([1], id.as_bytes()),
        Said::Body(body) => ([0], body),
    };
    hash.update(kind);
    for part in [routing_key.as_bytes(), publisher.unwrap_or_default().as_bytes(), said] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[derive(Debug, Default)]
pub(crate) struct Deduplicator {
    seen: HashMap<Fingerprint, Instant>,
    order: VecDeque<(Instant, Fingerprint)>,
}

impl Deduplicator {
    /// Whether this is the first of its content; it is remembered from now on.
    pub(crate) fn is_new(&mut self, content: Fingerprint, now: Instant) -> bool {
        while let Some((at, old)) = self.order.front()
            && (now.saturating_duration_since(*at) >= REMEMBERED_FOR
                || self.order.len() >= MAX_REMEMBERED)
        {
            if self.seen.get(old) == Some(at) {
                self.seen.remove(old);
            }
            self.order.pop_front();
        }
        if self.seen.contains_key(&content) {
            return false;
        }
        self.seen.insert(content, now);
        self.order.push_back((now, content));
        true
    }

    /// It was not used after all, and will come again.
    pub(crate) fn forget(&mut self, content: &Fingerprint) {
        self.seen.remove(content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_new_once_in_ten_minutes() {
        let mut seen = Deduplicator::default();
        let start = Instant::now();
        let [one, other] =
            ["a", "b"].map(|body| fingerprint("apply", None, Said::Body(body.as_bytes())));
        assert!(seen.is_new(one, start) && seen.is_new(other, start));
        assert!(!seen.is_new(one, start + REMEMBERED_FOR - Duration::from_millis(1)));
        assert!(seen.is_new(one, start + REMEMBERED_FOR));
        assert!(!seen.is_new(one, start + REMEMBERED_FOR));
        seen.forget(&one);
        assert!(seen.is_new(one, start + REMEMBERED_FOR));
    }

    #[test]
    fn who_and_where_are_part_of_the_content() {
        let all = [
            fingerprint("a", None, Said::Body(b"x")),
            fingerprint("b", None, Said::Body(b"x")),
            fingerprint("a", Some("eve"), Said::Body(b"x")),
            fingerprint("ax", None, Said::Body(b"")),
            fingerprint("a", None, Said::Id("x")),
        ];
        assert!((1..5).all(|n| !all[..n].contains(&all[n])));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Deduplicator::default();
        let now = Instant::now();
        for n in 0..MAX_REMEMBERED + 10 {
            assert!(seen.is_new(fingerprint("", None, Said::Body(&n.to_be_bytes())), now));
        }
        assert!(seen.seen.len() <= MAX_REMEMBERED && seen.order.len() <= MAX_REMEMBERED);
    }
}
