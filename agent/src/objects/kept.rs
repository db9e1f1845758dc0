//! The same objects on the agent's disk: what a cold start without the API has to go by.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Pod, Volume};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::seal::Seal;
use crate::keep::Keep;
use crate::pod::{ephemeral, spec};

/// What an object is kept under: `configmap/<namespace>/<name>`, `secret/…`.
pub(super) fn key_of(kind: &str, namespace: &str, name: &str) -> String {
    format!("{kind}/{namespace}/{name}")
}

/// ConfigMaps as they are, Secrets sealed. A failure is told and costs only the cold start.
pub(crate) struct Kept {
    pub(crate) keep: Arc<dyn Keep>,
    pub(crate) seal: Seal,
}

impl Kept {
    pub(super) async fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let bytes = match self.keep.object(key).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(key, %error, "what was kept of an object cannot be read");
                return None;
            }
        };
        let plain = match key.starts_with("secret/") {
            true => self.seal.open_sealed(key, &bytes)?,
            false => bytes.to_vec(),
        };
        serde_json::from_slice(&plain).ok()
    }

    /// Writes it where something else (or nothing) is there: an object is asked for again and again.
    pub(super) async fn put<T>(&self, key: &str, object: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        if self.get::<T>(key).await.as_ref() == Some(object) {
            return;
        }
        let bytes = serde_json::to_vec(object).ok();
        let bytes = match key.starts_with("secret/") {
            true => bytes.and_then(|plain| self.seal.seal(key, &plain)),
            false => bytes,
        };
        if let Some(bytes) = bytes {
            self.write(key, Some(bytes.into())).await;
        }
    }

    pub(super) async fn delete(&self, key: &str) {
        self.write(key, None).await;
    }

    async fn write(&self, key: &str, bytes: Option<Bytes>) {
        if let Err(error) = self.keep.put_object(key, bytes).await {
            tracing::warn!(key, %error, "an object is not kept for a start without the API");
        }
    }

    /// Drops what none of these pods refers to.
    pub(super) async fn keep_only<'a>(&self, pods: impl Iterator<Item = &'a Pod>) {
        let wanted: BTreeSet<String> = pods.flat_map(references).collect();
        let there = match self.keep.objects().await {
            Ok(keys) => keys,
            Err(error) => return tracing::warn!(%error, "the kept objects cannot be listed"),
        };
        for key in there.iter().filter(|key| !wanted.contains(*key)) {
            self.delete(key).await;
        }
    }
}

/// What a pod's containers and volumes are made of.
pub(crate) fn references(pod: &Pod) -> BTreeSet<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut found = BTreeSet::new();
    let mut add = |kind, name: &str| {
        found.insert(key_of(kind, namespace, name));
    };
    let spec = spec::spec(pod);
    for Volume { config_map, secret, projected, .. } in spec.volumes.iter().flatten() {
        if let Some(source) = config_map {
            add("configmap", &source.name);
        }
        if let Some(name) = secret.as_ref().and_then(|s| s.secret_name.as_deref()) {
            add("secret", name);
        }
        for source in projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            source.config_map.iter().for_each(|s| add("configmap", &s.name));
            source.secret.iter().for_each(|s| add("secret", &s.name));
        }
    }
    spec.image_pull_secrets.iter().flatten().for_each(|s| add("secret", &s.name));
    let ephemeral: Vec<_> = ephemeral::all(spec).iter().map(ephemeral::as_container).collect();
    for container in spec::all_containers(spec).chain(&ephemeral) {
        for source in container.env_from.iter().flatten() {
            source.config_map_ref.iter().for_each(|s| add("configmap", &s.name));
            source.secret_ref.iter().for_each(|s| add("secret", &s.name));
        }
        for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            source.config_map_key_ref.iter().for_each(|s| add("configmap", &s.name));
            source.secret_key_ref.iter().for_each(|s| add("secret", &s.name));
        }
    }
    found
}
