//! `metadata.managedFields`: who set what.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::{self, Difference, Purpose};
use super::set::{self, Set};
use crate::Object;
use crate::schema::{Schema, Type};

/// How many managers that do not apply are kept apart; Kubernetes' bound. Older ones become one.
const MAX_UPDATE_MANAGERS: usize = 10;

/// The name that the oldest managers are gathered under.
const ANCIENT: &str = "ancient-changes";

/// Who owns what was there before the first apply of an object that has no managed fields.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The longest name of a manager.
const MAX_NAME_BYTES: usize = 128;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    pub name: String,
    /// Through which subresource; empty for the object itself.
    pub subresource: String,
    /// The version that the write was made in: `apps/v1`.
    pub api_version: String,
    pub time: Timestamp,
}

impl Manager {
    /// The name of the query parameter `fieldManager`, else the first word of the user agent.
    pub fn name_of(field_manager: &str, user_agent: &str) -> String {
        if !field_manager.is_empty() {
            return field_manager.to_owned();
        }
        let word = user_agent.split('/').next().unwrap_or_default();
        let mut name: String = word.chars().filter(|c| !c.is_control()).collect();
        while name.len() > MAX_NAME_BYTES {
            name.pop();
        }
        if name.is_empty() { "unknown".to_owned() } else { name }
    }

    fn time(&self) -> String {
        format!("{:.0}", self.time)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub operation: Operation,
    /// RFC 3339; sorts as text.
    pub time: String,
    pub manager: String,
    pub api_version: String,
    pub subresource: String,
    pub set: Set,
}

impl Entry {
    pub fn new(manager: &Manager, operation: Operation, set: Set) -> Self {
        Self {
            operation,
            time: manager.time(),
            manager: manager.name.clone(),
            api_version: manager.api_version.clone(),
            subresource: manager.subresource.clone(),
            set,
        }
    }

    /// An applier is the same in every version.
    pub fn is_of(&self, manager: &Manager, operation: Operation) -> bool {
        self.operation == operation
            && self.manager == manager.name
            && self.subresource == manager.subresource
            && (operation == Operation::Apply || self.api_version == manager.api_version)
    }

    fn read(value: Value) -> Option<Self> {
        let Value::Object(mut map) = value else { return None };
        let operation = match map.get("operation")?.as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if map.get("fieldsType")?.as_str()? != "FieldsV1" {
            return None;
        }
        let set = match map.remove("fieldsV1") {
            Some(Value::Object(set)) => set,
            _ => Map::new(),
        };
        let mut text = |key: &str| match map.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        Some(Self {
            operation,
            time: text("time"),
            manager: text("manager"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            set,
        })
    }

    fn write(self) -> Value {
        let mut entry = json!({
            "apiVersion": self.api_version, "fieldsType": "FieldsV1", "manager": self.manager,
            "operation": self.operation.name(),
        });
        for (key, text) in [("time", self.time), ("subresource", self.subresource)] {
            if !text.is_empty() {
                entry[key] = text.into();
            }
        }
        entry["fieldsV1"] = Value::Object(self.set);
        entry
    }
}

/// The entries of an object; `None` where one is unreadable.
pub(super) fn entries(object: &Object) -> Option<Vec<Entry>> {
    match object.at(&["metadata", "managedFields"]) {
        Some(Value::Array(list)) => list.iter().cloned().map(Entry::read).collect(),
        _ => Some(Vec::new()),
    }
}

/// The entries of an object that is to be applied to.
pub(super) fn entries_before_apply(
    schema: &Schema,
    of: &Type,
    live: &Object,
    manager: &Manager,
) -> Vec<Entry> {
    let mut found = entries(live).unwrap_or_default();
    if found.is_empty() {
        let set = fields::all(schema, of, &live.0, Purpose::Added);
        let before = Manager { name: BEFORE_FIRST_APPLY.to_owned(), ..manager.clone() };
        found.push(Entry {
            subresource: String::new(),
            ..Entry::new(&before, Operation::Update, set)
        });
    }
    found
}

/// Takes from everybody what was changed or removed.
pub(super) fn take(entries: &mut [Entry], difference: &Difference) {
    for entry in entries {
        set::subtract(&mut entry.set, &difference.changed);
        set::subtract(&mut entry.set, &difference.removed);
    }
}

/// Writes the entries into the object, in Kubernetes' order, without empty ones.
pub(super) fn put(object: &mut Object, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    entries.sort_by(|a, b| {
        let order =
            |e: &Entry| (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone());
        order(a).cmp(&order(b)).then_with(|| a.subresource.cmp(&b.subresource))
    });
    cap(&mut entries);
    if entries.is_empty() {
        object.remove_at(&["metadata", "managedFields"]);
    } else {
        let list: Value = entries.into_iter().map(Entry::write).collect();
        object.set_at(&["metadata", "managedFields"], list);
    }
}

/// Gathers the oldest updaters under one name, of each version, until few enough are left. Expects the entries sorted.
fn cap(entries: &mut Vec<Entry>) {
    let updaters = entries.iter().filter(|entry| entry.operation == Operation::Update).count();
    let mut excess = updaters.saturating_sub(MAX_UPDATE_MANAGERS);
    if excess == 0 {
        return;
    }
    let mut ancient: Vec<Entry> = Vec::new();
    let mut kept: Vec<Entry> = Vec::new();
    for mut entry in std::mem::take(entries) {
        // A bucket takes one place itself.
        if entry.operation == Operation::Apply || (excess == 0 && entry.manager != ANCIENT) {
            kept.push(entry);
            continue;
        }
        match ancient.iter_mut().find(|bucket| bucket.api_version == entry.api_version) {
            Some(bucket) => {
                set::add(&mut bucket.set, &entry.set);
                bucket.time = bucket.time.clone().max(entry.time);
                excess = excess.saturating_sub(1);
            }
            None => {
                entry.manager = ANCIENT.to_owned();
                entry.subresource = String::new();
                ancient.push(entry);
            }
        }
    }
    let appliers = kept.iter().filter(|entry| entry.operation == Operation::Apply).count();
    kept.splice(appliers..appliers, ancient);
    *entries = kept;
}

/// Brings `metadata.managedFields` of `new` up to date after a write that is no apply.
///
/// What differs between `old` (`None`: a create) and `new` becomes the manager's and nobody else's. Where nothing
/// differs, the old entries stay byte by byte. A client may rewrite the entries itself: a readable list in `new` is
/// taken in place of the old one, and `[{}]` forgets all.
///
/// Both are decoded objects; `new` has its defaults already.
pub fn track_update(
    schema: &Schema,
    type_name: &str,
    old: Option<&Object>,
    new: &mut Object,
    manager: &Manager,
) {
    let Some(of) = schema.named(type_name) else { return };
    let nothing = Map::new();
    let difference = fields::difference(schema, of, old.map_or(&nothing, |old| &old.0), &new.0);
    let sent = new.remove_at(&["metadata", "managedFields"]);
    let stored = old.and_then(|old| old.at(&["metadata", "managedFields"]));
    let is_reset = sent
        .as_ref()
        .and_then(Value::as_array)
        .is_some_and(|list| matches!(list.as_slice(), [Value::Object(entry)] if entry.is_empty()));
    if is_reset {
        return;
    }
    let readable = |value: Value| -> Option<Vec<Entry>> {
        match value {
            Value::Array(list) if !list.is_empty() => list.into_iter().map(Entry::read).collect(),
            _ => None,
        }
    };
    // What the client was given and sends back is a copy already.
    let (before, own_list) = match sent {
        Some(sent) if Some(&sent) == stored => (Some(sent), None),
        Some(sent) => (stored.cloned(), readable(sent)),
        None => (stored.cloned(), None),
    };
    if difference.is_empty() && own_list.is_none() {
        if let Some(before) = before {
            new.set_at(&["metadata", "managedFields"], before);
        }
        return;
    }
    let mut entries = own_list.or_else(|| before.and_then(readable)).unwrap_or_default();
    if !difference.is_empty() {
        take(&mut entries, &difference);
        if !difference.changed.is_empty() {
            match entries.iter_mut().find(|entry| entry.is_of(manager, Operation::Update)) {
                Some(own) => {
                    set::add(&mut own.set, &difference.changed);
                    own.time = manager.time();
                }
                None => entries.push(Entry::new(manager, Operation::Update, difference.changed)),
            }
        }
    }
    put(new, entries);
}
