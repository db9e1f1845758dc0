//! Commands while there is no API, and afterwards.

use jiff::Timestamp;
use serde_json::json;

use super::grant::made;
use super::*;
use crate::keep::until_kept;
use crate::provisional::{self, Birth, Known, typed};

/// The API's word about what was done without it.
enum Settled {
    /// The API has the pod as it is here.
    Adopted(Box<Pod>),
    /// The API has another pod of that name, which was changed as the command wants it.
    Another(Value),
    Done(Value),
}

impl Worker {
    /// Acts, once the record is on disk. An error is a command that nobody could carry out.
    pub(super) async fn offline(
        &mut self,
        mut wish: Wish,
        uid: &str,
        content: String,
        publisher: Option<&str>,
        reply: Option<&ReplyTo>,
    ) -> Result<(), Status> {
        let known = self.known(&wish).await;
        let suffix = warren_api::suffix(rand::random());
        let now: Timestamp = self.context.now();
        let birth = Birth { registry: &self.registry, now, uid, suffix: &suffix };
        let acted = provisional::decide(&birth, &wish, &known)?;
        if let (Wish::Apply(object), Acted::Began(pod)) = (&mut wish, &acted) {
            object.set_at(&["metadata", "name"], pod.name());
        }
        let record = Record {
            sequence: self.log.lock().next_sequence(),
            publisher: publisher.map(str::to_owned),
            content,
            wish,
            acted,
            reply: reply.map(|to| (to.queue.clone(), to.correlation_id.clone())),
        };
        let bytes = serde_json::to_vec(&record).map_err(|e| Status::internal(e.to_string()))?;
        let (key, size) = (key(record.sequence), bytes.len());
        self.keep_record(&key, Some(bytes.into())).await;
        tracing::info!(node = %self.node, publisher, wish = %what(&record), "acting without the API");
        let acted = record.acted.clone();
        self.log.lock().push(record, size);
        self.act(acted).await;
        Ok(())
    }

    async fn keep_record(&self, key: &str, body: Option<Bytes>) {
        until_kept("a provisional record", || self.keep.put_provisional(key, body.clone())).await;
    }

    /// What runs under the name that is meant. What ends is nothing any more.
    async fn known(&self, wish: &Wish) -> Known {
        let (namespace, name) = match wish {
            Wish::Apply(object) => (object.namespace(), object.name()),
            Wish::Delete { namespace, name, .. } => {
                if let Some((_, name)) = self.in_folder(name).await {
                    return Known::Static(name);
                }
                (&**namespace, &**name)
            }
            Wish::Start(_) => return Known::Nothing,
        };
        let Some(entry) = self.context.index.by_name(namespace, name) else {
            return Known::Nothing;
        };
        let ends = self.log.lock().since(entry.uid()) == Some(provisional::Since::Ended);
        if ends || *entry.node != *self.node || entry.pod.metadata.deletion_timestamp.is_some() {
            return Known::Nothing;
        }
        Known::pod(&entry.pod)
    }

    async fn act(&self, acted: Acted) {
        let local = match acted {
            Acted::Nothing => return,
            Acted::Began(pod) => typed(&pod).map(|pod| Local::Run(Arc::new(pod))),
            Acted::Changed(pod) => typed(&pod).map(|pod| Local::Change(Arc::new(pod))),
            Acted::Ended(uid) => Ok(Local::End(uid.into())),
            Acted::Stopped(name) => {
                if let Some(folder) = &self.folder {
                    folder.stop(&name).await;
                }
                return;
            }
        };
        match local {
            Ok(local) => self.feed(local).await,
            Err(error) => tracing::error!(%error, "a provisional pod cannot be read"),
        }
    }

    async fn feed(&self, local: Local) {
        let _ = self.feed.send(local).await;
    }

    /// After a start, the folder's pods that were stopped stay so.
    pub(super) async fn stop_manifests(&self) {
        let stopped = self.log.lock().stopped(None);
        for (_, name) in stopped {
            self.act(Acted::Stopped(name)).await;
        }
    }

    /// Who has a pod of the folder started again takes back that it was stopped.
    pub(super) async fn starts(&mut self, name: &str) {
        let Some((_, full)) = self.in_folder(name).await else { return };
        let stopped = self.log.lock().stopped(Some(&full));
        for (record, _) in stopped {
            let status = success(200, json!({"name": full, "kind": "Pod"}));
            self.finished(&record, &status).await;
        }
    }

    /// Hands in what was done without the API, in its order, until all is heard or the API does not answer.
    pub(super) async fn settle(&mut self) {
        loop {
            self.context.vigil.may_act().await;
            let Some(record) = self.log.lock().first().cloned() else {
                self.failures = 0;
                return;
            };
            match self.within(true, self.put_through(&record)).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(node = %self.node, %error, "provisional records wait for the API");
                    self.failures += 1;
                    let wait = RETRY.after(self.failures).mul_f64(rand::random_range(0.5..1.0));
                    self.again = Instant::now() + wait;
                    return;
                }
                done => {
                    self.failures = 0;
                    self.settled(record, done).await;
                }
            }
        }
    }

    /// The same command, in its publisher's name.
    async fn put_through(&self, record: &Record) -> Result<Settled, ApiError> {
        let by = identity(record.publisher.as_deref());
        match (&record.wish, &record.acted) {
            (Wish::Apply(object), Acted::Began(begun)) => {
                let uid = begun.str_at(&["metadata", "uid"]);
                let mut body = Value::from((**object).clone());
                body["metadata"]["uid"] = uid.into();
                match self.api.create_pod(&body, Some(&by)).await {
                    Ok(pod) if pod.metadata.uid.as_deref() == Some(uid) => {
                        return Ok(Settled::Adopted(Box::new(pod)));
                    }
                    // A server that gives uids itself: its pod takes the place of ours.
                    Ok(pod) => return Ok(Settled::Another(made(201, &pod))),
                    Err(ApiError::AlreadyExists(_)) => {}
                    Err(error) => return Err(error),
                }
                let there = match self.api.pod(object.namespace(), object.name()).await {
                    Err(ApiError::NotFound(_)) => {
                        return Err(ApiError::Unreachable("it was there a moment ago".into()));
                    }
                    there => there?,
                };
                if there.metadata.uid.as_deref() == Some(uid) {
                    return Ok(Settled::Adopted(Box::new(there)));
                }
                if there.metadata.deletion_timestamp.is_some() {
                    return Err(ApiError::Unreachable("the pod before it is not gone yet".into()));
                }
                self.patch(object, &by).await.map(|pod| Settled::Another(made(200, &pod)))
            }
            (Wish::Apply(object), Acted::Changed(changed)) => {
                match self.patch(object, &by).await {
                    Ok(pod)
                        if pod.metadata.uid.as_deref() == changed.uid().as_ref().map(|u| &*u.0) =>
                    {
                        Ok(Settled::Adopted(Box::new(pod)))
                    }
                    Ok(pod) => Ok(Settled::Done(made(200, &pod))),
                    // The pod that was changed is gone from the API.
                    Err(ApiError::NotFound(_)) => {
                        self.grant(&record.wish, None, &by).await.map(Settled::Done)
                    }
                    Err(error) => Err(error),
                }
            }
            (Wish::Delete { namespace, name, .. }, Acted::Ended(uid)) => {
                // The API's pod goes when ours has gone, and not before.
                if self.context.index.by_uid(uid).is_some() {
                    return Err(ApiError::Unreachable("the pod is still stopping".into()));
                }
                match self.delete(namespace, name, Some(uid), Some(0), &by).await {
                    Ok(()) | Err(ApiError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
                let gone = json!({"name": name, "kind": "Pod"});
                Ok(Settled::Done(success(200, gone)))
            }
            (wish, _) => self.grant(wish, None, &by).await.map(Settled::Done),
        }
    }

    async fn settled(&mut self, record: Record, done: Result<Settled, ApiError>) {
        let begun = match &record.acted {
            Acted::Began(pod) | Acted::Changed(pod) => typed(pod).ok(),
            _ => None,
        };
        let by = record.publisher.as_deref().unwrap_or("somebody without an account").to_owned();
        let (events, node) = (self.context.events.clone(), self.node.clone());
        let say = |level, reason: &str, text: &str| {
            if let Some(pod) = &begun {
                events.pod(pod, level, reason, text, None);
            }
        };
        let uid = begun.as_ref().and_then(|pod| pod.metadata.uid.as_deref()).map(Arc::from);
        let status = match done {
            Ok(Settled::Adopted(pod)) => {
                let is_new = matches!(record.acted, Acted::Began(_));
                let status = made(if is_new { 201 } else { 200 }, &pod);
                if is_new {
                    let text = format!("Begun by a command of {by} while node {node} had no API");
                    say(Level::Normal, "Adopted", &text);
                }
                // What was said of the pod before, and comes later, is old from here on.
                let (kept, is_kept) = oneshot::channel();
                self.feed(Local::Adopted(pod, kept)).await;
                let _ = is_kept.await;
                status
            }
            Ok(Settled::Another(status)) => {
                let text = format!(
                    "{} was begun by a command of {by} while node {node} had no API, and is stopped: the API has \
                     another pod of that name",
                    what(&record)
                );
                say(Level::Warning, "NotAdopted", &text);
                self.tell_node("NotAdopted", &text);
                if let Some(uid) = uid {
                    self.feed(Local::End(uid)).await;
                }
                status
            }
            Ok(Settled::Done(status)) => {
                if let Acted::Ended(uid) = &record.acted {
                    let (kept, is_kept) = oneshot::channel();
                    self.feed(Local::Gone(uid.as_str().into(), kept)).await;
                    let _ = is_kept.await;
                }
                status
            }
            Err(error) => {
                let status = refusal(error);
                let reason = &status.message;
                let undone = match &record.acted {
                    Acted::Nothing => "",
                    Acted::Began(_) => ", and is stopped",
                    _ => ", and is undone",
                };
                let text = format!(
                    "{} was done by a command of {by} while node {node} had no API{undone}: {reason}",
                    what(&record)
                );
                tracing::warn!(publisher = record.publisher, "{text}");
                say(Level::Warning, "CommandRefused", &text);
                self.tell_node("CommandRefused", &text);
                if let (Acted::Began(_), Some(uid)) = (&record.acted, uid) {
                    self.feed(Local::End(uid)).await;
                }
                status.to_json()
            }
        };
        let refused = status["status"] != "Success";
        self.finished(&record, &status).await;
        // The record is gone: what the API has counts again.
        match &record.acted {
            Acted::Changed(pod) if refused => {
                self.feed(Local::Undo(pod.str_at(&["metadata", "uid"]).into())).await;
            }
            Acted::Ended(uid) if refused => self.feed(Local::Undo(uid.as_str().into())).await,
            Acted::Stopped(name) if refused => {
                if let Some(folder) = &self.folder {
                    folder.start(name).await;
                }
            }
            _ => {}
        }
    }

    async fn finished(&mut self, record: &Record, status: &Value) {
        self.keep_record(&key(record.sequence), None).await;
        self.log.lock().remove(record.sequence);
        if let Some((queue, correlation_id)) = record.reply.clone() {
            self.reply(&ReplyTo { queue, correlation_id }, status).await;
        }
    }
}

/// Sorts as the records do.
fn key(sequence: u64) -> String {
    format!("{sequence:020}")
}

/// `pod default/web`
fn what(record: &Record) -> String {
    match &record.wish {
        Wish::Apply(object) => format!("pod {}/{}", object.namespace(), object.name()),
        Wish::Delete { namespace, name, .. } => format!("the end of pod {namespace}/{name}"),
        Wish::Start(name) => format!("the start of {name}"),
    }
}
