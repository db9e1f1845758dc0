//! Volumes: folders of the node that containers see.
//!
//! They live below `<agent>/pods/<uid>/volumes/<kind>/<name>/` and go with their pod. What comes from objects
//! ([`payload`]) is replaced as a whole and at once, so that a reader sees the old or the new, never a mix.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Volume,
};

use crate::objects::{ObjectError, Objects};
use crate::pod::spec::{self, NodeFields};
use crate::runtime::Mount;
use payload::{File, Payload};

mod host_path;
pub(crate) mod payload;

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
    Setup { volume: String, reason: String },
    /// The kind of volume (or a part of it) is not to be had here.
    #[error("volume \"{volume}\": {reason}")]
    Unsupported { volume: String, reason: String },
    #[error("{0}")]
    Mount(String),
}

/// The volumes of one agent's pods.
pub struct Volumes {
    /// `None`: there is no machine, so there are no volumes.
    dir: Option<PathBuf>,
}

/// What a volume is made from.
enum Made {
    /// A folder of the pod's own.
    Folder {
        memory_limit: Option<Option<i64>>,
    },
    Payload(Payload),
    Host,
}

impl Volumes {
    /// `dir` is the agent's own folder.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir: Some(dir) }
    }

    /// Volumes of pods that do not really run.
    pub fn none() -> Self {
        Self { dir: None }
    }

    /// Makes all volumes of a pod, or brings them up to date. May be called any number of times.
    pub async fn prepare(
        &self,
        pod: &Pod,
        node: &NodeFields,
        objects: &Objects,
    ) -> Result<(), VolumeError> {
        let Some(dir) = self.pod_dir(pod) else { return Ok(()) };
        for volume in spec::spec(pod).volumes.iter().flatten() {
            let made = made(pod, volume, node, objects).await?;
            let path = dir.join("volumes").join(kind(volume)).join(&volume.name);
            let group = spec::spec(pod).security_context.as_ref().and_then(|s| s.fs_group);
            let name = volume.name.clone();
            tokio::task::spawn_blocking(move || set_up(&made, &path, group))
                .await
                .map_err(io::Error::other)
                .flatten()
                .map_err(|e| VolumeError::Setup { volume: name, reason: e.to_string() })?;
        }
        Ok(())
    }

    /// Whether a pod's files follow objects that may change.
    pub fn follows_objects(pod: &Pod) -> bool {
        spec::spec(pod).volumes.iter().flatten().any(|v| {
            v.config_map.is_some()
                || v.secret.is_some()
                || v.projected.is_some()
                || v.downward_api.is_some()
        })
    }

    /// Where the volumes of a container go, and what else it sees of the node.
    pub fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, VolumeError> {
        let Some(dir) = self.pod_dir(pod) else { return Ok(Vec::new()) };
        let volumes = spec::spec(pod).volumes.as_deref().unwrap_or_default();
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(volume) = volumes.iter().find(|v| v.name == mount.name) else {
                let text =
                    format!("no volume \"{}\" for the mount at {}", mount.name, mount.mount_path);
                return Err(VolumeError::Mount(text));
            };
            let root = match &volume.host_path {
                Some(host) => PathBuf::from(&host.path),
                None => dir.join("volumes").join(kind(volume)).join(&volume.name),
            };
            let sub = match (&mount.sub_path_expr, &mount.sub_path) {
                (Some(expression), _) => expand_sub_path(expression, env)?,
                (None, sub) => sub.clone().unwrap_or_default(),
            };
            let path = sub_path(&root, &sub)
                .map_err(|e| VolumeError::Mount(format!("subPath {sub:?}: {e}")))?;
            let from_objects = volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.downward_api.is_some()
                || volume.projected.is_some();
            mounts.push(Mount {
                host_path: path.to_string_lossy().into_owned(),
                container_path: mount.mount_path.clone(),
                read_only: mount.read_only.unwrap_or(false) || from_objects,
                propagation: match mount.mount_propagation.as_deref() {
                    Some("HostToContainer") => Some("rslave"),
                    Some("Bidirectional") => Some("rshared"),
                    _ => None,
                },
            });
        }
        Ok(mounts)
    }

    /// The file into which a container may write why it ends, made empty; `None` without a machine.
    pub fn termination_file(&self, uid: &str, container: &str, attempt: u32) -> Option<PathBuf> {
        let dir = self.dir.as_ref()?.join("pods").join(clean(uid)?).join("containers");
        Some(dir.join(clean(container)?).join(attempt.to_string()))
    }

    /// Removes all that a pod had here.
    pub async fn remove(&self, uid: &str) -> io::Result<()> {
        let (Some(dir), Some(uid)) = (&self.dir, clean(uid)) else { return Ok(()) };
        let dir = dir.join("pods").join(uid);
        tokio::task::spawn_blocking(move || remove_all(&dir)).await.map_err(io::Error::other)?
    }

    fn pod_dir(&self, pod: &Pod) -> Option<PathBuf> {
        let uid = clean(pod.metadata.uid.as_deref().unwrap_or_default())?;
        Some(self.dir.as_ref()?.join("pods").join(uid))
    }
}

/// A name that is one step of a path.
fn clean(name: &str) -> Option<&str> {
    (!name.is_empty() && !name.contains('/') && name != "." && name != "..").then_some(name)
}

fn kind(volume: &Volume) -> &'static str {
    if volume.config_map.is_some() {
        "configmap"
    } else if volume.secret.is_some() {
        "secret"
    } else if volume.downward_api.is_some() {
        "downward-api"
    } else if volume.projected.is_some() {
        "projected"
    } else {
        "empty-dir"
    }
}

async fn made(
    pod: &Pod,
    volume: &Volume,
    node: &NodeFields,
    objects: &Objects,
) -> Result<Made, VolumeError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let setup = |reason: String| VolumeError::Setup { volume: volume.name.clone(), reason };
    let object = |error: ObjectError| setup(error.to_string());
    if let Some(host) = &volume.host_path {
        host_path::check(host).map_err(setup)?;
        return Ok(Made::Host);
    }
    if let Some(empty) = &volume.empty_dir {
        let memory = empty.medium.as_deref() == Some("Memory");
        let limit = empty.size_limit.as_ref().and_then(spec::quantity_units).filter(|l| *l > 0);
        return Ok(Made::Folder { memory_limit: memory.then_some(limit) });
    }
    let mut payload = Payload::default();
    if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode);
        let optional = source.optional.unwrap_or(false);
        let map = objects.config_map(namespace, &source.name, optional).await.map_err(object)?;
        let data = map.map(|m| config_map_files(&m)).unwrap_or_default();
        payload.items(data, source.items.as_deref(), mode, optional).map_err(setup)?;
    } else if let Some(source) = &volume.secret {
        let mode = mode(source.default_mode);
        let optional = source.optional.unwrap_or(false);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let secret = objects.secret(namespace, name, optional).await.map_err(object)?;
        let data = secret.and_then(|s| s.data.clone()).unwrap_or_default();
        let data = data.into_iter().map(|(k, v)| (k, v.0)).collect();
        payload.items(data, source.items.as_deref(), mode, optional).map_err(setup)?;
    } else if let Some(source) = &volume.downward_api {
        let mode = mode(source.default_mode);
        let items = source.items.as_deref().unwrap_or_default();
        downward(pod, node, items, mode, &mut payload).map_err(setup)?;
    } else if let Some(projected) = &volume.projected {
        let mode = mode(projected.default_mode);
        for source in projected.sources.iter().flatten() {
            if let Some(source) = &source.config_map {
                let optional = source.optional.unwrap_or(false);
                let map =
                    objects.config_map(namespace, &source.name, optional).await.map_err(object)?;
                let data = map.map(|m| config_map_files(&m)).unwrap_or_default();
                payload.items(data, source.items.as_deref(), mode, optional).map_err(setup)?;
            }
            if let Some(source) = &source.secret {
                let optional = source.optional.unwrap_or(false);
                let secret =
                    objects.secret(namespace, &source.name, optional).await.map_err(object)?;
                let data = secret.and_then(|s| s.data.clone()).unwrap_or_default();
                let data = data.into_iter().map(|(k, v)| (k, v.0)).collect();
                payload.items(data, source.items.as_deref(), mode, optional).map_err(setup)?;
            }
            if let Some(source) = &source.downward_api {
                let items = source.items.as_deref().unwrap_or_default();
                downward(pod, node, items, mode, &mut payload).map_err(setup)?;
            }
            if source.service_account_token.is_some()
                || source.cluster_trust_bundle.is_some()
                || source.pod_certificate.is_some()
            {
                return Err(VolumeError::Unsupported {
                    volume: volume.name.clone(),
                    reason: "projected serviceAccountToken, clusterTrustBundle and podCertificate \
                             sources are not supported by this node"
                        .to_owned(),
                });
            }
        }
    } else if is_empty(volume) {
        return Ok(Made::Folder { memory_limit: None });
    } else {
        return Err(VolumeError::Unsupported {
            volume: volume.name.clone(),
            reason: "this node supports emptyDir, hostPath, configMap, secret, downwardAPI and \
                     projected volumes"
                .to_owned(),
        });
    }
    Ok(Made::Payload(payload))
}

/// A volume without a source is an emptyDir.
fn is_empty(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}

fn mode(mode: Option<i32>) -> u32 {
    mode.map_or(0o644, |m| m.unsigned_abs() & 0o777)
}

fn config_map_files(map: &k8s_openapi::api::core::v1::ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

impl Payload {
    /// All keys, or the chosen ones at their paths.
    fn items(
        &mut self,
        data: BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
        default_mode: u32,
        optional: bool,
    ) -> Result<(), String> {
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            for (key, bytes) in data {
                self.add(&key, File { bytes, mode: default_mode })?;
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(bytes) => {
                    let mode = item.mode.map_or(default_mode, |m| mode(Some(m)));
                    self.add(&item.path, File { bytes: bytes.clone(), mode })?;
                }
                None if optional => {}
                None => return Err(format!("references non-existent config key: {}", item.key)),
            }
        }
        Ok(())
    }
}

fn downward(
    pod: &Pod,
    node: &NodeFields,
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
    payload: &mut Payload,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            spec::field(pod, node, &field.field_path)
                .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path))?
        } else if let Some(resource) = &item.resource_field_ref {
            let name = resource.container_name.as_deref().unwrap_or_default();
            spec::find_container(spec::spec(pod), name)
                .and_then(|c| {
                    spec::resource_field(&c, node, &resource.resource, resource.divisor.as_ref())
                })
                .ok_or_else(|| format!("unsupported resource: {}", resource.resource))?
        } else {
            return Err(format!("{}: neither fieldRef nor resourceFieldRef", item.path));
        };
        let mode = item.mode.map_or(default_mode, |m| mode(Some(m)));
        payload.add(&item.path, File { bytes: text.into_bytes(), mode })?;
    }
    Ok(())
}

fn set_up(made: &Made, path: &Path, group: Option<i64>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match made {
        Made::Host => Ok(()),
        Made::Payload(payload) => {
            std::fs::create_dir_all(path)?;
            payload.write(path, group.and_then(|g| u32::try_from(g).ok()))
        }
        Made::Folder { memory_limit } => {
            if path.is_dir() {
                return Ok(());
            }
            std::fs::create_dir_all(path)?;
            if let Some(limit) = memory_limit {
                mount_tmpfs(path, *limit)?;
            }
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
            if let Some(group) = group.and_then(|g| u32::try_from(g).ok()) {
                std::os::unix::fs::chown(path, None, Some(group))?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o2777))?;
            }
            Ok(())
        }
    }
}

/// Where the agent may not mount (no root), memory-backed folders are ordinary ones; that is said in the log.
fn mount_tmpfs(path: &Path, limit: Option<i64>) -> io::Result<()> {
    use rustix::mount::{MountFlags, mount};
    let options = limit.map_or_else(String::new, |l| format!("size={l}"));
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    match mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
    {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {
            tracing::warn!(path = %path.display(), "may not mount a tmpfs: the volume is on disk");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn remove_all(dir: &Path) -> io::Result<()> {
    let folders = std::fs::read_dir(dir.join("volumes").join("empty-dir"));
    for folder in folders.into_iter().flatten().flatten() {
        // Fails where it is no mount point, which is the rule.
        let _ = rustix::mount::unmount(folder.path(), rustix::mount::UnmountFlags::DETACH);
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn expand_sub_path(expression: &str, env: &[(String, String)]) -> Result<String, VolumeError> {
    let value = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let expanded = crate::pod::env::expand(expression, value).ok_or_else(|| {
        VolumeError::Mount(format!("subPathExpr {expression:?}: too large when it is expanded"))
    })?;
    if expanded.contains("$(") {
        return Err(VolumeError::Mount(format!(
            "subPathExpr {expression:?}: a variable is missing"
        )));
    }
    Ok(expanded)
}

/// A path below a volume, made as a folder where nothing is there. Links on the way may not lead out of it.
fn sub_path(root: &Path, sub: &str) -> Result<PathBuf, String> {
    if sub.is_empty() {
        return Ok(root.to_owned());
    }
    if sub.starts_with('/') || sub.split('/').any(|step| step == "..") {
        return Err("must be a relative path without '..'".into());
    }
    let root = root.canonicalize().map_err(|e| e.to_string())?;
    let mut real = root.clone();
    // Step by step: behind a link that a container has made, nothing must be made on the host.
    for step in sub.split('/').filter(|step| !step.is_empty()) {
        let next = real.join(step);
        if std::fs::symlink_metadata(&next).is_err() {
            std::fs::create_dir(&next).map_err(|e| e.to_string())?;
        }
        real = next.canonicalize().map_err(|e| e.to_string())?;
        if !real.starts_with(&root) {
            return Err("leads out of the volume".into());
        }
    }
    Ok(real)
}

#[cfg(test)]
mod tests;
