//! Defaults of a pod that come from the cluster and not from its type.

use serde_json::{Value, json};
use warren_api::{GroupResource, Object, Status};

use super::MIRROR;

/// Priorities that every cluster has; other classes are not served yet.
const PRIORITIES: [(&str, i64); 3] =
    [("", 0), ("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// How long a pod that does not say so itself stays on a node that is lost, in seconds; Kubernetes' flags
/// `default-not-ready-toleration-seconds` and `default-unreachable-toleration-seconds`, and its five minutes.
#[derive(Clone, Copy, Debug)]
pub struct DefaultTolerations {
    pub not_ready: u32,
    pub unreachable: u32,
}

impl Default for DefaultTolerations {
    fn default() -> Self {
        Self { not_ready: 300, unreachable: 300 }
    }
}

/// `has_account` says whether the namespace has a service account of a name.
pub(super) fn on_create(
    pod: &mut Object,
    namespace: &str,
    tolerations: DefaultTolerations,
    has_account: &dyn Fn(&str) -> bool,
) -> Result<(), Status> {
    let class = pod.str_at(&["spec", "priorityClassName"]);
    let Some((_, priority)) = PRIORITIES.iter().find(|(name, _)| *name == class) else {
        return Err(refused(pod, &format!("no PriorityClass with name {class} was found")));
    };
    pod.set_at(&["spec", "priority"], *priority);
    if pod.str_at(&["spec", "preemptionPolicy"]).is_empty() {
        pod.set_at(&["spec", "preemptionPolicy"], "PreemptLowerPriority");
    }
    if pod.annotation(MIRROR).is_some() {
        // A mirror says what the node runs, and nothing else.
        return Ok(());
    }
    if pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        let account = match pod.str_at(&["spec", "serviceAccount"]) {
            "" => "default".to_owned(),
            account => account.to_owned(),
        };
        pod.set_at(&["spec", "serviceAccountName"], account);
    }
    let account = pod.str_at(&["spec", "serviceAccountName"]).to_owned();
    // The account `default` comes with its namespace, a moment later than the first pods perhaps.
    if account != "default" && !has_account(&account) {
        return Err(refused(
            pod,
            &format!(
                "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
            ),
        ));
    }
    pod.set_at(&["spec", "serviceAccount"], account);
    // Nobody can make one: the nodes have one runtime.
    let class = pod.str_at(&["spec", "runtimeClassName"]);
    if !class.is_empty() {
        return Err(refused(pod, &format!("pod rejected: RuntimeClass \"{class}\" not found")));
    }
    tolerate_short_outages(pod, tolerations);
    Ok(())
}

fn refused(pod: &Object, why: &str) -> Status {
    Status::forbidden(&GroupResource::new("", "pods"), pod.name(), why)
}

/// Fields that the cluster filled in and that a PUT of the original manifest leaves out.
pub(super) fn on_update(pod: &mut Object, old: Option<&Object>) {
    let Some(old) = old else { return };
    for field in
        ["serviceAccountName", "serviceAccount", "priority", "preemptionPolicy", "tolerations"]
    {
        if pod.at(&["spec", field]).is_none()
            && let Some(value) = old.at(&["spec", field])
        {
            pod.set_at(&["spec", field], value.clone());
        }
    }
}

/// As Kubernetes' DefaultTolerationSeconds, unless the pod says something about it itself.
fn tolerate_short_outages(pod: &mut Object, defaults: DefaultTolerations) {
    let mut tolerations = match pod.at(&["spec", "tolerations"]) {
        Some(Value::Array(tolerations)) => tolerations.clone(),
        _ => Vec::new(),
    };
    for (key, seconds) in [
        ("node.kubernetes.io/not-ready", defaults.not_ready),
        ("node.kubernetes.io/unreachable", defaults.unreachable),
    ] {
        let says = tolerations.iter().any(|t| {
            let text = |field: &str| t[field].as_str().unwrap_or_default();
            (text("key").is_empty() || text("key") == key)
                && (text("effect").is_empty() || text("effect") == "NoExecute")
        });
        if !says {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}));
        }
    }
    pod.set_at(&["spec", "tolerations"], tolerations);
}
