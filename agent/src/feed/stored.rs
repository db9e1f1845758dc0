//! What an agent before this one has left on disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::Feed;
use crate::desired::Desired;
use crate::keep::Keep;
use crate::pod::manager::{Change, Source};
use crate::provisional::{Acted, Log, Record, Since, typed};

impl Feed {
    /// What is on disk runs first: a cold start needs nobody.
    pub(super) async fn stored(&self, node: &str, desired: &mut Desired) {
        // What has become of them since the API was last heard.
        let mut since: HashMap<_, _> = self.writer.restore().await.into_iter().collect();
        let pods = match self.keep.pods().await {
            Ok(pods) => pods,
            Err(error) => {
                tracing::error!(%error, "the stored pods cannot be read");
                Vec::new()
            }
        };
        let mut stored: Vec<Pod> = Vec::with_capacity(pods.len());
        for bytes in pods {
            match serde_json::from_slice(&bytes) {
                Ok(pod) => stored.push(pod),
                Err(error) => tracing::warn!(%error, "a stored pod cannot be read"),
            }
        }
        let adopted: HashSet<String> =
            stored.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        let log = records(&self.keep, &adopted).await;
        let begun = log.begun();
        *self.log.lock() = log;
        let known = !stored.is_empty() || !begun.is_empty();
        for mut pod in stored {
            with_status(&mut pod, &mut since);
            let last = pod.clone();
            let effect = desired.upsert(node, pod);
            let uid = last.metadata.uid.as_deref().unwrap_or_default();
            if effect.is_some() && self.since(uid) == Some(Since::Ended) {
                // Its containers may be there still.
                self.tell(Change::Ended(Arc::new(last))).await;
            } else {
                self.apply(effect).await;
            }
        }
        for (body, wanted) in begun {
            match typed(&body) {
                Ok(mut pod) => {
                    with_status(&mut pod, &mut since);
                    let pod = Arc::new(pod);
                    self.tell(match wanted {
                        true => Change::Upsert(pod, Source::Api),
                        false => Change::Ended(pod),
                    })
                    .await;
                }
                Err(error) => tracing::warn!(%error, "a provisional pod cannot be read"),
            }
        }
        if known {
            tracing::info!(node = %node, "running what is on disk until the API answers");
        }
    }
}

/// The provisional records, in their order. Where the API has adopted a pod and only the record was left, that goes.
/// `adopted`: uids of the API's pods.
async fn records(keep: &Arc<dyn Keep>, adopted: &HashSet<String>) -> Log {
    let mut log = Log::default();
    let rows = match keep.provisional().await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::error!(%error, "the provisional records cannot be read");
            return log;
        }
    };
    for (key, bytes) in rows {
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(Record { acted: Acted::Began(pod), .. })
                if adopted.contains(pod.str_at(&["metadata", "uid"])) =>
            {
                if let Err(error) = keep.put_provisional(&key, None).await {
                    tracing::warn!(%error, "a provisional record was not removed");
                }
            }
            Ok(record) => log.push(record, bytes.len()),
            Err(error) => tracing::warn!(%error, "a provisional record cannot be read"),
        }
    }
    log
}

fn with_status(pod: &mut Pod, since: &mut HashMap<Arc<str>, Arc<PodStatus>>) {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if let Some(status) = since.remove(uid) {
        pod.status = Some(Arc::unwrap_or_clone(status));
    }
}
