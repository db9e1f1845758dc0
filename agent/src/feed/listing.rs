//! The lists of the node's pods that the feed asks the API for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use warren_api::Revision;
use warren_broker::{Stream, Subscriber};
use warren_process::Backoff;

use super::Feed;
use crate::api::PodList;
use crate::desired::Desired;
use crate::mirror;
use crate::pod::manager::Change;

/// Between tries to list the node's pods; doubled, up to the last, half of it chance.
const LIST_FIRST: Duration = Duration::from_millis(200);
const LIST_LAST: Duration = Duration::from_secs(10);
/// Lists that are older than what came meanwhile are asked for again so often: the API goes back behind a restore only.
const STALE_LISTS: u32 = 3;

/// A list that is being asked for, and of which streams.
pub(super) struct Listing {
    streams: Vec<Stream>,
    answer: BoxFuture<'static, PodList>,
    /// The newest that was applied since it was asked for.
    newest: Revision,
    stale: u32,
    /// An agent that was stopped waits for it.
    pub awaited: bool,
    /// The API has another database.
    pub restored: bool,
}

impl Feed {
    /// Asks until there is an answer.
    pub(super) fn ask(&self, streams: Vec<Stream>) -> Listing {
        let context = Arc::clone(&self.context);
        let answer = async move {
            let node = context.node.0.clone();
            let mut backoff = Backoff::new(LIST_FIRST, LIST_LAST);
            loop {
                match context.api.pods(&node).await {
                    Ok(answer) => return answer,
                    Err(error) => {
                        tracing::debug!(node = %node, %error, "the node's pods cannot be listed yet");
                        backoff.wait().await;
                    }
                }
            }
        };
        Listing {
            streams,
            answer: answer.boxed(),
            newest: Revision(0),
            stale: 0,
            awaited: false,
            restored: false,
        }
    }

    /// Takes a list over, or asks again where it is older than what came meanwhile.
    pub(super) async fn answered(
        &self,
        desired: &mut Desired,
        subscriber: &mut dyn Subscriber,
        listing: Option<Listing>,
        list: PodList,
    ) -> Option<Listing> {
        let at = list.at;
        let Listing { streams, newest, stale, awaited, restored, .. } = listing?;
        if at < newest && stale < STALE_LISTS {
            return Some(Listing { stale: stale + 1, awaited, restored, ..self.ask(streams) });
        }
        self.listed(desired, list).await;
        if awaited {
            self.context.vigil.listed();
        }
        subscriber.listed(&streams, at);
        if restored {
            self.context.restored.notify_one();
        }
        None
    }

    async fn listed(&self, desired: &mut Desired, list: PodList) {
        let (listed, PodList { pods, at, .. }) = (list.listed(), list);
        let bodies: Vec<(String, Bytes)> = pods
            .iter()
            .filter(|p| mirror::mirrors(p).is_none())
            .filter_map(|p| {
                let body = serde_json::to_vec(p).ok()?;
                Some((p.metadata.uid.clone()?, Bytes::from(body)))
            })
            .collect();
        let kept = self.keep.replace_pods(bodies).await;
        if let Err(error) = &kept {
            tracing::error!(%error, "the pods of this node are not on disk");
        }
        // Pods that are on their way out may still need theirs.
        let ending = self.context.index.pods(Some(&self.context.node.0));
        let ending = ending.iter().map(|entry| &*entry.pod);
        self.context.objects.keep_for(pods.iter().chain(ending)).await;
        self.mirrors.listed(pods.iter().filter(|p| mirror::mirrors(p).is_some()));
        for effect in desired.replace(&self.context.node.0, pods, at) {
            self.apply(Some(effect)).await;
        }
        self.context.objects.forget_all();
        self.sinks.iter().for_each(|sink| sink.relist());
        // What is not on disk a restart would not know.
        self.tell(Change::Complete(listed.filter(|_| kept.is_ok()))).await;
        self.writer.wake();
        self.context.api_answers.notify_one();
    }
}

/// The answer to a list that is being asked for. Cancellation safe.
pub(super) async fn answer(listing: &mut Option<Listing>) -> PodList {
    match listing {
        Some(listing) => (&mut listing.answer).await,
        None => std::future::pending().await,
    }
}

pub(super) fn saw(listing: &mut Option<Listing>, revision: Revision) {
    if let Some(listing) = listing {
        listing.newest = listing.newest.max(revision);
    }
}
