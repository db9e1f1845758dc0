//! log, exec, attach and port-forward: the request goes on to the node, and what it upgrades to is bytes both ways.

use futures::StreamExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use warren_api::{Object, Reason, Status, Subresource};

use crate::api::{Api, Call};
use crate::request::{Query, Verb};
use crate::response::{self, Body};
use crate::write::{collect, resource, timely};

/// Headers that are about one connection or about who asks, and end here.
const NOT_FORWARDED: [&str; 5] =
    ["host", "authorization", "impersonate-user", "impersonate-group", "impersonate-uid"];

/// Of the body of a request that upgrades: it must have gone before anything else can, and hardly any client sends one.
const MAX_BEFORE_UPGRADE: usize = 64 << 10;

/// Of each direction of a stream; clients write 32 KiB at once.
const STREAM_BUFFER: usize = 64 << 10;

pub(crate) async fn connect(
    api: &Api,
    call: Call,
    subresource: Subresource,
) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let allowed_verb = match subresource {
        Subresource::Log => request.verb == Verb::Get,
        _ => matches!(request.verb, Verb::Get | Verb::Create),
    };
    if !allowed_verb {
        return Err(crate::api::method_not_allowed());
    }
    let pods = api.pods();
    let entry = api
        .cache
        .get(&pods, &request.namespace, &request.name)
        .ok_or_else(|| Status::not_found(&pods, &request.name))?;
    let pod = entry.object();
    let node = pod.str_at(&["spec", "nodeName"]).to_owned();
    let Call { info, mut http, .. } = call;
    let container = match subresource {
        Subresource::PortForward => String::new(),
        _ => container_of(&pod, info.query.get("container"))?,
    };
    if node.is_empty() {
        if subresource == Subresource::Log {
            // Kubernetes answers the log of a pod that has no node with nothing.
            return Ok(response::text(StatusCode::OK, ""));
        }
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            pod.name()
        )));
    }
    let uri = node_uri(subresource, &pod, &container, http.uri().query().unwrap_or_default())?;
    let upgrade =
        http.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut http));
    if subresource != Subresource::Log && upgrade.is_none() {
        return Err(Status::bad_request("Upgrade request required"));
    }
    if is_bare(http.headers()) {
        return Err(Status::bad_request("Upgrade: websocket or SPDY/3.1 is required"));
    }
    let mut forwarded = Request::builder()
        .method(match subresource {
            Subresource::Log => Method::GET,
            _ => http.method().clone(),
        })
        .uri(uri);
    if let Some(headers) = forwarded.headers_mut() {
        for (name, value) in http.headers() {
            if !NOT_FORWARDED.contains(&name.as_str()) {
                headers.append(name, value.clone());
            }
        }
        headers.insert(header::HOST, header::HeaderValue::from_static("node"));
    }
    if let (Some(headers), true) = (forwarded.headers_mut(), upgrade.is_some()) {
        for framing in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT] {
            headers.remove(framing);
        }
    }
    let body = match upgrade.is_some() {
        true => before_upgrade(http.into_body()).await?,
        false => http.into_body(),
    };
    let forwarded = forwarded.body(body).map_err(|e| Status::internal(e.to_string()))?;
    let mut answer = api.nodes.send(api, &node, forwarded).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        // A log that is followed ends on shutdown, or draining never does.
        let shutdown = api.shutdown.clone();
        let answer = answer.map(|body| {
            let frames = BodyStream::new(body)
                .map(|frame| frame.map_err(response::BoxError::from))
                .take_until(async move { shutdown.draining().await });
            StreamBody::new(frames).boxed_unsync()
        });
        return as_status(subresource, pod.name(), answer).await;
    }
    let Some(client) = upgrade else {
        return Err(Status::internal("the node upgraded a request that did not ask for it"));
    };
    carry(api, client, hyper::upgrade::on(&mut answer), ());
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, response::full("")))
}

/// The body of a request that upgrades, whole; its length is its own.
pub(super) async fn before_upgrade(body: Body) -> Result<Body, Status> {
    Ok(response::full(timely(body, MAX_BEFORE_UPGRADE).await?))
}

/// Bytes as they are go from the server itself to a node's port, and from no client.
fn is_bare(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::UPGRADE).iter();
    let words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.into_iter().any(|word| word.trim_ascii().eq_ignore_ascii_case(b"tcp"))
}

/// Bytes both ways, until both sides have ended or the server does; `held` goes then.
pub(super) fn carry<T: Send + 'static>(api: &Api, client: OnUpgrade, node: OnUpgrade, held: T) {
    let shutdown = api.shutdown.clone();
    api.tasks.spawn("stream", async move {
        let _held = held;
        let copied = async {
            let mut client = TokioIo::new(client.await?);
            let mut node = TokioIo::new(node.await?);
            let size = STREAM_BUFFER;
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut node, size, size).await?;
            Ok::<_, response::BoxError>(())
        };
        tokio::select! {
            ended = copied => if let Err(error) = ended {
                tracing::debug!(%error, "a stream to a node ended");
            },
            () = shutdown.draining() => {}
        }
    });
}

/// An error of the node becomes a Status, which is what clients read.
async fn as_status(
    subresource: Subresource,
    pod: &str,
    answer: Response<Body>,
) -> Result<Response<Body>, Status> {
    const MAX_MESSAGE: usize = 8 << 10;
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    let text = collect(answer.into_body(), MAX_MESSAGE).await.unwrap_or_default();
    if let Ok(value) = serde_json::from_slice::<Value>(&text)
        && value["kind"] == "Status"
    {
        return Ok(response::json(code, text));
    }
    let message = String::from_utf8_lossy(&text).trim().to_owned();
    Err(match code.as_u16() {
        400 => Status::bad_request(message),
        403 => Status::new(Reason::Forbidden, message),
        // As Kubernetes checks the answer to a log; the node's own words are not handed on.
        404 if subresource == Subresource::Log => {
            let mut status = Status::generic(Reason::NotFound);
            status.message = format!("{} ( pods/log {pod})", status.message);
            if let Some(details) = &mut status.details {
                (details.name, details.kind) = (pod.to_owned(), "pods/log".to_owned());
            }
            status
        }
        404 => Status::new(Reason::NotFound, message),
        _ => Status::internal(message),
    })
}

/// The container that was named, or the only one, or the default one.
fn container_of(pod: &Object, wanted: &str) -> Result<String, Status> {
    let names = |field: &str| -> Vec<String> {
        let list = pod.at(&["spec", field]).and_then(Value::as_array);
        let name = |c: &Value| c["name"].as_str().map(str::to_owned);
        list.into_iter().flatten().filter_map(name).collect()
    };
    let (regular, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if !wanted.is_empty() {
        let known = regular.iter().chain(&init).chain(&ephemeral).any(|name| name == wanted);
        return match known {
            true => Ok(wanted.to_owned()),
            false => Err(Status::bad_request(format!(
                "container {wanted} is not valid for pod {}",
                pod.name()
            ))),
        };
    }
    let default = pod.annotation("kubectl.kubernetes.io/default-container").unwrap_or_default();
    match regular.as_slice() {
        [only] => Ok(only.clone()),
        many if many.iter().any(|name| name == default) => Ok(default.to_owned()),
        many => Err(Status::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            pod.name(),
            init.iter()
                .chain(many)
                .chain(&ephemeral)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" ")
        ))),
    }
}

/// The kubelet's path for it.
fn node_uri(
    subresource: Subresource,
    pod: &Object,
    container: &str,
    query: &str,
) -> Result<Uri, Status> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let path = match subresource {
        Subresource::Log => format!("/containerLogs/{namespace}/{name}/{container}"),
        Subresource::PortForward => format!("/portForward/{namespace}/{name}"),
        Subresource::Attach => format!("/attach/{namespace}/{name}/{container}"),
        _ => format!("/exec/{namespace}/{name}/{container}"),
    };
    // The kubelet's exec and attach name the streams as the API does, but for these two.
    let query: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("container="))
        .collect();
    let mut query = query.join("&");
    if matches!(subresource, Subresource::Exec | Subresource::Attach) {
        let asked = Query::parse(&query)?;
        let kept: Vec<&str> = query
            .split('&')
            .filter(|pair| {
                !["stdin", "stdout", "stderr"].iter().any(|key| pair.split('=').next() == Some(key))
            })
            .collect();
        let mut names: Vec<String> = kept.into_iter().map(str::to_owned).collect();
        for (theirs, ours) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error")] {
            if asked.flag(theirs) {
                names.push(format!("{theirs}=true"));
                names.push(format!("{ours}=1"));
            }
        }
        query = names.join("&");
    }
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    uri.parse().map_err(|_| Status::bad_request("the query cannot be passed on to the node"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_at_the_node() {
        let pod = Object::try_from(json!({
            "metadata": {"name": "web", "namespace": "x"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
        }))
        .unwrap();
        let uri = |sub, query: &str| node_uri(sub, &pod, "a", query).unwrap().to_string();
        assert_eq!(
            uri(Subresource::Log, "container=a&follow=true"),
            "/containerLogs/x/web/a?follow=true"
        );
        assert_eq!(
            uri(
                Subresource::Exec,
                "command=ls&command=-l&stdin=true&stdout=true&stderr=false&tty=true"
            ),
            "/exec/x/web/a?command=ls&command=-l&tty=true&stdin=true&input=1&stdout=true&output=1"
        );
        let many = "command=x&".repeat(3000);
        let passed = uri(Subresource::Exec, &format!("{many}stdout=true&stderr=true"));
        let (_, words) = passed.split_once('?').unwrap();
        assert_eq!(words, format!("{many}stdout=true&output=1&stderr=true&error=1"));
        assert_eq!(uri(Subresource::PortForward, "ports=80"), "/portForward/x/web?ports=80");
        assert_eq!(container_of(&pod, "b"), Ok("b".to_owned()));
        assert!(container_of(&pod, "c").is_err());
        assert_eq!(
            container_of(&pod, "").unwrap_err().message,
            "a container name must be specified for pod web, choose one of: [a b]"
        );
    }
}
