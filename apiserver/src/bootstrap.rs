//! What every cluster has: its namespaces and the Service `kubernetes`. Written only where it is missing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use warren_api::{GroupResource, Status};

use crate::api::{self, Api};
use crate::authn::User;
use crate::response;

/// How often it is looked whether all is there; Kubernetes' own interval.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub(crate) async fn ensure(
    api: &Arc<Api>,
    advertise: Option<IpAddr>,
    port: u16,
) -> Result<(), Status> {
    for name in NAMESPACES {
        let object = json!({
            "kind": "Namespace", "apiVersion": "v1",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        });
        let namespaces = GroupResource::new("", "namespaces");
        if api.cache.get(&namespaces, "", name).is_none() {
            send(api, Method::POST, "/api/v1/namespaces".to_owned(), &object).await?;
        }
    }
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": api.settings.service_range.first().to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    put(api, "/api/v1/namespaces/default/services", &service).await?;
    let Some(address) = advertise else { return Ok(()) };
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let endpoints = json!({
        "kind": "Endpoints", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": address.to_string()}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    put(api, "/api/v1/namespaces/default/endpoints", &endpoints).await?;
    let slice = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    put(api, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await
}

/// Makes the Service again where somebody deleted it, as `kubectl delete all --all` does.
pub(crate) async fn keep(api: Arc<Api>, advertise: Option<IpAddr>, port: u16) {
    let services = GroupResource::new("", "services");
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = api.shutdown.draining() => return,
        }
        if api.cache.get(&services, "default", "kubernetes").is_none()
            && let Err(error) = ensure(&api, advertise, port).await
        {
            tracing::warn!(%error, "the Service kubernetes cannot be made again");
        }
    }
}

/// Creates it, or brings it up to date; what is up to date is not written.
async fn put(api: &Arc<Api>, collection: &str, object: &Value) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("{collection}/{name}");
    let code = call(api, Method::GET, path.clone(), &Value::Null).await?.0;
    match code {
        StatusCode::NOT_FOUND => send(api, Method::POST, collection.to_owned(), object).await,
        _ => send(api, Method::PUT, path, object).await,
    }
}

async fn send(api: &Arc<Api>, method: Method, path: String, object: &Value) -> Result<(), Status> {
    let (code, body) = call(api, method, path.clone(), object).await?;
    if code.is_success() {
        return Ok(());
    }
    Err(Status::internal(format!("{path}: {code}: {}", String::from_utf8_lossy(&body))))
}

async fn call(
    api: &Arc<Api>,
    method: Method,
    path: String,
    object: &Value,
) -> Result<(StatusCode, Bytes), Status> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::USER_AGENT, "warren-apiserver")
        .body(response::full(crate::codec::bytes(object)))
        .map_err(|error| Status::internal(error.to_string()))?;
    let user = Arc::new(User::admin("system:apiserver"));
    let answer = api::handle(Arc::clone(api), Some(user), request).await;
    let code = answer.status();
    let body = answer.into_body().collect().await;
    Ok((code, body.map_err(|error| Status::internal(error.to_string()))?.to_bytes()))
}
