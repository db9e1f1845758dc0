//! An object as a JSON tree, with accessors for what every object has.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Revision, Uid};

/// A Kubernetes object: a JSON map that has (or will get) `apiVersion`, `kind` and `metadata`.
///
/// The accessors never fail: what is absent or of another type reads as empty. Whether a tree is well-formed is
/// decided once, by strict decoding against the schema; after that the accessors are exact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

impl Object {
    pub fn api_version(&self) -> &str {
        self.str_at(&["apiVersion"])
    }

    pub fn kind(&self) -> &str {
        self.str_at(&["kind"])
    }

    pub fn name(&self) -> &str {
        self.str_at(&["metadata", "name"])
    }

    pub fn namespace(&self) -> &str {
        self.str_at(&["metadata", "namespace"])
    }

    pub fn uid(&self) -> Option<Uid> {
        match self.str_at(&["metadata", "uid"]) {
            "" => None,
            uid => Some(Uid(uid.into())),
        }
    }

    /// `None` where it is absent, empty or not a number.
    pub fn resource_version(&self) -> Option<Revision> {
        self.str_at(&["metadata", "resourceVersion"]).parse().ok()
    }

    pub fn is_being_deleted(&self) -> bool {
        self.at(&["metadata", "deletionTimestamp"]).is_some_and(|v| !v.is_null())
    }

    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.at(&["metadata", "finalizers"])
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "labels", key])?.as_str()
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "annotations", key])?.as_str()
    }

    /// The value below nested maps, `None` where a step is absent. Never looks into lists.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, step| value.as_object()?.get(*step))
    }

    /// The string below nested maps; empty where it is absent or no string.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// Sets a value below nested maps, making the maps on the way. What stands on the way and is no map is replaced.
    pub fn set_at(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((last, way)) = path.split_last() else { return };
        let mut map = &mut self.0;
        for step in way {
            let next = map.entry(*step).or_insert_with(|| Value::Object(Map::new()));
            if !next.is_object() {
                *next = Value::Object(Map::new());
            }
            let Value::Object(next) = next else { return };
            map = next;
        }
        map.insert((*last).to_owned(), value.into());
    }

    /// Removes and returns a value below nested maps.
    pub fn remove_at(&mut self, path: &[&str]) -> Option<Value> {
        let (last, way) = path.split_last()?;
        way.iter()
            .try_fold(&mut self.0, |map, step| map.get_mut(*step)?.as_object_mut())?
            .remove(*last)
    }
}

impl Deref for Object {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Object {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// A JSON value that is no map is not an object.
impl TryFrom<Value> for Object {
    type Error = Value;

    fn try_from(value: Value) -> Result<Self, Value> {
        match value {
            Value::Object(map) => Ok(Object(map)),
            other => Err(other),
        }
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Value {
        Value::Object(object.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn set_get_remove_below_nested_maps() {
        let mut object = Object::default();
        object.set_at(&["metadata", "labels", "app"], "web");
        assert_eq!(object.label("app"), Some("web"));
        assert_eq!(object.str_at(&["metadata", "name"]), "");
        object.set_at(&["metadata", "labels", "app", "deeper"], 1);
        assert_eq!(
            Value::from(object.clone()),
            json!({"metadata": {"labels": {"app": {"deeper": 1}}}})
        );
        assert_eq!(object.remove_at(&["metadata", "labels", "app", "deeper"]), Some(json!(1)));
        assert_eq!(object.remove_at(&["no", "such"]), None);
    }
}
