//! Whether this node acts by itself where there is no API: told so, or said so on its Node when that was last seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::Node;

use crate::keep::Keep;
use crate::node::AUTONOMOUS;

const NOTE: &str = "autonomous";

pub(crate) struct Autonomy {
    /// `--autonomous`.
    told: bool,
    said: AtomicBool,
    /// Nodes without a disk never act alone: what they did would be forgotten.
    keep: Option<Arc<dyn Keep>>,
}

impl Autonomy {
    pub(crate) async fn load(told: bool, keep: Option<Arc<dyn Keep>>) -> Self {
        let mut said = false;
        if let Some(keep) = &keep {
            match keep.note(NOTE).await {
                Ok(note) => said = note.as_deref() == Some(b"true"),
                Err(error) => tracing::error!(%error, "what the node is cannot be read"),
            }
        }
        Self { told, said: said.into(), keep }
    }

    pub(crate) fn acts_alone(&self) -> bool {
        self.keep.is_some() && (self.told || self.said.load(Ordering::Relaxed))
    }

    /// The Node, as the API has it now.
    pub(crate) async fn saw(&self, node: &Node) {
        let annotations = node.metadata.annotations.as_ref();
        let said = annotations.is_some_and(|all| all.get(AUTONOMOUS).is_some_and(|v| v == "true"));
        let Some(keep) = &self.keep else { return };
        if self.said.swap(said, Ordering::Relaxed) == said {
            return;
        }
        tracing::info!(autonomous = said, "what the node does without an API");
        let note = if said { &b"true"[..] } else { b"false" };
        if let Err(error) = keep.put_note(NOTE, bytes::Bytes::from_static(note)).await {
            tracing::warn!(%error, "what the node is was not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_store::KeyValue;

    #[tokio::test]
    async fn what_the_node_was_said_to_be_is_known_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let node = |value: Option<&str>| -> Node {
            let annotations = value.map(|v| serde_json::json!({AUTONOMOUS: v}));
            let meta = serde_json::json!({"name": "n", "annotations": annotations});
            serde_json::from_value(serde_json::json!({"metadata": meta})).unwrap()
        };
        let open = || Arc::new(KeyValue::open(&dir.path().join("agent.db")).unwrap());
        let keep: Arc<dyn Keep> = open();
        for (value, expected) in [
            (None, false),
            (Some("yes"), false),
            (Some("true"), true),
            (None, false),
            (Some("true"), true),
        ] {
            let autonomy = Autonomy::load(false, Some(Arc::clone(&keep))).await;
            autonomy.saw(&node(value)).await;
            assert_eq!(autonomy.acts_alone(), expected, "{value:?}");
            let later = Autonomy::load(false, Some(Arc::clone(&keep))).await;
            assert_eq!(later.acts_alone(), expected, "{value:?}");
        }
        let told = Autonomy::load(true, Some(keep)).await;
        told.saw(&node(None)).await;
        assert!(told.acts_alone(), "the option counts");
        let forgetful = Autonomy::load(true, None).await;
        assert!(!forgetful.acts_alone());
    }
}
