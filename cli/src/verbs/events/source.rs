//! A watch that outlives its server: it goes on where it was, and says what it could not tell.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use futures::stream::{BoxStream, StreamExt};
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::codec::LinesCodecError;
use warren_process::Backoff;

use super::revision;
use crate::verbs::connection::escape;
use crate::verbs::discovery::Resource;
use crate::verbs::get::watch;
use crate::verbs::{Connection, Failure};

/// Between two attempts at a server that is away.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A server that takes a connection and says nothing.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// A bookmark comes about every minute: a watch that says nothing for so long has no server any more.
const SILENT_FOR: Duration = Duration::from_secs(180);
/// Of a page of the list that a watch begins with.
const PAGE: usize = 500;

pub(super) enum Told {
    Event(Value),
    /// The server does not answer; it is asked again until it does.
    Away(String),
    /// It does again.
    Back,
    /// What happened after the one revision and up to the other is not known. The server is behind what was told where
    /// `up_to` is the smaller one.
    Missed {
        after: u64,
        up_to: u64,
    },
    /// It is no use to go on. The last that is told.
    Failed(Error),
}

/// What is done about a watch that failed, or could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The same again, later.
    Again,
    /// From now on: what was between is lost.
    FromNow,
    GiveUp,
}

fn next(error: &Error) -> Next {
    if matches!(error.downcast_ref(), Some(LinesCodecError::MaxLineLengthExceeded)) {
        return Next::GiveUp;
    }
    match error.downcast_ref::<Failure>() {
        Some(failure) if failure.is_gone() || failure.is_ahead() => Next::FromNow,
        Some(Failure::Status { code: 408 | 429 | 500.., .. }) => Next::Again,
        Some(Failure::Status { .. }) => Next::GiveUp,
        // A connection that ends amid a line, too.
        Some(Failure::Unreachable { .. }) | None => Next::Again,
    }
}

pub(super) struct Source<'a> {
    connection: &'a Connection,
    resource: &'a Resource,
    path: String,
    /// All up to here was told. 0 where nothing was yet, and what there is comes first.
    from: u64,
    /// The history after `from` is not to be had.
    lost: bool,
    events: Option<BoxStream<'static, Result<Value>>>,
    /// Whether the watch that is open has said anything.
    heard: bool,
    away: bool,
    failed: bool,
    backoff: Backoff,
    telling: VecDeque<Told>,
}

impl<'a> Source<'a> {
    /// An error where the server does not answer, or not so.
    pub(super) async fn open(
        connection: &'a Connection,
        resource: &'a Resource,
        namespace: Option<&str>,
        from: u64,
    ) -> Result<Self> {
        let mut source = Self {
            connection,
            resource,
            path: resource.path(namespace),
            from,
            lost: false,
            events: None,
            heard: false,
            away: false,
            failed: false,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            telling: VecDeque::new(),
        };
        source.connect().await?;
        Ok(source)
    }

    pub(super) fn resource(&self) -> &'a Resource {
        self.resource
    }

    /// `None` after [`Told::Failed`].
    pub(super) async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.telling.pop_front() {
                return Some(told);
            }
            if self.failed {
                return None;
            }
            match &mut self.events {
                Some(events) => match timeout(SILENT_FOR, events.next()).await {
                    Ok(Some(Ok(event))) => {
                        (self.from, self.heard) = (self.from.max(revision(&event)), true);
                        return Some(Told::Event(event));
                    }
                    // The server ends watches after a while.
                    Ok(None) | Err(_) => self.ended().await,
                    Ok(Some(Err(error))) => match next(&error) {
                        Next::Again => self.ended().await,
                        Next::FromNow => (self.events, self.lost) = (None, true),
                        Next::GiveUp => self.give_up(error),
                    },
                },
                None => self.reopen().await,
            }
        }
    }

    /// The connection that breaks is nobody's trouble where the next one stands.
    async fn ended(&mut self) {
        self.events = None;
        if !std::mem::take(&mut self.heard) {
            self.backoff.wait().await;
        }
    }

    async fn reopen(&mut self) {
        let Err(error) = self.connect().await else {
            if std::mem::take(&mut self.away) {
                self.telling.push_front(Told::Back);
            }
            return;
        };
        match next(&error) {
            Next::FromNow if !self.lost => self.lost = true,
            Next::GiveUp => self.give_up(error),
            Next::Again | Next::FromNow => {
                if std::mem::replace(&mut self.away, true) {
                    self.backoff.wait().await;
                } else {
                    self.telling.push_back(Told::Away(reason(&error)));
                }
            }
        }
    }

    fn give_up(&mut self, error: Error) {
        (self.events, self.failed) = (None, true);
        self.telling.push_back(Told::Failed(error));
    }

    async fn connect(&mut self) -> Result<()> {
        if self.from == 0 {
            let (items, at) = self.within(self.list()).await?;
            self.telling.extend(items.into_iter().map(Told::Event));
            (self.from, self.lost) = (at, false);
        } else if self.lost {
            let now = self.within(newest(self.connection, &self.path)).await?;
            self.telling.push_back(Told::Missed { after: self.from, up_to: now });
            (self.from, self.lost) = (now, false);
        }
        let path =
            format!("{}?watch=1&allowWatchBookmarks=true&resourceVersion={}", self.path, self.from);
        let open = async { Ok(watch(self.connection, &path, "application/json").await?) };
        self.events = Some(self.within(open).await?);
        self.backoff.reset();
        Ok(())
    }

    async fn within<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = timeout(ANSWERS_WITHIN, request).await;
        answer.unwrap_or_else(|_| Err(self.connection.unreachable("no answer in time").into()))
    }

    /// What there is, as if it were added now, and the revision of that. All or nothing: a list that breaks off is asked
    /// for again before any of it is told.
    async fn list(&self) -> Result<(Vec<Value>, u64)> {
        let (mut items, mut at) = (Vec::new(), String::new());
        loop {
            let path = format!("{}?limit={PAGE}&continue={}", self.path, escape(&at));
            let mut page = self.connection.get(&path).await?;
            if let Value::Array(found) = page["items"].take() {
                let api_version = page["apiVersion"].clone();
                items.extend(found.into_iter().map(|mut object| {
                    // In a list the objects' own kind is left out on the wire.
                    object["apiVersion"] = api_version.clone();
                    object["kind"] = self.resource.kind.clone().into();
                    serde_json::json!({"type": "ADDED", "object": object})
                }));
            }
            at = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if at.is_empty() {
                let at = page["metadata"]["resourceVersion"].as_str();
                let at = at.and_then(|at| at.parse().ok());
                return Ok((items, at.ok_or_else(|| anyhow!("a list without resourceVersion"))?));
            }
        }
    }
}

/// The revision is one for all kinds, so any list tells where "now" is.
pub(super) async fn newest(connection: &Connection, path: &str) -> Result<u64> {
    let list = connection.get(&format!("{path}?limit=1")).await?;
    let version = list["metadata"]["resourceVersion"].as_str();
    let version = version.and_then(|version| version.parse().ok());
    version.ok_or_else(|| anyhow!("a list without resourceVersion"))
}

/// Without the advice for who meant to ask once.
fn reason(error: &Error) -> String {
    match error.downcast_ref() {
        Some(Failure::Unreachable { server, reason, .. }) => {
            format!("the server {server} cannot be reached: {reason}")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_done_about_a_watch_that_failed() {
        let status =
            |code| Error::from(Failure::Status { code, status: json!({"message": "words"}) });
        let ahead = json!({"details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}});
        let unreachable = Failure::Unreachable {
            server: "s".into(),
            reason: "refused".into(),
            remedy: "start it".into(),
        };
        let cut = serde_json::from_str::<Value>(r#"{"type":"ADD"#).unwrap_err();
        for (error, wanted) in [
            (unreachable.into(), Next::Again),
            (cut.into(), Next::Again),
            (LinesCodecError::Io(std::io::Error::other("reset")).into(), Next::Again),
            (LinesCodecError::MaxLineLengthExceeded.into(), Next::GiveUp),
            (status(408), Next::Again),
            (status(429), Next::Again),
            (status(500), Next::Again),
            (status(503), Next::Again),
            (status(504), Next::Again),
            (Failure::Status { code: 504, status: ahead }.into(), Next::FromNow),
            (status(410), Next::FromNow),
            (status(400), Next::GiveUp),
            (status(401), Next::GiveUp),
            (status(403), Next::GiveUp),
            (status(404), Next::GiveUp),
        ] {
            assert_eq!(next(&error), wanted, "{error:?}");
        }
    }
}
