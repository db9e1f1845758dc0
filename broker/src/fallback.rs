//! What a reader says that reads by HTTP watch because its broker is away: each of its watches carries [`FALLBACK`], so the
//! server knows of it for as long as it does so, and nothing is written.

/// Its value names the reader: a node, or a controllers process.
pub const FALLBACK: &str = "warren-fallback";
/// As long as a node's name may be.
pub const MAX_READER: usize = 253;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MAX_READER} letters, digits, '.', '_', '~' and '-'")]
pub struct FallbackError;

/// The reader's name.
pub fn parse(text: &str) -> Result<&str, FallbackError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
    match (1..=MAX_READER).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text),
        false => Err(FallbackError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_have_plain_names() {
        assert_eq!(parse("node-1.example.org"), Ok("node-1.example.org"));
        for bad in ["", "a b", "a\nb", "ü", &"x".repeat(254)] {
            assert_eq!(parse(bad), Err(FallbackError), "{bad:?}");
        }
    }
}
