//! Field selectors: `spec.nodeName=a,status.phase!=Running`.

use std::fmt;

use super::{SelectorError, field_of};
use crate::{Kind, Object};

/// Which objects are meant, by a few of their fields: all terms hold. Made for one kind, whose fields it has checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub path: String,
    pub is_equal: bool,
    pub value: String,
}

impl FieldSelector {
    /// Fails with Kubernetes' words on a field that the kind does not offer (400).
    pub fn parse(text: &str, kind: &dyn Kind) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split(text).filter(|part| !part.is_empty()) {
            let term = term(part).ok_or_else(|| SelectorError::Field {
                selector: text.to_owned(),
                part: part.to_owned(),
            })?;
            let is_common = matches!(&*term.path, "metadata.name" | "metadata.namespace");
            if !is_common && !kind.selectable_fields().contains(&&*term.path) {
                return Err(if kind.selectable_fields().is_empty() {
                    SelectorError::OnlyNames(term.path)
                } else {
                    SelectorError::UnknownField(term.path)
                });
            }
            terms.push(term);
        }
        Ok(Self { terms })
    }

    /// The same of a kind whose fields have other names.
    pub fn with_paths(mut self, path: impl Fn(&str) -> String) -> Self {
        for term in &mut self.terms {
            term.path = path(&term.path);
        }
        self
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// The value that a field must have, where one is asked for: `spec.nodeName` of an agent's list.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.is_equal && t.path == path).map(|t| &*t.value)
    }

    /// `kind` must be the one that the selector was parsed for.
    pub fn matches(&self, kind: &dyn Kind, object: &Object) -> bool {
        self.terms.iter().all(|t| (field_of(kind, object, &t.path) == t.value) == t.is_equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if term.is_equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", term.path, escape(&term.value))?;
        }
        Ok(())
    }
}

/// At commas that no backslash precedes.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut is_escaped = false;
    text.split(move |c| {
        let is_comma = c == ',' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_comma
    })
}

fn term(part: &str) -> Option<FieldTerm> {
    let at = part.find(['=', '!'])?;
    let (path, rest) = part.split_at(at);
    let (is_equal, value) = if let Some(value) = rest.strip_prefix("!=") {
        (false, value)
    } else {
        (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?)
    };
    Some(FieldTerm { path: path.to_owned(), is_equal, value: unescape(value)? })
}

/// `\\`, `\,` and `\=` stand for the second byte; other escapes, and bare commas and equal signs, are refused.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            _ => out.push(c),
        }
    }
    Some(out)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}
