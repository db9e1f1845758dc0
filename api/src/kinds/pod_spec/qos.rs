//! How well a pod's resources are guaranteed.

use crate::Quantity;
use crate::tree::{self, Tree};

/// `status.qosClass`: `Guaranteed` where every container's limits of cpu and memory are set and are its requests,
/// `BestEffort` where none asks for anything, else `Burstable`. Expects requests to be defaulted from limits.
pub(crate) fn class(spec: &Tree) -> &'static str {
    let (mut is_guaranteed, mut is_best_effort) = (true, true);
    let containers = tree::maps(spec, "containers").chain(tree::maps(spec, "initContainers"));
    for (_, container) in containers {
        let amount = |list: &str, name: &str| {
            let resources = tree::map(container, "resources")?;
            let value = tree::map(resources, list)?.get(name)?;
            Quantity::from_json(value).ok().filter(|q| !q.is_zero())
        };
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", name), amount("limits", name));
            is_best_effort &= request.is_none() && limit.is_none();
            is_guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (is_best_effort, is_guaranteed) {
        (true, _) => "BestEffort",
        (false, true) => "Guaranteed",
        (false, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[test]
    fn classes() {
        let all = json!({"cpu": "1", "memory": "1Gi"});
        let table: &[(Value, &str)] = &[
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "0"}}}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
            (json!([{"resources": {"limits": all}}]), "Guaranteed"),
            (json!([{"resources": {"limits": all, "requests": {"cpu": "1000m"}}}]), "Guaranteed"),
            (json!([{"resources": {"limits": all, "requests": {"cpu": "1m"}}}]), "Burstable"),
            (json!([{"resources": {"limits": all}}, {}]), "Burstable"),
        ];
        for (containers, expected) in table {
            let spec = json!({"containers": containers});
            assert_eq!(&super::class(spec.as_object().unwrap()), expected, "{containers}");
        }
    }
}
