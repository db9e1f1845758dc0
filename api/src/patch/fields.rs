//! Which fields an object has, and in which two objects differ, seen as server-side apply sees them.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::set::{self, Set};
use crate::schema::{Field, ListType, Schema, Shape, Type};

/// What nobody owns: identity, and what the server writes.
const UNOWNED_METADATA: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// How a value is owned: as a whole, or by what it has.
pub(super) enum Mode<'s> {
    Leaf,
    Struct(&'s Type),
    Map(&'s Shape),
    Set,
    Keyed { keys: &'s [Box<str>], item: &'s Shape },
}

pub(super) fn mode<'s>(schema: &'s Schema, shape: &'s Shape, field: Option<&'s Field>) -> Mode<'s> {
    let atomic = field.and_then(|field| field.atomic);
    match shape {
        Shape::Object(id) => {
            let of = schema.get(*id);
            if atomic.unwrap_or(of.atomic) { Mode::Leaf } else { Mode::Struct(of) }
        }
        Shape::Map(item) if atomic != Some(true) => Mode::Map(item),
        Shape::List(item) => match field.map(|field| &field.list_type) {
            Some(ListType::Set) => Mode::Set,
            Some(ListType::Map(keys)) => Mode::Keyed { keys, item },
            _ => Mode::Leaf,
        },
        _ => Mode::Leaf,
    }
}

/// The path element of a list item: its keys, those that it leaves out with their defaults. `None` without any. An empty
/// key that will not be written is left out: the stored item would not be found again.
pub(super) fn key_element(
    schema: &Schema,
    keys: &[Box<str>],
    item_shape: &Shape,
    item: &Value,
) -> Option<String> {
    let item = item.as_object()?;
    let of = schema.type_below(item_shape);
    let mut named = Map::new();
    for key in keys {
        let field = of.and_then(|of| of.field(key));
        let is_absent =
            |value: &Value| value.is_null() || field.is_some_and(|field| field.leaves_out(value));
        let value =
            item.get(&**key).filter(|value| !is_absent(value)).or_else(|| field?.default.as_ref());
        if let Some(value) = value {
            named.insert(key.to_string(), value.clone());
        }
    }
    (!named.is_empty()).then(|| format!("k:{}", Value::Object(named)))
}

fn value_element(value: &Value) -> String {
    format!("v:{value}")
}

/// The elements of a list's items; `None` where one has none or two have the same.
fn elements<'v>(
    schema: &Schema,
    mode: &Mode<'_>,
    items: &'v [Value],
) -> Option<HashMap<String, &'v Value>> {
    let mut found = HashMap::with_capacity(items.len());
    for item in items {
        let element = match mode {
            Mode::Keyed { keys, item: shape } => key_element(schema, keys, shape, item)?,
            _ => value_element(item),
        };
        if found.insert(element, item).is_some() {
            return None;
        }
    }
    Some(found)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// What an applied configuration names.
    Applied,
    /// What a write added. A container that was not there is an added field as well.
    Added,
}

/// All fields of an object, below the root, without those that nobody owns.
pub(super) fn all(
    schema: &Schema,
    of: &Type,
    object: &Map<String, Value>,
    purpose: Purpose,
) -> Set {
    let walk = Walk { schema, purpose };
    let mut set = Set::new();
    for (key, value) in owned(object) {
        let Some(field) = of.field(key) else { continue };
        let below = match (key.as_str(), value) {
            ("metadata", Value::Object(metadata)) => {
                let Some(of) = schema.type_below(&field.shape) else { continue };
                let metadata = metadata.iter().filter(|(key, _)| is_owned_metadata(key));
                set::node(walk.fields(of, metadata), false)
            }
            _ => walk.field(field, value),
        };
        if let Some(below) = below {
            set.insert(format!("f:{key}"), Value::Object(below));
        }
    }
    set
}

fn owned(object: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    object.iter().filter(|(key, _)| *key != "apiVersion" && *key != "kind")
}

fn is_owned_metadata(key: &str) -> bool {
    !UNOWNED_METADATA.contains(&key)
}

#[derive(Clone, Copy)]
struct Walk<'s> {
    schema: &'s Schema,
    purpose: Purpose,
}

impl<'s> Walk<'s> {
    /// A field that is there. In Go, an embedded struct and a list without `omitempty` are always there: not added.
    fn field(self, field: &'s Field, value: &Value) -> Option<Set> {
        let always =
            !field.omit_empty || (matches!(field.shape, Shape::Object(_)) && !field.pointer);
        let is_member = self.purpose == Purpose::Added && !always;
        self.value(&field.shape, Some(field), value, is_member)
    }

    fn value(
        self,
        shape: &'s Shape,
        field: Option<&'s Field>,
        value: &Value,
        is_member: bool,
    ) -> Option<Set> {
        let mode = mode(self.schema, shape, field);
        match (&mode, value) {
            (Mode::Struct(of), Value::Object(map)) if !map.is_empty() => {
                set::node(self.fields(of, map), is_member)
            }
            (Mode::Map(item), Value::Object(map)) if !map.is_empty() => {
                let entries = map.iter().filter_map(|(key, value)| {
                    let below = self.value(item, None, value, true)?;
                    Some((format!("f:{key}"), Value::Object(below)))
                });
                set::node(entries.collect(), is_member)
            }
            (Mode::Keyed { .. } | Mode::Set, Value::Array(items)) if !items.is_empty() => {
                let Some(items) = elements(self.schema, &mode, items) else {
                    return Some(Set::new());
                };
                let mut below = Set::new();
                for (element, item) in items {
                    let node = match &mode {
                        Mode::Keyed { item: shape, .. } => self.value(shape, None, item, true),
                        _ => None,
                    };
                    below.insert(element, Value::Object(node.unwrap_or_default()));
                }
                set::node(below, is_member)
            }
            _ => Some(Set::new()),
        }
    }

    fn fields<'v>(
        self,
        of: &'s Type,
        map: impl IntoIterator<Item = (&'v String, &'v Value)>,
    ) -> Set {
        let mut below = Set::new();
        for (key, value) in map {
            if let Some(node) = of.field(key).and_then(|field| self.field(field, value)) {
                below.insert(format!("f:{key}"), Value::Object(node));
            }
        }
        below
    }
}

/// How a new object differs from an old one.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Difference {
    /// Added or modified.
    pub changed: Set,
    pub removed: Set,
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    fn put(&mut self, element: impl FnOnce() -> String, below: Nodes) {
        if below.changed.is_none() && below.removed.is_none() {
            return;
        }
        let element = element();
        if let Some(removed) = below.removed {
            self.removed.insert(element.clone(), Value::Object(removed));
        }
        if let Some(changed) = below.changed {
            self.changed.insert(element, Value::Object(changed));
        }
    }
}

#[derive(Default)]
struct Nodes {
    changed: Option<Set>,
    removed: Option<Set>,
}

impl From<Difference> for Nodes {
    fn from(below: Difference) -> Self {
        Nodes { changed: set::node(below.changed, false), removed: set::node(below.removed, false) }
    }
}

/// Where two objects of a type differ, without the fields that nobody owns.
pub(super) fn difference(
    schema: &Schema,
    of: &Type,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
) -> Difference {
    let walk = Walk { schema, purpose: Purpose::Added };
    let mut found = Difference::default();
    let empty = Map::new();
    for field in of.fields() {
        let name = &*field.name;
        if name == "apiVersion" || name == "kind" {
            continue;
        }
        let (old, new) = (old.get(name), new.get(name));
        if old == new {
            continue;
        }
        if name == "metadata" {
            let Some(of) = schema.type_below(&field.shape) else { continue };
            let old = old.and_then(Value::as_object).unwrap_or(&empty);
            let new = new.and_then(Value::as_object).unwrap_or(&empty);
            let below = walk.differing_fields(of, old, new, is_owned_metadata);
            found.put(|| "f:metadata".to_owned(), below.into());
        } else {
            found.put(|| format!("f:{name}"), walk.differing(&field.shape, Some(field), old, new));
        }
    }
    found
}

impl<'s> Walk<'s> {
    fn differing(
        self,
        shape: &'s Shape,
        field: Option<&'s Field>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Nodes {
        let whole = |value| match field {
            Some(field) => self.field(field, value),
            None => self.value(shape, None, value, true),
        };
        let (old, new) = match (old, new) {
            (None, None) => return Nodes::default(),
            (None, Some(new)) => return Nodes { changed: whole(new), removed: None },
            (Some(old), None) => return Nodes { changed: None, removed: whole(old) },
            (Some(old), Some(new)) => (old, new),
        };
        let mode = mode(self.schema, shape, field);
        match (&mode, old, new) {
            (Mode::Struct(of), Value::Object(old), Value::Object(new)) => {
                self.differing_fields(of, old, new, |_| true).into()
            }
            (Mode::Map(item), Value::Object(old), Value::Object(new)) => {
                let mut found = Difference::default();
                for (key, old) in old {
                    let below = self.differing(item, None, Some(old), new.get(key));
                    found.put(|| format!("f:{key}"), below);
                }
                for (key, new) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                    found.put(|| format!("f:{key}"), self.differing(item, None, None, Some(new)));
                }
                found.into()
            }
            // Most lists that are compared are the same.
            (_, old, new) if old == new => Nodes::default(),
            (Mode::Keyed { .. } | Mode::Set, Value::Array(old), Value::Array(new)) => {
                let (Some(old), Some(new)) =
                    (elements(self.schema, &mode, old), elements(self.schema, &mode, new))
                else {
                    return Nodes { changed: Some(Set::new()), removed: None };
                };
                let mut found = Difference::default();
                let every = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
                for element in every {
                    let (old, new) = (old.get(element).copied(), new.get(element).copied());
                    let below = match &mode {
                        Mode::Keyed { item, .. } => self.differing(item, None, old, new),
                        _ => Nodes {
                            changed: old.is_none().then(Set::new),
                            removed: new.is_none().then(Set::new),
                        },
                    };
                    found.put(|| element.clone(), below);
                }
                found.into()
            }
            _ => Nodes { changed: Some(Set::new()), removed: None },
        }
    }

    fn differing_fields(
        self,
        of: &'s Type,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        wanted: fn(&str) -> bool,
    ) -> Difference {
        let mut found = Difference::default();
        let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
        let all = old
            .iter()
            .map(|(key, old)| (key, Some(old), new.get(key)))
            .chain(added.map(|(key, new)| (key, None, Some(new))));
        for (key, old, new) in all.filter(|(key, ..)| wanted(key)) {
            if let Some(field) = of.field(key) {
                let below = self.differing(&field.shape, Some(field), old, new);
                found.put(|| format!("f:{key}"), below);
            }
        }
        found
    }
}
