//! What an autonomous node does about commands while there is no API: it acts, and keeps a record of each until the API
//! has heard of it. Pure.
//!
//! The records, in their order, and the pods of the API that are on disk say what should run; a start finds both there.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use warren_api::{
    ErrorList, Kind, Object, Registry, Status, Subresource, patch, schema, validation,
};

use crate::wish::Wish;
use crate::{mirror, objects};

/// Records at most: ten for each pod of a full node. Policy: what comes after waits on the queue, as where nobody is
/// autonomous.
pub(crate) const RECORDS: usize = 1000;
/// And their bytes.
pub(crate) const BYTES: usize = 32 << 20;

/// A command that was acted on before the API heard of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub sequence: u64,
    /// The account that the broker vouched for.
    pub publisher: Option<String>,
    /// By which the same message is known when it comes again.
    pub content: String,
    pub wish: Wish,
    pub acted: Acted,
    /// The queue and the correlation id of who waits for the answer.
    pub reply: Option<(String, Option<String>)>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Acted {
    /// Nothing that the node may decide: the command waits for the API.
    Nothing,
    /// A pod was begun, with a uid of this node's.
    Began(Box<Object>),
    /// A pod was changed. As it is since.
    Changed(Box<Object>),
    /// The pod of this uid was ended.
    Ended(String),
    /// The pod of that name in the manifests folder was stopped.
    Stopped(String),
}

/// What has become of a pod.
#[derive(Debug, PartialEq)]
pub(crate) enum Since {
    Ended,
    /// As it is, begun or changed here.
    Is(Box<Object>),
}

/// The records, shared by who makes them and who must heed them.
pub(crate) type SharedLog = Arc<Mutex<Log>>;

/// The records of all nodes of a process, to be counted. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Logs(Arc<Mutex<Vec<SharedLog>>>);

impl Logs {
    pub(crate) fn add(&self) -> SharedLog {
        let log = SharedLog::default();
        self.0.lock().push(Arc::clone(&log));
        log
    }

    /// How many, and their bytes.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let all = self.0.lock();
        all.iter().fold((0, 0), |(records, bytes), log| {
            let log = log.lock();
            (records + log.records.len() as u64, bytes + log.bytes as u64)
        })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    records: VecDeque<(Record, usize)>,
    bytes: usize,
    last: u64,
}

impl Log {
    /// Takes note of a record that is on disk, where it takes so many bytes.
    pub(crate) fn push(&mut self, record: Record, bytes: usize) {
        self.last = self.last.max(record.sequence);
        self.bytes += bytes;
        self.records.push_back((record, bytes));
    }

    pub(crate) fn first(&self) -> Option<&Record> {
        self.records.front().map(|(record, _)| record)
    }

    pub(crate) fn remove(&mut self, sequence: u64) {
        self.records.retain(|(record, bytes)| {
            let stays = record.sequence != sequence;
            if !stays {
                self.bytes -= bytes;
            }
            stays
        });
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.last + 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.records.len() >= RECORDS || self.bytes >= BYTES
    }

    pub(crate) fn knows(&self, content: &str) -> bool {
        self.records.iter().any(|(record, _)| record.content == content)
    }

    /// What the commands have made of a pod; `None` where they have not touched it.
    pub(crate) fn since(&self, uid: &str) -> Option<Since> {
        self.records.iter().rev().find_map(|(record, _)| match &record.acted {
            Acted::Ended(ended) if ended == uid => Some(Since::Ended),
            Acted::Began(pod) | Acted::Changed(pod) if uid_of(pod) == uid => {
                Some(Since::Is(pod.clone()))
            }
            _ => None,
        })
    }

    /// Pods that were begun here, in their order, and whether they still should run.
    pub(crate) fn begun(&self) -> Vec<(Box<Object>, bool)> {
        let begun = self.records.iter().filter_map(|(record, _)| match &record.acted {
            Acted::Began(pod) => Some(pod),
            _ => None,
        });
        begun
            .map(|pod| match self.since(uid_of(pod)) {
                Some(Since::Is(newest)) => (newest, true),
                _ => (pod.clone(), false),
            })
            .collect()
    }

    /// Records of the folder's pods that were stopped; of this one where a name is given.
    pub(crate) fn stopped(&self, name: Option<&str>) -> Vec<(Record, String)> {
        let stopped = self.records.iter().filter_map(|(record, _)| match &record.acted {
            Acted::Stopped(of) if name.is_none_or(|name| name == of) => {
                Some((record.clone(), of.clone()))
            }
            _ => None,
        });
        stopped.collect()
    }
}

fn uid_of(pod: &Object) -> &str {
    pod.str_at(&["metadata", "uid"])
}

pub(crate) fn typed(pod: &Object) -> Result<Pod, String> {
    serde_json::from_value(Value::from(pod.clone())).map_err(|error| error.to_string())
}

/// What runs under the name that a command gives.
#[derive(Debug)]
pub(crate) enum Known {
    Nothing,
    /// From the manifests folder, by the name that it has there.
    Static(String),
    Pod(Box<Object>),
}

impl Known {
    /// A pod that runs; one from the folder stands for its mirror.
    pub(crate) fn pod(pod: &Pod) -> Self {
        if crate::pod::spec::annotations(pod).contains_key(mirror::HASH) {
            return Self::Static(pod.metadata.name.clone().unwrap_or_default());
        }
        match serde_json::to_value(pod).map(Object::try_from) {
            Ok(Ok(object)) => Self::Pod(Box::new(object)),
            _ => Self::Nothing,
        }
    }
}

/// For a pod that is begun.
pub(crate) struct Birth<'a> {
    pub registry: &'a Registry,
    pub now: Timestamp,
    pub uid: &'a str,
    /// Follows `generateName`.
    pub suffix: &'a str,
}

/// What the node does about a command. The API looks at all of it later; what it would refuse in any case is refused now.
pub(crate) fn decide(birth: &Birth<'_>, wish: &Wish, known: &Known) -> Result<Acted, Status> {
    let kind = birth.registry.by_kind("v1", "Pod");
    let kind = kind.ok_or_else(|| Status::internal("the kind Pod is not known"))?;
    match (wish, known) {
        (Wish::Apply(wanted), Known::Nothing) => begin(birth, kind, wanted),
        (Wish::Apply(wanted), Known::Pod(pod)) => change(kind, wanted, pod),
        (Wish::Delete { uid, .. }, Known::Pod(pod)) => Ok(match uid {
            Some(uid) if uid != uid_of(pod) => Acted::Nothing,
            _ => Acted::Ended(uid_of(pod).to_owned()),
        }),
        (Wish::Delete { .. }, Known::Static(name)) => Ok(Acted::Stopped(name.clone())),
        (Wish::Apply(_), Known::Static(_)) | (Wish::Delete { .. }, Known::Nothing) => {
            Ok(Acted::Nothing)
        }
        // The folder is the node's own; nobody else is asked.
        (Wish::Start(_), _) => Ok(Acted::Nothing),
    }
}

fn begin(birth: &Birth<'_>, kind: &dyn Kind, wanted: &Object) -> Result<Acted, Status> {
    let mut pod = wanted.clone();
    if pod.name().is_empty() {
        let name = format!("{}{}", pod.str_at(&["metadata", "generateName"]), birth.suffix);
        pod.set_at(&["metadata", "name"], name);
    }
    pod.set_at(&["metadata", "uid"], birth.uid);
    pod.set_at(&["metadata", "creationTimestamp"], birth.now.strftime("%FT%TZ").to_string());
    pod.set_at(&["metadata", "generation"], 1);
    kind.on_create(&mut pod);
    schema::apply_defaults(schema::builtin(), kind.schema_type(), &mut pod.0);
    kind.default(&mut pod);
    let mut errors = ErrorList::default();
    validation::metadata(kind, &pod, &mut errors);
    kind.validate(&pod, &mut errors);
    kind.validate_create(&pod, &mut errors);
    refused(kind, &pod, errors)?;
    let body = typed(&pod).map_err(Status::bad_request)?;
    // The API lets nobody have a Secret by way of a node.
    let secret = objects::references(&body).iter().any(|key| key.starts_with("secret/"));
    Ok(if secret { Acted::Nothing } else { Acted::Began(Box::new(pod)) })
}

fn change(kind: &dyn Kind, wanted: &Object, old: &Object) -> Result<Acted, Status> {
    let text = |value: Option<&Value>| value.cloned().unwrap_or(Value::Null);
    let said = json!({"metadata": text(wanted.get("metadata")), "spec": text(wanted.get("spec"))});
    let merged = patch::strategic(schema::builtin(), kind.schema_type(), old.clone().into(), &said);
    let merged = merged.map_err(|error| error.status())?;
    let mut new = Object::try_from(merged).map_err(|_| Status::bad_request("not an object"))?;
    kind.on_update(&mut new, old);
    schema::apply_defaults(schema::builtin(), kind.schema_type(), &mut new.0);
    kind.default(&mut new);
    if kind.has(Subresource::Status) {
        match old.get("status") {
            Some(status) => drop(new.insert("status".to_owned(), status.clone())),
            None => drop(new.remove("status")),
        }
    }
    if new == *old {
        return Ok(Acted::Nothing);
    }
    let mut errors = ErrorList::default();
    validation::metadata(kind, &new, &mut errors);
    validation::metadata_update(&new, old, &mut errors);
    kind.validate(&new, &mut errors);
    kind.validate_update(&new, old, &mut errors);
    refused(kind, &new, errors)?;
    if new.get("spec") != old.get("spec") {
        let generation = old.at(&["metadata", "generation"]).and_then(Value::as_i64);
        new.set_at(&["metadata", "generation"], generation.unwrap_or(1) + 1);
    }
    Ok(Acted::Changed(Box::new(new)))
}

fn refused(kind: &dyn Kind, pod: &Object, errors: ErrorList) -> Result<(), Status> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(kind.group(), kind.kind(), pod.name(), errors)),
    }
}

#[cfg(test)]
mod tests;
