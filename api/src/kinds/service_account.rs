//! `v1` ServiceAccount.

use super::BASE;
use crate::BuiltIn;

pub static SERVICE_ACCOUNT: BuiltIn = BuiltIn {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    schema_type: "core/v1.ServiceAccount",
    ..BASE
};
