//! Namespace: one that goes is emptied first, then it is let go.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::Status;
use serde_json::{Value, json};
use warren_api::{Kind, Registry};
use warren_process::Tasks;

use crate::execute::{ExecuteError, execute};
use crate::garbage::resource;
use crate::plan::{Plan, Target, Write, status_patch};
use crate::queue::WorkQueue;
use crate::runner::{Context, wrote};

const NAME: &str = "namespace-controller";
const WORKERS: usize = 4;
const FINALIZER: &str = "kubernetes";
/// What still goes (pods in their grace period) is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What is left of one resource after it was told to go.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Left {
    pub resource: String,
    pub count: usize,
    pub finalizers: Vec<String>,
    /// Why it could not be told.
    pub failure: Option<String>,
}

pub(crate) fn decide(now: Timestamp, namespace: &Namespace, left: &[Left]) -> Plan {
    let mut plan = Plan::default();
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    let ours = finalizers.is_some_and(|all| all.iter().any(|f| f == FINALIZER));
    let is_empty = left.iter().all(|left| left.count == 0 && left.failure.is_none());
    if is_empty {
        if ours {
            let rest: Vec<_> =
                finalizers.into_iter().flatten().filter(|f| *f != FINALIZER).collect();
            let mut object = serde_json::to_value(namespace).unwrap_or(Value::Null);
            object["spec"]["finalizers"] = json!(rest);
            plan.push(Write::Replace {
                target: Target::of(namespace),
                subresource: Some("finalize"),
                object,
            });
        }
        return plan;
    }
    plan.again(LOOK_AGAIN);
    let list = |of: &dyn Fn(&Left) -> Option<String>| {
        left.iter().filter_map(of).collect::<Vec<_>>().join(", ")
    };
    let failures = list(&|left| left.failure.clone());
    let remaining = list(&|left| {
        (left.count > 0).then(|| format!("{} has {} resource instances", left.resource, left.count))
    });
    let held = list(&|left| {
        let all = left.finalizers.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        (!all.is_empty()).then(|| format!("{all} in {} resource instances", left.count))
    });
    let conditions = [
        (
            "NamespaceDeletionContentFailure",
            failures.is_empty(),
            "ContentDeletionFailed",
            failures.clone(),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            remaining.is_empty(),
            "SomeResourcesRemain",
            format!("Some resources are remaining: {remaining}"),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            held.is_empty(),
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {held}"),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let old = namespace.status.clone().unwrap_or_default();
    let mut all = old.conditions.clone().unwrap_or_default();
    for (kind, is_fine, reason, message, fine) in conditions {
        let (status, reason, message) =
            if is_fine { ("False", fine.0, fine.1.to_owned()) } else { ("True", reason, message) };
        let at = all.iter().position(|condition| condition.type_ == kind);
        let before = at.map(|at| all.remove(at)).filter(|before| before.status == status);
        all.push(NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: before
                .map_or(Some(Time(now)), |before| before.last_transition_time),
        });
    }
    let new = NamespaceStatus { conditions: Some(all), ..old };
    plan.steps.extend(status_patch(namespace, namespace.status.as_ref(), &new).map(Into::into));
    plan
}

pub(crate) fn start(context: &Context, tasks: &Tasks) {
    let queue: WorkQueue<String> = WorkQueue::default();
    let to = queue.clone();
    context.caches.namespaces.on_change(move |change| {
        let Some(namespace) = &change.new else { return };
        if namespace.metadata.deletion_timestamp.is_some() {
            to.add(namespace.metadata.name.clone().unwrap_or_default());
        }
    });
    for _ in 0..WORKERS {
        let (context, queue) = (context.clone(), queue.clone());
        let shutdown = tasks.shutdown().clone();
        tasks.spawn_critical(NAME, async move {
            let work = async {
                context.caches.namespaces.synced().await;
                loop {
                    let name = queue.next().await;
                    let turn = context.leader.turn().await;
                    match Box::pin(turn.run(empty(&context, &name))).await {
                        Ok(after) => {
                            if let Some(after) = after {
                                queue.add_after(name.clone(), after);
                            }
                            queue.done(&name);
                        }
                        Err(error) => {
                            tracing::debug!(namespace = name, %error, "emptying again");
                            queue.failed(&name);
                        }
                    }
                }
            };
            tokio::select! {
                () = shutdown.draining() => {}
                () = work => {}
            }
            Ok::<_, Infallible>(())
        });
    }
}

async fn empty(context: &Context, name: &str) -> Result<Option<Duration>, ExecuteError> {
    let Some(namespace) = context.caches.namespaces.get("", name) else { return Ok(None) };
    let namespace: Arc<Namespace> = namespace;
    let kinds = Registry::builtin().iter().filter(|kind| kind.is_namespaced());
    let kinds: Vec<_> = kinds.collect();
    let asked = kinds.iter().map(|kind| tell_to_go(&context.client, *kind, name));
    let left = futures::future::join_all(asked).await;
    let plan = decide(context.clock.now(), &namespace, &left);
    let executed = execute(&context.client, &plan, |step| {
        wrote(&context.trace, "namespace-controller", &step.write);
    })
    .await;
    context.caches.settled(&executed.expected).await;
    match executed.result {
        // The namespace changed meanwhile; that is no failure to back off from.
        Err(ExecuteError::Conflict { .. }) => Ok(Some(LOOK_AGAIN)),
        result => result.map(|()| plan.again_after),
    }
}

/// Deletes all objects of a kind, and says what is there afterwards.
async fn tell_to_go(client: &kube::Client, kind: &dyn Kind, namespace: &str) -> Left {
    let path = resource(kind).path(namespace);
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
        "propagationPolicy": "Background"});
    let mut left = Left { resource: kind.resource().to_string(), ..Left::default() };
    let result = async {
        let delete = http::Request::delete(&path)
            .header("Content-Type", "application/json")
            .body(options.to_string().into_bytes());
        let before = http::Request::get(&path).body(Vec::new());
        let after = http::Request::get(&path).body(Vec::new());
        let build = |error: http::Error| kube::Error::HttpError(error);
        let list: Value = client.request(before.map_err(build)?).await?;
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            return Ok(list);
        }
        client.request::<Value>(delete.map_err(build)?).await?;
        client.request::<Value>(after.map_err(build)?).await
    };
    match result.await {
        Ok(list) => {
            let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            left.count = items.len();
            let finalizers = items.iter().flat_map(|i| i["metadata"]["finalizers"].as_array());
            left.finalizers =
                finalizers.flatten().filter_map(|f| f.as_str().map(str::to_owned)).collect();
            left.finalizers.sort();
            left.finalizers.dedup();
        }
        Err(error) => {
            let message = match &error {
                kube::Error::Api(status) => Status::clone(status).message,
                other => other.to_string(),
            };
            left.failure = Some(format!("{}: {message}", left.resource));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_one_is_let_go_and_others_say_what_is_left() {
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u"},
            "spec": {"finalizers": ["kubernetes", "mine"]},
        }))
        .unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let plan = decide(now, &namespace, &[Left::default()]);
        let [step] = &plan.steps[..] else { panic!("{plan:?}") };
        let Write::Replace { object, subresource: Some("finalize"), .. } = &step.write else {
            panic!("{step:?}");
        };
        assert_eq!(object["spec"]["finalizers"], json!(["mine"]));
        let left = Left { resource: "pods".into(), count: 2, ..Left::default() };
        let plan = decide(now, &namespace, &[left]);
        assert!(plan.again_after.is_some());
        let text = format!("{plan:?}");
        assert!(text.contains("Some resources are remaining: pods has 2 resource instances"));
    }
}
