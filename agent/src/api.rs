//! What an agent asks of the API server. A trait, so that one agent can be tested without a server and thousands can
//! share one client.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use kube::api::{Api, DeleteParams, ObjectList, Patch, PatchParams, PostParams, Preconditions};
use serde_json::Value;
use tokio::sync::watch;
use warren_api::{Listed, NodeName, Revision};
use warren_broker::Heads;
use warren_broker::heads::{self, Asked};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    AlreadyExists(String),
    /// The object is another one by now (uid or revision).
    #[error("{0}")]
    Conflict(String),
    /// The server will not have it, now or later: 4xx. The code, then its message.
    #[error("{1}")]
    Refused(u16, String),
    /// No server, no client yet, or it cannot now: try again.
    #[error("the API server is not reachable: {0}")]
    Unreachable(String),
}

impl ApiError {
    pub fn is_transient(&self) -> bool {
        matches!(self, ApiError::Unreachable(_))
    }
}

/// Who asks instead of the node: `Impersonate-User`.
pub type Identity = String;

/// The pods of a node.
#[derive(Debug)]
pub struct PodList {
    pub pods: Vec<Pod>,
    pub at: Revision,
    /// The incarnation of the database, where the server says it.
    pub epoch: Option<u64>,
}

impl PodList {
    pub fn listed(&self) -> Option<Listed> {
        self.epoch.map(|epoch| Listed { epoch, revision: self.at })
    }
}

#[async_trait]
pub trait NodeApi: Send + Sync {
    async fn pods(&self, node: &str) -> Result<PodList, ApiError>;
    async fn pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError>;
    async fn create_pod(&self, pod: &Value, by: Option<&Identity>) -> Result<Pod, ApiError>;
    /// A strategic merge patch of the pod itself.
    async fn patch_pod(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
        by: Option<&Identity>,
    ) -> Result<Pod, ApiError>;
    /// A strategic merge patch of `status`; `patch.metadata.uid` is the precondition.
    async fn patch_pod_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<(), ApiError>;
    async fn delete_pod(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        grace_seconds: Option<u32>,
        by: Option<&Identity>,
    ) -> Result<(), ApiError>;

    /// For a static pod whose manifest names a namespace that is missing.
    async fn create_namespace(&self, name: &str) -> Result<(), ApiError>;

    async fn create_node(&self, node: &Node) -> Result<Node, ApiError>;
    async fn node(&self, name: &str) -> Result<Node, ApiError>;
    async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, ApiError>;
    async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, ApiError>;
    async fn node_lease(&self, name: &str) -> Result<Lease, ApiError>;
    async fn create_lease(&self, lease: &Lease) -> Result<(), ApiError>;
    /// `asked`: where these streams stand is told with the answer, by a server that knows.
    async fn patch_lease(
        &self,
        name: &str,
        patch: &Value,
        asked: Option<&Asked>,
    ) -> Result<Option<Heads>, ApiError>;

    async fn create_event(&self, event: &Event) -> Result<(), ApiError>;
    async fn patch_event(&self, namespace: &str, name: &str, patch: &Value)
    -> Result<(), ApiError>;

    async fn config_map(&self, namespace: &str, name: &str) -> Result<ConfigMap, ApiError>;
    async fn secret(&self, namespace: &str, name: &str) -> Result<Secret, ApiError>;
}

/// The namespace of the nodes' heartbeats.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// [`NodeApi`] over a kube-rs client that may come later.
pub struct KubeApi {
    client: watch::Receiver<Option<kube::Client>>,
}

impl KubeApi {
    pub fn new(client: kube::Client) -> Self {
        Self { client: watch::channel(Some(client)).1 }
    }

    /// Answers [`ApiError::Unreachable`] until there is a client.
    pub fn later(client: watch::Receiver<Option<kube::Client>>) -> Self {
        Self { client }
    }

    fn client(&self) -> Result<kube::Client, ApiError> {
        let client = self.client.borrow().clone();
        client.ok_or_else(|| ApiError::Unreachable("there are no credentials yet".into()))
    }

    fn pods_of(&self, namespace: &str) -> Result<Api<Pod>, ApiError> {
        Ok(Api::namespaced(self.client()?, namespace))
    }

    /// What the typed client has no way for: headers, of the request and of its answer.
    async fn send(
        &self,
        mut request: http::request::Builder,
        body: Vec<u8>,
        more: Option<(&str, String)>,
    ) -> Result<(http::HeaderMap, Vec<u8>), ApiError> {
        if let Some((name, value)) = more {
            request = request.header(name, value);
        }
        let request = request.header("accept", "application/json");
        let request = request.body(kube::client::Body::from(body));
        let request = request.map_err(|e| ApiError::Refused(400, e.to_string()))?;
        let answer = self.client()?.send(request).await.map_err(translate)?;
        let (head, body) = answer.into_parts();
        let body = body.collect_bytes().await.map_err(translate)?;
        if head.status.is_success() {
            return Ok((head.headers, body.into()));
        }
        let status = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&body);
            kube::core::Status::failure(&text, "").with_code(head.status.as_u16())
        });
        Err(translate(kube::Error::Api(Box::new(status))))
    }

    /// In somebody else's name.
    async fn send_as(
        &self,
        method: http::Method,
        uri: &str,
        content_type: &str,
        body: Vec<u8>,
        by: Option<&Identity>,
    ) -> Result<Vec<u8>, ApiError> {
        let request = http::Request::builder().method(method).uri(uri);
        let request = request.header("content-type", content_type);
        let by = by.map(|by| ("impersonate-user", by.clone()));
        self.send(request, body, by).await.map(|(_, body)| body)
    }
}

fn told(headers: &http::HeaderMap) -> Option<Heads> {
    Heads::told(headers.get(heads::TOLD).map(http::HeaderValue::as_bytes))
}

fn translate(error: kube::Error) -> ApiError {
    let kube::Error::Api(status) = error else {
        // The client says that it cannot connect; why, the innermost cause knows.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        return ApiError::Unreachable(cause.to_string());
    };
    let message = status.message.clone();
    match (status.code, status.reason.as_str()) {
        (404, _) => ApiError::NotFound(message),
        (409, "AlreadyExists") => ApiError::AlreadyExists(message),
        (409, _) => ApiError::Conflict(message),
        (429, _) | (500.., _) | (408, _) => ApiError::Unreachable(message),
        (code, _) => ApiError::Refused(code, message),
    }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::Unreachable(format!("the answer cannot be read: {e}")))
}

fn json(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

const STRATEGIC: &str = "application/strategic-merge-patch+json";

#[async_trait]
impl NodeApi for KubeApi {
    async fn pods(&self, node: &str) -> Result<PodList, ApiError> {
        let uri = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
        let asked = Asked::Node { name: NodeName(node.into()), lost: false };
        let ask = Some((heads::ASK, asked.to_string()));
        let (headers, body) = self.send(http::Request::get(uri), Vec::new(), ask).await?;
        let list: ObjectList<Pod> = parse(&body)?;
        let revision = list.metadata.resource_version.and_then(|rv| rv.parse().ok());
        Ok(PodList {
            pods: list.items,
            at: revision.unwrap_or_default(),
            epoch: told(&headers).map(|heads| heads.epoch),
        })
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        self.pods_of(namespace)?.get(name).await.map_err(translate)
    }

    async fn create_pod(&self, pod: &Value, by: Option<&Identity>) -> Result<Pod, ApiError> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("default");
        let uri = format!("/api/v1/namespaces/{namespace}/pods");
        let answer =
            self.send_as(http::Method::POST, &uri, "application/json", json(pod), by).await?;
        parse(&answer)
    }

    async fn patch_pod(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
        by: Option<&Identity>,
    ) -> Result<Pod, ApiError> {
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let answer = self.send_as(http::Method::PATCH, &uri, STRATEGIC, json(patch), by).await?;
        parse(&answer)
    }

    async fn patch_pod_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<(), ApiError> {
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        self.send_as(http::Method::PATCH, &uri, STRATEGIC, json(patch), None).await.map(drop)
    }

    async fn delete_pod(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        grace_seconds: Option<u32>,
        by: Option<&Identity>,
    ) -> Result<(), ApiError> {
        let options = DeleteParams {
            grace_period_seconds: grace_seconds,
            preconditions: uid
                .map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        let mut body = serde_json::to_value(&options).unwrap_or_default();
        body["apiVersion"] = "v1".into();
        body["kind"] = "DeleteOptions".into();
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let delete = http::Method::DELETE;
        self.send_as(delete, &uri, "application/json", json(&body), by).await.map(drop)
    }

    async fn create_namespace(&self, name: &str) -> Result<(), ApiError> {
        let body = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
        });
        let post = http::Method::POST;
        match self.send_as(post, "/api/v1/namespaces", "application/json", json(&body), None).await
        {
            Ok(_) | Err(ApiError::AlreadyExists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn create_node(&self, node: &Node) -> Result<Node, ApiError> {
        let api = Api::<Node>::all(self.client()?);
        api.create(&PostParams::default(), node).await.map_err(translate)
    }

    async fn node(&self, name: &str) -> Result<Node, ApiError> {
        Api::<Node>::all(self.client()?).get(name).await.map_err(translate)
    }

    async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, ApiError> {
        let api = Api::<Node>::all(self.client()?);
        api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map_err(translate)
    }

    async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, ApiError> {
        let api = Api::<Node>::all(self.client()?);
        let patch = Patch::Strategic(patch);
        api.patch_status(name, &PatchParams::default(), &patch).await.map_err(translate)
    }

    async fn node_lease(&self, name: &str) -> Result<Lease, ApiError> {
        Api::namespaced(self.client()?, LEASE_NAMESPACE).get(name).await.map_err(translate)
    }

    async fn create_lease(&self, lease: &Lease) -> Result<(), ApiError> {
        let api = Api::<Lease>::namespaced(self.client()?, LEASE_NAMESPACE);
        api.create(&PostParams::default(), lease).await.map(drop).map_err(translate)
    }

    async fn patch_lease(
        &self,
        name: &str,
        patch: &Value,
        asked: Option<&Asked>,
    ) -> Result<Option<Heads>, ApiError> {
        let uri =
            format!("/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases/{name}");
        let request = http::Request::patch(uri);
        let request = request.header("content-type", "application/merge-patch+json");
        let asked = asked.map(|asked| (heads::ASK, asked.to_string()));
        let (headers, _) = self.send(request, json(patch), asked).await?;
        Ok(told(&headers))
    }

    async fn create_event(&self, event: &Event) -> Result<(), ApiError> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let api = Api::<Event>::namespaced(self.client()?, namespace);
        api.create(&PostParams::default(), event).await.map(drop).map_err(translate)
    }

    async fn patch_event(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<(), ApiError> {
        let api = Api::<Event>::namespaced(self.client()?, namespace);
        let patch = Patch::Merge(patch);
        api.patch(name, &PatchParams::default(), &patch).await.map(drop).map_err(translate)
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<ConfigMap, ApiError> {
        Api::namespaced(self.client()?, namespace).get(name).await.map_err(translate)
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Secret, ApiError> {
        Api::namespaced(self.client()?, namespace).get(name).await.map_err(translate)
    }
}

/// A handle that several parts share.
pub type SharedApi = Arc<dyn NodeApi>;

#[cfg(test)]
mod tests;
