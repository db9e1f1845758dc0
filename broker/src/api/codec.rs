//! Requests and answers as messages. Pure.
//!
//! Method and path are headers of the message, and so are those headers of HTTP that the API reads; the content type, and
//! who wants the answer where and until when, are properties.

use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use warren_api::{Reason, Status};

use super::{AGAIN, ApiAnswer, ApiRequest, MAX_BODY_BYTES};
use crate::envelope::{text, to_text};

/// Paths have at most 4 KiB; selectors and continue tokens come beside.
const MAX_PATH_BYTES: usize = 16 << 10;
/// `warren-streams` names at most a few hundred resources.
const MAX_HEADER_BYTES: usize = 8 << 10;
/// Of all that are read, repetitions included.
const MAX_HEADERS: usize = 64;
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
/// What a request says that the API reads; all else is somebody's own affair.
const REQUEST_HEADERS: [&str; 4] = ["accept", "user-agent", "if-none-match", "audit-id"];
const REQUEST_PREFIXES: [&str; 2] = ["warren-", "impersonate-"];
const ANSWER_HEADERS: [&str; 4] = ["warning", "retry-after", "etag", "audit-id"];
const CONTENT_TYPE: &str = "content-type";
/// How long an asker waits that does not say so.
const PATIENCE: Duration = Duration::from_secs(60);
/// And at most.
const MAX_PATIENCE: Duration = Duration::from_secs(600);

/// For one try of a request.
pub(crate) struct Envelope<'a> {
    pub(crate) account: &'a str,
    /// The same for all tries.
    pub(crate) id: &'a str,
    pub(crate) reply_to: &'a str,
    pub(crate) correlation_id: &'a str,
    pub(crate) expires: Duration,
    pub(crate) again: bool,
}

pub(crate) fn passes(name: &str) -> bool {
    REQUEST_HEADERS.contains(&name)
        || REQUEST_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Transient: who asks is there, and asks again.
pub(crate) fn of_request(request: &ApiRequest, envelope: &Envelope<'_>) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("method".into(), text(&request.method));
    headers.insert("path".into(), text(&request.path));
    if envelope.again {
        headers.insert(AGAIN.into(), AMQPValue::Boolean(true));
    }
    insert(&mut headers, &request.headers, passes);
    let properties = BasicProperties::default()
        .with_type("warren.request".into())
        .with_delivery_mode(1)
        .with_user_id(short(envelope.account))
        .with_message_id(short(envelope.id))
        .with_reply_to(short(envelope.reply_to))
        .with_correlation_id(short(envelope.correlation_id))
        .with_expiration(envelope.expires.as_millis().to_string().into());
    with_content_type(properties, &request.headers).with_headers(headers)
}

/// What the message asks for, or a Status that names what is wrong with it.
pub(crate) fn read_request(
    properties: &BasicProperties,
    body: Bytes,
) -> Result<ApiRequest, Box<Status>> {
    let bad = |name: &str, why: &str| {
        Box::new(Status::bad_request(format!("{name}: Invalid value: {why}")))
    };
    if body.len() > MAX_BODY_BYTES {
        let why = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
        return Err(Box::new(Status::new(Reason::RequestEntityTooLarge, why)));
    }
    if properties.content_encoding().as_ref().is_some_and(|encoding| !encoding.as_str().is_empty())
    {
        return Err(bad("content_encoding", "bodies are sent as they are"));
    }
    let none = FieldTable::default();
    let table = properties.headers().as_ref().unwrap_or(&none);
    let required = |name: &str| match table.inner().get(name) {
        None => Err(Box::new(Status::bad_request(format!(
            "header {name}: Required value: a request has the headers method and path"
        )))),
        Some(value) => {
            to_text(value).ok_or_else(|| bad(&format!("header {name}"), "must be a text in UTF-8"))
        }
    };
    let (method, path) = (required("method")?, required("path")?);
    if !METHODS.contains(&method) {
        return Err(bad("header method", &format!("must be one of {}", METHODS.join(", "))));
    }
    if !path.starts_with('/') || path.len() > MAX_PATH_BYTES || !path.is_ascii() {
        let why = "must begin with / and have at most 16 KiB of ASCII, escaped as in a URL";
        return Err(bad("header path", why));
    }
    let mut headers =
        read_headers(table, passes).map_err(|(name, why)| bad(&format!("header {name}"), why))?;
    if let Some(kind) = properties.content_type().as_ref().filter(|kind| !kind.as_str().is_empty())
    {
        if !is_printable(kind.as_str()) {
            return Err(bad("content_type", "must be printable"));
        }
        headers.push((CONTENT_TYPE.to_owned(), kind.as_str().to_owned()));
    }
    Ok(ApiRequest { method: method.to_owned(), path: path.to_owned(), headers, body })
}

/// Whether its sender says that it may have come before.
pub(crate) fn is_again(properties: &BasicProperties) -> bool {
    let said = properties.headers().as_ref().and_then(|headers| headers.inner().get(AGAIN));
    said == Some(&AMQPValue::Boolean(true))
}

/// How long the asker waits. The broker checks that `expiration` is a number of milliseconds.
pub(crate) fn patience(properties: &BasicProperties) -> Duration {
    let given = properties.expiration().as_ref().and_then(|text| text.as_str().parse().ok());
    given.map_or(PATIENCE, |ms| Duration::from_millis(ms).min(MAX_PATIENCE))
}

pub(crate) fn of_answer(
    answer: &ApiAnswer,
    account: &str,
    correlation_id: Option<&str>,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("code".into(), AMQPValue::LongInt(answer.code.into()));
    insert(&mut headers, &answer.headers, is_of_answer);
    let mut properties = BasicProperties::default()
        .with_type("warren.answer".into())
        .with_delivery_mode(1)
        .with_user_id(short(account));
    if let Some(id) = correlation_id {
        properties = properties.with_correlation_id(short(id));
    }
    with_content_type(properties, &answer.headers).with_headers(headers)
}

/// `None` where it is none.
pub(crate) fn read_answer(properties: &BasicProperties, body: Bytes) -> Option<ApiAnswer> {
    let table = properties.headers().as_ref()?;
    let code = match table.inner().get("code")? {
        AMQPValue::LongInt(code) => u16::try_from(*code).ok()?,
        AMQPValue::LongLongInt(code) => u16::try_from(*code).ok()?,
        _ => return None,
    };
    let mut headers = read_headers(table, is_of_answer).ok()?;
    if let Some(kind) = properties.content_type() {
        headers.push((CONTENT_TYPE.to_owned(), kind.as_str().to_owned()));
    }
    (100..1000).contains(&code).then_some(ApiAnswer { code, headers, body })
}

/// Whether a header of HTTP goes into the answer.
pub(crate) fn is_of_answer(name: &str) -> bool {
    ANSWER_HEADERS.contains(&name) || name.starts_with("warren-")
}

type Named = (String, &'static str);

fn read_headers(
    table: &FieldTable,
    passes: impl Fn(&str) -> bool,
) -> Result<Vec<(String, String)>, Named> {
    let mut headers = Vec::new();
    for (name, value) in table.inner() {
        let name = name.as_str().to_ascii_lowercase();
        if !passes(&name) {
            continue;
        }
        let one = std::slice::from_ref(value);
        let values = match value {
            AMQPValue::FieldArray(values) => values.as_slice(),
            _ => one,
        };
        for value in values {
            let Some(text) = to_text(value) else {
                return Err((name, "must be a text in UTF-8, or a list of texts"));
            };
            if text.len() > MAX_HEADER_BYTES || !is_printable(text) {
                return Err((name, "must have at most 8 KiB and no control characters"));
            }
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return Err((name, "is no header's name"));
            }
            if headers.len() == MAX_HEADERS {
                return Err((name, "at most 64 headers are read"));
            }
            headers.push((name.clone(), text.to_owned()));
        }
    }
    Ok(headers)
}

/// One that is said more than once becomes a list.
fn insert(table: &mut FieldTable, headers: &[(String, String)], passes: impl Fn(&str) -> bool) {
    for (n, (name, value)) in headers.iter().enumerate().filter(|(_, (name, _))| passes(name)) {
        if headers[..n].iter().any(|(before, _)| before == name) {
            continue;
        }
        let mut all = headers.iter().filter(|(other, _)| other == name).map(|(_, v)| text(v));
        let value = match all.clone().count() {
            1 => all.next().unwrap_or_else(|| text(value)),
            _ => AMQPValue::FieldArray(FieldArray::from(all.collect::<Vec<_>>())),
        };
        table.insert(short(name), value);
    }
}

fn with_content_type(properties: BasicProperties, headers: &[(String, String)]) -> BasicProperties {
    match headers.iter().find(|(name, _)| name == CONTENT_TYPE) {
        Some((_, kind)) => properties.with_content_type(short(kind)),
        None => properties,
    }
}

fn is_printable(text: &str) -> bool {
    !text.bytes().any(|byte| byte < b' ' || byte == 0x7f)
}

/// Ours are short; of what is not, the start.
fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::try_new(&text[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests;
