//! The API over AMQP: requests on the queue `warren.api`, answers to wherever the asker reads them.
//!
//! What a request is, and what comes of it, is pure: [`codec`] reads and writes messages, [`desk`] knows what was asked
//! before, [`turns`] whose turn it is. [`serve`] is the server's shell, [`ask`] the asker's.

use async_trait::async_trait;
use bytes::Bytes;

pub(crate) mod ask;
pub(crate) mod codec;
pub(crate) mod desk;
pub(crate) mod serve;
pub(crate) mod turns;

pub use ask::{ApiLink, AskError};

/// As the API takes a body over HTTPS.
pub const MAX_BODY_BYTES: usize = 3 << 20;
/// Header of an asker that says again what it said before: it has lost its connection, and does not know how far the
/// first came.
pub const AGAIN: &str = "again";

/// A request, as over HTTPS. `content-type` is among the headers, whose names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiRequest {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl ApiRequest {
    /// Whether it asks for a change; only then is it of interest whether it is done once.
    pub fn changes(&self) -> bool {
        self.method != "GET"
    }
}

/// The answer, likewise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiAnswer {
    pub code: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl ApiAnswer {
    pub fn of(status: &warren_api::Status) -> Self {
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let retry = status.details.as_ref().and_then(|details| details.retry_after_seconds);
        headers.extend(retry.map(|seconds| ("retry-after".to_owned(), seconds.to_string())));
        let body = status.to_json().to_string().into();
        Self { code: status.reason.code(), headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Who asks, and what.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The account that the broker vouches for; `None` where the message named none.
    pub account: Option<String>,
    /// It may have been done before, by a server that ended before it could say so.
    pub again: bool,
    pub request: ApiRequest,
}

/// Does what is asked: the API.
#[async_trait]
pub trait ApiHandler: Send + Sync + 'static {
    async fn answer(&self, asked: Asked) -> ApiAnswer;
}
