//! What is asked of the API for a command, under its publisher's identity.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use warren_api::{Object, Reason, Status};

use super::{Wish, Worker};
use crate::api::ApiError;

impl Worker {
    /// The answer is as the server's. A pod that is made gets `uid`, where one is given.
    pub(super) async fn grant(
        &self,
        wish: &Wish,
        uid: Option<&str>,
        by: &String,
    ) -> Result<Value, ApiError> {
        match wish {
            Wish::Start(name) => self.start(name).await,
            Wish::Delete { namespace, name, uid } => {
                let found = self.in_folder(name).await;
                let (namespace, name) = match &found {
                    Some((namespace, name)) => (namespace, name),
                    None => (namespace, name),
                };
                self.delete(namespace, name, uid.as_deref(), None, by).await?;
                if let (Some(folder), Some((_, name))) = (&self.folder, &found) {
                    // The API let it happen; deleting the mirror alone would bring it back.
                    folder.stop(name).await;
                }
                Ok(success(200, json!({"name": name, "kind": "Pod"})))
            }
            Wish::Apply(object) => {
                let mut body = Value::from((**object).clone());
                if let Some(uid) = uid {
                    body["metadata"]["uid"] = uid.into();
                }
                let name = object.name();
                match self.api.create_pod(&body, Some(by)).await {
                    Ok(pod) => Ok(made(201, &pod)),
                    Err(ApiError::AlreadyExists(_)) if !name.is_empty() => {
                        self.patch(object, by).await.map(|pod| made(200, &pod))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    pub(super) async fn start(&self, name: &str) -> Result<Value, ApiError> {
        let started = match &self.folder {
            Some(folder) => folder.start(name).await,
            None => false,
        };
        let missing = || {
            ApiError::NotFound(format!(
                "podname: Not found: {name:?}: there is no such pod in the manifests folder of node {:?}",
                self.node
            ))
        };
        let status = || success(200, json!({"name": name, "kind": "Pod"}));
        started.then(status).ok_or_else(missing)
    }

    /// Namespace and full name of the folder's pod of that name.
    pub(super) async fn in_folder(&self, name: &str) -> Option<(String, String)> {
        self.folder.as_ref()?.find(name).await
    }

    pub(super) async fn delete(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        grace_seconds: Option<u32>,
        by: &String,
    ) -> Result<(), ApiError> {
        match self.api.delete_pod(namespace, name, uid, grace_seconds, Some(by)).await {
            // What should not be there is not.
            Err(ApiError::NotFound(_)) => Ok(()),
            result => result,
        }
    }

    /// Changes the pod that has the name.
    pub(super) async fn patch(&self, object: &Object, by: &String) -> Result<Pod, ApiError> {
        let nothing = Value::Null;
        let part = |field| object.get(field).unwrap_or(&nothing);
        let patch = json!({"metadata": part("metadata"), "spec": part("spec")});
        let (namespace, name) = (object.namespace(), object.name());
        self.api.patch_pod(namespace, name, &patch, Some(by)).await
    }
}

pub(super) fn made(code: u16, pod: &Pod) -> Value {
    let meta = &pod.metadata;
    success(code, json!({"name": meta.name, "uid": meta.uid, "kind": "Pod"}))
}

/// As the server answers what came to `warren.commands`.
pub(super) fn success(code: u16, details: Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "code": code, "details": details,
    })
}

/// The API's refusal, with the reason that goes with its code.
pub(super) fn refusal(error: ApiError) -> Status {
    match error {
        ApiError::NotFound(message) => Status::new(Reason::NotFound, message),
        ApiError::AlreadyExists(message) => Status::new(Reason::AlreadyExists, message),
        ApiError::Conflict(message) => Status::new(Reason::Conflict, message),
        ApiError::Unreachable(message) => Status::new(Reason::ServiceUnavailable, message),
        ApiError::Refused(code, message) => {
            let reason = match code {
                401 => Reason::Unauthorized,
                403 => Reason::Forbidden,
                413 => Reason::RequestEntityTooLarge,
                422 => Reason::Invalid,
                _ => Reason::BadRequest,
            };
            Status::new(reason, message)
        }
    }
}
