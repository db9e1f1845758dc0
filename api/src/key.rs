//! Names: of resources, objects, revisions and shards.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

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

impl Revision {
    /// How far a restore raises the revision: no server gives out so many between a backup and its use.
    pub const RESTORE_STEP: u64 = 1_000_000_000;
}

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

impl Uid {
    /// Of a pod that a node began before the API knew of it. A UUID of version 8 whose first 48 bits are the node's, so that
    /// no node can take another's; `chance` is the rest.
    pub fn of_node(node: &NodeName, chance: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&Self::prefix(node));
        bytes[6..].copy_from_slice(&chance);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut text = String::with_capacity(36);
        for (n, byte) in bytes.iter().enumerate() {
            if matches!(n, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        Self(text.into())
    }

    /// Whether [`Uid::of_node`] made it, or could have.
    pub fn is_of_node(&self, node: &NodeName) -> bool {
        let hex: Vec<u8> = self.0.bytes().filter(|byte| *byte != b'-').collect();
        let digit = |at: usize| hex.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let byte = |at: usize| Some((digit(2 * at)? << 4 | digit(2 * at + 1)?) as u8);
        let bytes: Option<Vec<u8>> = (0..16).map(byte).collect();
        let Some(bytes) = bytes.filter(|_| hex.len() == 32) else { return false };
        let mut chance = [0; 10];
        chance.copy_from_slice(&bytes[6..]);
        *self == Self::of_node(node, chance)
    }

    fn prefix(node: &NodeName) -> [u8; 6] {
        let hash = Sha256::new().chain_update("node/").chain_update(&*node.0).finalize();
        std::array::from_fn(|n| hash[n])
    }
}

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
