//! Which resources the server has, and what people call them.

use anyhow::{Result, bail};
use serde_json::Value;

use super::Connection;

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) short_names: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) verbs: Vec<String>,
    pub(super) namespaced: bool,
}

impl Resource {
    /// The path of the collection. `None` for all namespaces.
    pub(super) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(namespace) if self.namespaced => {
                format!(
                    "{root}/namespaces/{}/{}",
                    super::connection::escape(namespace),
                    self.plural
                )
            }
            _ => format!("{root}/{}", self.plural),
        }
    }

    /// `pod`, `deployment.apps`: what stands before the slash in `kind/name`.
    pub(super) fn label(&self) -> String {
        let kind = self.kind.to_ascii_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }

    fn answers_to(&self, name: &str) -> bool {
        let (name, group) = match name.split_once('.') {
            Some((name, group)) => (name, Some(group)),
            None => (name, None),
        };
        group.is_none_or(|group| group == self.group)
            && (name == self.plural
                || name == self.singular
                || name == self.kind.to_ascii_lowercase()
                || self.short_names.iter().any(|short| short == name))
    }
}

pub(super) struct Discovery {
    resources: Vec<Resource>,
}

impl Discovery {
    pub(super) async fn read(connection: &Connection) -> Result<Self> {
        let mut resources = Vec::new();
        for path in ["/api", "/apis"] {
            let answer = connection.get_as(path, AGGREGATED).await?;
            if answer["kind"] != "APIGroupDiscoveryList" {
                bail!("the server does not speak aggregated discovery (apidiscovery.k8s.io/v2)");
            }
            resources.extend(parse(&answer));
        }
        Ok(Self { resources })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Resource> {
        self.resources.iter()
    }

    /// By plural, singular, kind or short name, each also with `.group`; `all` and other categories are several.
    pub(super) fn find(&self, name: &str) -> Result<Vec<&Resource>> {
        let name = name.to_ascii_lowercase();
        if let Some(found) = self.resources.iter().find(|resource| resource.answers_to(&name)) {
            return Ok(vec![found]);
        }
        let category: Vec<_> =
            self.all().filter(|resource| resource.categories.contains(&name)).collect();
        if category.is_empty() {
            bail!("the server doesn't have a resource type {name:?}");
        }
        Ok(category)
    }

    pub(super) fn of_object(&self, object: &Value) -> Result<&Resource> {
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        if api_version.is_empty() || kind.is_empty() {
            bail!("apiVersion and kind must be set");
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let found = self.resources.iter().find(|resource| {
            resource.group == group && resource.version == version && resource.kind == kind
        });
        found.ok_or_else(|| {
            anyhow::anyhow!("no matches for kind {kind:?} in version {api_version:?}")
        })
    }
}

/// The resources of an APIGroupDiscoveryList; each group in its preferred version, which comes first.
fn parse(list: &Value) -> Vec<Resource> {
    let items = |value: &Value, field: &str| -> Vec<Value> {
        value[field].as_array().cloned().unwrap_or_default()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value, field: &str| -> Vec<String> {
        items(value, field).iter().map(text).collect()
    };
    let mut found = Vec::new();
    for group in items(list, "items") {
        for version in items(&group, "versions") {
            for resource in items(&version, "resources") {
                found.push(Resource {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: texts(&resource, "shortNames"),
                    categories: texts(&resource, "categories"),
                    verbs: texts(&resource, "verbs"),
                    namespaced: resource["scope"] == "Namespaced",
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn discovery() -> Discovery {
        let list = json!({"kind": "APIGroupDiscoveryList", "items": [
            {"metadata": {}, "versions": [{"version": "v1", "resources": [
                {"resource": "pods", "responseKind": {"kind": "Pod"}, "singularResource": "pod", "scope": "Namespaced",
                 "shortNames": ["po"], "categories": ["all"], "verbs": ["list", "watch"]},
                {"resource": "nodes", "responseKind": {"kind": "Node"}, "singularResource": "node",
                 "scope": "Cluster", "shortNames": ["no"]}]}]},
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                {"resource": "deployments", "responseKind": {"kind": "Deployment"}, "scope": "Namespaced",
                 "singularResource": "deployment", "shortNames": ["deploy"], "categories": ["all"]}]}]}]});
        Discovery { resources: parse(&list) }
    }

    #[test]
    fn resources_are_found_by_any_name() {
        let discovery = discovery();
        for (name, plurals) in [
            ("po", vec!["pods"]),
            ("Pod", vec!["pods"]),
            ("deployments.apps", vec!["deployments"]),
            ("deploy", vec!["deployments"]),
            ("all", vec!["pods", "deployments"]),
        ] {
            let found = discovery.find(name).unwrap();
            assert_eq!(found.iter().map(|r| r.plural.as_str()).collect::<Vec<_>>(), plurals);
        }
        for name in ["pods.apps", "pood", ""] {
            assert!(discovery.find(name).is_err(), "{name}");
        }
    }

    #[test]
    fn paths_follow_group_and_scope() {
        let discovery = discovery();
        let path = |name, namespace| discovery.find(name).unwrap()[0].path(namespace);
        assert_eq!(path("po", Some("a")), "/api/v1/namespaces/a/pods");
        assert_eq!(path("po", None), "/api/v1/pods");
        assert_eq!(path("no", Some("a")), "/api/v1/nodes");
        assert_eq!(path("deploy", Some("a")), "/apis/apps/v1/namespaces/a/deployments");
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
        assert_eq!(discovery.of_object(&object).unwrap().plural, "deployments");
        assert!(discovery.of_object(&json!({"apiVersion": "v2", "kind": "Pod"})).is_err());
    }
}
