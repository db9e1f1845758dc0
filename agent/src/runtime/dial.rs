//! What went wrong with a connection, in the words that people know from Kubernetes' components.

use std::fmt::Display;
use std::io;

/// Why no connection came about: `dial tcp 10.0.0.7:80: connect: connection refused`.
pub(crate) fn failed(address: impl Display, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => format!("dial tcp {address}: connect: {}", words(error)),
        None => format!("dial tcp {address}: {error}"),
    }
}

/// Why a name has no address.
pub(crate) fn unknown(host: &str, error: Option<&io::Error>) -> String {
    let text = error.map(ToString::to_string).unwrap_or_default();
    let why = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    let why = match why {
        "" | "Name or service not known" | "No address associated with hostname" => "no such host",
        why => why,
    };
    format!("dial tcp: lookup {host}: {why}")
}

/// An error of the system as C has it, without capitals and without Rust's number after it.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split_once(" (os error ").map_or(text.as_str(), |(text, _)| text);
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_lowercase().chain(rest).collect())
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn errors_are_told_as_kubernetes_does() {
        for (code, expected) in [
            (Errno::CONNREFUSED, "connect: connection refused"),
            (Errno::HOSTUNREACH, "connect: no route to host"),
            (Errno::NETUNREACH, "connect: network is unreachable"),
            (Errno::TIMEDOUT, "connect: connection timed out"),
        ] {
            let error = io::Error::from(code);
            assert_eq!(failed("10.0.0.7:80", &error), format!("dial tcp 10.0.0.7:80: {expected}"));
        }
        let other = io::Error::other("Something else");
        assert_eq!(failed("a:1", &other), "dial tcp a:1: Something else");
        assert_eq!(words(&io::Error::from(Errno::CONNRESET)), "connection reset by peer");
        assert_eq!(words(&io::Error::other("")), "");
        let lookup =
            |text: &str| io::Error::other(format!("failed to lookup address information: {text}"));
        for (error, expected) in [
            (None, "no such host"),
            (Some(lookup("Name or service not known")), "no such host"),
            (
                Some(lookup("Temporary failure in name resolution")),
                "Temporary failure in name resolution",
            ),
        ] {
            assert_eq!(unknown("a.b", error.as_ref()), format!("dial tcp: lookup a.b: {expected}"));
        }
    }
}
