//! A list that is too large for one answer, page by page. Pure.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use warren_api::{Reason, Status};
use warren_broker::api::ApiAnswer;

use crate::raw::encode;

/// Objects of a first page, as kubectl and the informers ask for.
const FIRST: u64 = 500;
/// The answer of the API where it is too large to be sent.
const TOO_LARGE: u16 = 413;

/// Where the reading of a list has come to.
pub(crate) struct Pages {
    /// Path and query without `limit` and `continue`.
    path: String,
    limit: u64,
    token: String,
    /// The asker takes a page; else all of them are put together.
    one: bool,
    items: Vec<Box<RawValue>>,
}

pub(crate) enum Step {
    Next,
    Done(ApiAnswer),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    kind: Value,
    api_version: Value,
    #[serde(default)]
    metadata: Map<String, Value>,
    items: Vec<Box<RawValue>>,
}

impl Pages {
    /// `None` where the first answer is what is wanted, or pages do not help.
    pub(crate) fn of(path: &str, first: &ApiAnswer) -> Option<Self> {
        if first.code != TOO_LARGE {
            return None;
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (mut kept, mut limit, mut token) = (Vec::new(), 0, String::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("limit", number)) => limit = number.parse().ok()?,
                Some(("continue", given)) => given.clone_into(&mut token),
                _ => kept.push(pair),
            }
        }
        if limit == 1 {
            return None;
        }
        let path = match kept.is_empty() {
            true => format!("{path}?"),
            false => format!("{path}?{}&", kept.join("&")),
        };
        // Who names a limit, or goes on where a page ended, reads pages anyway.
        let one = limit > 0 || !token.is_empty();
        let limit = if limit > 0 { limit / 2 } else { FIRST };
        Some(Self { path, limit, token, one, items: Vec::new() })
    }

    /// Path and query of the next request.
    pub(crate) fn next(&self) -> String {
        let Self { path, limit, token, .. } = self;
        match token.is_empty() {
            true => format!("{path}limit={limit}"),
            false => format!("{path}limit={limit}&continue={token}"),
        }
    }

    /// Takes the answer to it.
    pub(crate) fn step(&mut self, answer: ApiAnswer) -> Step {
        if answer.code == TOO_LARGE && self.limit > 1 {
            self.limit /= 2;
            return Step::Next;
        }
        if self.one || answer.code != 200 {
            return Step::Done(answer);
        }
        match self.take(&answer.body) {
            Ok(None) => Step::Next,
            Ok(Some(body)) => Step::Done(ApiAnswer { body, ..answer }),
            Err(error) => {
                let why = format!("a page of the list cannot be read: {error}");
                Step::Done(ApiAnswer::of(&Status::new(Reason::InternalError, why)))
            }
        }
    }

    /// The whole list with its last page.
    fn take(&mut self, body: &Bytes) -> serde_json::Result<Option<Bytes>> {
        let Page { kind, api_version, mut metadata, items } = serde_json::from_slice(body)?;
        let token = metadata.remove("continue");
        metadata.remove("remainingItemCount");
        self.items.extend(items);
        if let Some(token) = token.as_ref().and_then(Value::as_str).filter(|t| !t.is_empty()) {
            self.token = encode(token);
            return Ok(None);
        }
        let list = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        let mut text = serde_json::to_vec(&list)?;
        text.pop();
        text.extend_from_slice(b",\"items\":");
        serde_json::to_writer(&mut text, &self.items)?;
        text.push(b'}');
        Ok(Some(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with so many objects that has room for so many in an answer.
    fn serve(path: &str, objects: u64, room: u64) -> ApiAnswer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        assert_eq!(path, "/api/v1/pods");
        let get = |name: &str| query.split('&').find_map(|p| p.strip_prefix(&format!("{name}=")));
        assert_eq!(get("labelSelector"), Some("a"));
        let number = |name: &str| get(name).map_or(0, |text| text.parse().unwrap());
        let (limit, from) = (number("limit"), number("continue"));
        let to = if limit == 0 { objects } else { objects.min(from + limit) };
        if to - from > room {
            return ApiAnswer { code: 413, ..ApiAnswer::default() };
        }
        let items: Vec<u64> = (from..to).collect();
        let mut list = json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items,
        });
        if to < objects {
            list["metadata"]["continue"] = to.to_string().into();
            list["metadata"]["remainingItemCount"] = (objects - to).into();
        }
        ApiAnswer { code: 200, body: list.to_string().into(), ..ApiAnswer::default() }
    }

    fn ask(path: &str, objects: u64, room: u64) -> (ApiAnswer, usize) {
        let first = serve(path, objects, room);
        let Some(mut pages) = Pages::of(path, &first) else { return (first, 1) };
        for asked in 2..100 {
            if let Step::Done(answer) = pages.step(serve(&pages.next(), objects, room)) {
                return (answer, asked);
            }
        }
        panic!("it does not end")
    }

    fn items(answer: &ApiAnswer) -> (usize, Value) {
        let list: Value = serde_json::from_slice(&answer.body).unwrap();
        (list["items"].as_array().unwrap().len(), list["metadata"].clone())
    }

    #[test]
    fn a_list_that_fits_is_asked_for_once() {
        let (answer, asked) = ask("/api/v1/pods?labelSelector=a", 600, 600);
        assert_eq!((asked, items(&answer)), (1, (600, json!({"resourceVersion": "7"}))));
    }

    #[test]
    fn a_list_that_does_not_is_put_together() {
        for room in [1, 7, 100, 599] {
            let (answer, _) = ask("/api/v1/pods?labelSelector=a", 60, room.min(59));
            let list: Value = serde_json::from_slice(&answer.body).unwrap();
            let all: Vec<u64> = serde_json::from_value(list["items"].clone()).unwrap();
            assert_eq!(all, (0..60).collect::<Vec<_>>());
            assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PodList"), &json!("v1")));
            assert_eq!(list["metadata"], json!({"resourceVersion": "7"}));
        }
    }

    #[test]
    fn a_page_becomes_smaller() {
        let (answer, asked) = ask("/api/v1/pods?limit=500&labelSelector=a&continue=20", 600, 100);
        let metadata = json!({"resourceVersion": "7", "continue": "82", "remainingItemCount": 518});
        assert_eq!((asked, items(&answer)), (4, (62, metadata)));
    }

    #[test]
    fn one_object_that_is_too_large_is_told() {
        for path in ["/api/v1/pods?labelSelector=a", "/api/v1/pods?labelSelector=a&limit=1"] {
            assert_eq!(ask(path, 3, 0).0.code, 413);
        }
    }
}
