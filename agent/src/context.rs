//! What all parts of one agent share.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodIP, PodStatus};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use warren_api::{Listed, NodeName};
use warren_process::trace::{About, Step, Subject, Trace};
use warren_process::{Clock, Tasks};

use crate::api::SharedApi;
use crate::autonomy::Autonomy;
use crate::claim::Vigil;
use crate::config::Config;
use crate::events::Events;
use crate::heads::HeadsCell;
use crate::objects::Objects;
use crate::pod::index::PodIndex;
use crate::pod::spec::{NodeFields, pod_ref};
use crate::runtime::{PodRef, Runtime};
use crate::volume::Volumes;

pub(crate) struct Context {
    pub config: Config,
    pub node: NodeName,
    pub host_ip: IpAddr,
    pub fields: RwLock<NodeFields>,
    pub api: SharedApi,
    pub runtime: Arc<dyn Runtime>,
    pub runtime_name: &'static str,
    pub objects: Objects,
    pub volumes: Volumes,
    pub events: Events,
    pub heads: HeadsCell,
    /// What runs here is what this list said; none before the first.
    pub agreed: Mutex<Option<Listed>>,
    /// The API has another database by now, and what was said of the node before is forgotten.
    pub restored: Notify,
    /// What the API has of the node's state may be somebody else's word: the node tells it again.
    pub tell_again: Notify,
    pub index: PodIndex,
    pub clock: Arc<dyn Clock>,
    /// Who renews the node's lease; nobody in particular where there is no folder.
    pub instance: Option<String>,
    pub vigil: Arc<Vigil>,
    pub autonomy: Autonomy,
    /// The API was heard again.
    pub api_answers: Notify,
    pub tasks: Tasks,
    pub trace: Trace,
}

impl Context {
    /// Something happened to a pod.
    pub(crate) fn hop(&self, step: Step, pod: &Pod, detail: impl Into<Cow<'static, str>>) {
        self.trace.push(step, about_pod(&pod_ref(pod)), detail);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn fields(&self) -> NodeFields {
        self.fields.read().clone()
    }

    /// The pod with the address that its sandbox has now, for field references.
    pub(crate) fn with_address(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let host_network = crate::pod::spec::spec(&pod).host_network == Some(true);
        let sandbox = self.index.by_uid(&uid).and_then(|e| e.observed.sandbox().and_then(|s| s.ip));
        let ip = if host_network { Some(self.host_ip) } else { sandbox };
        let status = pod.status.get_or_insert_with(PodStatus::default);
        if let Some(ip) = ip {
            status.pod_ip = Some(ip.to_string());
            status.pod_ips = Some(vec![PodIP { ip: ip.to_string() }]);
        }
        pod
    }
}

/// What hops say of a pod.
pub(crate) fn about_pod(pod: &PodRef) -> About {
    let subject = Subject::new("", "pods", pod.namespace.clone(), pod.name.clone());
    About { subject, uid: pod.uid.clone(), revision: 0 }
}
