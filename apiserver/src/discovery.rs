//! What the server serves: `/api`, `/apis`, `/version`, plain and aggregated. Rendered once, from the registry.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use warren_api::{Kind, Registry, Subresource};

use crate::accept::{Accept, Form};
use crate::api::Api;
use crate::response::{self, Body};
use crate::{metrics_api, review};

mod openapi;

/// The release whose behaviour is the yardstick.
pub(crate) const GIT_VERSION: &str = "v1.34.0+warren";

#[derive(Debug)]
pub(crate) struct Documents {
    plain: BTreeMap<String, Value>,
    /// `/api` and `/apis`, with their ETags.
    aggregated: BTreeMap<&'static str, (Bytes, HeaderValue)>,
    schemas: openapi::Schemas,
}

struct Group {
    name: String,
    version: String,
    resources: Vec<Resource>,
}

struct Resource {
    plural: String,
    singular: String,
    kind: String,
    namespaced: bool,
    verbs: &'static [&'static str],
    short_names: Vec<String>,
    categories: Vec<String>,
    subresources: Vec<Sub>,
}

struct Sub {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: String,
    verbs: &'static [&'static str],
}

const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Documents {
    pub(crate) fn of(registry: Registry) -> Self {
        let groups = groups(registry);
        let mut plain = BTreeMap::new();
        plain.insert("/version".to_owned(), version());
        plain.insert(
            "/api".to_owned(),
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        );
        let named = || groups.iter().filter(|group| !group.name.is_empty());
        plain.insert(
            "/apis".to_owned(),
            json!({
                "kind": "APIGroupList", "apiVersion": "v1",
                "groups": named().map(Group::describe).collect::<Vec<_>>(),
            }),
        );
        for group in &groups {
            if !group.name.is_empty() {
                let mut described = group.describe();
                described["kind"] = "APIGroup".into();
                described["apiVersion"] = "v1".into();
                plain.insert(format!("/apis/{}", group.name), described);
            }
            plain.insert(group.path(), group.resource_list());
        }
        let mut paths: Vec<String> = plain.keys().cloned().collect();
        paths.extend(
            ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz"]
                .map(str::to_owned),
        );
        paths.sort();
        plain.insert("/".to_owned(), json!({"paths": paths}));
        let core = groups.iter().filter(|group| group.name.is_empty()).map(Group::aggregate);
        let mut aggregated = BTreeMap::new();
        aggregated.insert("/api", tagged(core.collect()));
        aggregated.insert("/apis", tagged(named().map(Group::aggregate).collect()));
        Self { plain, aggregated, schemas: openapi::Schemas::default() }
    }
}

pub(crate) fn answer(
    api: &Api,
    path: &str,
    headers: &HeaderMap,
    accept: Accept,
) -> Option<Response<Body>> {
    if accept.form == Form::AggregatedDiscovery
        && let Some((body, etag)) = api.discovery.aggregated.get(path)
    {
        let matches = headers.get(header::IF_NONE_MATCH).is_some_and(|given| given == etag);
        let mut response = match matches {
            true => response::json(StatusCode::NOT_MODIFIED, Bytes::new()),
            false => response::json(StatusCode::OK, body.clone()),
        };
        let content_type = HeaderValue::from_static(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        );
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response.headers_mut().insert(header::ETAG, etag.clone());
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        return Some(response);
    }
    if let Some(response) = api.discovery.schemas.answer(api.registry, path, headers) {
        return Some(response);
    }
    let value = api.discovery.plain.get(path)?;
    let mut response = response::tree(StatusCode::OK, value, accept);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Some(response)
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "34", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
        "emulationMajor": "1", "emulationMinor": "34", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "33",
    })
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn groups(registry: Registry) -> Vec<Group> {
    let mut groups: BTreeMap<(String, String), Vec<Resource>> = BTreeMap::new();
    for kind in registry.iter() {
        let key = (kind.group().to_owned(), kind.version().to_owned());
        groups.entry(key).or_default().push(resource(kind));
    }
    for (group, plural, kind, namespaced) in review::REVIEWS {
        let made = only(plural, kind, namespaced, &["create"]);
        groups.entry((group.to_owned(), "v1".to_owned())).or_default().push(made);
    }
    for (plural, kind, namespaced) in metrics_api::RESOURCES {
        let made = only(plural, kind, namespaced, &["get", "list"]);
        let key = (metrics_api::GROUP.to_owned(), metrics_api::VERSION.to_owned());
        groups.entry(key).or_default().push(made);
    }
    groups
        .into_iter()
        .map(|((name, version), resources)| Group { name, version, resources })
        .collect()
}

fn only(plural: &str, kind: &str, namespaced: bool, verbs: &'static [&'static str]) -> Resource {
    Resource {
        plural: plural.to_owned(),
        singular: String::new(),
        kind: kind.to_owned(),
        namespaced,
        verbs,
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: Vec::new(),
    }
}

fn verbs(kind: &dyn Kind) -> &'static [&'static str] {
    match crate::prepare::is_namespace(kind) {
        // Namespaces go one by one, as in Kubernetes.
        true => &["create", "delete", "get", "list", "patch", "update", "watch"],
        false => ALL_VERBS,
    }
}

fn resource(kind: &dyn Kind) -> Resource {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    Resource {
        plural: kind.plural().to_owned(),
        singular: kind.singular().to_owned(),
        kind: kind.kind().to_owned(),
        namespaced: kind.is_namespaced(),
        verbs: verbs(kind),
        short_names: owned(kind.short_names()),
        categories: owned(kind.categories()),
        subresources: kind.subresources().iter().map(|sub| subresource(kind, *sub)).collect(),
    }
}

fn subresource(kind: &dyn Kind, sub: Subresource) -> Sub {
    const WRITE: &[&str] = &["get", "patch", "update"];
    const CONNECT: &[&str] = &["create", "get"];
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    let own = kind.kind();
    let (group, version, kind, verbs) = match sub {
        Subresource::Status | Subresource::EphemeralContainers => ("", "", own, WRITE),
        Subresource::Scale => ("autoscaling", "v1", "Scale", WRITE),
        Subresource::Log => ("", "", own, &["get"] as &[&str]),
        Subresource::Exec => ("", "v1", "PodExecOptions", CONNECT),
        Subresource::Attach => ("", "v1", "PodAttachOptions", CONNECT),
        Subresource::PortForward => ("", "v1", "PodPortForwardOptions", CONNECT),
        Subresource::Proxy => ("", "v1", own, PROXY),
        Subresource::Binding => ("", "v1", "Binding", &["create"] as &[&str]),
        Subresource::Eviction => ("policy", "v1", "Eviction", &["create"] as &[&str]),
        Subresource::Finalize => ("", "", own, &["update"] as &[&str]),
    };
    let kind = match sub {
        Subresource::Proxy => format!("{own}ProxyOptions"),
        _ => kind.to_owned(),
    };
    Sub { name: sub.name(), group, version, kind, verbs }
}

impl Group {
    fn group_version(&self) -> String {
        match self.name.as_str() {
            "" => self.version.clone(),
            name => format!("{name}/{}", self.version),
        }
    }

    fn path(&self) -> String {
        let root = if self.name.is_empty() { "/api" } else { "/apis" };
        format!("{root}/{}", self.group_version())
    }

    fn describe(&self) -> Value {
        let version = json!({"groupVersion": self.group_version(), "version": self.version});
        json!({"name": self.name, "versions": [version], "preferredVersion": version})
    }

    fn resource_list(&self) -> Value {
        let mut list = Vec::new();
        for resource in &self.resources {
            let mut entry = json!({
                "name": resource.plural, "singularName": resource.singular,
                "namespaced": resource.namespaced, "kind": resource.kind, "verbs": resource.verbs,
            });
            if !resource.short_names.is_empty() {
                entry["shortNames"] = json!(resource.short_names);
            }
            if !resource.categories.is_empty() {
                entry["categories"] = json!(resource.categories);
            }
            list.push(entry);
            for sub in &resource.subresources {
                let mut entry = json!({
                    "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                    "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs,
                });
                if !sub.group.is_empty() {
                    entry["group"] = sub.group.into();
                    entry["version"] = sub.version.into();
                }
                list.push(entry);
            }
        }
        list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": self.group_version(),
            "resources": list,
        })
    }

    fn aggregate(&self) -> Value {
        let resources: Vec<Value> = self
            .resources
            .iter()
            .map(|resource| {
                let of = |group: &str, version: &str, kind: &str| {
                    json!({"group": group, "version": version, "kind": kind})
                };
                let mut entry = json!({
                    "resource": resource.plural,
                    "responseKind": of(&self.name, &self.version, &resource.kind),
                    "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
                    "singularResource": resource.singular, "verbs": resource.verbs,
                });
                if !resource.short_names.is_empty() {
                    entry["shortNames"] = json!(resource.short_names);
                }
                if !resource.categories.is_empty() {
                    entry["categories"] = json!(resource.categories);
                }
                if !resource.subresources.is_empty() {
                    let subs = resource.subresources.iter().map(|sub| {
                        let kind = match sub.version {
                            "" => of(&self.name, &self.version, &sub.kind),
                            version => of(sub.group, version, &sub.kind),
                        };
                        json!({"subresource": sub.name, "responseKind": kind, "verbs": sub.verbs})
                    });
                    entry["subresources"] = subs.collect();
                }
                entry
            })
            .collect();
        json!({
            "metadata": {"name": self.name, "creationTimestamp": null},
            "versions": [{"version": self.version, "freshness": "Current", "resources": resources}],
        })
    }
}

fn tagged(items: Vec<Value>) -> (Bytes, HeaderValue) {
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items,
    });
    let body = crate::codec::bytes(&document);
    let etag = etag_of(&body);
    (body, etag)
}

fn etag_of(bytes: &[u8]) -> HeaderValue {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect();
    let etag = HeaderValue::from_str(&format!("\"{hash}\""));
    etag.unwrap_or(HeaderValue::from_static("\"0\""))
}
