//! The image of a container: pulled where it must be, and told in the kubelet's words.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Kind, StartError, run_as_user};
use crate::context::Context;
use crate::events::Level;
use crate::runtime::{Image, PullPolicy, RuntimeError, Security};

pub(super) async fn ensure(
    context: &Context,
    pod: &Pod,
    container: &Container,
    field: &str,
) -> Result<Image, StartError> {
    let image = container.image.as_deref().unwrap_or_default();
    let tell = |reason: &str, message: &str| {
        context.events.pod(pod, Level::Normal, reason, message, Some(field));
    };
    let begins = || tell("Pulling", &format!("Pulling image \"{image}\""));
    let pulled = context.runtime.ensure_image(image, pull_policy(container), &begins).await;
    let pulled = pulled.map_err(|error| failed(context, pod, field, &error))?;
    let message = match pulled.took {
        None => format!("Container image \"{image}\" already present on machine"),
        Some(took) => format!(
            "Successfully pulled image \"{image}\" in {took:.0?} ({took:.0?} including waiting). Image size: {} bytes.",
            pulled.image.size_bytes
        ),
    };
    tell("Pulled", &message);
    Ok(pulled.image)
}

/// What went wrong, and what that makes of the container.
pub(super) fn failed(
    context: &Context,
    pod: &Pod,
    field: &str,
    error: &RuntimeError,
) -> StartError {
    let reason = error.waiting_reason();
    // As the kubelet names them.
    let event = match error {
        RuntimeError::InvalidImageName(_) => "InspectFailed",
        RuntimeError::ImageNeverPull(_) => "ErrImageNeverPull",
        _ => "Failed",
    };
    for (event, message) in [(event, error.to_string()), ("Failed", format!("Error: {reason}"))] {
        context.events.pod(pod, Level::Warning, event, &message, Some(field));
    }
    StartError { kind: Kind::Image, reason, message: error.to_string(), made: false }
}

/// Without a policy: `Always` for `latest` and untagged images, else `IfNotPresent`.
fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            let tag = last.split_once(':').map(|(_, tag)| tag);
            match (image.contains('@'), tag) {
                (true, _) => PullPolicy::IfNotPresent,
                (false, None | Some("latest")) => PullPolicy::Always,
                (false, Some(_)) => PullPolicy::IfNotPresent,
            }
        }
    }
}

/// # Errors
/// `runAsNonRoot` forbids the user that the container would have, or nobody can tell. In the kubelet's words.
pub(super) fn check_user(
    pod: &Pod,
    container: &Container,
    security: &Security,
    image: &Image,
) -> Result<(), String> {
    if !security.run_as_non_root {
        return Ok(());
    }
    let user = security.user.as_deref().unwrap_or(&image.user);
    let user = user.split(':').next().unwrap_or_default();
    let what = match user.parse::<u64>() {
        Ok(0) if run_as_user(pod, container) == Some(0) => {
            "container's runAsUser breaks non-root policy".to_owned()
        }
        Ok(1..) => return Ok(()),
        Err(_) if !user.is_empty() => format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
        ),
        _ => "container has runAsNonRoot and image will run as root".to_owned(),
    };
    let meta = &pod.metadata;
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    let pod = format!("{}_{}({})", of(&meta.name), of(&meta.namespace), of(&meta.uid));
    Err(format!("{what} (pod: \"{pod}\", container: {})", container.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pull_policies() {
        for (image, expected) in [
            ("busybox", PullPolicy::Always),
            ("busybox:latest", PullPolicy::Always),
            ("busybox:1.36", PullPolicy::IfNotPresent),
            ("host:5000/busybox", PullPolicy::Always),
            ("host:5000/busybox:1", PullPolicy::IfNotPresent),
            ("busybox@sha256:00", PullPolicy::IfNotPresent),
        ] {
            let container = Container { image: Some(image.into()), ..Container::default() };
            assert_eq!(pull_policy(&container), expected, "{image}");
        }
    }

    #[test]
    fn who_is_not_root() {
        let where_ = " (pod: \"p_n(u)\", container: c)";
        let root = Err("container has runAsNonRoot and image will run as root");
        let breaks = Err("container's runAsUser breaks non-root policy");
        let named = Err(
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
        );
        for (context, user, expected) in [
            (json!({}), "", Ok(())),
            (json!({"runAsNonRoot": true}), "", root),
            (json!({"runAsNonRoot": true}), "0", root),
            (json!({"runAsNonRoot": true}), "0:5", root),
            (json!({"runAsNonRoot": true}), "7", Ok(())),
            (json!({"runAsNonRoot": true}), "7:0", Ok(())),
            (json!({"runAsNonRoot": true}), "web", named),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), "7", breaks),
            (json!({"runAsNonRoot": true, "runAsUser": 7}), "", Ok(())),
            (json!({"runAsNonRoot": true, "runAsGroup": 7}), "", root),
        ] {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "spec": {"containers": [{"name": "c", "securityContext": context}]},
            }))
            .unwrap();
            let container = &crate::pod::spec::spec(&pod).containers[0];
            let security = super::super::security(&pod, container);
            let image =
                Image { id: String::new(), names: vec![], size_bytes: 0, user: user.into() };
            let found = check_user(&pod, container, &security, &image);
            let expected = expected.map_err(|what| format!("{what}{where_}"));
            assert_eq!(found, expected, "{context} {user:?}");
        }
    }
}
