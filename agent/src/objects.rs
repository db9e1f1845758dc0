//! The ConfigMaps and Secrets that pods refer to: brought by the node's queue or asked of the API, kept for a while,
//! forgotten when an event says that they changed. What was last seen of them is on disk as well, and good while the API is away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::api::{ApiError, SharedApi};

mod kept;
mod seal;

pub(crate) use kept::{Kept, references};
pub(crate) use seal::Seal;

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
    /// None for nodes without a disk.
    kept: Option<Kept>,
}

impl Objects {
    /// Nothing of it is kept on disk.
    pub fn new(api: SharedApi) -> Self {
        Self { api, cache: Mutex::default(), kept: None }
    }

    pub(crate) fn kept_in(api: SharedApi, kept: Option<Kept>) -> Self {
        Self { kept, ..Self::new(api) }
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
        let answer = self.api.config_map(namespace, name).await;
        match self.or_kept(&key, answer).await {
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
        let answer = self.api.secret(namespace, name).await;
        match self.or_kept(&key, answer).await {
            Ok(secret) => {
                let secret = Arc::new(secret);
                self.keep(key, Cached::Secret(Arc::clone(&secret)));
                Ok(Some(secret))
            }
            Err(ApiError::NotFound(_)) if optional => Ok(None),
            Err(error) => Err(explain(key, &error)),
        }
    }

    /// The queue had it, with the first pod that refers to it. What the API said meanwhile may be newer.
    pub(crate) async fn brought(&self, namespace: &str, name: &str, map: ConfigMap) {
        let key = ("configmap", namespace.to_owned(), name.to_owned());
        let at = |map: &ConfigMap| -> u64 {
            map.metadata.resource_version.as_ref().and_then(|v| v.parse().ok()).unwrap_or_default()
        };
        if let Some(Cached::Map(known)) = self.cached(&key)
            && at(&known) > at(&map)
        {
            return;
        }
        if let Some(kept) = &self.kept {
            kept.put(&kept::key_of("configmap", namespace, name), &map).await;
        }
        self.keep(key, Cached::Map(Arc::new(map)));
    }

    /// What the API said is kept; where it says nothing, what was kept is good.
    async fn or_kept<T>(&self, key: &Key, answer: Result<T, ApiError>) -> Result<T, ApiError>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        let Some(kept) = &self.kept else { return answer };
        let (kind, namespace, name) = key;
        let at = kept::key_of(kind, namespace, name);
        match answer {
            Ok(object) => {
                kept.put(&at, &object).await;
                Ok(object)
            }
            Err(error) if error.is_transient() => match kept.get(&at).await {
                Some(object) => {
                    tracing::info!(kind, namespace, name, %error, "going by what was kept");
                    Ok(object)
                }
                None => Err(error),
            },
            Err(error) => {
                if matches!(error, ApiError::NotFound(_)) {
                    kept.delete(&at).await;
                }
                Err(error)
            }
        }
    }

    /// These are all pods of the node: what no other refers to is no longer kept.
    pub(crate) async fn keep_for<'a>(&self, pods: impl Iterator<Item = &'a Pod>) {
        if let Some(kept) = &self.kept {
            kept.keep_only(pods).await;
        }
    }

    /// An event said that it is gone.
    pub(crate) async fn deleted(&self, kind: &str, namespace: &str, name: &str) {
        self.forget(kind, namespace, name);
        if let Some(kept) = &self.kept {
            kept.delete(&kept::key_of(kind, namespace, name)).await;
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
