//! The ends of generated names.

/// Kubernetes' letters and digits for them: no vowels and nothing that looks like one, so they make no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A letter or digit for each byte.
pub fn letters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// What follows `generateName`.
pub fn suffix(random: [u8; 5]) -> String {
    letters(&random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_a_letter_or_a_digit() {
        assert_eq!(suffix([0, 26, 27, 53, 255]), "b9b9q");
    }
}
