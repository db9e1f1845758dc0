//! What an agent keeps on disk: the pods that it should run, the last good version of each manifest, and the objects
//! that the pods refer to.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use warren_process::Backoff;
use warren_store::{Changes, KeyValue};

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeepError(String);

/// What answers `Ok` is on disk.
#[async_trait]
pub trait Keep: Send + Sync {
    async fn pods(&self) -> Result<Vec<Bytes>, KeepError>;
    async fn put_pod(&self, uid: &str, body: Bytes) -> Result<(), KeepError>;
    async fn delete_pod(&self, uid: &str) -> Result<(), KeepError>;
    /// These are all pods.
    async fn replace_pods(&self, pods: Vec<(String, Bytes)>) -> Result<(), KeepError>;
    /// The manifests by path.
    async fn manifests(&self) -> Result<Vec<(String, Bytes)>, KeepError>;
    /// `None`: the file is gone.
    async fn put_manifest(&self, path: &str, text: Option<Bytes>) -> Result<(), KeepError>;
    /// The keys of the objects.
    async fn objects(&self) -> Result<Vec<String>, KeepError> {
        Ok(Vec::new())
    }
    async fn object(&self, _key: &str) -> Result<Option<Bytes>, KeepError> {
        Ok(None)
    }
    /// `None`: it is gone.
    async fn put_object(&self, _key: &str, _body: Option<Bytes>) -> Result<(), KeepError> {
        Ok(())
    }
    /// What the API has not been told yet of pods, by uid: one row for each.
    async fn statuses(&self) -> Result<Vec<(String, Bytes)>, KeepError> {
        Ok(Vec::new())
    }
    /// `None`: it has been told.
    async fn put_status(&self, _uid: &str, _body: Option<Bytes>) -> Result<(), KeepError> {
        Ok(())
    }
    /// What was done without the API, in the order of the keys.
    async fn provisional(&self) -> Result<Vec<(String, Bytes)>, KeepError> {
        Ok(Vec::new())
    }
    /// `None`: the API has heard of it.
    async fn put_provisional(&self, _key: &str, _body: Option<Bytes>) -> Result<(), KeepError> {
        Ok(())
    }
    /// What the node was said to be when the API was last heard.
    async fn note(&self, _key: &str) -> Result<Option<Bytes>, KeepError> {
        Ok(None)
    }
    async fn put_note(&self, _key: &str, _body: Bytes) -> Result<(), KeepError> {
        Ok(())
    }
}

const PODS: &str = "pods";
const OBJECTS: &str = "objects";
const MANIFESTS: &str = "manifests";
const STATUSES: &str = "statuses";
const PROVISIONAL: &str = "provisional";
const NOTES: &str = "notes";

/// Entries that are read at once.
const PAGE: usize = 500;

async fn all(store: &KeyValue, table: &str) -> Result<Vec<(String, Bytes)>, KeepError> {
    let mut found: Vec<(String, Bytes)> = Vec::new();
    loop {
        let after = found.last().map(|(key, _)| key.clone());
        let page = store.list(table, after.as_deref(), PAGE).await;
        let page = page.map_err(|e| KeepError(e.to_string()))?;
        let last = page.len() < PAGE;
        found.extend(page);
        if last {
            return Ok(found);
        }
    }
}

#[async_trait]
impl Keep for KeyValue {
    async fn pods(&self) -> Result<Vec<Bytes>, KeepError> {
        Ok(all(self, PODS).await?.into_iter().map(|(_, body)| body).collect())
    }

    async fn put_pod(&self, uid: &str, body: Bytes) -> Result<(), KeepError> {
        self.put(PODS, uid, body).await.map_err(|e| KeepError(e.to_string()))
    }

    async fn delete_pod(&self, uid: &str) -> Result<(), KeepError> {
        self.delete(PODS, uid).await.map_err(|e| KeepError(e.to_string()))
    }

    async fn replace_pods(&self, pods: Vec<(String, Bytes)>) -> Result<(), KeepError> {
        let mut changes = Changes::new().clear(PODS);
        for (uid, body) in pods {
            changes = changes.put(PODS, uid, body);
        }
        self.commit(changes).await.map_err(|e| KeepError(e.to_string()))
    }

    async fn manifests(&self) -> Result<Vec<(String, Bytes)>, KeepError> {
        all(self, MANIFESTS).await
    }

    async fn put_manifest(&self, path: &str, text: Option<Bytes>) -> Result<(), KeepError> {
        let result = match text {
            Some(text) => self.put(MANIFESTS, path, text).await,
            None => self.delete(MANIFESTS, path).await,
        };
        result.map_err(|e| KeepError(e.to_string()))
    }

    async fn objects(&self) -> Result<Vec<String>, KeepError> {
        Ok(all(self, OBJECTS).await?.into_iter().map(|(key, _)| key).collect())
    }

    async fn object(&self, key: &str) -> Result<Option<Bytes>, KeepError> {
        self.get(OBJECTS, key).await.map_err(|e| KeepError(e.to_string()))
    }

    async fn put_object(&self, key: &str, body: Option<Bytes>) -> Result<(), KeepError> {
        let result = match body {
            Some(body) => self.put(OBJECTS, key, body).await,
            None => self.delete(OBJECTS, key).await,
        };
        result.map_err(|e| KeepError(e.to_string()))
    }

    async fn statuses(&self) -> Result<Vec<(String, Bytes)>, KeepError> {
        all(self, STATUSES).await
    }

    async fn put_status(&self, uid: &str, body: Option<Bytes>) -> Result<(), KeepError> {
        let result = match body {
            Some(body) => self.put(STATUSES, uid, body).await,
            None => self.delete(STATUSES, uid).await,
        };
        result.map_err(|e| KeepError(e.to_string()))
    }

    async fn provisional(&self) -> Result<Vec<(String, Bytes)>, KeepError> {
        all(self, PROVISIONAL).await
    }

    async fn put_provisional(&self, key: &str, body: Option<Bytes>) -> Result<(), KeepError> {
        let result = match body {
            Some(body) => self.put(PROVISIONAL, key, body).await,
            None => self.delete(PROVISIONAL, key).await,
        };
        result.map_err(|e| KeepError(e.to_string()))
    }

    async fn note(&self, key: &str) -> Result<Option<Bytes>, KeepError> {
        self.get(NOTES, key).await.map_err(|e| KeepError(e.to_string()))
    }

    async fn put_note(&self, key: &str, body: Bytes) -> Result<(), KeepError> {
        self.put(NOTES, key, body).await.map_err(|e| KeepError(e.to_string()))
    }
}

/// Between tries to write; doubled, up to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Tries until it is on disk: what follows must not be done before it. That is said when it begins and when it ends.
pub(crate) async fn until_kept<F>(what: &'static str, mut write: impl FnMut() -> F)
where
    F: Future<Output = Result<(), KeepError>>,
{
    let mut backoff: Option<Backoff> = None;
    while let Err(error) = write().await {
        if backoff.is_none() {
            tracing::error!(what, %error, "not on disk; trying until it is");
        }
        backoff.get_or_insert_with(|| Backoff::new(RETRY.0, RETRY.1)).wait().await;
    }
    if backoff.is_some() {
        tracing::info!(what, "on disk now");
    }
}

/// Nodes without a disk: they list again when they start.
#[derive(Default)]
pub struct Forgetful(Mutex<BTreeMap<String, Bytes>>);

#[async_trait]
impl Keep for Forgetful {
    async fn pods(&self) -> Result<Vec<Bytes>, KeepError> {
        Ok(Vec::new())
    }
    async fn put_pod(&self, _uid: &str, _body: Bytes) -> Result<(), KeepError> {
        Ok(())
    }
    async fn delete_pod(&self, _uid: &str) -> Result<(), KeepError> {
        Ok(())
    }
    async fn replace_pods(&self, _pods: Vec<(String, Bytes)>) -> Result<(), KeepError> {
        Ok(())
    }
    async fn manifests(&self) -> Result<Vec<(String, Bytes)>, KeepError> {
        Ok(self.0.lock().clone().into_iter().collect())
    }
    async fn put_manifest(&self, path: &str, text: Option<Bytes>) -> Result<(), KeepError> {
        let mut kept = self.0.lock();
        match text {
            Some(text) => kept.insert(path.to_owned(), text),
            None => kept.remove(path),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_kept_is_tried_ever_more_seldom() {
        let (tries, began) = (AtomicU32::new(0), Instant::now());
        let write = || async {
            let failed = tries.fetch_add(1, Ordering::Relaxed) < 20;
            if failed { Err(KeepError("the disk is full".to_owned())) } else { Ok(()) }
        };
        until_kept("a test", write).await;
        assert_eq!(tries.load(Ordering::Relaxed), 21);
        // Six tries to ten seconds, and fourteen of ten; each half of it at least. Without a pause that grows: four seconds.
        let took = began.elapsed();
        assert!((76..=154).contains(&took.as_secs()), "{took:?}");
    }
}
