//! Requests whose answers stay JSON text, so that each reader decodes what it wants of them.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::Request;
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::Deserialize;
use serde_json::value::RawValue;
use warren_api::Revision;
use warren_broker::{Heads, fallback, heads};

/// Objects per page of a list, as client-go has it.
const PAGE: usize = 500;
/// The longest line of a watch: an object (at most 3 MiB at the server) with room for its envelope.
const MAX_LINE: usize = 8 << 20;

/// Where the objects of a resource are: `/api/v1`, `pods`, and the query that selects among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collection {
    /// `/api/v1/pods`
    pub path: String,
    /// `fieldSelector=spec.nodeName%3Drabbit-1`, or empty.
    pub query: String,
}

impl Collection {
    pub fn of(group: &str, version: &str, plural: &str) -> Self {
        let path = if group.is_empty() {
            format!("/api/{version}/{plural}")
        } else {
            format!("/apis/{group}/{version}/{plural}")
        };
        Self { path, query: String::new() }
    }

    fn url(&self, parameters: &str) -> String {
        let between = if self.query.is_empty() { "" } else { "&" };
        format!("{}?{}{between}{parameters}", self.path, self.query)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RawError {
    #[error("the request failed")]
    Request(#[from] kube::Error),
    #[error("the request cannot be written")]
    Build(#[from] http::Error),
    #[error("an answer or a line of it is no JSON that was expected")]
    Decode(#[from] serde_json::Error),
    #[error("the history before this watch is gone")]
    Expired,
    #[error("a line of the watch is over {MAX_LINE} bytes")]
    TooLong,
    #[error("the server ended the watch with an error: {0}")]
    Watch(String),
    #[error("the server does not say where the streams stand: HTTP {0}")]
    Heads(u16),
    #[error("the server's answer has no resourceVersion")]
    NoRevision,
}

pub(crate) struct List {
    pub revision: Revision,
    pub items: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Option<Vec<Box<RawValue>>>,
}

/// Everything there is, in pages of one consistent revision; started over without pages where the first expired.
pub(crate) async fn list(client: &kube::Client, of: &Collection) -> Result<List, RawError> {
    match list_in_pages(client, of, &format!("limit={PAGE}")).await {
        Err(RawError::Request(kube::Error::Api(status))) if status.code == 410 => {
            list_in_pages(client, of, "limit=0").await
        }
        other => other,
    }
}

async fn list_in_pages(
    client: &kube::Client,
    of: &Collection,
    limit: &str,
) -> Result<List, RawError> {
    let mut items = Vec::new();
    let mut parameters = limit.to_owned();
    loop {
        let request = Request::get(of.url(&parameters)).body(Vec::new())?;
        let page: Page = serde_json::from_str(&client.request_text(request).await?)?;
        items.extend(page.items.unwrap_or_default());
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = format!("{limit}&continue={}", encode(&token)),
            None => {
                let revision = page.metadata.resource_version.and_then(|rv| rv.parse().ok());
                return Ok(List { revision: revision.ok_or(RawError::NoRevision)?, items });
            }
        }
    }
}

/// The revision that a list has now, without the list.
pub(crate) async fn head(client: &kube::Client, of: &Collection) -> Result<Revision, RawError> {
    let request = Request::get(of.url("limit=1")).body(Vec::new())?;
    let page: Page = serde_json::from_str(&client.request_text(request).await?)?;
    let revision = page.metadata.resource_version.and_then(|rv| rv.parse().ok());
    revision.ok_or(RawError::NoRevision)
}

/// Where whole resources stand; `None` where the server does not say.
pub(crate) async fn heads(
    client: &kube::Client,
    asked: &heads::Asked,
) -> Result<Option<Heads>, RawError> {
    let request = Request::get("/version")
        .header(heads::ASK, asked.to_string())
        .body(kube::client::Body::empty())?;
    let response = client.send(request).await?;
    if !response.status().is_success() {
        return Err(RawError::Heads(response.status().as_u16()));
    }
    Ok(Heads::told(response.headers().get(heads::TOLD).map(http::HeaderValue::as_bytes)))
}

/// One object as JSON; `None` where there is none.
pub(crate) async fn get(client: &kube::Client, path: &str) -> Result<Option<String>, RawError> {
    match client.request_text(Request::get(path).body(Vec::new())?).await {
        Ok(text) => Ok(Some(text)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A line of a watch: `{"type":"ADDED","object":{…}}`.
#[derive(Deserialize)]
pub(crate) struct Line<'a> {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// The lines of a watch that starts after a revision. It ends when the server ends it. `stands_in` is the reader that would
/// read from the broker.
pub(crate) async fn watch(
    client: &kube::Client,
    of: &Collection,
    after: Revision,
    stands_in: Option<&str>,
) -> Result<impl Stream<Item = Result<Bytes, RawError>> + Send + use<>, RawError> {
    // Watches of equal length would end, and begin anew, all at once.
    let timeout = rand::random_range(280..=560);
    let parameters = format!(
        "watch=true&allowWatchBookmarks=true&timeoutSeconds={timeout}&resourceVersion={after}"
    );
    let mut request = Request::get(of.url(&parameters));
    if let Some(reader) = stands_in {
        request = request.header(fallback::FALLBACK, reader);
    }
    let response = client.send(request.body(kube::client::Body::empty())?).await?;
    if !response.status().is_success() {
        let code = response.status().as_u16();
        if code == 410 {
            return Err(RawError::Expired);
        }
        return Err(RawError::Watch(format!("HTTP {code}")));
    }
    let body = Box::pin(response.into_body().into_data_stream());
    let state = (body, BytesMut::new(), 0_usize);
    Ok(futures::stream::try_unfold(state, |(mut body, mut buffer, mut searched)| async move {
        loop {
            if let Some(at) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(searched + at + 1).freeze();
                return Ok(Some((line, (body, buffer, 0))));
            }
            searched = buffer.len();
            if searched > MAX_LINE {
                return Err(RawError::TooLong);
            }
            match body.next().await {
                Some(chunk) => buffer.extend_from_slice(&chunk.map_err(RawError::from)?),
                None => return Ok(None),
            }
        }
    }))
}

/// Percent-encodes a query's value.
pub(crate) fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// An error with all that caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        // Some errors show their source themselves.
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}
