//! ServiceAccount: each namespace has one named `default`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde_json::json;
use warren_process::Tasks;

use crate::caches::Key;
use crate::plan::{Plan, Resource, Write};
use crate::queue::WorkQueue;
use crate::runner::{Context, Controller, run};

const WORKERS: usize = 2;
const ACCOUNT: &str = "default";

pub(crate) fn decide(namespace: &Namespace, account: Option<&ServiceAccount>) -> Plan {
    let mut plan = Plan::default();
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    let going = namespace.metadata.deletion_timestamp.is_some() || phase == Some("Terminating");
    if going || account.is_some() {
        return plan;
    }
    let name = namespace.metadata.name.clone().unwrap_or_default();
    plan.push(Write::Create {
        resource: Resource::of::<ServiceAccount>(),
        object: json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": name}}),
        namespace: name,
    });
    plan
}

pub(crate) struct ServiceAccounts(Context);

impl Controller for ServiceAccounts {
    const NAME: &'static str = "serviceaccount-controller";
    const RESOURCE: (&'static str, &'static str) = ("", "namespaces");

    fn plan(&self, _: Timestamp, key: &Key) -> Plan {
        let caches = &self.0.caches;
        let Some(namespace) = caches.namespaces.get("", &key.name) else { return Plan::default() };
        let account = caches.service_accounts.get(&key.name, ACCOUNT);
        decide(&namespace, account.as_deref())
    }
}

pub(crate) fn start(context: &Context, tasks: &Tasks) {
    let queue = WorkQueue::default();
    let to = queue.clone();
    context.caches.namespaces.on_change(move |change| {
        change.new.iter().for_each(|namespace| to.add(Key::of(&**namespace)));
    });
    let to = queue.clone();
    context.caches.service_accounts.on_change(move |change| {
        let gone = change.old.as_ref().filter(|_| change.new.is_none());
        if let Some(namespace) = gone.and_then(|account| account.metadata.namespace.as_deref()) {
            to.add(Key::new("", namespace));
        }
    });
    run(context, tasks, queue, WORKERS, ServiceAccounts(context.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_namespace_gets_its_account_once() {
        let namespace =
            |meta| -> Namespace { serde_json::from_value(json!({ "metadata": meta })).unwrap() };
        let active = namespace(json!({"name": "a"}));
        assert_eq!(decide(&active, None).steps.len(), 1);
        assert!(decide(&active, Some(&ServiceAccount::default())).steps.is_empty());
        let going = namespace(json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert!(decide(&going, None).steps.is_empty());
    }
}
