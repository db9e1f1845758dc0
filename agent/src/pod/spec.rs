//! Small readings of a pod that several parts need.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::ephemeral;
use crate::runtime::PodRef;

/// The grace period of a pod whose spec names none, as Kubernetes defaults it.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// `Always` where nothing (or nonsense) is given.
pub fn restart_policy(spec: &PodSpec) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// An init container that runs beside the others: `restartPolicy: Always`.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// An empty spec where a pod has none, so that nothing else has to ask.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: OnceLock<PodSpec> = OnceLock::new();
    pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
}

pub fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// Init containers, then the others; not the ephemeral ones.
pub fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    init_containers(spec).iter().chain(&spec.containers)
}

/// Of all containers, the ephemeral ones too.
pub fn find_container<'a>(spec: &'a PodSpec, name: &str) -> Option<Cow<'a, Container>> {
    let lasting = all_containers(spec).find(|c| c.name == name).map(Cow::Borrowed);
    lasting.or_else(|| ephemeral::find(spec, name).map(|c| Cow::Owned(ephemeral::as_container(c))))
}

pub fn pod_ref(pod: &Pod) -> PodRef {
    let meta = &pod.metadata;
    PodRef {
        namespace: meta.namespace.as_deref().unwrap_or("default").into(),
        name: meta.name.as_deref().unwrap_or_default().into(),
        uid: meta.uid.as_deref().unwrap_or_default().into(),
    }
}

pub fn annotations(pod: &Pod) -> &BTreeMap<String, String> {
    static EMPTY: BTreeMap<String, String> = BTreeMap::new();
    pod.metadata.annotations.as_ref().unwrap_or(&EMPTY)
}

/// What of a container may change while its pod lives: a running container of another hash is replaced.
///
/// Stable across releases: it stands in the labels of containers.
pub fn hash(container: &Container) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    container.name.hash(&mut hasher);
    container.image.as_deref().unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

/// FNV-1a: the hash of std may change between compilers.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// How long the pod may take to end: what the delete asked for, else what its spec says. At least a second, as the
/// kubelet gives it.
pub fn grace(pod: &Pod) -> Duration {
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .or(spec(pod).termination_grace_period_seconds)
        .map_or(DEFAULT_GRACE, |s| Duration::from_secs(s.max(0).unsigned_abs()));
    seconds.max(Duration::from_secs(1))
}

/// A quantity as a number of thousandths, rounded up. `None` where it is no quantity.
pub fn quantity_millis(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')));
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let (mul, div): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            (1_000_i128.checked_mul(10_i128.checked_pow(power)?)?, 1)
        }
    };
    let negative = number.starts_with('-');
    let (whole, fraction) = number
        .trim_start_matches(['+', '-'])
        .split_once('.')
        .unwrap_or((number.trim_start_matches(['+', '-']), ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 || whole.len() > 19 {
        return None;
    }
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let value = digits.checked_mul(mul)?;
    let by = scale * div;
    let up = value / by + i128::from(value % by != 0);
    Some(if negative { -up } else { up })
}

/// Whole units (bytes), rounded up, within i64.
pub fn quantity_units(quantity: &Quantity) -> Option<i64> {
    let millis = quantity_millis(quantity)?;
    i64::try_from(millis.div_euclid(1000) + i128::from(millis.rem_euclid(1000) != 0)).ok()
}

/// A limit or a request of a container.
pub fn resource<'a>(
    resources: Option<&'a ResourceRequirements>,
    limit: bool,
    name: &str,
) -> Option<&'a Quantity> {
    let resources = resources?;
    let map = if limit { resources.limits.as_ref() } else { resources.requests.as_ref() };
    map?.get(name)
}

/// A request, which is the limit where only that is given.
pub fn request<'a>(container: &'a Container, name: &str) -> Option<&'a Quantity> {
    let resources = container.resources.as_ref();
    resource(resources, false, name).or_else(|| resource(resources, true, name))
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from cpu and memory of all containers.
pub fn qos_class(pod: &PodSpec) -> &'static str {
    let set = |q: Option<&Quantity>| q.and_then(quantity_millis).filter(|v| *v > 0);
    let (mut any, mut guaranteed) = (false, true);
    for container in all_containers(pod) {
        for name in ["cpu", "memory"] {
            let limit = set(resource(container.resources.as_ref(), true, name));
            let request = set(request(container, name));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A field of a pod that the downward API and field references may name. `None`: no such field; empty: not set (yet).
pub fn field(pod: &Pod, node: &NodeFields, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let status = pod.status.as_ref();
    let text = |s: Option<&String>| Some(s.cloned().unwrap_or_default());
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.labels" => text(meta.labels.as_ref().and_then(|m| m.get(key))),
            "metadata.annotations" => text(meta.annotations.as_ref().and_then(|m| m.get(key))),
            _ => None,
        };
    }
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Some(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Some(format_map(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec(pod).node_name.as_ref()),
        "spec.serviceAccountName" => text(spec(pod).service_account_name.as_ref()),
        "status.hostIP" | "status.hostIPs" => Some(node.host_ip.to_string()),
        "status.podIP" => text(status.and_then(|s| s.pod_ip.as_ref())),
        "status.podIPs" => Some(
            status
                .and_then(|s| s.pod_ips.as_ref())
                .map(|ips| ips.iter().map(|ip| ip.ip.as_str()).collect::<Vec<_>>().join(","))
                .unwrap_or_default(),
        ),
        _ => None,
    }
}

/// What a field reference can say about the node.
#[derive(Clone, Debug)]
pub struct NodeFields {
    pub host_ip: Arc<str>,
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
}

/// `metadata.labels['app']` → (`metadata.labels`, `app`)
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let key = key.strip_prefix('\'').and_then(|k| k.strip_suffix('\''));
    Some((map, key?))
}

/// One `key="value"` a line, sorted, as the kubelet writes them.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A resource of a container for the downward API: `limits.cpu`, `requests.memory`, … divided by the divisor, rounded
/// up. A missing limit is the node's own.
pub fn resource_field(
    container: &Container,
    node: &NodeFields,
    path: &str,
    divisor: Option<&Quantity>,
) -> Option<String> {
    let (which, name) = path.split_once('.')?;
    let of = |limit| resource(container.resources.as_ref(), limit, name).and_then(quantity_millis);
    let value = match which {
        "limits" => of(true).unwrap_or(match name {
            "cpu" => i128::from(node.cpu_millis),
            "memory" => i128::from(node.memory_bytes) * 1000,
            "ephemeral-storage" => i128::from(node.ephemeral_storage_bytes) * 1000,
            _ => return None,
        }),
        "requests" => of(false).or_else(|| of(true)).unwrap_or(0),
        _ => return None,
    };
    let divisor = divisor.and_then(quantity_millis).filter(|d| *d > 0).unwrap_or(1000);
    Some((value / divisor + i128::from(value % divisor != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, millis) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("128974848", Some(128_974_848_000)),
            ("1e3", Some(1_000_000)),
            ("12e6", Some(12_000_000_000)),
            ("1n", Some(1)),
            ("-1", Some(-1000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("", None),
            ("1 Gi", None),
            ("x", None),
            ("1ZB", None),
        ] {
            assert_eq!(quantity_millis(&Quantity(text.into())), millis, "{text}");
        }
        assert_eq!(quantity_units(&Quantity("1500m".into())), Some(2));
    }

    #[test]
    fn fields_with_subscripts() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "labels": {"app": "web", "b": "\"q\""}}
        }))
        .unwrap();
        let node = NodeFields {
            host_ip: "10.0.0.1".into(),
            cpu_millis: 2000,
            memory_bytes: 1 << 30,
            ephemeral_storage_bytes: 0,
        };
        assert_eq!(field(&pod, &node, "metadata.labels['app']").as_deref(), Some("web"));
        assert_eq!(
            field(&pod, &node, "metadata.labels").as_deref(),
            Some("app=\"web\"\nb=\"\\\"q\\\"\"")
        );
        assert_eq!(field(&pod, &node, "metadata.nothing"), None);
        assert_eq!(field(&pod, &node, "status.hostIP").as_deref(), Some("10.0.0.1"));
        let container = Container::default();
        assert_eq!(resource_field(&container, &node, "limits.cpu", None).as_deref(), Some("2"));
        let mi = Quantity("1Mi".into());
        assert_eq!(
            resource_field(&container, &node, "limits.memory", Some(&mi)).as_deref(),
            Some("1024")
        );
    }
}
