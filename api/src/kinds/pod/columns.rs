//! `kubectl get pods`. Rules: `printPod` of k8s.io/kubernetes `pkg/printers/internalversion`.

use jiff::Timestamp;
use serde_json::Value;

use super::super::columns::{AGE, condition, or_none, status, text, wide};
use crate::tree::{self, Tree};
use crate::{Column, Object, duration};

pub(super) const ALL: &[Column] = &[
    text("Ready", "Containers that are ready, and all of them.", |pod, _| {
        let summary = summary(pod);
        format!("{}/{}", summary.ready, summary.containers).into()
    }),
    text("Status", "Where the pod is, and why it is not further.", |pod, _| {
        summary(pod).reason.into()
    }),
    text("Restarts", "How often containers were started again, and when last.", |pod, now| {
        restarts(&summary(pod), now).into()
    }),
    AGE,
    wide(text("IP", "The pod's address.", |pod, _| or_none(ip(pod)).into())),
    wide(text("Node", "The node that the pod is bound to.", |pod, _| {
        or_none(pod.str_at(&["spec", "nodeName"])).into()
    })),
    wide(text("Nominated Node", "Where room is being made for the pod.", |pod, _| {
        or_none(pod.str_at(&["status", "nominatedNodeName"])).into()
    })),
    wide(text("Readiness Gates", "Gates that are open, and all of them.", |pod, _| {
        readiness_gates(pod).into()
    })),
];

struct Summary {
    containers: usize,
    ready: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn count_restarts(&mut self, status: &Tree) {
        self.restarts += tree::int(status, "restartCount").unwrap_or_default();
        let finished = tree::map(status, "lastState")
            .and_then(|last| tree::map(last, "terminated"))
            .and_then(|terminated| tree::text(terminated, "finishedAt").parse().ok());
        self.last_restart = self.last_restart.max(finished);
    }
}

fn summary(pod: &Object) -> Summary {
    let empty = Tree::new();
    let spec = pod.at(&["spec"]).and_then(Value::as_object).unwrap_or(&empty);
    let status = status(pod).unwrap_or(&empty);
    let phase = tree::text(status, "phase");
    let mut summary = Summary {
        containers: tree::list(spec, "containers").len(),
        ready: 0,
        reason: match tree::text(status, "reason") {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        },
        restarts: 0,
        last_restart: None,
    };
    let is_gated = tree::maps(status, "conditions").any(|(_, c)| {
        tree::text(c, "type") == "PodScheduled" && tree::text(c, "reason") == "SchedulingGated"
    });
    if is_gated {
        summary.reason = "SchedulingGated".to_owned();
    }

    let is_initializing = init_containers(spec, status, &mut summary);
    if !is_initializing || condition(Some(status), "Initialized") == "True" {
        containers(spec, status, &mut summary);
    }

    if pod.is_being_deleted() {
        if tree::text(status, "reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Whether the pod is still in its init containers.
fn init_containers(spec: &Tree, status: &Tree, summary: &mut Summary) -> bool {
    let is_sidecar = |name: &str| {
        tree::maps(spec, "initContainers").any(|(_, c)| {
            tree::text(c, "name") == name && tree::text(c, "restartPolicy") == "Always"
        })
    };
    summary.containers += tree::maps(spec, "initContainers")
        .filter(|(_, c)| tree::text(c, "restartPolicy") == "Always")
        .count();
    for (i, container) in tree::maps(status, "initContainerStatuses") {
        summary.count_restarts(container);
        let state = State::of(container);
        if state.exit_code == Some(0) {
            continue;
        }
        if is_sidecar(tree::text(container, "name")) && tree::flag(container, "started") {
            summary.ready += usize::from(tree::flag(container, "ready"));
            continue;
        }
        summary.reason = match state.ended() {
            Some(ended) => format!("Init:{ended}"),
            None if !matches!(state.waiting, "" | "PodInitializing") => {
                format!("Init:{}", state.waiting)
            }
            None => format!("Init:{i}/{}", tree::list(spec, "initContainers").len()),
        };
        return true;
    }
    false
}

fn containers(spec: &Tree, status: &Tree, summary: &mut Summary) {
    // Once the pod runs, the restarts of init containers that have ended are of no more interest.
    (summary.restarts, summary.last_restart) = (0, None);
    for (_, container) in tree::maps(status, "initContainerStatuses") {
        let name = tree::text(container, "name");
        let is_sidecar = tree::maps(spec, "initContainers").any(|(_, c)| {
            tree::text(c, "name") == name && tree::text(c, "restartPolicy") == "Always"
        });
        if is_sidecar {
            summary.count_restarts(container);
        }
    }
    let mut is_running = false;
    let statuses: Vec<&Tree> = tree::maps(status, "containerStatuses").map(|(_, s)| s).collect();
    for container in statuses.into_iter().rev() {
        summary.count_restarts(container);
        let state = State::of(container);
        if !state.waiting.is_empty() {
            summary.reason = state.waiting.to_owned();
        } else if let Some(ended) = state.ended() {
            summary.reason = ended;
        } else if tree::flag(container, "ready") && state.is_running {
            is_running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && is_running {
        let is_ready = condition(Some(status), "Ready") == "True";
        summary.reason = if is_ready { "Running" } else { "NotReady" }.to_owned();
    }
}

/// A container's state.
struct State<'a> {
    waiting: &'a str,
    is_running: bool,
    exit_code: Option<i64>,
    signal: i64,
    reason: &'a str,
}

impl<'a> State<'a> {
    fn of(status: &'a Tree) -> Self {
        let state = tree::map(status, "state");
        let terminated = state.and_then(|s| tree::map(s, "terminated"));
        let waiting = state.and_then(|s| tree::map(s, "waiting"));
        let number = |field| terminated.and_then(|t| tree::int(t, field));
        State {
            waiting: waiting.map_or("", |w| tree::text(w, "reason")),
            is_running: state.is_some_and(|s| tree::has(s, "running")),
            exit_code: terminated.map(|_| number("exitCode").unwrap_or_default()),
            signal: number("signal").unwrap_or_default(),
            reason: terminated.map_or("", |t| tree::text(t, "reason")),
        }
    }

    /// Why it has ended, if it has.
    fn ended(&self) -> Option<String> {
        let exit_code = self.exit_code?;
        Some(match (self.reason, self.signal) {
            ("", 0) => format!("ExitCode:{exit_code}"),
            ("", signal) => format!("Signal:{signal}"),
            (reason, _) => reason.to_owned(),
        })
    }
}

fn restarts(summary: &Summary, now: Timestamp) -> String {
    match summary.last_restart {
        Some(last) if summary.restarts > 0 => {
            let ago = duration::human(duration::between(last, now));
            format!("{} ({ago} ago)", summary.restarts)
        }
        _ => summary.restarts.to_string(),
    }
}

fn ip(pod: &Object) -> &str {
    let first = status(pod).and_then(|s| tree::maps(s, "podIPs").next());
    first.map_or_else(|| pod.str_at(&["status", "podIP"]), |(_, ip)| tree::text(ip, "ip"))
}

fn readiness_gates(pod: &Object) -> String {
    let spec = pod.at(&["spec"]).and_then(Value::as_object);
    let gates: Vec<&str> = spec
        .into_iter()
        .flat_map(|s| tree::maps(s, "readinessGates"))
        .map(|(_, gate)| tree::text(gate, "conditionType"))
        .collect();
    if gates.is_empty() {
        return or_none("").to_owned();
    }
    let open = gates.iter().filter(|gate| condition(status(pod), gate) == "True").count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests;
