//! Ephemeral containers: added to a pod that is there, to look into it. Each runs once, from when the pod has a sandbox
//! until it ends by itself or with the pod, and nothing about the pod depends on it.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

use crate::runtime::{Id, Observed, State};

pub fn all(spec: &PodSpec) -> &[EphemeralContainer] {
    spec.ephemeral_containers.as_deref().unwrap_or_default()
}

pub fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a EphemeralContainer> {
    all(spec).iter().find(|c| c.name == name)
}

/// The container that it is, without what none of its kind can have.
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let from = ephemeral.clone();
    Container {
        name: from.name,
        image: from.image,
        command: from.command,
        args: from.args,
        working_dir: from.working_dir,
        env: from.env,
        env_from: from.env_from,
        volume_mounts: from.volume_mounts,
        volume_devices: from.volume_devices,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        image_pull_policy: from.image_pull_policy,
        security_context: from.security_context,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        ..Container::default()
    }
}

/// Why the container to look into cannot be looked into: a reason and words. It may come (back).
pub type NoTarget = (&'static str, String);

/// The container whose processes it sees; `None` where it names none, as all other containers.
pub fn target(spec: &PodSpec, name: &str, observed: &Observed) -> Result<Option<Id>, NoTarget> {
    let ephemeral = find(spec, name).and_then(|c| c.target_container_name.as_deref());
    let Some(target) = ephemeral.filter(|target| !target.is_empty()) else { return Ok(None) };
    let Some(found) = observed.container(target) else {
        let message = format!("unable to find target container {target}");
        return Err(("CreateContainerConfigError", message));
    };
    let state = match found.state {
        State::Running { .. } => return Ok(Some(found.id.clone())),
        State::Created => "CREATED",
        State::Exited(_) => "EXITED",
        State::Unknown => "UNKNOWN",
    };
    // Words of the kubelet's runtimes.
    let message =
        format!("target container {target:?} is not running - in state CONTAINER_{state}");
    Err(("CreateContainerError", message))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::runtime::{self, Exit};

    fn spec() -> PodSpec {
        serde_json::from_value(json!({
            "containers": [{"name": "c", "image": "i"}],
            "ephemeralContainers": [
                {"name": "free", "image": "i"},
                {"name": "looks", "image": "i", "targetContainerName": "c"},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn whose_processes_it_sees() {
        let now = Timestamp::UNIX_EPOCH;
        let exit = Exit {
            code: 0,
            reason: String::new(),
            message: None,
            started_at: None,
            finished_at: now,
        };
        let not_running = |state: &str| {
            let message =
                format!("target container \"c\" is not running - in state CONTAINER_{state}");
            Err(("CreateContainerError", message))
        };
        let missing = "unable to find target container c".to_owned();
        for (state, expected) in [
            (None, Err(("CreateContainerConfigError", missing))),
            (Some(State::Created), not_running("CREATED")),
            (Some(State::Running { started_at: now }), Ok(Some("id".into()))),
            (Some(State::Exited(exit)), not_running("EXITED")),
            (Some(State::Unknown), not_running("UNKNOWN")),
        ] {
            let text = format!("{state:?}");
            let containers = state.map(|state| runtime::Container {
                id: "id".into(),
                name: "c".into(),
                sandbox: "s".into(),
                attempt: 0,
                image: "i".into(),
                image_id: "".into(),
                hash: 0,
                created_at: now,
                state,
            });
            let observed =
                Observed { containers: containers.into_iter().collect(), ..Observed::default() };
            assert_eq!(target(&spec(), "looks", &observed), expected, "{text}");
            for name in ["free", "c"] {
                assert_eq!(target(&spec(), name, &observed), Ok(None), "{name} {text}");
            }
        }
    }

    /// Whatever may be set arrives.
    #[test]
    fn nothing_of_it_is_lost() {
        let whole = json!({
            "name": "e", "image": "i", "command": ["a"], "args": ["b"], "workingDir": "/",
            "env": [{"name": "A", "value": "b"}], "envFrom": [{"prefix": "p"}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "volumeDevices": [{"name": "v", "devicePath": "/d"}],
            "terminationMessagePath": "/t", "terminationMessagePolicy": "File",
            "imagePullPolicy": "Never", "securityContext": {"privileged": true},
            "stdin": true, "stdinOnce": true, "tty": true,
        });
        let mut ephemeral = whole.clone();
        ephemeral["targetContainerName"] = "c".into();
        let ephemeral: EphemeralContainer = serde_json::from_value(ephemeral).unwrap();
        assert_eq!(serde_json::to_value(as_container(&ephemeral)).unwrap(), whole);
    }
}
