//! `metrics.k8s.io/v1beta1`, computed on request from the nodes' `/stats/summary`: what `kubectl top` shows.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use warren_api::{GroupResource, Status};

use crate::api::{Api, Call};
use crate::cache::Entry;
use crate::prepare::instant;
use crate::request::ResourceRequest;
use crate::response::{self, Body};
use crate::selection::Selection;
use crate::write::{collect, resource};

pub(crate) const GROUP: &str = "metrics.k8s.io";
pub(crate) const VERSION: &str = "v1beta1";
/// (plural, kind, namespaced)
pub(crate) const RESOURCES: [(&str, &str, bool); 2] =
    [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)];

/// Nodes that are asked at a time.
const CONCURRENT: usize = 16;
/// For one node's answer; who is late is left out, as with Kubernetes' metrics server.
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_SUMMARY: usize = 16 << 20;

pub(crate) fn is_served(request: &ResourceRequest) -> bool {
    request.version == VERSION
        && request.subresource.is_empty()
        && RESOURCES.iter().any(|(plural, _, namespaced)| {
            *plural == request.resource
                && (*namespaced || request.namespace.is_empty())
                && (!namespaced || !request.named || !request.namespace.is_empty())
        })
}

pub(crate) async fn answer(api: Arc<Api>, call: Call) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let core = GroupResource::new("", request.resource.as_str());
    let kind = api
        .registry
        .by_group_resource(&core)
        .ok_or_else(|| Status::not_found(&core, &request.name))?;
    let pods = request.resource == "pods";
    let wanted: Vec<Arc<Entry>> = if request.named {
        let entry = api.cache.get(&core, &request.namespace, &request.name);
        vec![entry.ok_or_else(|| not_found(&request))?]
    } else {
        let selection = Selection::of(kind, &request, &call.info.query)?;
        let (entries, _) = api.cache.list(&core, selection.scope(kind));
        entries.into_iter().filter(|entry| selection.matches(kind, entry)).collect()
    };
    let mut nodes: Vec<Arc<str>> =
        wanted.iter().filter_map(|entry| crate::cache::node_of(&entry.change).cloned()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut summaries: Vec<(Arc<str>, Value)> = Vec::new();
    for some in nodes.chunks(CONCURRENT) {
        let asked = some.iter().map(|node| ask(Arc::clone(&api), Arc::clone(node)));
        summaries.extend(futures::future::join_all(asked).await.into_iter().flatten());
    }
    let now = instant(api.clock.now());
    let mut items: Vec<Value> = Vec::new();
    for entry in &wanted {
        let Some(node) = crate::cache::node_of(&entry.change) else { continue };
        let Some((_, summary)) = summaries.iter().find(|(name, _)| name == node) else { continue };
        let object = entry.object();
        let labels = object.at(&["metadata", "labels"]).cloned();
        let mut item = match pods {
            true => match pod_metrics(summary, object.namespace(), object.name()) {
                Some(item) => item,
                None => continue,
            },
            false => json!({"kind": "NodeMetrics", "usage": usage(&summary["node"])}),
        };
        item["apiVersion"] = "metrics.k8s.io/v1beta1".into();
        item["metadata"] = json!({"name": object.name(), "creationTimestamp": now});
        if pods {
            item["metadata"]["namespace"] = object.namespace().into();
        }
        if let Some(labels) = labels {
            item["metadata"]["labels"] = labels;
        }
        item["timestamp"] = now.as_str().into();
        item["window"] = "15s".into();
        items.push(item);
    }
    let value = match request.named {
        true => items.pop().ok_or_else(|| not_found(&request))?,
        false => json!({
            "kind": if pods { "PodMetricsList" } else { "NodeMetricsList" },
            "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items,
        }),
    };
    Ok(response::tree(StatusCode::OK, &value, call.accept))
}

fn not_found(request: &ResourceRequest) -> Status {
    let plural = if request.resource == "pods" { "podmetrics" } else { "nodemetrics" };
    let name = match request.namespace.as_str() {
        "" => request.name.clone(),
        namespace => format!("{namespace}/{}", request.name),
    };
    Status::not_found(&GroupResource::new(GROUP, plural), &name)
}

async fn ask(api: Arc<Api>, node: Arc<str>) -> Option<(Arc<str>, Value)> {
    let summary = tokio::time::timeout(TIMEOUT, summary(&api, &node)).await.ok()??;
    Some((node, summary))
}

async fn summary(api: &Api, node: &str) -> Option<Value> {
    let request = Request::get(format!("/stats/summary?node={node}"))
        .header("host", "node")
        .body(response::full(""));
    let answer = api.nodes.send(api, node, request.ok()?).await;
    let answer =
        answer.inspect_err(|error| tracing::debug!(node, %error, "no figures from a node")).ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let body = answer.into_body().map_err(Into::into).boxed_unsync();
    serde_json::from_slice(&collect(body, MAX_SUMMARY).await.ok()?).ok()
}

fn pod_metrics(summary: &Value, namespace: &str, name: &str) -> Option<Value> {
    let pod = summary["pods"]
        .as_array()?
        .iter()
        .find(|pod| pod["podRef"]["name"] == name && pod["podRef"]["namespace"] == namespace)?;
    let containers: Vec<Value> = pod["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| json!({"name": container["name"], "usage": usage(container)}))
        .collect();
    Some(json!({"kind": "PodMetrics", "containers": containers}))
}

fn usage(stats: &Value) -> Value {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let nanos = number(&stats["cpu"]["usageNanoCores"]);
    let kibi = number(&stats["memory"]["workingSetBytes"]) / 1024;
    json!({"cpu": format!("{nanos}n"), "memory": format!("{kibi}Ki")})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_pod() {
        let summary = json!({"pods": [{
            "podRef": {"name": "web", "namespace": "x"},
            "containers": [{"name": "a", "cpu": {"usageNanoCores": 1500}, "memory": {"workingSetBytes": 4096}}],
        }]});
        assert_eq!(
            pod_metrics(&summary, "x", "web"),
            Some(json!({"kind": "PodMetrics",
                        "containers": [{"name": "a", "usage": {"cpu": "1500n", "memory": "4Ki"}}]}))
        );
        assert_eq!(pod_metrics(&summary, "y", "web"), None);
    }
}
