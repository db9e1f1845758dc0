//! `coordination.k8s.io/v1` Lease. Those in `kube-node-lease` are the nodes' heartbeats; the server defers their writes.

use super::BASE;
use crate::tree::{self, Path};
use crate::validation::non_negative;
use crate::{BuiltIn, Column, ErrorList, Object};

use super::columns::{AGE, text};

pub static LEASE: BuiltIn = BuiltIn {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    schema_type: "coordination/v1.Lease",
    columns: COLUMNS,
    validate,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Holder", "Who holds the lease.", |lease, _| {
        lease.str_at(&["spec", "holderIdentity"]).into()
    }),
    AGE,
];

fn validate(lease: &Object, errors: &mut ErrorList) {
    let Some(spec) = lease.at(&["spec"]).and_then(|spec| spec.as_object()) else { return };
    let path = Path::root("spec");
    if let Some(seconds) = tree::int(spec, "leaseDurationSeconds").filter(|s| *s <= 0) {
        errors.invalid(path.field("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    non_negative(spec, "leaseTransitions", &path, errors);
    let preferred = tree::text(spec, "preferredHolder");
    if !preferred.is_empty() && tree::text(spec, "strategy").is_empty() {
        let message = "strategy must be specified if preferredHolder is specified";
        errors.forbidden(path.field("preferredHolder"), message);
    }
}
