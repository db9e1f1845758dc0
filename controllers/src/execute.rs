//! Carries plans out. There is nothing left to choose.

use std::collections::HashMap;

use http::{Method, Request};
use serde::Deserialize;
use serde_json::{Value, json};
use warren_api::Revision;

use crate::plan::{Plan, Step, Target, Write};

/// Requests in flight for one plan, at most.
const BATCH: usize = 32;

/// What the caches will show once a write has come round.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expected {
    /// All changes of the resource up to here.
    Revision { plural: String, revision: Revision },
    /// That the object is gone, or going.
    Gone(Target),
}

/// The API said no, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecuteError {
    /// What was seen holds no more; look again.
    #[error("{what}: the object has changed")]
    Conflict { what: String },
    /// A deterministic name is there that the caches do not show yet.
    #[error("{what}: it exists already")]
    Exists { what: String },
    #[error("{what}: {message}")]
    Refused { what: String, code: u16, reason: String, message: String },
    #[error("{what}")]
    Unreachable { what: String, source: Box<kube::Error> },
}

pub(crate) struct Executed {
    pub expected: Vec<Expected>,
    pub result: Result<(), ExecuteError>,
    /// The step that failed.
    pub failed: Option<Step>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    metadata: AnswerMeta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerMeta {
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

/// Carries the steps out. `record` hears of each that succeeded.
pub(crate) async fn execute(
    client: &kube::Client,
    plan: &Plan,
    mut record: impl FnMut(&Step),
) -> Executed {
    let mut executed = Executed { expected: Vec::new(), result: Ok(()), failed: None };
    // What the writes of this plan made of the objects that they wrote.
    let mut revisions: HashMap<String, String> = HashMap::new();
    let mut rest = plan.steps.as_slice();
    let mut batch = 1;
    while let Some(first) = rest.first() {
        let alike = rest.iter().take_while(|step| alike(&first.write, &step.write)).count();
        let (now, later) = rest.split_at(alike.min(batch));
        rest = later;
        batch = if alike > now.len() { (batch * 2).min(BATCH) } else { 1 };
        let sent = now.iter().map(|step| send(client, &step.write, &revisions));
        let outcomes = futures::future::join_all(sent).await;
        for (step, outcome) in now.iter().zip(outcomes) {
            match outcome {
                Ok(answer) => {
                    record(step);
                    if let (Some(target), Some(revision)) =
                        (target(&step.write), &answer.metadata.resource_version)
                    {
                        revisions.insert(target.uid.clone(), revision.clone());
                    }
                    executed.expected.extend(expected(&step.write, &answer));
                }
                Err(error) => {
                    if matches!(executed.result, Ok(()) | Err(ExecuteError::Exists { .. })) {
                        executed.result = Err(error);
                        executed.failed = Some(step.clone());
                    }
                }
            }
        }
        // A name that exists already is a create that succeeded before; the others are still to be made.
        if !matches!(executed.result, Ok(()) | Err(ExecuteError::Exists { .. })) {
            break;
        }
    }
    executed
}

fn target(write: &Write) -> Option<&Target> {
    match write {
        Write::Create { .. } => None,
        Write::Patch { target, .. }
        | Write::Delete { target, .. }
        | Write::Replace { target, .. } => Some(target),
    }
}

/// Whether two writes may go out together: of one kind, to different objects.
fn alike(a: &Write, b: &Write) -> bool {
    match (a, b) {
        (Write::Create { .. }, Write::Create { .. })
        | (Write::Delete { .. }, Write::Delete { .. }) => true,
        (Write::Patch { target: a, .. }, Write::Patch { target: b, .. }) => {
            a.uid != b.uid || std::ptr::eq(a, b)
        }
        _ => std::ptr::eq(a, b),
    }
}

fn expected(write: &Write, answer: &Answer) -> Option<Expected> {
    let plural = match write {
        Write::Create { resource, .. } => &resource.plural,
        Write::Patch { target, .. } | Write::Replace { target, .. } => &target.resource.plural,
        Write::Delete { target, .. } if answer.metadata.deletion_timestamp.is_none() => {
            return Some(Expected::Gone(target.clone()));
        }
        Write::Delete { target, .. } => &target.resource.plural,
    };
    let revision = answer.metadata.resource_version.as_ref()?.parse().ok()?;
    Some(Expected::Revision { plural: plural.to_string(), revision })
}

async fn send(
    client: &kube::Client,
    write: &Write,
    revisions: &HashMap<String, String>,
) -> Result<Answer, ExecuteError> {
    let what = describe(write);
    let request = request(write, revisions).map_err(|error| ExecuteError::Refused {
        what: what.clone(),
        code: 0,
        reason: "Invalid".to_owned(),
        message: error.to_string(),
    })?;
    let status = match client.request::<Answer>(request).await {
        Ok(answer) => return Ok(answer),
        Err(kube::Error::Api(status)) => status,
        Err(source) => {
            return Err(ExecuteError::Unreachable { what, source: Box::new(source) });
        }
    };
    match (write, status.code, status.reason.as_str()) {
        // Gone, or another one by now: what was to go has gone.
        (Write::Delete { .. }, 404, _) => Ok(Answer::default()),
        (Write::Delete { resource_version: None, .. }, 409, "Conflict") => Ok(Answer::default()),
        (_, 409, "AlreadyExists") => Err(ExecuteError::Exists { what }),
        (_, 409, _) => Err(ExecuteError::Conflict { what }),
        (Write::Patch { .. } | Write::Replace { .. }, 404, _) => {
            Err(ExecuteError::Conflict { what })
        }
        _ => Err(ExecuteError::Refused {
            what,
            code: status.code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        }),
    }
}

pub(crate) fn describe(write: &Write) -> String {
    let named = |verb: &str, target: &Target, sub: &str| {
        format!("{verb} {}{sub} {}/{}", target.resource.plural, target.namespace, target.name)
    };
    match write {
        Write::Create { resource, namespace, object } => {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            format!("create {} {namespace}/{name}", resource.plural)
        }
        Write::Patch { target, subresource, .. } => {
            named("patch", target, &subresource.map(|s| format!("/{s}")).unwrap_or_default())
        }
        Write::Replace { target, subresource, .. } => {
            named("replace", target, &subresource.map(|s| format!("/{s}")).unwrap_or_default())
        }
        Write::Delete { target, .. } => named("delete", target, ""),
    }
}

fn request(
    write: &Write,
    revisions: &HashMap<String, String>,
) -> Result<Request<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
    let path = |target: &Target, subresource: Option<&str>| {
        let base = target.resource.path(&target.namespace);
        let sub = subresource.map(|sub| format!("/{sub}")).unwrap_or_default();
        format!("{base}/{}{sub}", target.name)
    };
    let newest = |target: &Target, seen: &Option<String>| {
        seen.as_ref().map(|seen| revisions.get(&target.uid).unwrap_or(seen).clone())
    };
    let (method, path, content, body) = match write {
        Write::Create { resource, namespace, object } => {
            (Method::POST, resource.path(namespace), "application/json", object.clone())
        }
        Write::Patch { target, subresource, resource_version, patch } => {
            let mut patch = patch.clone();
            patch["metadata"]["uid"] = json!(target.uid);
            if let Some(revision) = newest(target, resource_version) {
                patch["metadata"]["resourceVersion"] = json!(revision);
            }
            let content = "application/merge-patch+json";
            (Method::PATCH, path(target, *subresource), content, patch)
        }
        Write::Replace { target, subresource, object } => {
            (Method::PUT, path(target, *subresource), "application/json", object.clone())
        }
        Write::Delete { target, resource_version, grace_seconds, propagation } => {
            let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
                "preconditions": {"uid": target.uid}});
            if let Some(revision) = newest(target, resource_version) {
                options["preconditions"]["resourceVersion"] = json!(revision);
            }
            if let Some(seconds) = grace_seconds {
                options["gracePeriodSeconds"] = json!(seconds);
            }
            if let Some(propagation) = propagation {
                options["propagationPolicy"] = json!(propagation);
            }
            (Method::DELETE, path(target, None), "application/json", options)
        }
    };
    let body = match body {
        Value::Null => Vec::new(),
        body => serde_json::to_vec(&body)?,
    };
    Ok(Request::builder().method(method).uri(path).header("Content-Type", content).body(body)?)
}
