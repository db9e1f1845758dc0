//! The forms of names. Each function gives the reasons for which a name is refused, none where it is fine; the rules
//! and the words are those of `k8s.io/apimachinery/pkg/util/validation`.

use std::net::IpAddr;

/// Names of most objects: 253 bytes of labels with dots between.
pub fn dns1123_subdomain(name: &str) -> Vec<String> {
    let mut messages = too_long(name, 253);
    if !is_subdomain(name) {
        messages.push(SUBDOMAIN.to_owned());
    }
    messages
}

/// Names of namespaces, containers, volumes: 63 bytes, no dots.
pub fn dns1123_label(name: &str) -> Vec<String> {
    let mut messages = too_long(name, 63);
    if !is_label(name) {
        if is_subdomain(name) {
            messages.push("must not contain dots".to_owned());
        } else {
            messages.push(LABEL.to_owned());
        }
    }
    messages
}

/// Names of services: as a label, but the first byte is a letter.
pub fn dns1035_label(name: &str) -> Vec<String> {
    let mut messages = too_long(name, 63);
    if !is_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        messages.push(DNS1035.to_owned());
    }
    messages
}

/// Keys of labels and annotations, finalizers, condition types: `prefix/name`, the prefix a subdomain and optional.
pub fn label_key(key: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED_MESSAGE} (e.g. 'MyName',  or 'my.name',  or \
                 '123-abc', regex used for validation is '{QUALIFIED}') with an optional DNS \
                 subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                let problems = dns1123_subdomain(prefix);
                messages.extend(problems.into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        messages.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_qualified(name) {
        messages.push(format!(
            "name part {QUALIFIED_MESSAGE} (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
             used for validation is '{QUALIFIED}')"
        ));
    }
    messages
}

pub fn label_value(value: &str) -> Vec<String> {
    let mut messages = too_long(value, 63);
    if !value.is_empty() && !is_qualified(value) {
        messages.push(LABEL_VALUE.to_owned());
    }
    messages
}

/// `None`, or the first reason against a DNS-1123 subdomain; for [`crate::Kind::validate_name`].
pub fn subdomain(name: &str) -> Option<String> {
    first(dns1123_subdomain(name))
}

/// As [`subdomain`], for a DNS-1123 label.
pub fn label(name: &str) -> Option<String> {
    first(dns1123_label(name))
}

/// As [`subdomain`], for a DNS-1035 label.
pub fn service(name: &str) -> Option<String> {
    first(dns1035_label(name))
}

/// What may stand in a URL's path.
pub fn path_segment(name: &str) -> Option<String> {
    match name {
        "." | ".." => Some(format!("may not be '{name}'")),
        _ => {
            name.chars().find(|c| matches!(c, '/' | '%')).map(|c| format!("may not contain '{c}'"))
        }
    }
}

/// Names of ports: `IANA_SVC_NAME`.
pub fn port_name(name: &str) -> Vec<String> {
    let mut messages = too_long(name, 15);
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(known) {
        messages.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !name.contains(|c: char| c.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

pub fn port_number(port: i64) -> Option<String> {
    (!(1..=65535).contains(&port)).then(|| "must be between 1 and 65535, inclusive".to_owned())
}

/// Printable ASCII without `=`, the rule since 1.32.
pub fn env_var(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if !name.chars().all(|c| (c.is_ascii_graphic() || c == ' ') && c != '=') {
        return vec![
            "a valid environment variable name must consist only of printable ASCII characters \
             other than '='"
                .to_owned(),
        ];
    }
    Vec::new()
}

/// Keys of ConfigMaps and Secrets, which become names of files.
pub fn config_key(key: &str) -> Vec<String> {
    let mut messages = too_long(key, 253);
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.is_empty() || !key.chars().all(known) {
        messages.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
             'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
             '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    match key {
        "." => messages.push("must not be '.'".to_owned()),
        ".." => messages.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// An address of either family. Leading zeros are refused, as they mean different things to different programs.
pub fn ip(address: &str) -> Option<String> {
    address
        .parse::<IpAddr>()
        .is_err()
        .then(|| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())
}

/// `10.0.0.0/8`
pub fn cidr(text: &str) -> Option<String> {
    let is_valid = text.split_once('/').is_some_and(|(address, bits)| {
        let max = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|n| n <= max)
    });
    (!is_valid)
        .then(|| "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned())
}

fn first(messages: Vec<String>) -> Option<String> {
    messages.into_iter().next()
}

fn too_long(name: &str, max: usize) -> Vec<String> {
    if name.len() > max { vec![format!("must be no more than {max} bytes")] } else { Vec::new() }
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, of any length.
fn is_label(name: &str) -> bool {
    let end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|b| end(*b))
        && bytes.last().is_some_and(|b| end(*b))
        && bytes.iter().all(|b| end(*b) || *b == b'-')
}

fn is_subdomain(name: &str) -> bool {
    name.split('.').all(is_label)
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_qualified(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
     characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
     'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
     characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  \
     or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or \
     '-', start with an alphabetic character, and end with an alphanumeric character (e.g. \
     'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and \
     must start and end with an alphanumeric character";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric \
     characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
     'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_names() {
        type Check = fn(&str) -> Vec<String>;
        let long = "a".repeat(64);
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert_eq!(longest.len(), 253);
        let table: &[(Check, &[&str], &[&str])] = &[
            (
                dns1123_subdomain,
                &["a", "a.b-c.0", "0a", &long, &longest],
                &["", "A", "-a", "a-", "a..b", ".a", "a_b", "ä", &format!("{longest}e")],
            ),
            (dns1123_label, &["a", "0-a"], &["", "a.b", "A", "-", &long]),
            (dns1035_label, &["a", "a-0"], &["", "0a", "a.b", "a-", &long]),
            (
                label_key,
                &["a", "A_b.c", "example.com/A", "a/b"],
                &["", "/a", "a/", "a/b/c", "A/b", "-a", &long],
            ),
            (label_value, &["", "a", "A_b.c"], &["a/b", "-a", "a b", &long]),
            (port_name, &["http", "a-1"], &["", "80", "a--b", "-a", "A", "abcdefghijklmnop"]),
            (env_var, &["A", "1 a.b-c"], &["", "a=b", "a\tb", "ä"]),
            (config_key, &["a", ".a", "A_b.c-d"], &["", ".", "..", "..a", "a/b", "a b"]),
        ];
        for (i, (check, good, bad)) in table.iter().enumerate() {
            for name in *good {
                assert_eq!(check(name), Vec::<String>::new(), "row {i}: {name:?}");
            }
            for name in *bad {
                assert_ne!(check(name), Vec::<String>::new(), "row {i}: {name:?}");
            }
        }
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
    }

    #[test]
    fn addresses() {
        for good in ["10.0.0.1", "::1", "2001:db8::ffff"] {
            assert_eq!(ip(good), None, "{good}");
        }
        for bad in ["", "10.0.0", "10.0.0.01", "10.0.0.256", "fe80::1%eth0", "x"] {
            assert!(ip(bad).is_some(), "{bad}");
        }
        for good in ["10.0.0.0/8", "::/0", "10.0.0.1/32"] {
            assert_eq!(cidr(good), None, "{good}");
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "/8"] {
            assert!(cidr(bad).is_some(), "{bad}");
        }
    }
}
