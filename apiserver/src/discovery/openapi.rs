//! `/openapi/v2` and `/openapi/v3`, made when somebody first asks and kept as bytes.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use serde_json::Value;
use warren_api::Registry;
use warren_api::openapi::{self, V2_PROTOBUF};

use super::etag_of;
use crate::response::{self, Body};

/// What is sent: a type with an at sign is no media type to strict parsers, kubectl's up to 1.28 among them.
const V2_PROTOBUF_SENT: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";

#[derive(Debug, Default)]
pub(crate) struct Schemas {
    v2_json: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
    index: OnceLock<Document>,
    /// By path; at most one for each group-version that is served.
    v3: Mutex<BTreeMap<String, Document>>,
}

#[derive(Clone, Debug)]
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

impl Document {
    fn of(bytes: Bytes) -> Self {
        Self { etag: etag_of(&bytes), bytes }
    }

    fn json(value: &Value) -> Self {
        Self::of(crate::codec::bytes(value))
    }
}

impl Schemas {
    pub(crate) fn answer(
        &self,
        registry: Registry,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<Response<Body>> {
        let rest = path.strip_prefix("/openapi/")?;
        let accepted = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect::<Vec<_>>()
            .join(",");
        if rest == "v2" {
            // Asked for with an at sign, which is no media type: Go cannot read it in an answer.
            let protobuf =
                accepted.contains("spec.v2@v1.0+protobuf") || accepted.contains(V2_PROTOBUF);
            if protobuf {
                let make = || Document::of(openapi::v2_protobuf(&openapi::v2(&registry)).into());
                let document = self.v2_protobuf.get_or_init(make);
                return Some(send(document, V2_PROTOBUF_SENT, headers));
            }
            let make = || Document::json(&openapi::v2(&registry));
            return Some(send(self.v2_json.get_or_init(make), "application/json", headers));
        }
        let rest = rest.strip_prefix("v3")?;
        let only_protobuf = accepted.contains(V3_PROTOBUF)
            && !accepted.contains("json")
            && !accepted.contains("*/*");
        if only_protobuf {
            // Clients fall back to JSON on 406.
            return Some(response::text(StatusCode::NOT_ACCEPTABLE, ""));
        }
        if rest.is_empty() {
            let make = || Document::json(&openapi::v3_index(&registry));
            return Some(send(self.index.get_or_init(make), "application/json", headers));
        }
        let mut made = self.v3.lock();
        if let Some(document) = made.get(rest) {
            return Some(send(document, "application/json", headers));
        }
        let mut words = rest.trim_start_matches('/').split('/');
        let (group, version) = match (words.next()?, words.next(), words.next(), words.next()) {
            ("api", Some(version), None, None) => ("", version),
            ("apis", Some(group), Some(version), None) => (group, version),
            _ => return None,
        };
        let document = Document::json(&openapi::v3(&registry, group, version)?);
        let response = send(&document, "application/json", headers);
        made.insert(rest.to_owned(), document);
        Some(response)
    }
}

fn send(document: &Document, content_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let matches = headers.get(header::IF_NONE_MATCH).is_some_and(|given| given == document.etag);
    let mut response = match matches {
        true => response::json(StatusCode::NOT_MODIFIED, Bytes::new()),
        false => response::json(StatusCode::OK, document.bytes.clone()),
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::ETAG, document.etag.clone());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}
