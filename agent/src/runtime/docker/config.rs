//! What we ask of the daemon, and what its answers mean; pure.

use bollard::models::{
    ContainerStateStatusEnum as Status, HostConfig, HostConfigLogConfig, PortBinding, PortMap,
};
use jiff::Timestamp;

use super::*;
use crate::runtime::{Exit, State};

/// The labels by which we find what is ours.
pub(super) mod label {
    pub const CLUSTER: &str = "io.warren.cluster";
    pub const NODE: &str = "io.warren.node";
    pub const NAMESPACE: &str = "io.warren.pod.namespace";
    pub const POD: &str = "io.warren.pod.name";
    pub const UID: &str = "io.warren.pod.uid";
    /// Of a container; a sandbox has none.
    pub const CONTAINER: &str = "io.warren.container.name";
    /// The restart count of a container, the number of a sandbox.
    pub const ATTEMPT: &str = "io.warren.attempt";
    pub const HASH: &str = "io.warren.container.hash";
    /// The id of the sandbox that a container joined.
    pub const SANDBOX: &str = "io.warren.sandbox";
}

/// Log files that are kept of one container.
const LOG_FILES: &str = "3";
/// The sandbox dies last.
const SANDBOX_OOM: i64 = -998;
const CPU_PERIOD: i64 = 100_000;

/// Deterministic, so that a repeated create finds the first one.
pub(super) fn name(pod: &PodRef, container: &str, attempt: u32) -> String {
    let name = format!("warren_{container}_{}_{}_{}_{attempt}", pod.name, pod.namespace, pod.uid);
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars().map(|c| if fine(c) { c } else { '_' }).collect()
}

fn labels(config: &DockerConfig, pod: &PodRef, attempt: u32) -> HashMap<String, String> {
    [
        (label::CLUSTER, config.cluster.clone()),
        (label::NODE, config.node.clone()),
        (label::NAMESPACE, pod.namespace.to_string()),
        (label::POD, pod.name.to_string()),
        (label::UID, pod.uid.to_string()),
        (label::ATTEMPT, attempt.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn log(config: &DockerConfig) -> HostConfigLogConfig {
    HostConfigLogConfig {
        typ: Some("json-file".into()),
        config: Some(HashMap::from([
            ("max-size".to_owned(), config.log_bytes.to_string()),
            ("max-file".to_owned(), LOG_FILES.to_owned()),
        ])),
    }
}

fn list<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

pub(super) fn sandbox(
    config: &DockerConfig,
    network: &str,
    sandbox: &SandboxConfig,
    protect: bool,
) -> ContainerCreateBody {
    let mut ports = PortMap::new();
    for port in &sandbox.ports {
        let binding = PortBinding {
            host_ip: port.host_ip.map(|ip| ip.to_string()),
            host_port: Some(port.host_port.to_string()),
        };
        let key = format!("{}/{}", port.container_port, port.protocol);
        ports.entry(key).or_default().get_or_insert_default().push(binding);
    }
    let own = !sandbox.host_network;
    let host = HostConfig {
        network_mode: Some(if own { network.to_owned() } else { "host".to_owned() }),
        ipc_mode: Some(if sandbox.host_ipc { "host" } else { "shareable" }.to_owned()),
        pid_mode: sandbox.host_pid.then(|| "host".to_owned()),
        port_bindings: (!ports.is_empty()).then(|| ports.clone()),
        dns: list(sandbox.dns.servers.clone()),
        dns_search: list(sandbox.dns.searches.clone()),
        dns_options: list(sandbox.dns.options.clone()),
        extra_hosts: list(
            sandbox.host_aliases.iter().map(|(ip, name)| format!("{name}:{ip}")).collect(),
        ),
        sysctls: (!sandbox.sysctls.is_empty())
            .then(|| sandbox.sysctls.clone().into_iter().collect()),
        oom_score_adj: protect.then_some(SANDBOX_OOM),
        log_config: Some(log(config)),
        ..HostConfig::default()
    };
    let mut labels = labels(config, &sandbox.pod, sandbox.attempt);
    if sandbox.share_process_namespace {
        labels.insert("io.warren.share-pid".into(), "true".into());
    }
    ContainerCreateBody {
        image: Some(config.pause_image.clone()),
        hostname: own.then(|| sandbox.hostname.clone()),
        exposed_ports: list(ports.into_keys().collect()),
        labels: Some(labels),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

pub(super) fn container(
    config: &DockerConfig,
    sandbox: &str,
    holder: &ContainerInspectResponse,
    container: &ContainerConfig,
    protect: bool,
) -> Result<ContainerCreateBody> {
    let holds = format!("container:{sandbox}");
    let own = holder.config.as_ref().and_then(|c| c.labels.as_ref());
    let share_pid = own.is_some_and(|l| l.contains_key("io.warren.share-pid"));
    let host_pid = holder.host_config.as_ref().and_then(|h| h.pid_mode.as_deref()) == Some("host");
    let host_ipc = holder.host_config.as_ref().and_then(|h| h.ipc_mode.as_deref()) == Some("host");
    let mut binds = Vec::new();
    for mount in container.mounts.iter().chain(&container.termination_message) {
        if mount.host_path.contains(':') || mount.container_path.contains(':') {
            let text =
                format!("must not contain ':': {} at {}", mount.host_path, mount.container_path);
            return Err(RuntimeError::Refused(text));
        }
        let mut options = vec![if mount.read_only { "ro" } else { "rw" }];
        options.extend(mount.propagation);
        binds.push(format!("{}:{}:{}", mount.host_path, mount.container_path, options.join(",")));
    }
    let (limits, security) = (&container.limits, &container.security);
    let mut options = Vec::new();
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    if security.seccomp_unconfined {
        options.push("seccomp=unconfined".to_owned());
    }
    let oom = limits.oom_score_adj;
    let host = HostConfig {
        network_mode: Some(holds.clone()),
        ipc_mode: Some(if host_ipc { "host".to_owned() } else { holds.clone() }),
        pid_mode: match &container.target {
            _ if host_pid => Some("host".into()),
            _ if share_pid => Some(holds),
            target => target.as_ref().map(|id| format!("container:{id}")),
        },
        binds: list(binds),
        cpu_period: limits.cpu_limit_millis.map(|_| CPU_PERIOD),
        // The kernel takes no less than a millisecond.
        cpu_quota: limits.cpu_limit_millis.map(|m| m.saturating_mul(CPU_PERIOD / 1000).max(1000)),
        cpu_shares: Some(limits.cpu_request_millis.map_or(2, |m| (m * 1024 / 1000).max(2))),
        memory: limits.memory_limit,
        // No swap beside the limit.
        memory_swap: limits.memory_limit,
        oom_score_adj: (protect || oom >= 0).then_some(oom),
        privileged: security.privileged.then_some(true),
        readonly_rootfs: security.read_only_root.then_some(true),
        security_opt: list(options),
        cap_add: list(security.cap_add.clone()),
        cap_drop: list(security.cap_drop.clone()),
        group_add: list(security.groups.iter().map(ToString::to_string).collect()),
        log_config: Some(log(config)),
        ..HostConfig::default()
    };
    let mut labels = labels(config, &container.pod, container.attempt);
    labels.insert(label::CONTAINER.into(), container.name.to_string());
    labels.insert(label::SANDBOX.into(), sandbox.to_owned());
    labels.insert(label::HASH.into(), format!("{:016x}", container.hash));
    Ok(ContainerCreateBody {
        image: Some(container.image.to_string()),
        entrypoint: list(container.command.clone()),
        cmd: list(container.args.clone()),
        env: list(container.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: container.working_dir.clone(),
        user: security.user.clone(),
        open_stdin: Some(container.stdin),
        stdin_once: Some(container.stdin_once),
        tty: Some(container.tty),
        stop_signal: container.stop_signal.clone(),
        labels: Some(labels),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

/// Whose container it is; `None` where the labels are not ours.
pub(super) fn pod_ref(found: &ContainerInspectResponse) -> Option<PodRef> {
    let labels = found.config.as_ref()?.labels.as_ref()?;
    let get = |key| labels.get(key).map(|v| Arc::<str>::from(v.as_str()));
    Some(PodRef {
        namespace: get(label::NAMESPACE)?,
        name: get(label::POD)?,
        uid: get(label::UID)?,
    })
}

pub(super) fn add(observed: &mut Observed, found: &ContainerInspectResponse) {
    if let Some(container) = container_of(found) {
        observed.containers.push(container);
    } else if let Some(sandbox) = sandbox_of(found) {
        observed.sandboxes.push(sandbox);
    }
}

pub(super) fn sandbox_of(found: &ContainerInspectResponse) -> Option<Sandbox> {
    let labels = found.config.as_ref()?.labels.as_ref()?;
    let networks = found.network_settings.as_ref().and_then(|n| n.networks.as_ref());
    let ip = networks.into_iter().flatten().find_map(|(_, n)| n.ip_address.as_ref()?.parse().ok());
    let ip = ip.filter(|ip: &IpAddr| !ip.is_unspecified());
    let mode = found.host_config.as_ref().and_then(|host| host.network_mode.as_deref());
    // A daemon that is killed while it starts one leaves a process that runs, without network and without /dev/shm.
    let whole = ip.is_some() || mode == Some("host");
    Some(Sandbox {
        id: found.id.as_deref()?.into(),
        attempt: labels.get(label::ATTEMPT)?.parse().ok()?,
        ready: whole && found.state.as_ref()?.running == Some(true),
        ip,
        created_at: time(found.created.as_deref()).unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

/// The host's interface that the daemon makes for a network of ours.
pub(super) fn bridge_of(sandbox: &ContainerInspectResponse) -> Option<String> {
    let networks = sandbox.network_settings.as_ref()?.networks.as_ref()?;
    let id = networks.values().find_map(|n| n.network_id.as_deref())?;
    Some(format!("br-{}", id.get(..12)?))
}

fn container_of(found: &ContainerInspectResponse) -> Option<Container> {
    let config = found.config.as_ref()?;
    let labels = config.labels.as_ref()?;
    let created_at = time(found.created.as_deref()).unwrap_or(Timestamp::UNIX_EPOCH);
    Some(Container {
        id: found.id.as_deref()?.into(),
        name: labels.get(label::CONTAINER)?.as_str().into(),
        sandbox: labels.get(label::SANDBOX)?.as_str().into(),
        attempt: labels.get(label::ATTEMPT)?.parse().ok()?,
        image: config.image.as_deref().unwrap_or_default().into(),
        image_id: format!("docker://{}", found.image.as_deref().unwrap_or_default()).into(),
        hash: labels.get(label::HASH).and_then(|h| u64::from_str_radix(h, 16).ok()).unwrap_or(0),
        created_at,
        state: state(found, created_at),
    })
}

fn state(found: &ContainerInspectResponse, created_at: Timestamp) -> State {
    let Some(state) = &found.state else { return State::Unknown };
    let started_at = time(state.started_at.as_deref());
    let finished_at = time(state.finished_at.as_deref());
    let code = i32::try_from(state.exit_code.unwrap_or(0)).unwrap_or(-1);
    let error = state.error.clone().filter(|e| !e.is_empty());
    match state.status {
        Some(Status::RUNNING | Status::PAUSED | Status::STOPPING) => {
            State::Running { started_at: started_at.unwrap_or(created_at) }
        }
        Some(Status::CREATED) => match error {
            None => State::Created,
            // It was started in vain.
            Some(message) => State::Exited(Exit {
                code: if code == 0 { 128 } else { code },
                reason: "ContainerCannotRun".into(),
                message: Some(message),
                started_at: None,
                finished_at: finished_at.unwrap_or(created_at),
            }),
        },
        // One that is being removed has no process any more.
        Some(Status::EXITED | Status::DEAD | Status::REMOVING) => State::Exited(Exit {
            code,
            reason: match (state.oom_killed, code) {
                (Some(true), _) => "OOMKilled",
                (_, 0) => "Completed",
                _ => "Error",
            }
            .to_owned(),
            message: error,
            started_at,
            finished_at: finished_at.unwrap_or(created_at),
        }),
        _ => State::Unknown,
    }
}

/// The daemon writes the year 1 for never.
fn time(text: Option<&str>) -> Option<Timestamp> {
    let time: Timestamp = text?.parse().ok()?;
    (time > Timestamp::UNIX_EPOCH).then_some(time)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_process_or_a_riddle_must_be_ended() {
        for (status, expected) in [
            ("created", "Created"),
            ("running", "Running"),
            ("paused", "Running"),
            ("exited", "Exited"),
            ("dead", "Exited"),
            ("removing", "Exited"),
            ("restarting", "Unknown"),
        ] {
            let found = json!({"State": {"Status": status, "ExitCode": 0}});
            let found: ContainerInspectResponse = serde_json::from_value(found).unwrap();
            let state = format!("{:?}", state(&found, Timestamp::UNIX_EPOCH));
            assert!(state.starts_with(expected), "{status}: {state}");
        }
    }

    #[test]
    fn a_sandbox_is_ready_with_its_process_and_its_network() {
        for (running, mode, ip, ready) in [
            (true, "warren-c", "172.18.0.2", true),
            (true, "warren-c", "", false),
            (true, "host", "", true),
            (false, "warren-c", "172.18.0.2", false),
            (false, "host", "", false),
        ] {
            let found = json!({
                "Id": "s", "State": {"Running": running}, "HostConfig": {"NetworkMode": mode},
                "Config": {"Labels": {label::ATTEMPT: "0"}},
                "NetworkSettings": {"Networks": {mode: {"IPAddress": ip}}},
            });
            let found: ContainerInspectResponse = serde_json::from_value(found).unwrap();
            let sandbox = sandbox_of(&found).unwrap();
            assert_eq!(sandbox.ready, ready, "{running} {mode} {ip:?}");
            assert_eq!(sandbox.ip, ip.parse().ok());
        }
    }
}
