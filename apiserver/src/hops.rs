//! The ways of changes, as far as anybody remembers: this server's hops, and those of nodes and controllers, who are
//! asked. `warren trace` shows them.
//!
//! Nodes are asked at their ports. Controllers have none, and they may be on another machine: they ask here for
//! [`Questions`] and wait, so that neither a port nor the broker (which may be what is amiss) is needed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use warren_api::{GroupResource, ObjectKey, Reason, Shard, Status};
use warren_broker::{about, leaves_hops};
use warren_process::trace::{Answered, Missing, Report, Step, Story, Subject, Trace, now};
use warren_store::{Batch, Change, Durability, Op};

use crate::api::{Api, method_not_allowed};
use crate::authn::User;
use crate::authz::Authorized;
use crate::broker::escape;
use crate::cache::{Scope, node_of};
use crate::commit::INTERNAL_GROUP;
use crate::request::{Query, ResourceRequest};
use crate::response::{self, Body};
use crate::subresource::node_address;
use crate::write::collect;

mod questions;

pub(crate) use questions::Questions;

/// `?group=&resource=&namespace=&name=`: the [`Story`] of one object.
const HOPS: &str = "/debug/hops";
/// `?component=&instance=&after=`: what is asked, for who may know; waits for it.
pub(crate) const QUESTIONS: &str = "/debug/hops/questions";
/// `?id=`: a [`Report`] as the answer.
const ANSWERS: &str = "/debug/hops/answers";

/// 2,000 hops of 350 bytes, and names of the largest size.
const MAX_REPORT: usize = 3 << 20;
/// Ports of nodes that are asked about one object, and how many at a time.
const MAX_PORTS: usize = 64;
const CONCURRENT: usize = 16;
/// Nodes that are looked at for their ports.
const MAX_NODES: usize = 2_000;
const NODE_TIMEOUT: Duration = Duration::from_secs(3);
/// As long as a name of Kubernetes may be.
const MAX_NAME: usize = 253;

/// What nodes read of the fabric.
const READ_BY_NODES: [&str; 6] =
    ["pods", "services", "endpointslices", "configmaps", "secrets", "persistentvolumeclaims"];

pub(crate) fn is_served(path: &str) -> bool {
    [HOPS, QUESTIONS, ANSWERS].contains(&path)
}

/// Who may ask was decided with the path.
pub(crate) async fn answer(
    api: &Arc<Api>,
    http: Request<Body>,
    path: &str,
    query: &Query,
) -> Result<Response<Body>, Status> {
    match (path, http.method()) {
        (HOPS, &Method::GET) => {
            let subject = subject(query)?;
            let story = story(api, &subject).await;
            json(&story)
        }
        (QUESTIONS, &Method::GET) => {
            let who = (word(query, "component")?, word(query, "instance")?);
            let after = query.get("after").parse().unwrap_or(0);
            let asked = tokio::select! {
                asked = api.questions.listen(who, after) => asked,
                () = api.shutdown.draining() => {
                    // Not an empty answer: who gets that asks again at once.
                    let why = "the server is shutting down";
                    return Err(Status::new(Reason::ServiceUnavailable, why));
                }
            };
            json(&asked)
        }
        (ANSWERS, &Method::POST) => {
            let id = query.get("id").parse().map_err(|_| invalid("id", "must be a number"))?;
            let body = collect(http.into_body(), MAX_REPORT).await?;
            let report: Report = serde_json::from_slice(&body)
                .map_err(|error| Status::bad_request(error.to_string()))?;
            api.questions.answered(id, report);
            json(&serde_json::json!({}))
        }
        _ => Err(method_not_allowed()),
    }
}

fn json(value: &impl serde::Serialize) -> Result<Response<Body>, Status> {
    let text = serde_json::to_vec(value).map_err(|error| Status::internal(error.to_string()))?;
    Ok(response::json(StatusCode::OK, text))
}

fn invalid(field: &str, why: &str) -> Status {
    Status::bad_request(format!("{field}: Invalid value: {why}"))
}

fn word(query: &Query, field: &str) -> Result<String, Status> {
    let value = query.get(field);
    match value.len() {
        0 => Err(Status::bad_request(format!("{field}: Required value"))),
        1..=MAX_NAME => Ok(value.to_owned()),
        _ => Err(invalid(field, "must have at most 253 bytes")),
    }
}

fn subject(query: &Query) -> Result<Subject, Status> {
    let optional = |field: &str| match query.get(field) {
        "" => Ok(String::new()),
        _ => word(query, field),
    };
    let (resource, name) = (word(query, "resource")?, word(query, "name")?);
    Ok(Subject::new(optional("group")?, resource, optional("namespace")?, name))
}

async fn story(api: &Arc<Api>, subject: &Subject) -> Story {
    let asked = now();
    let own = Answered { report: api.trace.report(subject), asked, had: now() };
    let (nodes, controllers) =
        futures::future::join(of_nodes(api, subject), api.questions.ask(subject)).await;
    let mut story = Story { reports: vec![own], missing: Vec::new() };
    for Story { reports, missing } in [controllers, nodes] {
        story.reports.extend(reports);
        story.missing.extend(missing);
    }
    story
}

/// What the nodes know whom it concerned. Nodes that share a port are asked once.
async fn of_nodes(api: &Arc<Api>, subject: &Subject) -> Story {
    let mut story = Story::default();
    if !READ_BY_NODES.contains(&&*subject.resource) {
        return story;
    }
    let mut missing = |who: String, why: &str| {
        story.missing.push(Missing { who, why: why.to_owned() });
    };
    let mut ports = BTreeSet::<SocketAddr>::new();
    let mut asked = Vec::new();
    let mut left_out = 0;
    for node in concerned(api, subject) {
        match node_address(api, &node) {
            Err(status) => missing(format!("node {node}"), &status.message),
            Ok(address) if !ports.insert(address) => {}
            Ok(_) if asked.len() >= MAX_PORTS => left_out += 1,
            Ok(_) => asked.push(node),
        }
    }
    if left_out > 0 {
        missing(format!("{left_out} nodes"), "not asked: more than 64 ports would have to be");
    }
    let answers = asked.into_iter().map(|node| {
        let api = Arc::clone(api);
        async move {
            let answer = tokio::time::timeout(NODE_TIMEOUT, of_node(&api, &node, subject)).await;
            (node, answer.unwrap_or_else(|_| Err("no answer in time".to_owned())))
        }
    });
    let answers: Vec<_> =
        futures::stream::iter(answers).buffer_unordered(CONCURRENT).collect().await;
    for (node, answer) in answers {
        match answer {
            Ok(report) => story.reports.push(report),
            Err(why) => story.missing.push(Missing { who: format!("node {node}"), why }),
        }
    }
    story
}

/// The pod's node; of what is gone, or is no pod, any node may know.
fn concerned(api: &Api, subject: &Subject) -> Vec<Arc<str>> {
    let pods = api.pods();
    if *subject.resource == *pods.resource
        && let Some(entry) = api.cache.get(&pods, &subject.namespace, &subject.name)
    {
        return node_of(&entry.change).cloned().into_iter().collect();
    }
    let (entries, _) = api.cache.list(&GroupResource::new("", "nodes"), Scope::All);
    entries.iter().take(MAX_NODES).map(|entry| Arc::clone(&entry.change.key.name)).collect()
}

async fn of_node(api: &Api, node: &str, subject: &Subject) -> Result<Answered, String> {
    let Subject { group, resource, namespace, name } = subject;
    let path = format!(
        "{HOPS}?group={}&resource={}&namespace={}&name={}",
        escape(group),
        escape(resource),
        escape(namespace),
        escape(name)
    );
    let request = Request::get(path)
        .header("host", "node")
        .body(response::full(""))
        .map_err(|error| error.to_string())?;
    let asked = now();
    let answer = api.nodes.send(api, node, request).await.map_err(|status| status.message)?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}", answer.status()));
    }
    let body = answer.into_body().map_err(Into::into).boxed_unsync();
    let body = collect(body, MAX_REPORT).await.map_err(|status| status.message)?;
    let report = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Ok(Answered { report, asked, had: now() })
}

/// What a request that writes says of itself.
pub(crate) fn of_request(request: &ResourceRequest, user: &User, id: &HeaderValue) -> String {
    let (verb, id) = (request.verb.name(), id.to_str().unwrap_or("-"));
    let (between, sub) = match request.subresource.as_str() {
        "" => ("", ""),
        sub => (" of ", sub),
    };
    format!("{verb}{between}{sub} by {}, request {id}", user.name)
}

/// The server's own records and heartbeats are nobody's changes.
fn is_remembered(key: &ObjectKey, durability: Durability) -> bool {
    durability != Durability::Deferred && &*key.resource.group != INTERNAL_GROUP && leaves_hops(key)
}

pub(crate) fn accepted(api: &Api, proof: &Authorized, change: &Change) {
    let Some(request) = proof.request() else { return };
    if is_remembered(&change.key, change.durability) {
        let about = about(&change.key, &change.uid, change.revision);
        api.trace.push_at(request.time, Step::Accepted, about, request.detail.clone());
    }
}

/// Before anybody sees the batch, so that no hop that follows from it is earlier.
pub(crate) fn committed(trace: &Trace, batch: &Batch) {
    for change in batch {
        if is_remembered(&change.key, change.durability) {
            let about = about(&change.key, &change.uid, change.revision);
            trace.push(Step::Committed, about, said(change));
        }
    }
}

fn said(change: &Change) -> std::borrow::Cow<'static, str> {
    let op = match change.op {
        Op::Added => "added",
        Op::Modified => "modified",
        Op::Deleted => "deleted",
    };
    match change.streams.first().map(|stream| &stream.shard) {
        Some(Shard::Node(node)) => format!("{op}, for node {}", node.0).into(),
        _ => op.into(),
    }
}

#[cfg(test)]
mod tests;
