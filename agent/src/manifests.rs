//! Static pods: a file in the manifests folder is a pod on this node.
//!
//! [`Folder`] is pure: it is told what the files say and answers which pods there are, and what is wrong with which
//! file. A file that cannot be used changes nothing about the pod that runs from its last good version.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use warren_api::manifest::{self, Manifest};
use warren_api::{ErrorList, Object, Registry, Scope, validation};

use crate::{mirror, objects};

mod watch;

pub(crate) use watch::{Parts, StaticSource, run};

/// A larger file is not read.
pub const FILE_LIMIT: u64 = 1 << 20;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// From 1; 0 where it is not known.
    pub line: usize,
    pub reason: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// A pod of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticPod {
    pub namespace: String,
    pub name: String,
    /// The hash of what the file says of it.
    pub uid: Arc<str>,
    /// Defaulted, bound to this node, with the annotations of a static pod.
    pub object: Value,
    pub line: usize,
}

impl StaticPod {
    pub fn pod(&self) -> Result<Pod, serde_json::Error> {
        serde_json::from_value(self.object.clone())
    }

    /// As it is created in the API.
    pub fn mirror(&self) -> Value {
        let mut body = self.object.clone();
        let metadata = &mut body["metadata"];
        metadata["annotations"][mirror::MIRROR] = (*self.uid).into();
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("uid");
        }
        body
    }
}

/// What all files together say.
#[derive(Debug, Default, PartialEq)]
pub struct Resolved {
    /// By namespace and name.
    pub pods: BTreeMap<(String, String), StaticPod>,
    /// Two files with the same pod: the one that came later is not used.
    pub conflicts: Vec<Problem>,
}

/// The manifests folder of a node.
pub struct Folder {
    registry: Registry,
    node: String,
    is_local: fn(IpAddr) -> bool,
    files: BTreeMap<PathBuf, File>,
    /// Which file a pod runs from: who was first stays.
    owners: BTreeMap<(String, String), PathBuf>,
}

#[derive(Default)]
struct File {
    text: Option<Arc<str>>,
    good: Vec<StaticPod>,
}

impl Folder {
    /// `is_local` says whether an address is one of this host's.
    pub fn new(registry: Registry, node: &str, is_local: fn(IpAddr) -> bool) -> Self {
        Self {
            registry,
            node: node.to_owned(),
            is_local,
            files: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }

    /// Whether a name is that of a manifest: not hidden, not a backup, not an editor's.
    pub fn is_manifest(path: &Path) -> bool {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let backup =
            [".swp", ".swo", ".swx", ".tmp", ".bak", ".orig", ".part", ".dpkg-old", ".dpkg-dist"];
        !name.is_empty()
            && !name.starts_with(['.', '#'])
            && !name.ends_with('~')
            && !name.ends_with('#')
            && !backup.iter().any(|end| name.ends_with(end))
    }

    /// The file says this now. `Ok(true)` where something changed for good. An empty file says nothing: it is being
    /// written.
    pub fn put(&mut self, path: &Path, text: &str) -> Result<bool, Problem> {
        let file = self.files.entry(path.to_owned()).or_default();
        if file.text.as_deref() == Some(text) {
            return Ok(false);
        }
        file.text = Some(text.into());
        let good = read(&self.registry, &self.node, self.is_local, path, text)?;
        let changed = file.good != good;
        if let Some(file) = self.files.get_mut(path) {
            file.good = good;
        }
        Ok(changed)
    }

    /// The file is gone.
    pub fn remove(&mut self, path: &Path) -> bool {
        self.files.remove(path).is_some_and(|file| !file.good.is_empty())
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.keys().cloned().collect()
    }

    /// Whether the last text of a file was one that can be used.
    pub fn is_good(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|file| !file.good.is_empty())
    }

    /// The pods of all files. Of two files with the same pod, the one that had it first keeps it.
    pub fn resolve(&mut self) -> Resolved {
        let mut claims: BTreeMap<(String, String), Vec<(&PathBuf, &StaticPod)>> = BTreeMap::new();
        for (path, file) in &self.files {
            for pod in &file.good {
                let key = (pod.namespace.clone(), pod.name.clone());
                claims.entry(key).or_default().push((path, pod));
            }
        }
        self.owners.retain(|key, owner| {
            claims.get(key).is_some_and(|c| c.iter().any(|(path, _)| *path == owner))
        });
        let mut resolved = Resolved::default();
        for (key, claims) in claims {
            let owner = self.owners.entry(key.clone()).or_insert_with(|| claims[0].0.clone());
            let mut taken = false;
            for (path, pod) in claims {
                if path == owner && !taken {
                    taken = true;
                    resolved.pods.insert(key.clone(), pod.clone());
                    continue;
                }
                resolved.conflicts.push(Problem {
                    file: path.clone(),
                    line: pod.line,
                    reason: format!(
                        "pod \"{}/{}\" is in {} already, which stays; this one is not used",
                        key.0,
                        key.1,
                        owner.display()
                    ),
                });
            }
        }
        resolved
    }

    /// The pod that somebody means by a name: its own, or the one that it has on this node.
    pub fn find(&mut self, name: &str) -> Option<StaticPod> {
        let full = format!("{name}-{}", self.node);
        let pods = self.resolve().pods.into_values();
        pods.into_iter().find(|pod| pod.name == name || pod.name == full)
    }
}

fn read(
    registry: &Registry,
    node: &str,
    is_local: fn(IpAddr) -> bool,
    path: &Path,
    text: &str,
) -> Result<Vec<StaticPod>, Problem> {
    let problem = |line, reason| Problem { file: path.to_owned(), line, reason };
    let manifests =
        manifest::read(registry, text).map_err(|error| problem(error.line, error.reason))?;
    if manifests.is_empty() {
        return Err(problem(0, "there is no object in it".into()));
    }
    let mut pods = Vec::with_capacity(manifests.len());
    let mut names = BTreeSet::new();
    for manifest in manifests {
        let line = manifest.line;
        let pod = prepare(registry, node, is_local, path, manifest)
            .map_err(|reason| problem(line, reason))?;
        if !names.insert((pod.namespace.clone(), pod.name.clone())) {
            let reason = format!("pod \"{}/{}\" is in this file twice", pod.namespace, pod.name);
            return Err(problem(line, reason));
        }
        pods.push(pod);
    }
    Ok(pods)
}

/// Makes a manifest the static pod that it is on this node.
fn prepare(
    registry: &Registry,
    node: &str,
    is_local: fn(IpAddr) -> bool,
    path: &Path,
    manifest: Manifest,
) -> Result<StaticPod, String> {
    let Manifest { mut object, line, ip, .. } = manifest;
    let (api_version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
    if (api_version, kind) != ("v1", "Pod") {
        return Err(format!(
            "kind {kind:?} in version {api_version:?} cannot run from the manifests folder: only Pods can"
        ));
    }
    let kind = registry.by_kind("v1", "Pod").ok_or("the kind Pod is not known")?;
    if let Some(ip) = ip.filter(|ip| !ip.is_unspecified()) {
        if !is_local(ip) {
            return Err(format!(
                "spec.ip: Invalid value: \"{ip}\": must be 0.0.0.0 or an address of this host"
            ));
        }
        bind_ports(&mut object, ip);
    }
    let wanted = object.str_at(&["spec", "nodeName"]).to_owned();
    if !wanted.is_empty() && wanted != node {
        return Err(format!("spec.nodeName: Invalid value: {wanted:?}: this node is {node:?}"));
    }
    let name = object.str_at(&["metadata", "name"]).to_owned();
    if name.is_empty() {
        return Err("metadata.name: Required value: name or generateName is required".into());
    }
    if object.str_at(&["metadata", "namespace"]).is_empty() {
        object.set_at(&["metadata", "namespace"], "default");
    }
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
        object.remove_at(&["metadata", field]);
    }
    object.remove_at(&["status"]);
    for annotation in [mirror::SOURCE, mirror::HASH, mirror::SEEN, mirror::MIRROR] {
        object.remove_at(&["metadata", "annotations", annotation]);
    }
    object.set_at(&["metadata", "name"], format!("{name}-{node}"));
    object.set_at(&["spec", "nodeName"], node);
    kind.default(&mut object);
    // A node that is not ready yet, or has pressure, keeps its static pods.
    object.set_at(&["spec", "tolerations"], json!([{"operator": "Exists", "effect": "NoExecute"}]));

    let uid = uid(node, path, &object);
    object.set_at(&["metadata", "annotations", mirror::SOURCE], "file");
    object.set_at(&["metadata", "annotations", mirror::HASH], uid.as_str());
    let mut errors = ErrorList::default();
    validation::metadata(kind, &object, &mut errors);
    kind.validate(&object, &mut errors);
    kind.validate_create(&object, &mut errors);
    if !errors.is_empty() {
        let shown: Vec<String> =
            errors.0.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        return Err(shown.join("; "));
    }
    debug_assert_eq!(kind.scope(), Scope::Namespaced);
    object.set_at(&["metadata", "uid"], uid.as_str());
    let pod = StaticPod {
        namespace: object.str_at(&["metadata", "namespace"]).to_owned(),
        name: object.str_at(&["metadata", "name"]).to_owned(),
        uid: uid.into(),
        object: Value::from(object),
        line,
    };
    let typed = pod.pod().map_err(|error| error.to_string())?;
    // As the kubelet: it runs before there is an API, and its mirror must not open other objects to the node.
    if let Some(found) = objects::references(&typed).first() {
        return Err(format!("spec: Forbidden: a static pod may not refer to {found}"));
    }
    Ok(pod)
}

/// The ports that a pod publishes on the host listen on the address that it asked for.
fn bind_ports(object: &mut Object, ip: IpAddr) {
    let Some(Value::Object(spec)) = object.0.get_mut("spec") else { return };
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        let ports = container.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            if port.get("hostPort").is_some() && port.get("hostIP").is_none() {
                port["hostIP"] = ip.to_string().into();
            }
        }
    }
}

/// 32 hex digits: another manifest, file or node is another pod.
fn uid(node: &str, path: &Path, object: &Object) -> String {
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    hash.update([0]);
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update([0]);
    hash.update(Value::from(object.clone()).to_string().as_bytes());
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
