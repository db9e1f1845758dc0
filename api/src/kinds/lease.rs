//! `coordination.k8s.io/v1` Lease. Those in `kube-node-lease` are the nodes' heartbeats; the server defers their writes.

use super::BASE;
use crate::{BuiltIn, Column};

use super::columns::{AGE, text};

pub static LEASE: BuiltIn = BuiltIn {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    schema_type: "coordination/v1.Lease",
    columns: COLUMNS,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Holder", "Who holds the lease.", |lease, _| {
        lease.str_at(&["spec", "holderIdentity"]).into()
    }),
    AGE,
];
