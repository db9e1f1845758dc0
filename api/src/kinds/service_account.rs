//! `v1` ServiceAccount.

use super::BASE;
use crate::{BuiltIn, Column};

use super::columns::{AGE, length, text};

pub static SERVICE_ACCOUNT: BuiltIn = BuiltIn {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    schema_type: "core/v1.ServiceAccount",
    columns: COLUMNS,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Secrets", "How many secrets the account lists.", |account, _| {
        length(account.get("secrets")).into()
    }),
    AGE,
];
