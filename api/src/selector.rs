//! Label and field selectors: parsing, printing, matching.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use crate::tree::{self, Tree};
use crate::validation::names;
use crate::{Kind, Object};

mod field;
mod parse;

pub use field::{FieldSelector, FieldTerm};

/// Which objects are meant, by their labels: all requirements hold. Without requirements it matches everything.
///
/// [`fmt::Display`] gives Kubernetes' canonical text, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// The selector of an absent `LabelSelector`, which matches nothing.
    is_nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted and without duplicates; empty for [`Operator::Exists`] and [`Operator::DoesNotExist`].
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    /// Also true where the label is absent.
    NotEquals,
    In,
    /// Also true where the label is absent.
    NotIn,
    Exists,
    DoesNotExist,
    /// The label is a whole number above the value.
    GreaterThan,
    LessThan,
}

/// Why a text or a `LabelSelector` is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("found '{found}', expected: {expected}")]
    Syntax { found: String, expected: &'static str },
    /// Kubernetes has no comma here.
    #[error("found '{0}' expected: '('")]
    NoList(String),
    #[error("unable to parse requirement: {0}")]
    Requirement(Box<SelectorError>),
    #[error("{at}: Invalid value: {key:?}: {message}")]
    Key { at: &'static str, key: String, message: String },
    #[error(
        "values[0]: Invalid value: {0:?}: for 'Gt', 'Lt' operators, the value must be an integer"
    )]
    NotANumber(String),
    #[error("values[{index}][{key}]: Invalid value: {value:?}: {message}")]
    Value { index: usize, key: String, value: String, message: String },
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    #[error("values: Required value: for 'in', 'notin' operators, values set can't be empty")]
    NoValues,
    #[error("values: Invalid value: {0:?}: values set must be empty for exists and does not exist")]
    Values(Vec<String>),
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Field { selector: String, part: String },
    #[error("field label not supported: {0}")]
    UnknownField(String),
    #[error("{0:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")]
    OnlyNames(String),
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), is_nothing: true }
    }

    /// The text form of the query parameter: `app=web,tier in (a,b),!old`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = parse::requirements(text)?;
        Self::new(requirements).map_err(|error| SelectorError::Requirement(Box::new(error)))
    }

    /// The object form, `{matchLabels, matchExpressions}`. Absent matches nothing, empty matches everything.
    pub fn from_object(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.and_then(Value::as_object) else {
            return Ok(Self::nothing());
        };
        let mut requirements: Vec<Requirement> = tree::pairs(selector, "matchLabels")
            .map(|(key, value)| Requirement::new(key, Operator::Equals, [value]))
            .collect();
        for (_, expression) in tree::maps(selector, "matchExpressions") {
            let operator = match tree::text(expression, "operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = tree::texts(expression, "values");
            requirements.push(Requirement::new(tree::text(expression, "key"), operator, values));
        }
        Self::new(requirements)
    }

    /// The map form of a Service's or a pod's node selector: all labels are equal. Empty matches everything.
    pub fn from_map(labels: &Tree) -> Self {
        let mut requirements: Vec<Requirement> = labels
            .iter()
            .map(|(k, v)| Requirement::new(k, Operator::Equals, [v.as_str().unwrap_or_default()]))
            .collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, is_nothing: false }
    }

    fn new(mut requirements: Vec<Requirement>) -> Result<Self, SelectorError> {
        for requirement in &requirements {
            requirement.check()?;
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, is_nothing: false })
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.is_nothing
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether the object's labels are meant. Allocates nothing.
    pub fn matches(&self, object: &Object) -> bool {
        if self.is_everything() {
            return true;
        }
        self.matches_labels(object.at(&["metadata", "labels"]).and_then(Value::as_object))
    }

    /// As [`LabelSelector::matches`], for labels that stand alone.
    pub fn matches_labels(&self, labels: Option<&Tree>) -> bool {
        !self.is_nothing
            && self.requirements.iter().all(|requirement| {
                requirement.matches(labels.and_then(|l| l.get(&requirement.key)?.as_str()))
            })
    }
}

impl Requirement {
    /// Not yet checked; the values become sorted and unique.
    pub fn new<'a>(
        key: &str,
        operator: Operator,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut values: Vec<String> = values.into_iter().map(str::to_owned).collect();
        values.sort_unstable();
        values.dedup();
        Self { key: key.to_owned(), operator, values }
    }

    /// Whether a label's value, `None` where it is absent, fulfils the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let is_listed = |value: &str| self.values.iter().any(|v| v == value);
        match (self.operator, value) {
            (Operator::Equals | Operator::In, value) => value.is_some_and(is_listed),
            (Operator::NotEquals | Operator::NotIn, value) => !value.is_some_and(is_listed),
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::GreaterThan, value) => self.bound(value).is_some_and(|(a, b)| a > b),
            (Operator::LessThan, value) => self.bound(value).is_some_and(|(a, b)| a < b),
        }
    }

    fn bound(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }

    fn check(&self) -> Result<(), SelectorError> {
        check_key("key", &self.key)?;
        match self.operator {
            Operator::In | Operator::NotIn if self.values.is_empty() => {
                return Err(SelectorError::NoValues);
            }
            Operator::Exists | Operator::DoesNotExist if !self.values.is_empty() => {
                return Err(SelectorError::Values(self.values.clone()));
            }
            _ => {}
        }
        for (index, value) in self.values.iter().enumerate() {
            let message = names::label_value(value).join("; ");
            if !message.is_empty() {
                let (key, value) = (self.key.clone(), value.clone());
                return Err(SelectorError::Value { index, key, value, message });
            }
        }
        Ok(())
    }
}

fn check_key(at: &'static str, key: &str) -> Result<(), SelectorError> {
    let message = names::label_key(key).join("; ");
    match message.is_empty() {
        true => Ok(()),
        false => Err(SelectorError::Key { at, key: key.to_owned(), message }),
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// The value of a field for field selectors.
fn field_of<'a>(kind: &dyn Kind, object: &'a Object, path: &str) -> Cow<'a, str> {
    match path {
        "metadata.name" => object.name().into(),
        "metadata.namespace" => object.namespace().into(),
        _ => kind.field(object, path),
    }
}

#[cfg(test)]
mod tests;
