//! What ties a write to a leader's term.

use std::fmt;
use std::str::FromStr;

use crate::{GroupResource, ObjectKey};

/// A write with this header is accepted only while the term that it names lasts.
pub const FENCE_HEADER: &str = "warren-fence";

/// A namespace (63 bytes), a name and a holder (253 each), a number, and what parts them.
const MAX_BYTES: usize = 600;

/// The term of whoever holds a Lease: it lasts while `spec.holderIdentity` and `spec.leaseTransitions` are these.
/// As text `namespace/name@transitions/holder`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    pub namespace: String,
    pub name: String,
    pub term: u64,
    pub holder: String,
}

impl Fence {
    /// The Lease.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(
            GroupResource::new("coordination.k8s.io", "leases"),
            &*self.namespace,
            &*self.name,
        )
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, term, holder } = self;
        write!(f, "{namespace}/{name}@{term}/{holder}")
    }
}

impl FromStr for Fence {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "must be namespace/name@leaseTransitions/holderIdentity of a Lease";
        if text.len() > MAX_BYTES {
            return Err("must have at most 600 bytes");
        }
        let (lease, holding) = text.split_once('@').ok_or(FORM)?;
        let (namespace, name) = lease.split_once('/').ok_or(FORM)?;
        let (term, holder) = holding.split_once('/').ok_or(FORM)?;
        let digits = !term.is_empty() && term.bytes().all(|b| b.is_ascii_digit());
        if namespace.is_empty() || name.is_empty() || holder.is_empty() || !digits {
            return Err(FORM);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            term: term.parse().map_err(|_| FORM)?,
            holder: holder.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_writes_and_nothing_else() {
        let text = "kube-system/warren-controllers@7/host_1f/a@b";
        let fence: Fence = text.parse().unwrap();
        assert_eq!((fence.term, &*fence.holder), (7, "host_1f/a@b"));
        assert_eq!(fence.to_string(), text);
        assert_eq!(
            fence.key().to_string(),
            ObjectKey::new(
                GroupResource::new("coordination.k8s.io", "leases"),
                "kube-system",
                "warren-controllers"
            )
            .to_string()
        );
        for bad in [
            "",
            "kube-system/warren-controllers",
            "kube-system@7/h",
            "/n@7/h",
            "n/@7/h",
            "n/n@/h",
            "n/n@+7/h",
            "n/n@-7/h",
            "n/n@99999999999999999999/h",
            "n/n@7/",
            "n/n@7",
        ] {
            assert!(bad.parse::<Fence>().is_err(), "{bad}");
        }
        assert!(format!("n/n@7/{}", "h".repeat(600)).parse::<Fence>().is_err());
    }
}
