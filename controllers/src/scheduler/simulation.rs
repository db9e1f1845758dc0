//! The scheduler over plain lists, without its queue and its waiting.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::cluster::{Cluster, PodInfo};
use super::decide::decide;
use super::{is_ours, unscheduled};
use crate::plan::Write;
use crate::pods;

/// A pod, and its node or what is to be written about having none.
#[doc(hidden)]
pub struct Decision {
    pub pod: Arc<Pod>,
    pub node: Result<String, Option<Write>>,
}

pub(crate) fn decide_all(
    now: Timestamp,
    nodes: &[Arc<Node>],
    all: &[Arc<Pod>],
    assumed: &BTreeMap<String, String>,
) -> Vec<Decision> {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|node| cluster.set_node(node));
    let place = |pod: &Arc<Pod>| {
        pods::node(pod).map(str::to_owned).or_else(|| assumed.get(pods::uid(pod)).cloned())
    };
    for pod in all.iter().filter(|pod| !pods::is_finished(pod)) {
        if let Some(node) = place(pod) {
            cluster.place(&Arc::new(PodInfo::new(Arc::clone(pod))), &node);
        }
    }
    let waiting = |pod: &&Arc<Pod>| !pods::is_finished(pod) && place(pod).is_none() && is_ours(pod);
    let mut decisions = Vec::new();
    for pod in all.iter().filter(waiting) {
        let info = Arc::new(PodInfo::new(Arc::clone(pod)));
        let node = match decide(&info, &cluster) {
            Ok((node, start)) => {
                cluster.start = start;
                cluster.place(&info, &node);
                Ok(node)
            }
            Err(why) => Err(unscheduled(now, pod, "Unschedulable", &why.0)),
        };
        decisions.push(Decision { pod: Arc::clone(pod), node });
    }
    decisions
}
