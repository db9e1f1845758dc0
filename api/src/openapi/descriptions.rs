//! What types and fields are, in words: `api/descriptions/`, data beside the table of types.
//!
//! A file is a list of types, each followed by its fields; the first word of a line is the name, the rest the text:
//!
//! ```text
//! =core/v1.TCPSocketAction Opens a TCP connection; that it opens is success.
//! host The host to connect to. Defaults to the pod's address.
//! ```
//!
//! `=*` holds the fields that every kind and every list has. Which types need one, and that none is forgotten, the tests
//! below know: they fail with the list of what is missing.

use std::collections::HashMap;

use crate::schema::Type;

/// One file for each area; the order is of no importance.
static FILES: [(&str, &str); 13] = [
    ("apps", include_str!("../../descriptions/apps.txt")),
    ("batch", include_str!("../../descriptions/batch.txt")),
    ("config", include_str!("../../descriptions/config.txt")),
    ("containers", include_str!("../../descriptions/containers.txt")),
    ("meta", include_str!("../../descriptions/meta.txt")),
    ("node", include_str!("../../descriptions/node.txt")),
    ("pod", include_str!("../../descriptions/pod.txt")),
    ("probes", include_str!("../../descriptions/probes.txt")),
    ("scheduling", include_str!("../../descriptions/scheduling.txt")),
    ("security", include_str!("../../descriptions/security.txt")),
    ("service", include_str!("../../descriptions/service.txt")),
    ("volumes", include_str!("../../descriptions/volumes.txt")),
    ("volumes_external", include_str!("../../descriptions/volumes_external.txt")),
];

/// The section of the fields that every kind and every list has.
const EVERY: &str = "*";

/// Read whenever a document is made (a fraction of a millisecond), and dropped with it.
pub(super) struct Descriptions {
    types: HashMap<&'static str, &'static str>,
    fields: HashMap<(&'static str, &'static str), &'static str>,
}

impl Descriptions {
    pub(super) fn read() -> Self {
        let mut read = Self { types: HashMap::new(), fields: HashMap::new() };
        for (_, text) in FILES {
            for (of, name, description) in entries(text) {
                match name {
                    "" => read.types.insert(of, description),
                    _ => read.fields.insert((of, name), description),
                };
            }
        }
        read
    }

    pub(super) fn of_type(&self, name: &str) -> Option<&'static str> {
        self.types.get(name).copied()
    }

    pub(super) fn of_field(&self, of: &Type, name: &str) -> Option<&'static str> {
        let own = self.fields.get(&(&*of.name, name));
        own.or_else(|| self.fields.get(&(EVERY, name)).filter(|_| is_envelope(of))).copied()
    }
}

/// Whether a type carries its kind; in protobuf, where it does not, that stands around the object.
fn is_envelope(of: &Type) -> bool {
    of.field("apiVersion").is_some_and(|field| field.proto.is_none())
}

/// The type, the field (empty for the type itself) and the text of every line.
fn entries(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.scan("", |of, line| {
        let (name, description) = line.split_once(' ').unwrap_or((line, ""));
        Some(match name.strip_prefix('=') {
            Some(found) => {
                *of = found;
                (found, "", description)
            }
            None => (*of, name, description),
        })
    })
}

#[cfg(test)]
mod tests;
