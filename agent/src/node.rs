//! The node itself: its object, its conditions, its heartbeat.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::watch;

use crate::api::ApiError;
use crate::config::Config;
use crate::context::Context;
use crate::events::Level;
use crate::runtime::Version;

mod lease;
mod machine;

pub use machine::{Machine, Pressure};

/// What this node says it is: the API level that it speaks.
const KUBELET_VERSION: &str = concat!("v1.34.0-warren.", env!("CARGO_PKG_VERSION"));
/// `"true"` on a Node: nothing is evicted from it. The node says it of itself, or somebody of the node.
pub(crate) const AUTONOMOUS: &str = "warren.dev/autonomous";
/// How often the machine's own pressures are looked at.
const PRESSURE_EVERY: Duration = Duration::from_secs(20);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Registers the node and keeps its status and its lease fresh. Never ends.
pub(crate) async fn run(
    context: Arc<Context>,
    machine: Machine,
    mut runtime_down: watch::Receiver<Option<String>>,
) {
    let version = runtime_version(&context).await;
    let mut wait = RETRY_FIRST;
    let (uid, registered_down) = loop {
        let down = runtime_down.borrow().clone();
        match Box::pin(register(&context, &machine, &version, down.clone())).await {
            Ok(uid) => break (uid, down),
            Err(error) => {
                let node = &context.node;
                if wait == RETRY_FIRST {
                    tracing::info!(%node, %error, "the node is not registered yet; trying until it is");
                } else {
                    tracing::debug!(%node, %error, "the node is not registered yet");
                }
                tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
                wait = (wait * 2).min(RETRY_LAST);
            }
        }
    };
    tracing::info!(node = %context.node, "the node is registered");
    context.events.node(&context.node, Level::Normal, "Starting", "Starting warren agent.");
    let mut anew = false;
    let (lease, status) = (lease::keep_fresh(&context, &uid), async {
        // Registration said so.
        let down = runtime_down.borrow().clone();
        let mut said = Some((registered_down, Pressure::default())).filter(|(was, _)| *was == down);
        let mut version = version;
        let mut next_full = crate::pod::memory::later(context.now(), context.config.status_every);
        loop {
            let down = runtime_down.borrow_and_update().clone();
            if version.is_none() && down.is_none() {
                version = runtime_version(&context).await;
            }
            let pressure = machine.pressure(context.config.dir.as_deref());
            let state = (down.clone(), pressure);
            let now = context.now();
            if anew {
                match Box::pin(register(&context, &machine, &version, down.clone())).await {
                    Ok(_) => (anew, said) = (false, None),
                    Err(error) => {
                        tracing::debug!(node = %context.node, %error, "the node was not told anew");
                        tokio::time::sleep(RETRY_FIRST).await;
                        continue;
                    }
                }
            }
            if said.as_ref() != Some(&state) || now >= next_full {
                let status = status(&context.config, &machine, &version, down, pressure, now);
                match Box::pin(patch(&context, &status)).await {
                    Ok(()) => {
                        said = Some(state);
                        next_full = crate::pod::memory::later(now, context.config.status_every);
                    }
                    Err(ApiError::NotFound(_)) => {
                        let down = runtime_down.borrow().clone();
                        let _ = Box::pin(register(&context, &machine, &version, down)).await;
                    }
                    Err(error) => {
                        tracing::debug!(node = %context.node, %error, "the node's status was not written");
                        tokio::time::sleep(RETRY_FIRST).await;
                    }
                }
            }
            let pause =
                if machine.is_simulated() { context.config.status_every } else { PRESSURE_EVERY };
            tokio::select! {
                _ = runtime_down.changed() => {}
                () = context.tell_again.notified() => said = None,
                // A database of before knows the node as it was: labels, addresses and port too, or not at all.
                () = context.restored.notified() => anew = true,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
    tokio::join!(lease, status);
}

/// Whether others say that nobody hears of it, as controllers that were cut off may for a moment.
pub(crate) fn is_taken_for_lost(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "Unknown")
}

async fn runtime_version(context: &Context) -> Option<Version> {
    context.runtime.version().await.ok()
}

/// Creates the Node, or takes the one that is there as ours. Answers its uid.
async fn register(
    context: &Context,
    machine: &Machine,
    version: &Option<Version>,
    down: Option<String>,
) -> Result<String, ApiError> {
    let config = &context.config;
    let status = status(config, machine, version, down, Pressure::default(), context.now());
    let labels = labels(config, machine);
    let mark = [(AUTONOMOUS.to_owned(), "true".to_owned())];
    let annotations: BTreeMap<_, _> = mark.into_iter().filter(|_| config.autonomous).collect();
    let node = Node {
        metadata: ObjectMeta {
            name: Some(config.node.clone()),
            labels: Some(labels.clone()),
            annotations: Some(annotations.clone()).filter(|all| !all.is_empty()),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(status.clone()),
    };
    let said = conditions(None, &status);
    let mut is_new = false;
    let node = match context.api.node(&config.node).await {
        Ok(found) => {
            let has = found.metadata.labels.clone().unwrap_or_default();
            let said = found.metadata.annotations.clone().unwrap_or_default();
            if labels.iter().all(|(k, v)| has.get(k) == Some(v))
                && annotations.iter().all(|(k, v)| said.get(k) == Some(v))
            {
                found
            } else {
                let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
                context.api.patch_node(&config.node, &patch).await?
            }
        }
        Err(ApiError::NotFound(_)) => match context.api.create_node(&node).await {
            Err(ApiError::AlreadyExists(_)) => context.api.node(&config.node).await?,
            result => {
                let node = result?;
                is_new = node.status.as_ref().is_some_and(|status| status.conditions.is_some());
                node
            }
        },
        Err(error) => return Err(error),
    };
    // One that was just made has its status already.
    if is_new {
        context.autonomy.saw(&node).await;
        tell(context, &said);
    } else {
        Box::pin(patch(context, &status)).await?;
    }
    Ok(node.metadata.uid.unwrap_or_default())
}

async fn patch(context: &Context, status: &NodeStatus) -> Result<(), ApiError> {
    let node = context.api.node(&context.config.node).await?;
    context.autonomy.saw(&node).await;
    let said = conditions(node.status.as_ref(), status);
    let status = with_transitions(status.clone(), node.status.as_ref());
    let mut value = serde_json::to_value(&status).unwrap_or_default();
    if let Some(addresses) = value["addresses"].as_array_mut() {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    context.api.patch_node_status(&context.config.node, &json!({"status": value})).await?;
    tell(context, &said);
    Ok(())
}

/// The reasons of the Events that a change of the node's conditions is worth, as the kubelet names them; pure. What is as
/// it should be at the start is not told, but for Ready.
fn conditions(old: Option<&NodeStatus>, new: &NodeStatus) -> Vec<&'static str> {
    const REASONS: [(&str, &str, &str); 4] = [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    let is = |status: &NodeStatus, type_: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|c| c.type_ == type_).map(|c| c.status == "True")
    };
    let mut reasons = Vec::new();
    for (type_, yes, no) in REASONS {
        let before = old.and_then(|old| is(old, type_));
        match is(new, type_) {
            Some(now) if Some(now) == before => {}
            Some(false) if before.is_none() && type_ != "Ready" => {}
            Some(now) => reasons.push(if now { yes } else { no }),
            None => {}
        }
    }
    reasons
}

fn tell(context: &Context, reasons: &[&str]) {
    for reason in reasons {
        let message = format!("Node {} status is now: {reason}", context.node);
        context.events.node(&context.node, Level::Normal, reason, &message);
    }
}

/// Keeps the time of a condition's last change where it has not changed.
fn with_transitions(mut status: NodeStatus, old: Option<&NodeStatus>) -> NodeStatus {
    let old = old.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    for condition in status.conditions.iter_mut().flatten() {
        let same = old.iter().find(|c| c.type_ == condition.type_ && c.status == condition.status);
        if let Some(same) = same {
            condition.last_transition_time.clone_from(&same.last_transition_time);
        }
    }
    status
}

fn labels(config: &Config, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", config.node.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine.arch()),
        // Selectors from before 1.14; Kubernetes still keeps them equal to the two above.
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine.arch()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// What the node says of itself.
pub(crate) fn status(
    config: &Config,
    machine: &Machine,
    version: &Option<Version>,
    down: Option<String>,
    pressure: Pressure,
    now: Timestamp,
) -> NodeStatus {
    let quantity = |text: String| Quantity(text);
    let resources: BTreeMap<String, Quantity> = [
        ("cpu", millis(machine.cpu_millis)),
        ("memory", format!("{}Ki", machine.memory_bytes / 1024)),
        ("ephemeral-storage", format!("{}Ki", machine.ephemeral_storage_bytes / 1024)),
        ("pods", config.capacity.pods.to_string()),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), quantity(text)))
    .collect();
    let condition = |type_: &str, is: bool, reason: &str, message: &str| NodeCondition {
        type_: type_.to_owned(),
        status: if is { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    let pressed = |type_: &str, is: bool, yes: (&str, &str), no: (&str, &str)| {
        let (reason, message) = if is { yes } else { no };
        condition(type_, is, reason, message)
    };
    let ready = match &down {
        None => condition("Ready", true, "KubeletReady", "warren agent is posting ready status"),
        Some(why) => {
            let message = format!("container runtime is down: {why}");
            condition("Ready", false, "KubeletNotReady", &message)
        }
    };
    NodeStatus {
        addresses: Some(vec![
            NodeAddress { type_: "InternalIP".into(), address: config.address.to_string() },
            NodeAddress { type_: "Hostname".into(), address: config.node.clone() },
        ]),
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        conditions: Some(vec![
            pressed(
                "MemoryPressure",
                pressure.memory,
                ("KubeletHasInsufficientMemory", "agent has insufficient memory available"),
                ("KubeletHasSufficientMemory", "agent has sufficient memory available"),
            ),
            pressed(
                "DiskPressure",
                pressure.disk,
                ("KubeletHasDiskPressure", "agent has disk pressure"),
                ("KubeletHasNoDiskPressure", "agent has no disk pressure"),
            ),
            pressed(
                "PIDPressure",
                pressure.pids,
                ("KubeletHasInsufficientPID", "agent has insufficient PID available"),
                ("KubeletHasSufficientPID", "agent has sufficient PID available"),
            ),
            ready,
        ]),
        daemon_endpoints: (config.port > 0).then(|| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: config.port.into() }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: machine.arch().to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: version
                .as_ref()
                .map_or_else(String::new, |v| format!("{}://{}", v.name, v.version)),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: KUBELET_VERSION.to_owned(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

/// `2` or `1500m`
fn millis(millis: i64) -> String {
    if millis % 1000 == 0 { (millis / 1000).to_string() } else { format!("{millis}m") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_node_says_what_it_is() {
        let config = Config::simulated("c", "n1");
        let machine = Machine::simulated(&config.capacity);
        let version = Some(Version { name: "docker".into(), version: "28".into() });
        let down = Some("gone".to_owned());
        let status =
            status(&config, &machine, &version, down, Pressure::default(), Timestamp::UNIX_EPOCH);
        let capacity = status.capacity.unwrap();
        assert_eq!(capacity["cpu"].0, "32");
        assert_eq!(capacity["memory"].0, "268435456Ki");
        assert_eq!(status.node_info.unwrap().container_runtime_version, "docker://28");
        let ready = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "False");
        assert_eq!(ready.message.unwrap(), "container runtime is down: gone");
    }

    #[test]
    fn what_a_node_is_stands_in_its_labels_whatever_the_configuration_says() {
        let mut config = Config::simulated("c", "n1");
        let machine = Machine::simulated(&config.capacity);
        for (key, value) in [("zone", "a"), ("kubernetes.io/os", "plan9")] {
            config.labels.insert(key.into(), value.into());
        }
        let labels = labels(&config, &machine);
        for (key, value) in [
            ("zone", "a"),
            ("kubernetes.io/hostname", "n1"),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", machine.arch()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", machine.arch()),
        ] {
            assert_eq!(labels.get(key).map(String::as_str), Some(value), "{key}");
        }
    }

    #[test]
    fn changes_of_conditions_are_told_once() {
        let config = Config::simulated("c", "n1");
        let machine = Machine::simulated(&config.capacity);
        let status = |down: Option<&str>, disk| {
            let down = down.map(str::to_owned);
            let pressure = Pressure { disk, ..Pressure::default() };
            status(&config, &machine, &None, down, pressure, Timestamp::UNIX_EPOCH)
        };
        let (good, full, down) =
            (status(None, false), status(None, true), status(Some("x"), false));
        for (old, new, expected) in [
            (None, &good, &["NodeReady"][..]),
            (None, &full, &["NodeHasDiskPressure", "NodeReady"]),
            (None, &down, &["NodeNotReady"]),
            (Some(&good), &good, &[]),
            (Some(&good), &full, &["NodeHasDiskPressure"]),
            (Some(&full), &down, &["NodeHasNoDiskPressure", "NodeNotReady"]),
            (Some(&down), &good, &["NodeReady"]),
        ] {
            assert_eq!(conditions(old, new), expected);
        }
    }
}
