//! OpenAPI documents of the served kinds, made from the table of types and the registry.
//!
//! `kubectl` reads them to explain fields, to learn that the server validates (`fieldValidation` on PATCH), and, in old
//! releases, to merge lists. Making one takes milliseconds: make each once.

mod descriptions;
mod paths;
mod proto;
mod schemas;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

pub use proto::v2_protobuf;

use crate::{Kind, Registry};

/// The media type of [`v2_protobuf`] in answers. Clients ask for it with an `@` before `v1.0`, which is no media type.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The release of Kubernetes whose API this is.
const VERSION: &str = "v1.34.0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

/// `/openapi/v3`: where the document of each group-version is. An address changes when its document does: the hash is the
/// document's own, so that each is made once for it.
pub fn v3_index(registry: &Registry) -> Value {
    let paths = group_versions(registry).into_iter().filter_map(|(group, version)| {
        let path = prefix(group, version)[1..].to_owned();
        let document = v3(registry, group, version)?.to_string();
        let hash = Sha256::digest(document.as_bytes());
        let hash: String = hash.iter().take(16).map(|byte| format!("{byte:02X}")).collect();
        let url = format!("/openapi/v3/{path}?hash={hash}");
        Some((path, json!({"serverRelativeURL": url})))
    });
    json!({"paths": paths.collect::<Map<_, _>>()})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/apps/v1`; `None` for a group-version that is not served.
pub fn v3(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<_> =
        registry.iter().filter(|k| k.group() == group && k.version() == version).collect();
    if kinds.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths::of_kinds(&kinds, Dialect::V3),
        "components": {"schemas": schemas::of_kinds(&kinds, Dialect::V3)},
    }))
}

/// `/openapi/v2`: one document of all kinds.
pub fn v2(registry: &Registry) -> Value {
    let kinds: Vec<_> = registry.iter().collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths::of_kinds(&kinds, Dialect::V2),
        "definitions": schemas::of_kinds(&kinds, Dialect::V2),
    })
}

fn group_versions(registry: &Registry) -> BTreeSet<(&'static str, &'static str)> {
    registry.iter().map(|kind| (kind.group(), kind.version())).collect()
}

/// `/api/v1`, `/apis/apps/v1`
fn prefix(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn kind_gvk(kind: &dyn Kind) -> Value {
    gvk(kind.group(), kind.version(), kind.kind())
}

/// A reference to the schema of a type.
fn reference(dialect: Dialect, type_name: &str) -> Value {
    let folder = match dialect {
        Dialect::V2 => "definitions",
        Dialect::V3 => "components/schemas",
    };
    json!({"$ref": format!("#/{folder}/{}", schemas::public_name(type_name))})
}

#[cfg(test)]
mod tests;
