//! Carries out the actions that [`super::decide`] names. No choices are left here but how to word what went wrong.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ephemeral;
use super::memory::until;
use super::probe::{self, Target};
use super::spec;
use warren_process::trace::Step;

use crate::context::Context;
use crate::events::Level;
use crate::runtime::{
    self, ContainerConfig, Dns, Id, Limits, Observed, PortMapping, RuntimeError, SandboxConfig,
    Security,
};
use crate::volume::VolumeError;

mod image;

/// Output of a hook that is kept for its event.
const HOOK_OUTPUT: usize = 4096;
/// A postStart hook may take this long; Kubernetes sets no bound, we do.
const POST_START_LIMIT: Duration = Duration::from_secs(600);
/// Containers get at least this long to end on a signal.
const LEAST_GRACE: Duration = Duration::from_secs(1);

/// Which back-off a failed start follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Image,
    Other,
    /// It was given up on purpose.
    Cancelled,
}

#[derive(Clone, Debug)]
pub(crate) struct StartError {
    pub kind: Kind,
    pub reason: &'static str,
    pub message: String,
    /// The container was made; what the runtime says of it is the state to go by.
    pub made: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Started {
    pub id: Id,
    /// The postStart hook failed: it must go again.
    pub hook_failed: Option<String>,
}

pub(crate) fn sandbox_config(pod: &Pod, attempt: u32) -> SandboxConfig {
    let spec = spec::spec(pod);
    let pod_ref = spec::pod_ref(pod);
    let host_network = spec.host_network.unwrap_or(false);
    let ports = spec::all_containers(spec).flat_map(|c| c.ports.iter().flatten());
    let ports = ports.filter_map(|port| {
        Some(PortMapping {
            container_port: u16::try_from(port.container_port).ok()?,
            host_port: port.host_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)?,
            host_ip: port.host_ip.as_ref().and_then(|ip| ip.parse().ok()),
            protocol: match port.protocol.as_deref() {
                Some("UDP") => "udp",
                Some("SCTP") => "sctp",
                _ => "tcp",
            },
        })
    });
    let dns = spec.dns_config.as_ref();
    let mut hostname = spec.hostname.clone().unwrap_or_else(|| pod_ref.name.to_string());
    // Linux takes 64 bytes, DNS 63; a cut must not leave a `-` or `.` at the end.
    hostname.truncate(63);
    hostname.truncate(hostname.trim_end_matches(['-', '.']).len());
    SandboxConfig {
        hostname,
        host_network,
        host_pid: spec.host_pid.unwrap_or(false),
        host_ipc: spec.host_ipc.unwrap_or(false),
        share_process_namespace: spec.share_process_namespace.unwrap_or(false),
        ports: if host_network { Vec::new() } else { ports.collect() },
        dns: Dns {
            servers: dns.and_then(|d| d.nameservers.clone()).unwrap_or_default(),
            searches: dns.and_then(|d| d.searches.clone()).unwrap_or_default(),
            options: dns
                .and_then(|d| d.options.as_ref())
                .into_iter()
                .flatten()
                .filter_map(|o| {
                    let name = o.name.clone()?;
                    Some(o.value.as_ref().map_or(name.clone(), |v| format!("{name}:{v}")))
                })
                .collect(),
        },
        host_aliases: spec
            .host_aliases
            .iter()
            .flatten()
            .flat_map(|a| a.hostnames.iter().flatten().map(|name| (a.ip.clone(), name.clone())))
            .collect(),
        sysctls: spec
            .security_context
            .as_ref()
            .and_then(|s| s.sysctls.as_ref())
            .into_iter()
            .flatten()
            .map(|s| (s.name.clone(), s.value.clone()))
            .collect(),
        annotations: Arc::new(spec::annotations(pod).clone()),
        attempt,
        pod: pod_ref,
    }
}

/// Volumes, then the sandbox.
pub(crate) async fn create_sandbox(
    context: &Context,
    pod: &Pod,
    attempt: u32,
) -> Result<(), (&'static str, String)> {
    if let Err(error) = context.volumes.prepare(pod, &context.fields(), &context.objects).await {
        let message = error.to_string();
        context.events.pod(pod, Level::Warning, "FailedMount", &message, None);
        return Err(("ContainerCreating", message));
    }
    context.vigil.may_start().await;
    match context.runtime.create_sandbox(sandbox_config(pod, attempt)).await {
        Ok(_) => {
            context.hop(Step::Acted, pod, "sandbox created");
            Ok(())
        }
        Err(error) => {
            let message = format!("Failed to create pod sandbox: {error}");
            context.events.pod(pod, Level::Warning, "FailedCreatePodSandBox", &message, None);
            Err(("ContainerCreating", message))
        }
    }
}

/// Pulls, makes and starts a container, then runs its postStart hook. `cancel` is heeded while nothing has been made.
pub(crate) async fn start(
    context: &Context,
    pod: &Pod,
    name: &str,
    attempt: u32,
    existing: Option<Id>,
    observed: &Observed,
    cancel: &CancellationToken,
) -> Result<Started, StartError> {
    let spec = spec::spec(pod);
    let (Some(container), Some(sandbox)) = (spec::find_container(spec, name), observed.sandbox())
    else {
        return Err(cancelled());
    };
    let container = &*container;
    let field = container_field(pod, name);
    let id = match existing {
        Some(id) => id,
        None => {
            let target = ephemeral::target(spec, name, observed);
            let target = target.map_err(|(reason, message)| {
                let text = format!("Error: {message}");
                context.events.pod(pod, Level::Warning, "Failed", &text, Some(&field));
                StartError { kind: Kind::Other, reason, message, made: false }
            })?;
            let prepared = prepare(context, pod, container, attempt, &field);
            let config = tokio::select! {
                config = prepared => ContainerConfig { target, ..config? },
                () = cancel.cancelled() => return Err(cancelled()),
            };
            may_start(context, cancel).await?;
            let host_network = spec.host_network.unwrap_or(false);
            match context.runtime.create_container(sandbox, host_network, config).await {
                Ok(id) => id,
                Err(error @ RuntimeError::ImagePull { .. }) => {
                    return Err(image::failed(context, pod, &field, &error));
                }
                Err(error) => {
                    let message = format!("Error: {error}");
                    context.events.pod(pod, Level::Warning, "Failed", &message, Some(&field));
                    return Err(StartError {
                        kind: Kind::Other,
                        reason: error.waiting_reason(),
                        message: error.to_string(),
                        made: false,
                    });
                }
            }
        }
    };
    context.hop(Step::Acted, pod, format!("container {name} created"));
    let message = format!("Created container: {name}");
    context.events.pod(pod, Level::Normal, "Created", &message, Some(&field));
    may_start(context, cancel).await?;
    if let Err(error) = context.runtime.start_container(&id).await {
        let message = format!("Error: {error}");
        context.events.pod(pod, Level::Warning, "Failed", &message, Some(&field));
        return Err(StartError {
            kind: Kind::Other,
            reason: error.waiting_reason(),
            message: error.to_string(),
            made: true,
        });
    }
    context.hop(Step::Acted, pod, format!("container {name} started"));
    let message = format!("Started container {name}");
    context.events.pod(pod, Level::Normal, "Started", &message, Some(&field));

    let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
    let mut hook_failed = None;
    if let Some(hook) = hook {
        let target = target(context, &id, sandbox.ip);
        let run = run_hook(context, container, hook, &target, POST_START_LIMIT);
        let failed = tokio::select! {
            result = run => result.err(),
            () = cancel.cancelled() => None,
        };
        if let Some(why) = failed {
            let message = format!("PostStartHook failed: {why}");
            context.events.pod(pod, Level::Warning, "FailedPostStartHook", &message, Some(&field));
            hook_failed = Some("FailedPostStartHook".to_owned());
        }
    }
    Ok(Started { id, hook_failed })
}

/// A process that was stopped in the middle looks first whether the pod is still wanted here.
async fn may_start(context: &Context, cancel: &CancellationToken) -> Result<(), StartError> {
    context.vigil.may_start().await;
    if cancel.is_cancelled() { Err(cancelled()) } else { Ok(()) }
}

fn cancelled() -> StartError {
    let message = "the pod is being stopped".to_owned();
    StartError { kind: Kind::Cancelled, reason: "ContainerCreating", message, made: false }
}

/// Everything up to the runtime's own work: volumes, image, environment.
async fn prepare(
    context: &Context,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    field: &str,
) -> Result<ContainerConfig, StartError> {
    let fields = context.fields();
    let fail = |kind, reason: &'static str, message: String| StartError {
        kind,
        reason,
        message,
        made: false,
    };
    context.volumes.prepare(pod, &fields, &context.objects).await.map_err(|error| {
        let message = error.to_string();
        context.events.pod(pod, Level::Warning, "FailedMount", &message, None);
        fail(Kind::Other, "ContainerCreating", message)
    })?;
    let image = image::ensure(context, pod, container, field).await?;

    let config_error = |message: String| {
        let text = format!("Error: {message}");
        context.events.pod(pod, Level::Warning, "Failed", &text, Some(field));
        fail(Kind::Other, "CreateContainerConfigError", message)
    };
    // The address is known by now, though not yet in the stored status.
    let pod = &context.with_address(pod);
    let env = super::env::resolve(pod, container, &fields, &context.objects).await;
    let env = env.map_err(|e| config_error(e.to_string()))?;
    let mounts = context
        .volumes
        .mounts(pod, container, &env)
        .map_err(|e: VolumeError| config_error(e.to_string()))?;
    let security = security(pod, container);
    image::check_user(pod, container, &security, &image).map_err(config_error)?;
    let expanded = |field, words: &Option<Vec<String>>| {
        super::env::expand_all(field, words.as_ref(), &env).map_err(|e| config_error(e.to_string()))
    };
    let command = expanded("command", &container.command)?;
    let args = expanded("args", &container.args)?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let message_path = container.termination_message_path.as_deref().unwrap_or_default();
    let message_path = if message_path.is_empty() { "/dev/termination-log" } else { message_path };
    let termination = context.volumes.termination_file(uid, &container.name, attempt);
    if let Some(file) = &termination {
        make_empty(file).await.map_err(|e| {
            fail(Kind::Other, "CreateContainerError", format!("{}: {e}", file.display()))
        })?;
    }
    Ok(ContainerConfig {
        pod: spec::pod_ref(pod),
        name: container.name.as_str().into(),
        attempt,
        image: container.image.as_deref().unwrap_or_default().into(),
        command,
        args,
        env,
        working_dir: container.working_dir.clone().filter(|d| !d.is_empty()),
        mounts,
        limits: limits(pod, container, fields.memory_bytes),
        security,
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        stop_signal: stop_signal(container),
        hash: spec::hash(container),
        termination_message: termination.map(|file| runtime::Mount {
            host_path: file.to_string_lossy().into_owned(),
            container_path: message_path.to_owned(),
            read_only: false,
            propagation: None,
        }),
        annotations: Arc::new(spec::annotations(pod).clone()),
        target: None,
    })
}

async fn make_empty(file: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = file.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    tokio::fs::write(file, b"").await?;
    tokio::fs::set_permissions(file, std::fs::Permissions::from_mode(0o666)).await
}

fn stop_signal(container: &Container) -> Option<String> {
    container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone())
}

fn limits(pod: &Pod, container: &Container, node_memory: i64) -> Limits {
    let millis = |limit, name| {
        let quantity = spec::resource(container.resources.as_ref(), limit, name)?;
        i64::try_from(spec::quantity_millis(quantity)?).ok().filter(|m| *m > 0)
    };
    let bytes = |limit| {
        let quantity = spec::resource(container.resources.as_ref(), limit, "memory")?;
        spec::quantity_units(quantity).filter(|m| *m > 0)
    };
    let request = bytes(false).or_else(|| bytes(true)).unwrap_or(0);
    // The kubelet's figures: who asked for more memory dies later.
    let oom_score_adj = match spec::qos_class(spec::spec(pod)) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => (1000 - 1000_i64.saturating_mul(request) / node_memory.max(1)).clamp(3, 999),
    };
    Limits {
        cpu_limit_millis: millis(true, "cpu"),
        cpu_request_millis: millis(false, "cpu").or_else(|| millis(true, "cpu")),
        memory_limit: bytes(true),
        oom_score_adj,
    }
}

fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|s| s.run_as_user);
    own.or_else(|| spec::spec(pod).security_context.as_ref().and_then(|s| s.run_as_user))
}

fn security(pod: &Pod, container: &Container) -> Security {
    let all = spec::spec(pod).security_context.as_ref();
    let own = container.security_context.as_ref();
    let user = run_as_user(pod, container);
    let group = own.and_then(|s| s.run_as_group).or_else(|| all.and_then(|s| s.run_as_group));
    let non_root = own.and_then(|s| s.run_as_non_root).or(all.and_then(|s| s.run_as_non_root));
    let seccomp = own
        .and_then(|s| s.seccomp_profile.as_ref())
        .or_else(|| all.and_then(|s| s.seccomp_profile.as_ref()));
    let capabilities = own.and_then(|s| s.capabilities.as_ref());
    let mut groups: Vec<i64> = all.and_then(|s| s.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(all.and_then(|s| s.fs_group));
    Security {
        user: match (user, group) {
            (Some(user), Some(group)) => Some(format!("{user}:{group}")),
            (Some(user), None) => Some(user.to_string()),
            (None, Some(group)) => Some(format!("0:{group}")),
            (None, None) => None,
        },
        groups,
        privileged: own.and_then(|s| s.privileged).unwrap_or(false),
        read_only_root: own.and_then(|s| s.read_only_root_filesystem).unwrap_or(false),
        no_new_privileges: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        cap_add: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
        cap_drop: capabilities.and_then(|c| c.drop.clone()).unwrap_or_default(),
        run_as_non_root: non_root.unwrap_or(false),
        seccomp_unconfined: seccomp.is_some_and(|s| s.type_ == "Unconfined"),
    }
}

pub(crate) struct Stop<'a> {
    pub name: &'a str,
    pub id: &'a str,
    pub ip: Option<IpAddr>,
    pub why: &'a str,
    pub again: bool,
}

/// The preStop hook, the signal, and after the deadline the kill. The deadline may come nearer meanwhile.
pub(crate) async fn stop(
    context: &Context,
    pod: &Pod,
    stop: Stop<'_>,
    mut deadline: watch::Receiver<Timestamp>,
) -> Result<(), RuntimeError> {
    let Stop { name, id, ip, why, again } = stop;
    let container = spec::find_container(spec::spec(pod), name);
    let container = container.as_deref();
    let left = |deadline: &mut watch::Receiver<Timestamp>| {
        until(context.clock.now(), *deadline.borrow_and_update())
    };
    if !again {
        let field = container_field(pod, name);
        context.events.pod(pod, Level::Normal, "Killing", why, Some(&field));
        let hook = container.and_then(|c| c.lifecycle.as_ref()?.pre_stop.as_ref().map(|h| (c, h)));
        let limit = left(&mut deadline);
        if let Some((container, hook)) = hook.filter(|_| !limit.is_zero()) {
            let target = target(context, id, ip);
            let over = async {
                changed(&mut deadline).await;
                loop {
                    let left = left(&mut deadline);
                    tokio::select! {
                        () = tokio::time::sleep(left) => return,
                        () = changed(&mut deadline) => {}
                    }
                }
            };
            let run = tokio::select! {
                biased;
                run = run_hook(context, container, hook, &target, limit) => run,
                () = over => Err("it did not end in time".into()),
            };
            if let Err(why) = run {
                let message = format!("PreStopHook failed: {why}");
                let level = Level::Warning;
                context.events.pod(pod, level, "FailedPreStopHook", &message, Some(&field));
            }
        }
    }
    let signal = container.and_then(stop_signal);
    loop {
        let grace = left(&mut deadline).max(LEAST_GRACE);
        tokio::select! {
            result = context.runtime.stop_container(id, signal.as_deref(), grace) => return result,
            // The runtime is told again, with the time that is left now.
            () = changed(&mut deadline) => {}
        }
    }
}

/// Never ends where nobody can change it any more.
async fn changed(deadline: &mut watch::Receiver<Timestamp>) {
    if deadline.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Removes all that the runtime and the disk have of a pod.
pub(crate) async fn clean_up(context: &Context, pod: &Pod) -> Result<(), String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let observed = context.runtime.pod(uid).await.map_err(|e| e.to_string())?;
    for container in &observed.containers {
        context.runtime.remove_container(&container.id).await.map_err(|e| e.to_string())?;
    }
    for sandbox in &observed.sandboxes {
        context.runtime.remove_sandbox(&sandbox.id).await.map_err(|e| e.to_string())?;
    }
    context.volumes.remove(uid).await.map_err(|e| format!("cannot remove the volumes: {e}"))
}

fn target(context: &Context, id: &str, ip: Option<IpAddr>) -> Target {
    Target { container_id: id.into(), ip: ip.unwrap_or(context.host_ip) }
}

async fn run_hook(
    context: &Context,
    container: &Container,
    hook: &LifecycleHandler,
    target: &Target,
    limit: Duration,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        let time = Duration::from_secs(sleep.seconds.max(0).unsigned_abs());
        tokio::time::sleep(time.min(limit)).await;
        return Ok(());
    }
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let run =
            runtime::run(&*context.runtime, &target.container_id, command, limit, HOOK_OUTPUT);
        return match run.await {
            Ok(Some((0, _))) => Ok(()),
            Ok(Some((code, output))) => {
                Err(format!("the command ended with exit code {code}: {output}"))
            }
            Ok(None) => Err("the command did not end in time".into()),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(get) = &hook.http_get {
        if context.runtime.simulated_probe(&target.container_id).is_some() {
            return Ok(());
        }
        return match probe::http(container, get, target, limit).await {
            probe::Answer::Success => Ok(()),
            probe::Answer::Failure(why) | probe::Answer::Error(why) => Err(why),
        };
    }
    Err("this kind of hook is not supported: exec, httpGet and sleep are".into())
}

/// How events name a container.
pub(crate) fn container_field(pod: &Pod, name: &str) -> String {
    let spec = spec::spec(pod);
    let list = if spec::init_containers(spec).iter().any(|c| c.name == name) {
        "initContainers"
    } else if ephemeral::find(spec, name).is_some() {
        "ephemeralContainers"
    } else {
        "containers"
    };
    format!("spec.{list}{{{name}}}")
}
