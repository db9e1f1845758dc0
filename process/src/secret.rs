//! Values that must not reach a log.

use std::fmt;

/// A password, a token, a key. Neither `Debug` nor tracing shows it; [`Secret::expose`] is easy to find in a review.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<T = String>(T);

impl<T> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_shown() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{:?} {:#?}", secret, Some(&secret)).contains("hunter2"));
        assert_eq!(*secret.expose(), "hunter2");
    }
}
