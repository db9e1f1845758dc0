//! Secrets at rest: sealed with a key of the agent's own, so that a copy of the database alone gives none away.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};

const KEY_FILE: &str = "objects.key";
const KEY_LEN: usize = 32;

pub(crate) struct Seal {
    key: LessSafeKey,
    /// Tells this folder from others, and gives nothing away.
    pub(crate) identity: [u8; 32],
}

impl Seal {
    /// With the key in this folder, which is made where there is none: 32 random bytes, mode 0600. One that is not
    /// whole (a disk that was full) is made anew: what it had sealed is fetched again.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join(KEY_FILE);
        let found = match std::fs::read(&path) {
            Ok(bytes) => <[u8; KEY_LEN]>::try_from(bytes).ok(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let key = match found {
            Some(key) => key,
            None => {
                let key: [u8; KEY_LEN] = rand::random();
                let part = dir.join(".objects.key.part");
                let _ = std::fs::remove_file(&part);
                let mut options = std::fs::OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(0o600).open(&part)?;
                file.write_all(&key)?;
                file.sync_all()?;
                std::fs::rename(&part, &path)?;
                std::fs::File::open(dir)?.sync_all()?;
                key
            }
        };
        let identity = Sha256::digest(key).into();
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key)
            .map_err(|_| std::io::Error::other("the key is not one"))?;
        Ok(Self { key: LessSafeKey::new(key), identity })
    }

    /// `about` is what it is kept under: bytes that somebody moved to another name do not open. A nonce is random: among
    /// 2^32 writes two alike are less likely than 2^-32.
    pub(crate) fn seal(&self, about: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut bytes = plain.to_vec();
        let sealed = self.key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(about.as_bytes()),
            &mut bytes,
        );
        sealed.ok()?;
        Some([&nonce[..], &bytes].concat())
    }

    /// `None` where it was sealed with another key, or under another name, or changed.
    pub(crate) fn open_sealed(&self, about: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, bytes) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = bytes.to_vec();
        let plain = self.key.open_in_place(nonce, Aad::from(about.as_bytes()), &mut bytes).ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_sealed_opens_under_its_name_and_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal::open(dir.path()).unwrap();
        let sealed = seal.seal("secret/ns/a", b"hush").unwrap();
        assert!(!sealed.windows(4).any(|part| part == b"hush"));
        assert_ne!(sealed, seal.seal("secret/ns/a", b"hush").unwrap(), "a nonce is used once");
        let again = Seal::open(dir.path()).unwrap();
        assert_eq!(again.open_sealed("secret/ns/a", &sealed).as_deref(), Some(&b"hush"[..]));
        assert_eq!(again.open_sealed("secret/ns/b", &sealed), None);
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        for broken in [&changed[..], &sealed[..5], &[]] {
            assert_eq!(again.open_sealed("secret/ns/a", broken), None);
        }
        let path = dir.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        let other = Seal::open(dir.path()).unwrap();
        assert_eq!(other.open_sealed("secret/ns/a", &sealed), None);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
