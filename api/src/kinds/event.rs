//! `v1` Event.

use super::BASE;
use crate::{BuiltIn, Object};

pub static EVENT: BuiltIn = BuiltIn {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema_type: "core/v1.Event",
    selectable_fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    field: Some(field),
    ..BASE
};

/// `source` is the component that reported, in whichever of the two fields it stands.
fn field(event: &Object, path: &str) -> Option<String> {
    (path == "source").then(|| match event.str_at(&["source", "component"]) {
        "" => event.str_at(&["reportingComponent"]).to_owned(),
        component => component.to_owned(),
    })
}
