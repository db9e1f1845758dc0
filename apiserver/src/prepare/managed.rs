//! Who owns which fields: `metadata.managedFields`.

use warren_api::patch::{Manager, track_update};
use warren_api::{Object, schema};

use super::Scene;

/// Records the manager of what this create or update changed; an apply has done so itself.
pub(crate) fn update(scene: &Scene<'_>, old: Option<&Object>, new: &mut Object) {
    if scene.applied {
        return;
    }
    track_update(schema::builtin(), scene.kind.schema_type(), old, new, &manager(scene));
}

pub(crate) fn manager(scene: &Scene<'_>) -> Manager {
    Manager {
        name: scene.manager.to_owned(),
        subresource: scene.subresource.map_or(String::new(), |sub| sub.name().to_owned()),
        // An apply is merged in the client's form.
        api_version: if scene.applied { scene.served } else { scene.kind }.api_version(),
        time: scene.now,
    }
}
