//! `v1` Namespace.

use serde_json::json;

use super::BASE;
use crate::tree::{self, Path};
use crate::validation::{each, names};
use crate::{BuiltIn, Column, ErrorList, Object, Scope, Subresource};

use super::columns::{AGE, text};

pub static NAMESPACE: BuiltIn = BuiltIn {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    scope: Scope::Cluster,
    subresources: &[Subresource::Status, Subresource::Finalize],
    schema_type: "core/v1.Namespace",
    columns: COLUMNS,
    selectable_fields: &["status.phase"],
    on_create,
    on_update,
    default,
    validate,
    validate_name: names::label,
    ..BASE
};

const COLUMNS: &[Column] = &[
    text("Status", "Active, or Terminating while it is being emptied.", |namespace, _| {
        namespace.str_at(&["status", "phase"]).into()
    }),
    AGE,
];

/// The label by which selectors find a namespace by its name.
const NAME: &str = "kubernetes.io/metadata.name";

/// Whoever creates a namespace may add finalizers to the one that empties it.
fn on_create(namespace: &mut Object) {
    let spec = tree::make_map(namespace, "spec");
    if tree::texts(spec, "finalizers").any(|f| f == "kubernetes") {
        return;
    }
    let mut finalizers = tree::list(spec, "finalizers").to_vec();
    finalizers.push("kubernetes".into());
    spec.insert("finalizers".to_owned(), finalizers.into());
}

/// `spec.finalizers` changes through the subresource only.
fn on_update(new: &mut Object, old: &Object) {
    match old.at(&["spec", "finalizers"]) {
        Some(finalizers) => new.set_at(&["spec", "finalizers"], finalizers.clone()),
        None => {
            new.remove_at(&["spec", "finalizers"]);
        }
    }
}

fn default(namespace: &mut Object) {
    let name = namespace.name().to_owned();
    if !name.is_empty() {
        let metadata = tree::make_map(namespace, "metadata");
        tree::make_map(metadata, "labels").insert(NAME.to_owned(), name.into());
    }
    tree::default_absent(namespace, "spec", json!({}));
    tree::default_zero(tree::make_map(namespace, "status"), "phase", "Active");
}

fn validate(namespace: &Object, errors: &mut ErrorList) {
    let Some(spec) = namespace.at(&["spec"]).and_then(|spec| spec.as_object()) else { return };
    let path = Path::root("spec");
    for (i, name) in tree::texts(spec, "finalizers").enumerate() {
        let path = path.field("finalizers");
        let messages = names::label_key(name);
        if messages.is_empty() && !name.contains('/') && name != "kubernetes" {
            let message = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(path.index(i), name, message);
        }
        each(messages, errors, path.index(i), name);
    }
}
