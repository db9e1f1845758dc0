//! `/containerLogs`: what a container wrote.

use std::convert::Infallible;
use std::str::FromStr;

use bytes::Bytes;
use futures::Stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc::{self, Sender};

use super::route::{self, Body, Query, Refusal, Service};
use crate::pod::index::PodEntry;
use crate::runtime::{Channel, LogOptions};

type Piece = Result<Frame<Bytes>, Infallible>;

pub(super) async fn answer(
    service: &Service,
    entry: &PodEntry,
    name: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let options = options(query, Timestamp::now())?;
    let pod = entry.pod.metadata.name.as_deref().unwrap_or_default();
    if !entry.names_container(name) {
        let why = format!("container {name:?} in pod {pod:?} is not available");
        return Err(Refusal::bad(why));
    }
    let previous = query.flag("previous");
    let Some(container) = entry.container(name, previous) else {
        return Err(Refusal::bad(match previous {
            true => format!("previous terminated container {name:?} in pod {pod:?} not found"),
            false => format!(
                "container {name:?} in pod {pod:?} is waiting to start: {}",
                waiting(entry, name)
            ),
        }));
    };
    let output = entry.runtime.logs(&container.id, options).await;
    let mut output = output.map_err(|error| Refusal::internal(error.to_string()))?;
    let shutdown = service.tasks.shutdown().clone();
    let frames = written_by(
        move |sender| async move {
            loop {
                let piece = tokio::select! {
                    piece = output.recv() => piece,
                    () = shutdown.draining() => None,
                    () = sender.closed() => None,
                };
                match piece {
                    Some(Ok(piece)) => {
                        if sender.send(Frame::data(piece.data)).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "a log ended early");
                        return;
                    }
                    None => return,
                }
            }
        },
        service,
    );
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let content_type = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

/// A body that a task writes. The task ends when the reader goes.
fn written_by<W, F>(write: W, service: &Service) -> impl Stream<Item = Piece> + use<W, F>
where
    W: FnOnce(Sender<Frame<Bytes>>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    /// Pieces on the way to the reader, some 16 KiB each.
    const BUFFER: usize = 8;
    let (sender, receiver) = mpsc::channel(BUFFER);
    service.tasks.spawn("log", write(sender));
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (Ok(frame), receiver))
    })
}

/// Why the container has not started, as its status says.
fn waiting(entry: &PodEntry, name: &str) -> String {
    let status = &entry.status;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses);
    let waiting = all
        .chain(&status.ephemeral_container_statuses)
        .flatten()
        .filter(|container| container.name == name)
        .find_map(|container| container.state.as_ref()?.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
    match reason.unwrap_or("ContainerCreating") {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        reason => reason,
    }
    .to_owned()
}

fn options(query: &Query, now: Timestamp) -> Result<LogOptions, Refusal> {
    let since_seconds: Option<i64> = number(query, "sinceSeconds")?;
    let since_time = match query.get("sinceTime") {
        "" => None,
        text => Some(text.parse::<Timestamp>().map_err(|error| {
            Refusal::bad(format!("sinceTime: {text:?} is not an RFC 3339 time: {error}"))
        })?),
    };
    if since_seconds.is_some() && since_time.is_some() {
        return Err(Refusal::bad("at most one of sinceTime or sinceSeconds may be specified"));
    }
    if since_seconds.is_some_and(|seconds| seconds < 1) {
        return Err(Refusal::bad("sinceSeconds: must be greater than 0"));
    }
    let since = since_seconds
        .and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok())
        .or(since_time);
    let limit_bytes: Option<u64> = number(query, "limitBytes")?;
    if limit_bytes == Some(0) {
        return Err(Refusal::bad("limitBytes: must be greater than 0"));
    }
    let stream = match query.get("stream") {
        "" | "All" => None,
        "Stdout" => Some(Channel::Stdout),
        "Stderr" => Some(Channel::Stderr),
        other => {
            return Err(Refusal::bad(format!("stream: {other:?} is not All, Stdout or Stderr")));
        }
    };
    Ok(LogOptions {
        follow: query.flag("follow"),
        tail_lines: number(query, "tailLines")?,
        since,
        timestamps: query.flag("timestamps"),
        limit_bytes,
        stream,
    })
}

fn number<T: FromStr>(query: &route::Query, key: &str) -> Result<Option<T>, Refusal> {
    match query.get(key) {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Refusal::bad(format!("{key}: {text:?} is not a number in range"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let ask = |query: &str| options(&Query::parse(query), now);
        let all =
            ask("follow=true&tailLines=5&sinceSeconds=60&timestamps=1&limitBytes=7&stream=Stderr");
        let all = all.unwrap();
        assert!(all.follow && all.timestamps);
        assert_eq!((all.tail_lines, all.limit_bytes), (Some(5), Some(7)));
        assert_eq!(all.since.unwrap().to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(all.stream, Some(Channel::Stderr));
        for (query, field) in [
            ("tailLines=-1", "tailLines"),
            ("sinceSeconds=x", "sinceSeconds"),
            ("sinceSeconds=0", "sinceSeconds"),
            ("sinceTime=yesterday", "sinceTime"),
            ("sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1", "sinceTime"),
            ("limitBytes=0", "limitBytes"),
            ("stream=Both", "stream"),
        ] {
            let Refusal(code, why) = ask(query).unwrap_err();
            assert_eq!(code, StatusCode::BAD_REQUEST);
            assert!(why.contains(field), "{query}: {why}");
        }
    }
}
