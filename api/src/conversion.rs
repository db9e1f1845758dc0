//! Kinds that are served in more than one group or version, and stored in one of them.

use serde_json::{Map, Value};

use crate::{BuiltIn, Kind, Object};

/// How a kind that is only served becomes the one that is stored: other names for fields of the top level. It is one to
/// one, so that nothing is lost in either direction; what managed fields say is renamed with it.
#[derive(Clone, Copy)]
pub struct Conversion {
    pub stored: &'static BuiltIn,
    /// As served, and as stored.
    pub renames: &'static [(&'static str, &'static str)],
}

impl dyn Kind {
    /// The kind whose objects are in the journal, in events and in the cache: itself, for most.
    pub fn stored(&'static self) -> &'static dyn Kind {
        self.conversion().map_or(self, |conversion| conversion.stored)
    }
}

impl dyn Kind + '_ {
    /// Makes an object of this kind the one that is stored.
    pub fn to_stored(&self, object: &mut Object) {
        if let Some(conversion) = self.conversion() {
            let renames = conversion.renames.iter().copied();
            rename(object, &self.api_version(), &conversion.stored.api_version(), renames);
        }
    }

    /// Makes what is stored an object of this kind.
    pub fn to_served(&self, object: &mut Object) {
        if let Some(conversion) = self.conversion() {
            let renames = conversion.renames.iter().map(|(served, stored)| (*stored, *served));
            rename(object, &conversion.stored.api_version(), &self.api_version(), renames);
        }
    }

    /// A path of this kind as that of the stored one.
    pub fn stored_path(&self, path: &str) -> String {
        let (first, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
        let renames = self.conversion().map_or(&[][..], |conversion| conversion.renames);
        let first = renames.iter().find(|(served, _)| *served == first).map_or(first, |r| r.1);
        rest.map_or_else(|| first.to_owned(), |rest| format!("{first}.{rest}"))
    }
}

fn rename(
    object: &mut Object,
    from: &str,
    to: &str,
    renames: impl Iterator<Item = (&'static str, &'static str)> + Clone,
) {
    object.set_at(&["apiVersion"], to);
    fields(&mut object.0, "", renames.clone());
    let managed = object.0.get_mut("metadata").and_then(|meta| meta.get_mut("managedFields"));
    for entry in managed.and_then(Value::as_array_mut).into_iter().flatten() {
        if entry["apiVersion"] == from {
            entry["apiVersion"] = to.into();
            if let Some(owned) = entry.get_mut("fieldsV1").and_then(Value::as_object_mut) {
                fields(owned, "f:", renames.clone());
            }
        }
    }
}

/// All are taken out before one is put in: a name may be another's old one.
fn fields(
    object: &mut Map<String, Value>,
    prefix: &str,
    renames: impl Iterator<Item = (&'static str, &'static str)>,
) {
    let moved: Vec<_> = renames
        .filter_map(|(from, to)| Some((to, object.remove(&format!("{prefix}{from}"))?)))
        .collect();
    object.extend(moved.into_iter().map(|(to, value)| (format!("{prefix}{to}"), value)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Registry;

    fn object(value: Value) -> Object {
        Object::try_from(value).unwrap()
    }

    #[test]
    fn there_and_back() {
        let kind = Registry::builtin().by_kind("events.k8s.io/v1", "Event").unwrap();
        let served = object(json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "a", "managedFields": [
                {"manager": "m", "apiVersion": "events.k8s.io/v1", "fieldsV1": {"f:note": {}, "f:type": {}}},
                {"manager": "n", "apiVersion": "other/v1", "fieldsV1": {"f:note": {}}},
            ]},
            "note": "text", "regarding": {"kind": "Pod"}, "type": "Normal", "reportingController": "c",
            "deprecatedCount": 3, "unknown": 1,
        }));
        let stored = object(json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": "a", "managedFields": [
                {"manager": "m", "apiVersion": "v1", "fieldsV1": {"f:message": {}, "f:type": {}}},
                {"manager": "n", "apiVersion": "other/v1", "fieldsV1": {"f:note": {}}},
            ]},
            "message": "text", "involvedObject": {"kind": "Pod"}, "type": "Normal", "reportingComponent": "c",
            "count": 3, "unknown": 1,
        }));
        let mut converted = served.clone();
        kind.to_stored(&mut converted);
        assert_eq!(converted, stored);
        kind.to_served(&mut converted);
        assert_eq!(converted, served);
        assert_eq!(kind.stored_path("regarding.name"), "involvedObject.name");
        assert_eq!(kind.stored_path("type"), "type");
    }

    /// Every field has its counterpart: nothing is lost on either way.
    #[test]
    fn all_fields_of_both_forms() {
        for kind in Registry::builtin().iter() {
            let Some(conversion) = kind.conversion() else { continue };
            let schema = crate::schema::builtin();
            let names = |type_name: &str| -> std::collections::BTreeSet<String> {
                let found = schema.named(type_name).unwrap();
                found.fields().iter().map(|field| field.name.to_string()).collect()
            };
            let served = names(kind.schema_type());
            let converted = served.iter().map(|name| kind.stored_path(name)).collect();
            assert_eq!(names(conversion.stored.schema_type()), converted);
        }
    }
}
