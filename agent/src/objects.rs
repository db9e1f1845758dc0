//! The ConfigMaps and Secrets that pods refer to: asked of the API, kept for a while, forgotten when an event says that
//! they changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api::{ApiError, SharedApi};

/// How long an answer is good without an event: the net under lost events, as the kubelet's cache has it.
const FRESH: Duration = Duration::from_secs(60);
/// Objects kept at most; beyond it the whole cache is dropped (it is only a cache).
const CACHED: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("failed to fetch {kind} {namespace}/{name}: {reason}")]
    Unavailable { kind: &'static str, namespace: String, name: String, reason: String },
}

#[derive(Clone)]
enum Cached {
    Map(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

type Key = (&'static str, String, String);

/// Shared by all pods of an agent.
pub struct Objects {
    api: SharedApi,
    cache: Mutex<HashMap<Key, (Instant, Cached)>>,
}

impl Objects {
    pub fn new(api: SharedApi) -> Self {
        Self { api, cache: Mutex::default() }
    }

    /// `Ok(None)`: it is not there, and optional.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<Arc<ConfigMap>>, ObjectError> {
        let key = ("configmap", namespace.to_owned(), name.to_owned());
        if let Some(Cached::Map(map)) = self.cached(&key) {
            return Ok(Some(map));
        }
        match self.api.config_map(namespace, name).await {
            Ok(map) => {
                let map = Arc::new(map);
                self.keep(key, Cached::Map(Arc::clone(&map)));
                Ok(Some(map))
            }
            Err(ApiError::NotFound(_)) if optional => Ok(None),
            Err(error) => Err(explain(key, &error)),
        }
    }

    /// `Ok(None)`: it is not there, and optional.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<Arc<Secret>>, ObjectError> {
        let key = ("secret", namespace.to_owned(), name.to_owned());
        if let Some(Cached::Secret(secret)) = self.cached(&key) {
            return Ok(Some(secret));
        }
        match self.api.secret(namespace, name).await {
            Ok(secret) => {
                let secret = Arc::new(secret);
                self.keep(key, Cached::Secret(Arc::clone(&secret)));
                Ok(Some(secret))
            }
            Err(ApiError::NotFound(_)) if optional => Ok(None),
            Err(error) => Err(explain(key, &error)),
        }
    }

    /// An event said that it changed. `kind` is the resource's singular name.
    pub fn forget(&self, kind: &str, namespace: &str, name: &str) {
        self.cache.lock().retain(|(k, ns, n), _| *k != kind || ns != namespace || n != name);
    }

    /// Events may have been lost.
    pub fn forget_all(&self) {
        self.cache.lock().clear();
    }

    fn cached(&self, key: &Key) -> Option<Cached> {
        let cache = self.cache.lock();
        cache.get(key).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, cached)| cached.clone())
    }

    fn keep(&self, key: Key, cached: Cached) {
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(key, (Instant::now(), cached));
    }
}

fn explain((kind, namespace, name): Key, error: &ApiError) -> ObjectError {
    match error {
        ApiError::NotFound(_) => ObjectError::Missing { kind, name },
        other => ObjectError::Unavailable { kind, namespace, name, reason: other.to_string() },
    }
}
