//! Ports for the servers of tests, on all that is local.

use std::net::TcpListener;

/// Above what is well known, below the node ports of Services and what the kernel gives to connections that go out (32,768
/// and up, as it comes): a server that is killed and started again finds its port as it was.
const RANGE: std::ops::Range<u16> = 20_000..30_000;

/// Ports that were free a moment ago, and differ.
///
/// # Panics
/// Where there is none.
pub fn free<const N: usize>() -> [u16; N] {
    // All held at once, so that they differ.
    let mut held = Vec::with_capacity(N);
    std::array::from_fn(|_| {
        let (port, listener) = (0..1_000)
            .map(|_| rand::random_range(RANGE))
            .find_map(|port| Some((port, TcpListener::bind(("0.0.0.0", port)).ok()?)))
            .expect("a free port");
        held.push(listener);
        port
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_free_and_differ() {
        let ports: [u16; 8] = free();
        let all: std::collections::BTreeSet<_> = ports.into_iter().collect();
        assert_eq!(all.len(), 8);
        for port in ports {
            TcpListener::bind(("127.0.0.1", port)).unwrap();
        }
    }
}
