//! Server-side apply: what a manager says it wants, merged into what is there.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::fields::{self, Mode, Purpose};
use super::managed::{self, Entry, Manager, Operation};
use super::set::{self, Set};
use super::typed;
use crate::schema::{self, Field, FieldValidation, Schema, Shape, Type};
use crate::{Cause, Details, FieldError, Object, Reason, Status};

/// A field that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// As Kubernetes shows it: `"kubectl" using apps/v1`.
    pub manager: String,
    /// `.spec.replicas`
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409; sorted by manager.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// 400: the configuration cannot be applied by anybody.
    #[error("{0}")]
    Invalid(String),
    /// The configuration is not of its type: 500, as Kubernetes does not say whose fault it is.
    #[error("{0}")]
    Untyped(String),
}

impl ApplyError {
    pub fn status(&self) -> Status {
        match self {
            ApplyError::Invalid(why) => Status::bad_request(why.as_str()),
            ApplyError::Untyped(why) => Status::unknown(why.as_str()),
            ApplyError::Conflicts(conflicts) => Status {
                reason: Reason::Conflict,
                message: self.to_string(),
                details: Some(Box::new(Details {
                    causes: conflicts
                        .iter()
                        .map(|conflict| FieldError {
                            kind: Cause::FieldManagerConflict,
                            field: conflict.path.clone(),
                            message: format!("conflict with {}", conflict.manager),
                        })
                        .collect(),
                    ..Details::default()
                })),
            },
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.path
        );
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.path));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// The live object (`None`: a create) with a configuration applied, its managed fields brought up to date.
///
/// What the manager applied before and leaves out now is removed, unless somebody else owns it. Fields that others own
/// and that would change are conflicts; `force` takes them over. Applying the same twice gives the same object, so that
/// the second needs no write.
///
/// `applied` is decoded by [`schema::decode_keeping_zeros`], without what the manager may not set (`status` where there
/// is a subresource for it); defaults are the caller's, afterwards.
pub fn apply(
    schema: &Schema,
    type_name: &str,
    live: Option<&Object>,
    applied: &Object,
    manager: &Manager,
    force: bool,
) -> Result<Object, ApplyError> {
    let of = schema
        .named(type_name)
        .ok_or_else(|| ApplyError::Invalid(format!("no such type: {type_name}")))?;
    if applied.at(&["metadata", "managedFields"]).is_some() {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".to_owned()));
    }
    let merge = Merge { schema };
    typed_or(&applied.0, &typed::errors(schema, of, &applied.0))?;
    let applied_set = fields::all(schema, of, &applied.0, Purpose::Applied);

    let mut entries = match live {
        Some(live) => managed::entries_before_apply(schema, of, live, manager),
        None => Vec::new(),
    };
    let is_own = |entry: &Entry| entry.is_of(manager, Operation::Apply);
    let before = entries.iter().position(is_own).map(|at| entries.remove(at));

    let nothing = Map::new();
    let live_map = live.map_or(&nothing, |live| &live.0);
    let mut merged = live_map.clone();
    merge.fields(of, &mut merged, &applied.0);
    if let Some(before) = &before {
        let mut still_owned = applied_set.clone();
        entries.iter().for_each(|entry| set::add(&mut still_owned, &entry.set));
        // The name is nobody's, but keeps the metadata.
        set::add(&mut still_owned, &set::path(&["f:metadata", "f:name"]));
        merge.prune_fields(of, &mut merged, &before.set, &still_owned);
    }
    let (mut merged, _) =
        schema::decode(schema, type_name, Value::Object(merged), FieldValidation::Ignore)
            .map_err(|error| ApplyError::Invalid(error.to_string()))?;

    let difference = fields::difference(schema, of, live_map, &merged.0);
    if !force {
        let mut conflicts = Vec::new();
        for entry in &entries {
            for path in set::paths(&set::intersection(&entry.set, &difference.changed)) {
                conflicts.push(Conflict { manager: shown(entry), path });
            }
        }
        if !conflicts.is_empty() {
            conflicts.sort_by(|a, b| a.manager.cmp(&b.manager));
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    managed::take(&mut entries, &difference);
    let mut own = Entry::new(manager, Operation::Apply, applied_set);
    if let Some(before) = before
        && difference.is_empty()
        && before.set == own.set
        && before.api_version == own.api_version
    {
        own.time = before.time;
    }
    entries.push(own);
    managed::put(&mut merged, entries);
    Ok(merged)
}

/// Whether a configuration, as it came, has fields and values of its type only.
pub fn check_applied(
    schema: &Schema,
    type_name: &str,
    applied: &Map<String, Value>,
) -> Result<(), ApplyError> {
    let of = schema
        .named(type_name)
        .ok_or_else(|| ApplyError::Invalid(format!("no such type: {type_name}")))?;
    typed_or(applied, &typed::errors(schema, of, applied))
}

fn typed_or(applied: &Map<String, Value>, errors: &[String]) -> Result<(), ApplyError> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApplyError::Untyped(typed::told(applied, errors))),
    }
}

fn shown(entry: &Entry) -> String {
    let mut text = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        text += &format!(" with subresource {:?}", entry.subresource);
    }
    if entry.operation == Operation::Update {
        text += &format!(" using {}", entry.api_version);
    }
    text
}

#[derive(Clone, Copy)]
struct Merge<'s> {
    schema: &'s Schema,
}

impl<'s> Merge<'s> {
    fn fields(self, of: &'s Type, into: &mut Map<String, Value>, from: &Map<String, Value>) {
        for (key, value) in from {
            let known = of.field(key);
            match (into.get_mut(key), known) {
                (Some(old), Some(field)) => self.value(&field.shape, Some(field), old, value),
                _ => _ = into.insert(key.clone(), value.clone()),
            }
        }
    }

    fn value(self, shape: &'s Shape, field: Option<&'s Field>, into: &mut Value, from: &Value) {
        let mode = fields::mode(self.schema, shape, field);
        match (&mode, into, from) {
            (Mode::Struct(of), Value::Object(into), Value::Object(from)) => {
                self.fields(of, into, from);
            }
            (Mode::Map(item), Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    match into.get_mut(key) {
                        Some(old) => self.value(item, None, old, value),
                        None => _ = into.insert(key.clone(), value.clone()),
                    }
                }
            }
            (Mode::Set | Mode::Keyed { .. }, Value::Array(into), Value::Array(from)) => {
                self.list(&mode, into, from);
            }
            (_, into, from) => into.clone_from(from),
        }
    }

    /// The applied items in their order; a live item that is not applied stays before the next that is.
    fn list(self, mode: &Mode<'s>, into: &mut Vec<Value>, from: &[Value]) {
        let element = |item: &Value| match mode {
            Mode::Keyed { keys, item: shape } => {
                fields::key_element(self.schema, keys, shape, item)
            }
            _ => Some(item.to_string()),
        };
        let applied: Vec<Option<String>> = from.iter().map(element).collect();
        let (names, mut live): (Vec<Option<String>>, Vec<Option<Value>>) =
            into.drain(..).map(|item| (element(&item), Some(item))).unzip();
        let wanted: HashSet<&str> = applied.iter().flatten().map(String::as_str).collect();
        let is_applied = |at: usize| names[at].as_deref().is_some_and(|name| wanted.contains(name));
        // By name, the last place first.
        let mut places: HashMap<&str, Vec<usize>> = HashMap::with_capacity(names.len());
        for (at, name) in names.iter().enumerate().rev() {
            if let Some(name) = name {
                places.entry(name).or_default().push(at);
            }
        }
        let mut next = 0;
        for (item, name) in from.iter().zip(&applied) {
            while next < live.len() && (live[next].is_none() || !is_applied(next)) {
                into.extend(live[next].take());
                next += 1;
            }
            let place = name.as_deref().and_then(|name| places.get_mut(name)?.pop());
            let old = place.and_then(|at| live[at].take());
            let mut new = old.unwrap_or_else(|| item.clone());
            if let Mode::Keyed { item: shape, .. } = mode {
                self.value(shape, None, &mut new, item);
            }
            into.push(new);
        }
        for (at, item) in live.into_iter().enumerate() {
            // A second item of the same key is gone: the applied one stands for all.
            into.extend(item.filter(|_| !is_applied(at)));
        }
    }

    /// Removes what was applied before and is owned by nobody now.
    fn prune_fields(self, of: &'s Type, map: &mut Map<String, Value>, before: &Set, now: &Set) {
        for (element, was) in set::below(before) {
            let Some(key) = element.strip_prefix("f:") else { continue };
            let Some(field) = of.field(key) else { continue };
            match (map.get_mut(key), set::get(now, element)) {
                (None, _) => {}
                (Some(_), None) => _ = map.remove(key),
                (Some(value), Some(now)) => self.prune(&field.shape, Some(field), value, was, now),
            }
        }
    }

    fn prune(
        self,
        shape: &'s Shape,
        field: Option<&'s Field>,
        value: &mut Value,
        before: &Set,
        now: &Set,
    ) {
        let nothing = Set::new();
        let is_gone =
            |was: &Set, now: Option<&Set>| set::is_member(was) && !now.is_some_and(set::is_member);
        match (fields::mode(self.schema, shape, field), value) {
            (Mode::Struct(of), Value::Object(map)) => self.prune_fields(of, map, before, now),
            (Mode::Map(item), Value::Object(map)) => {
                for (element, was) in set::below(before) {
                    let Some(key) = element.strip_prefix("f:") else { continue };
                    let now = set::get(now, element);
                    if is_gone(was, now) {
                        map.remove(key);
                    } else if let Some(value) = map.get_mut(key) {
                        self.prune(item, None, value, was, now.unwrap_or(&nothing));
                    }
                }
            }
            (Mode::Set, Value::Array(items)) => items.retain(|item| {
                let element = format!("v:{item}");
                !set::get(before, &element).is_some_and(|was| is_gone(was, set::get(now, &element)))
            }),
            (Mode::Keyed { keys, item: shape }, Value::Array(items)) => items.retain_mut(|item| {
                let element = fields::key_element(self.schema, keys, shape, item);
                let Some(element) = element else { return true };
                let Some(was) = set::get(before, &element) else { return true };
                let now = set::get(now, &element);
                if is_gone(was, now) {
                    return false;
                }
                self.prune(shape, None, item, was, now.unwrap_or(&nothing));
                true
            }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
