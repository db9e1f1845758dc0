//! Requests and streams as they are on the wire, so that every form of an answer can be asked for.

use futures::{Stream, StreamExt, TryStreamExt};
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use warren_tests::history::{Selection, State};

pub const NAMESPACE: &str = "linear";
pub const TOKEN: &str = "token";
pub const COLOUR: &str = "colour";
const MAX_LINE: usize = 1 << 20;

/// What an answer's status was, and its body. `None`: there was no whole answer.
pub async fn call(
    client: &Client,
    method: Method,
    path: &str,
    body: &Value,
) -> Option<(u16, Value)> {
    warren_tests::http::call(client, method, "application/merge-patch+json", path, body).await
}

/// The lines of a watch, until it ends or breaks. An answer that is no stream is its status and body.
pub async fn lines(
    client: &Client,
    path: &str,
    accept: &str,
) -> Option<Result<impl Stream<Item = Value> + use<>, (u16, String)>> {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
    let answer = client.send(request).await.ok()?;
    let status = answer.status().as_u16();
    if status != 200 {
        let bytes = answer.into_body().collect().await.ok()?.to_bytes();
        return Some(Err((status, String::from_utf8_lossy(&bytes).into_owned())));
    }
    let bytes = answer.into_body().into_data_stream().map_err(std::io::Error::other);
    let reader = tokio_util::io::StreamReader::new(Box::pin(bytes));
    let codec = tokio_util::codec::LinesCodec::new_with_max_length(MAX_LINE);
    let lines = tokio_util::codec::FramedRead::new(reader, codec);
    // A line that the death of the server cut is none.
    let whole = lines.take_while(|line| std::future::ready(line.is_ok()));
    Some(Ok(whole.filter_map(|line| async move { serde_json::from_str(&line.ok()?).ok() })))
}

/// The two resources of the run. Events have a field that changes and can be selected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    ConfigMaps,
    Events,
}

pub const RESOURCES: [Resource; 2] = [Resource::ConfigMaps, Resource::Events];

impl Resource {
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMaps => "configmaps",
            Self::Events => "events",
        }
    }

    pub fn path(self) -> String {
        format!("/api/v1/namespaces/{NAMESPACE}/{}", self.name())
    }

    /// What a write puts into the object. An empty colour is none at all, so that a label comes and goes; in a merge
    /// patch as in a whole object `null` says so.
    pub fn body(self, token: &str, colour: &str) -> Value {
        let label = if colour.is_empty() { Value::Null } else { colour.into() };
        let mut body = serde_json::json!({
            "metadata": {"annotations": {TOKEN: token}, "labels": {COLOUR: label}},
        });
        match self {
            Self::ConfigMaps => body["data"] = serde_json::json!({TOKEN: token}),
            Self::Events => {
                body["reason"] = colour.into();
                body["involvedObject"] = serde_json::json!({"namespace": NAMESPACE});
            }
        }
        body
    }

    pub fn query(self, selection: &Selection) -> String {
        let fields = matches!(self, Self::Events);
        match selection {
            Selection::All => String::new(),
            Selection::Colour(colour) if fields => format!("&fieldSelector=reason%3D{colour}"),
            Selection::NotColour(colour) if fields => format!("&fieldSelector=reason!%3D{colour}"),
            Selection::Colour(colour) => format!("&labelSelector={COLOUR}%3D{colour}"),
            Selection::NotColour(colour) => format!("&labelSelector={COLOUR}!%3D{colour}"),
            Selection::Key(key) => {
                let name = key.rsplit('/').next().unwrap();
                format!("&fieldSelector=metadata.name%3D{name}")
            }
        }
    }

    pub fn key(self, metadata: &Value) -> String {
        format!("{}/{}", self.name(), metadata["name"].as_str().unwrap())
    }
}

/// Of an object in any form.
pub fn state(metadata: &Value) -> State {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    State {
        revision: revision(metadata),
        uid: text(&metadata["uid"]),
        token: text(&metadata["annotations"][TOKEN]),
        colour: text(&metadata["labels"][COLOUR]),
    }
}

pub fn revision(metadata: &Value) -> u64 {
    metadata["resourceVersion"].as_str().unwrap().parse().unwrap()
}
