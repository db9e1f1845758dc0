//! Requests that come over AMQP: the same pipeline, under the identity that the publisher's account stands for.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use serde_json::{Value, json};
use warren_api::validation::names::dns1123_subdomain;
use warren_api::{Details, GroupResource, NodeName, Reason, Status};
use warren_broker::accounts::Account;
use warren_broker::api::{ApiAnswer, ApiHandler, ApiRequest, Asked};
use warren_broker::topology;

use crate::api::{self, Api};
use crate::authn::User;
use crate::cache::Scope;
use crate::request::{RequestInfo, Target, Verb};
use crate::response;
use crate::write::collect;

/// Of a list, which can be read in pages, and of a log.
const MAX_LIST: usize = 1 << 20;
/// Of all else: an object as large as the API takes one, with what it adds, or a document of discovery.
const MAX_ANSWER: usize = 8 << 20;
/// What the accounts of nodes begin with.
const NODE_PREFIX: &str = "node-";

pub(crate) struct OverAmqp(pub(crate) Arc<Api>);

#[async_trait]
impl ApiHandler for OverAmqp {
    async fn answer(&self, asked: Asked) -> ApiAnswer {
        match answer(&self.0, asked).await {
            Ok(answer) => answer,
            Err(status) => ApiAnswer::of(&status),
        }
    }
}

async fn answer(api: &Arc<Api>, asked: Asked) -> Result<ApiAnswer, Status> {
    let Asked { account, again, request } = asked;
    let user = identity(account.as_deref(), |shortened| known_node(api, shortened))?;
    let request = http(request)?;
    let info = RequestInfo::of(request.method(), request.uri())?;
    is_served(&info)?;
    if again && makes_another(&info, request.body()) {
        return Err(Status::new(
            Reason::Timeout,
            "the request came before, and whether it was done is not known: look, before an object with a generated name \
             is made a second time",
        ));
    }
    let changes = !matches!(info.method, http::Method::GET);
    let is_list = is_list(&info);
    let limit = if is_list { MAX_LIST } else { MAX_ANSWER };
    let request = request.map(response::full);
    let answer = api::handle(Arc::clone(api), Some(Arc::new(user)), request).await;
    let (head, body) = answer.into_parts();
    let body = match collect(body, limit).await {
        Ok(body) => body,
        Err(status) if status.reason != Reason::RequestEntityTooLarge => return Err(status),
        Err(_) if changes && head.status.is_success() => return Ok(done_without(limit)),
        Err(_) => return Err(too_large(is_list, limit)),
    };
    let headers = head.headers.iter().filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    });
    Ok(ApiAnswer { code: head.status.as_u16(), headers: headers.collect(), body })
}

/// Who an account of the broker is. What begins with `node-` is that node, or nobody.
fn identity(
    account: Option<&str>,
    known_node: impl FnOnce(&str) -> Option<String>,
) -> Result<User, Status> {
    let Some(account) = account else { return Ok(User::broker(None)) };
    if account == Account::Controllers.name() {
        return Ok(User::controllers());
    }
    if account == Account::Admin.name() {
        return Ok(User::admin(account));
    }
    let Some(name) = account.strip_prefix(NODE_PREFIX) else {
        return Ok(User::broker(Some(account)));
    };
    let is_name = dns1123_subdomain(name).is_empty();
    // An account's name that was too long for AMQP says only which node it may be.
    let node = if is_name { Some(name.to_owned()) } else { known_node(account) };
    node.map(|node| User::node(&node)).ok_or_else(|| {
        Status::new(
            Reason::Forbidden,
            format!("user_id: Forbidden: {account:?} is no node's account"),
        )
    })
}

/// The node whose name was too long for an account.
fn known_node(api: &Api, account: &str) -> Option<String> {
    let (entries, _) = api.cache.list(&GroupResource::new("", "nodes"), Scope::All);
    let mut names = entries.iter().map(|entry| &entry.change.key.name);
    let is = |name: &&Arc<str>| topology::node_account(&NodeName(Arc::clone(name))) == account;
    names.find(is).map(|name| name.to_string())
}

fn http(request: ApiRequest) -> Result<Request<Bytes>, Status> {
    let bad = |what: String| Status::bad_request(what);
    let uri: Uri = request
        .path
        .parse()
        .map_err(|error| bad(format!("header path: Invalid value: {error}")))?;
    let mut http = Request::builder()
        .method(request.method.as_str())
        .uri(uri)
        .body(request.body)
        .map_err(|error| bad(format!("header method: Invalid value: {error}")))?;
    for (name, value) in request.headers {
        let parsed = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes()));
        let (Ok(parsed), Ok(value)) = parsed else {
            return Err(bad(format!("header {name}: Invalid value: is none of HTTP")));
        };
        http.headers_mut().append(parsed, value);
    }
    http.headers_mut().entry(header::USER_AGENT).or_insert(HeaderValue::from_static("warren-amqp"));
    Ok(http)
}

/// What is one question and one answer.
fn is_served(info: &RequestInfo) -> Result<(), Status> {
    let Target::Resource(request) = &info.target else { return Ok(()) };
    let instead = match (request.verb, request.subresource.as_str()) {
        (Verb::Watch, _) => {
            "watch is not served over AMQP: bind a queue to the exchange warren.events instead"
        }
        (_, "log") if info.query.flag("follow") => {
            "a log is not followed over AMQP: ask for it without follow, or use HTTPS"
        }
        (_, "exec" | "attach" | "portforward" | "proxy") => {
            "exec, attach, portforward and proxy are not served over AMQP: they are connections; use HTTPS"
        }
        _ => return Ok(()),
    };
    Err(Status::new(Reason::MethodNotAllowed, instead))
}

fn is_list(info: &RequestInfo) -> bool {
    match &info.target {
        Target::Resource(request) => {
            matches!(request.verb, Verb::List | Verb::DeleteCollection)
                || request.subresource == "log"
        }
        Target::Path(_) => false,
    }
}

/// Whether doing it twice makes two objects.
fn makes_another(info: &RequestInfo, body: &[u8]) -> bool {
    let Target::Resource(request) = &info.target else { return false };
    if request.verb != Verb::Create || request.named {
        return false;
    }
    // A body in another form may as well.
    let Ok(object) = serde_json::from_slice::<Value>(body) else { return true };
    let given = |field: &str| object["metadata"][field].as_str().is_some_and(|v| !v.is_empty());
    given("generateName") && !given("name")
}

fn too_large(is_list: bool, limit: usize) -> Status {
    let hint = match is_list {
        true => {
            "ask for a page with limit and continue, or for less with selectors; of a log with tailLines or limitBytes"
        }
        false => "read it over HTTPS",
    };
    let why =
        format!("the answer has more than {limit} bytes, which is too much for a message: {hint}");
    Status {
        details: Some(Box::new(Details::default())),
        ..Status::new(Reason::RequestEntityTooLarge, why)
    }
}

/// It was done; that is what the asker must know.
fn done_without(limit: usize) -> ApiAnswer {
    let message = format!("done; what came of it has more than {limit} bytes and is left out");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "code": StatusCode::OK.as_u16(), "message": message,
    });
    ApiAnswer {
        code: StatusCode::OK.as_u16(),
        headers: vec![(header::CONTENT_TYPE.to_string(), "application/json".to_owned())],
        body: status.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use http::Method;

    use super::*;

    #[test]
    fn an_account_is_somebody_or_nobody() {
        let long = format!("{}.x", "n".repeat(252));
        let shortened = topology::node_account(&NodeName(long.as_str().into()));
        assert!(shortened.contains('~') && shortened.len() <= topology::MAX_NAME_BYTES);
        let foreign = format!("node-{}~0123456789abcdef", "n".repeat(233));
        let known = |account: &str| (account == shortened).then(|| long.clone());
        let who = |account: Option<&str>| match identity(account, known) {
            Ok(user) => format!("{} {:?}", user.name.replace(&long, "LONG"), user.groups),
            Err(status) => format!("{} {}", status.reason.code(), &status.message[..20]),
        };
        let all = [
            None,
            Some("controllers"),
            Some("admin"),
            Some("server"),
            Some("guest"),
            Some("node-rabbit-1"),
            Some("node-a.b"),
            Some(&*shortened),
            Some(&*foreign),
            Some("node-"),
            Some("node-A"),
            Some("node-a/b"),
        ];
        let shown = all.map(who).join("\n");
        expect![[r#"
            system:broker-anonymous ["system:authenticated"]
            system:controllers ["system:controllers", "system:authenticated"]
            admin ["system:masters", "system:authenticated"]
            system:broker:server ["system:authenticated"]
            system:broker:guest ["system:authenticated"]
            system:node:rabbit-1 ["system:nodes", "system:authenticated"]
            system:node:a.b ["system:nodes", "system:authenticated"]
            system:node:LONG ["system:nodes", "system:authenticated"]
            403 user_id: Forbidden: 
            403 user_id: Forbidden: 
            403 user_id: Forbidden: 
            403 user_id: Forbidden: "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn what_is_one_question_and_one_answer() {
        for (method, uri, served) in [
            (Method::GET, "/api/v1/pods", true),
            (Method::GET, "/api/v1/pods?watch=1", false),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", true),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log?follow", false),
            (Method::POST, "/api/v1/namespaces/a/pods/b/exec?command=a", false),
            (Method::GET, "/api/v1/namespaces/a/pods/b/attach", false),
            (Method::POST, "/api/v1/namespaces/a/pods/b/portforward", false),
            (Method::GET, "/api/v1/nodes/a/proxy/metrics", false),
            (Method::POST, "/api/v1/namespaces/a/pods/b/binding", true),
            (Method::GET, "/readyz", true),
        ] {
            let info = RequestInfo::of(&method, &uri.parse().unwrap()).unwrap();
            assert_eq!(is_served(&info).is_ok(), served, "{method} {uri}");
        }
    }

    #[test]
    fn a_second_object_is_not_made_by_accident() {
        let pods = "/api/v1/namespaces/a/pods";
        for (method, uri, body, another) in [
            (Method::POST, pods, r#"{"metadata":{"generateName":"a-"}}"#, true),
            (Method::POST, pods, r#"{"metadata":{"generateName":"a-","name":"a"}}"#, false),
            (Method::POST, pods, r#"{"metadata":{"name":"a"}}"#, false),
            (Method::POST, pods, "k8s\0", true),
            (Method::PUT, "/api/v1/namespaces/a/pods/b", "", false),
            (Method::POST, "/api/v1/namespaces/a/pods/b/binding", "{}", false),
        ] {
            let info = RequestInfo::of(&method, &uri.parse().unwrap()).unwrap();
            assert_eq!(makes_another(&info, body.as_bytes()), another, "{method} {uri} {body}");
        }
    }
}
