//! Names: of resources, objects, revisions and shards.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An API group and the plural name of a resource in it: `apps`/`deployments`; the core group is empty.
///
/// Objects are stored and published by group and resource, never by version: all served versions of a resource
/// share its objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    pub group: Arc<str>,
    pub resource: Arc<str>,
}

impl GroupResource {
    pub fn new(group: impl Into<Arc<str>>, resource: impl Into<Arc<str>>) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }
}

/// As Kubernetes writes it: `deployments.apps`, and just `pods` in the core group.
impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.resource)
        } else {
            write!(f, "{}.{}", self.resource, self.group)
        }
    }
}

/// Where an object is: its resource, its namespace (empty for cluster-scoped kinds) and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub resource: GroupResource,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    pub fn new(
        resource: GroupResource,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        Self { resource, namespace: namespace.into(), name: name.into() }
    }
}

/// `pods default/web`, and `nodes rabbit-1` where there is no namespace.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.resource, self.name)
        } else {
            write!(f, "{} {}/{}", self.resource, self.namespace, self.name)
        }
    }
}

/// A point in the total order of changes; Kubernetes' `resourceVersion`. Never used twice, 0 is before everything.
///
/// In JSON a number; in objects and requests the decimal string that [`fmt::Display`] and [`std::str::FromStr`] give.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::str::FromStr for Revision {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Revision)
    }
}

/// `metadata.uid`: one life of an object. A recreated object of the same name has another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub Arc<str>);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a node; a DNS-1123 subdomain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub Arc<str>);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which part of a resource's changes an object's event belongs to. A *stream* is a resource plus a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shard {
    /// What no node needs by itself (Deployments, ConfigMaps, …). `-` in a routing key.
    None,
    /// What every node needs: Services, EndpointSlices. `all` in a routing key.
    All,
    /// A pod that no node has been chosen for. `unscheduled` in a routing key.
    Unscheduled,
    /// What one node needs: its pods, its Node object. `node~<name>` in a routing key before shortening, so that a
    /// node named `all` is no trouble.
    Node(NodeName),
    /// All shards of the resource: every change belongs to it besides its own. `*` in headers; in no routing key, a
    /// reader binds all keys of the resource. So who reads a whole resource has one position in it, not one for each
    /// node.
    Every,
}

impl Shard {
    /// The shard's word as it stands in headers and (shortened where long, dots replaced) in routing keys.
    pub fn word(&self) -> String {
        match self {
            Shard::None => "-".to_owned(),
            Shard::All => "all".to_owned(),
            Shard::Unscheduled => "unscheduled".to_owned(),
            Shard::Node(name) => format!("node~{name}"),
            Shard::Every => "*".to_owned(),
        }
    }

    /// What [`Shard::word`] writes; `None` for anything else.
    pub fn of_word(word: &str) -> Option<Self> {
        match word {
            "-" => Some(Shard::None),
            "all" => Some(Shard::All),
            "unscheduled" => Some(Shard::Unscheduled),
            "*" => Some(Shard::Every),
            _ => match word.strip_prefix("node~") {
                None | Some("") => None,
                Some(name) => Some(Shard::Node(NodeName(name.into()))),
            },
        }
    }
}
