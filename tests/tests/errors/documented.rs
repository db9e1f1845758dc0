//! What Kubernetes documents: the StatusReasons and CauseTypes of v1.34. Each is provoked by a case, or stands here with
//! the reason why this server cannot give it.

use std::collections::BTreeSet;

use serde_json::Value;

/// StatusReason of apimachinery/pkg/apis/meta/v1/types.go; the empty one is StatusReasonUnknown.
const REASONS: [&str; 21] = [
    "",
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "ServerTimeout",
    "StoreReadError",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "NotAcceptable",
    "RequestEntityTooLarge",
    "UnsupportedMediaType",
    "InternalError",
    "Expired",
    "ServiceUnavailable",
    // What a client makes of an answer that is no Status.
    "ClientError",
];

/// CauseType of the same file, and those of core/v1 and policy/v1.
const CAUSES: [&str; 15] = [
    "FieldValueNotFound",
    "FieldValueRequired",
    "FieldValueDuplicate",
    "FieldValueInvalid",
    "FieldValueNotSupported",
    "FieldValueForbidden",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "InternalError",
    "FieldValueTypeInvalid",
    "UnexpectedServerResponse",
    "FieldManagerConflict",
    "ResourceVersionTooLarge",
    "NamespaceTerminating",
    "DisruptionBudget",
];

const REASONS_NOT_GIVEN: [(&str, &str); 6] = [
    ("Gone", "deprecated: Kubernetes itself answers Expired"),
    ("ServerTimeout", "its storage is another process and may be out of reach; here it is a file"),
    ("StoreReadError", "a row that cannot be read keeps the server from starting"),
    ("InternalError", "a fault of the server or of a node, which no request can bring about"),
    ("ServiceUnavailable", "where the disk is full: suite `disk`"),
    ("ClientError", "clients make it"),
];

const CAUSES_NOT_GIVEN: [(&str, &str); 4] = [
    ("InternalError", "as the reason of that name"),
    ("FieldValueTypeInvalid", "of custom resources, which are not served yet"),
    ("UnexpectedServerResponse", "clients make it"),
    ("DisruptionBudget", "of PodDisruptionBudgets, which are not served yet"),
];

#[derive(Debug, Default)]
pub struct Seen {
    reasons: BTreeSet<String>,
    causes: BTreeSet<String>,
}

impl Seen {
    pub fn note(&mut self, status: &Value) {
        self.reasons.insert(status["reason"].as_str().unwrap_or_default().to_owned());
        for cause in status["details"]["causes"].as_array().into_iter().flatten() {
            self.causes.insert(cause["reason"].as_str().unwrap_or_default().to_owned());
        }
    }

    /// What is documented and neither provoked nor explained; what is explained and yet given; what nobody documents.
    pub fn missing(&self) -> Vec<String> {
        let mut wrong = compare("reason", &REASONS, &REASONS_NOT_GIVEN, &self.reasons);
        wrong.extend(compare("cause", &CAUSES, &CAUSES_NOT_GIVEN, &self.causes));
        wrong
    }
}

fn compare(
    what: &str,
    documented: &[&str],
    not_given: &[(&str, &str)],
    seen: &BTreeSet<String>,
) -> Vec<String> {
    let explained = |word: &str| not_given.iter().any(|(name, _)| *name == word);
    let mut wrong = Vec::new();
    for word in documented {
        match (seen.contains(*word), explained(word)) {
            (true, true) => wrong.push(format!("the {what} {word:?} is given after all")),
            (false, false) => wrong.push(format!("the {what} {word:?} is provoked by no case")),
            _ => {}
        }
    }
    for word in seen.iter().filter(|word| !documented.contains(&word.as_str())) {
        wrong.push(format!("the {what} {word:?} is in no documentation"));
    }
    wrong
}
