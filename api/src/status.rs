//! Errors as Kubernetes says them: `metav1.Status` with reason, details and causes.

use serde::{Deserialize, Serialize};

use crate::GroupResource;

/// Why a field was refused; the words are those of `k8s.io/apimachinery/pkg/util/validation/field`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub kind: Cause,
    /// `spec.containers[0].image`
    pub field: String,
    /// Without the field: `Required value`, `Invalid value: "x": must be …`.
    pub message: String,
}

/// The reason of one cause in `details.causes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    FieldValueRequired,
    FieldValueInvalid,
    FieldValueDuplicate,
    FieldValueForbidden,
    FieldValueNotFound,
    FieldValueNotSupported,
    FieldValueTooLong,
    FieldValueTooMany,
    FieldValueTypeInvalid,
    InternalError,
    FieldManagerConflict,
    NamespaceTerminating,
    UnexpectedServerResponse,
    ResourceVersionTooLarge,
    /// Ours: the write belongs to a leader's term that is over.
    TermOver,
    /// Ours: a pod of before a restore may run on a node that has not listed its pods since.
    MayRunElsewhere,
    /// A cause that has a message and no reason: what lies behind an internal error.
    #[serde(rename = "")]
    Unknown,
}

/// Collects field errors in the order in which they are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorList(pub Vec<FieldError>);

impl ErrorList {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `detail` may be empty.
    pub fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.push(Cause::FieldValueRequired, field, join("Required value", detail));
    }

    /// `value` is shown as JSON, so strings stand in quotes.
    pub fn invalid(&mut self, field: impl Into<String>, value: impl Serialize, detail: &str) {
        let message = join(&format!("Invalid value: {}", show(&value)), detail);
        self.push(Cause::FieldValueInvalid, field, message);
    }

    pub fn duplicate(&mut self, field: impl Into<String>, value: impl Serialize) {
        self.push(Cause::FieldValueDuplicate, field, format!("Duplicate value: {}", show(&value)));
    }

    pub fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push(Cause::FieldValueForbidden, field, join("Forbidden", detail));
    }

    pub fn not_found(&mut self, field: impl Into<String>, value: impl Serialize) {
        self.push(Cause::FieldValueNotFound, field, format!("Not found: {}", show(&value)));
    }

    pub fn not_supported(
        &mut self,
        field: impl Into<String>,
        value: impl Serialize,
        supported: &[&str],
    ) {
        let values: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message =
            format!("Unsupported value: {}: supported values: {}", show(&value), values.join(", "));
        self.push(Cause::FieldValueNotSupported, field, message);
    }

    pub fn too_long(&mut self, field: impl Into<String>, max_bytes: usize) {
        self.push(
            Cause::FieldValueTooLong,
            field,
            format!("Too long: may not be more than {max_bytes} bytes"),
        );
    }

    pub fn too_many(&mut self, field: impl Into<String>, actual: usize, max: usize) {
        self.push(
            Cause::FieldValueTooMany,
            field,
            format!("Too many: {actual}: must have at most {max} items"),
        );
    }

    fn push(&mut self, kind: Cause, field: impl Into<String>, message: String) {
        self.0.push(FieldError { kind, field: field.into(), message });
    }
}

fn join(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}

fn show(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => quote(&text),
        _ => serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned()),
    }
}

/// As Go's `%q`: JSON's quotes, but for control characters.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The `reason` of a Status; the HTTP code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    Timeout,
    ServerTimeout,
    TooManyRequests,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    NotAcceptable,
    MethodNotAllowed,
    InternalError,
    ServiceUnavailable,
    /// None is given; such a Status has no field `reason`. Kubernetes' storage and its decoders of patches fail so.
    #[serde(rename = "")]
    Unknown,
}

impl Reason {
    pub fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::InternalError | Reason::ServerTimeout | Reason::Unknown => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }
}

/// A `metav1.Status` that reports a failure. The one form in which an error leaves the server, over HTTPS and AMQP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<Details>>,
}

/// What a failure was about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource's plural name, or the kind for `Invalid`, as Kubernetes does it.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<FieldError>,
    pub retry_after_seconds: Option<u32>,
}

impl Status {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 500, for what is not the client's fault.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        let shown = format!("Internal error occurred: {message}");
        let cause = FieldError { kind: Cause::Unknown, field: String::new(), message };
        let details = Details { causes: vec![cause], ..Details::default() };
        Self { reason: Reason::InternalError, message: shown, details: Some(Box::new(details)) }
    }

    /// 500 without a reason.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Reason::Unknown, message)
    }

    /// What a router says of a request that no resource takes, with details that are empty: `NewGenericServerResponse`
    /// of k8s.io/apimachinery.
    pub fn generic(reason: Reason) -> Self {
        let message = match reason {
            Reason::NotFound => "the server could not find the requested resource",
            Reason::MethodNotAllowed => {
                "the server does not allow this method on the requested resource"
            }
            Reason::Invalid => "the server rejected our request due to an error in our request",
            _ => "the server rejected our request for an unknown reason",
        };
        Self { details: Some(Box::default()), ..Self::new(reason, message) }
    }

    /// A name that the server chose is taken: the client may try again.
    pub fn generated_name_conflict(resource: &GroupResource, name: &str) -> Self {
        let message = format!(
            "{resource} {name:?} already exists, the server was not able to generate a unique name \
             for the object"
        );
        let mut status = Self::about(Reason::AlreadyExists, resource, name, message);
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = Some(1);
        }
        status
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::about(Reason::NotFound, resource, name, format!("{resource} {name:?} not found"))
    }

    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::about(
            Reason::AlreadyExists,
            resource,
            name,
            format!("{resource} {name:?} already exists"),
        )
    }

    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        Self::about(
            Reason::Conflict,
            resource,
            name,
            format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"),
        )
    }

    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {name:?} is forbidden: {why}")
        };
        Self::about(Reason::Forbidden, resource, name, message)
    }

    /// 422 with every field. `kind` is the object's kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: ErrorList) -> Self {
        let mut shown: Vec<String> = Vec::new();
        for error in &errors.0 {
            let message = format!("{}: {}", error.field, error.message);
            // The message says the same once; the causes have it as often as it was found.
            if !shown.contains(&message) {
                shown.push(message);
            }
        }
        let list = match shown.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let of = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let shown = format!("{of} {name:?} is invalid: {list}");
        Self {
            reason: Reason::Invalid,
            message: shown,
            details: Some(Box::new(Details {
                name: name.to_owned(),
                group: group.to_owned(),
                kind: kind.to_owned(),
                causes: errors.0,
                ..Details::default()
            })),
        }
    }

    fn about(reason: Reason, resource: &GroupResource, name: &str, message: String) -> Self {
        Self {
            reason,
            message,
            details: Some(Box::new(Details {
                name: name.to_owned(),
                group: resource.group.to_string(),
                kind: resource.resource.to_string(),
                ..Details::default()
            })),
        }
    }

    /// The JSON that goes over the wire.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::{Map, Value, json};
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.reason.code(),
        });
        if self.reason != Reason::Unknown {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            let mut map = Map::new();
            for (key, value) in [
                ("name", &details.name),
                ("group", &details.group),
                ("kind", &details.kind),
                ("uid", &details.uid),
            ] {
                if !value.is_empty() {
                    map.insert(key.to_owned(), Value::from(value.as_str()));
                }
            }
            if !details.causes.is_empty() {
                let cause = |cause: &FieldError| {
                    let mut shown = json!({"message": cause.message});
                    if cause.kind != Cause::Unknown {
                        shown["reason"] = json!(cause.kind);
                    }
                    if !cause.field.is_empty() {
                        shown["field"] = cause.field.as_str().into();
                    }
                    shown
                };
                map.insert("causes".to_owned(), details.causes.iter().map(cause).collect());
            }
            if let Some(seconds) = details.retry_after_seconds {
                map.insert("retryAfterSeconds".to_owned(), seconds.into());
            }
            status["details"] = Value::Object(map);
        }
        status
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_object_names_every_field() {
        let mut errors = ErrorList::default();
        errors.required("spec.containers", "");
        errors.invalid("metadata.name", "A_b", "a lowercase RFC 1123 subdomain must …");
        let status = Status::invalid("apps", "Deployment", "A_b", errors);
        assert_eq!(
            status.message,
            "Deployment.apps \"A_b\" is invalid: [spec.containers: Required value, \
             metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must …]"
        );
        assert_eq!(status.to_json()["details"]["causes"][0]["reason"], "FieldValueRequired");
    }
}
