//! Strategic merge patch: a merge patch that knows which lists have keys.
//!
//! The rules are those of k8s.io/apimachinery `strategicpatch`: the order of merged lists, the directives `$patch`,
//! `$deleteFromPrimitiveList`, `$setElementOrder` and `$retainKeys`, and nulls that remove.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{GO_MAP, PatchError, go_print, unmarshal};
use crate::schema::{Field, PatchStrategy, Schema, Shape};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Tree = Map<String, Value>;

/// The target, an object of the named type, with the patch merged in.
///
/// What the table does not know is merged as RFC 7386 says: maps are merged, all else is replaced.
pub fn strategic(
    schema: &Schema,
    type_name: &str,
    target: Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed(unmarshal(patch, GO_MAP)));
    };
    let target = match target {
        Value::Object(map) => map,
        _ => Tree::new(),
    };
    let shape = schema.find(type_name).map(Shape::Object);
    Merge { schema }.maps(target, patch, shape.as_ref()).map(Value::Object)
}

#[derive(Clone, Copy)]
struct Merge<'s> {
    schema: &'s Schema,
}

/// A field's shape and how it is patched; nothing where the table does not have it.
#[derive(Clone, Copy)]
struct Known<'s> {
    shape: Option<&'s Shape>,
    patch: Option<&'s PatchStrategy>,
}

impl<'s> Known<'s> {
    fn merges(self) -> bool {
        self.patch.is_some_and(|patch| patch.merge)
    }

    fn replaces(self) -> bool {
        self.patch.is_some_and(|patch| patch.replace)
    }

    fn merge_key(self) -> Option<&'s str> {
        self.patch.and_then(|patch| patch.merge_key.as_deref())
    }

    fn item(self) -> Option<&'s Shape> {
        match self.shape {
            Some(Shape::List(item)) => Some(item),
            _ => None,
        }
    }
}

impl<'s> Merge<'s> {
    fn known(self, of: Option<&'s Shape>, key: &str) -> Known<'s> {
        match of {
            Some(Shape::Object(id)) => {
                let field: Option<&Field> = self.schema.get(*id).field(key);
                Known { shape: field.map(|f| &f.shape), patch: field.map(|f| &f.patch) }
            }
            Some(Shape::Map(item)) => Known { shape: Some(item), patch: None },
            _ => Known { shape: None, patch: None },
        }
    }

    fn maps(
        self,
        mut target: Tree,
        patch: &Tree,
        of: Option<&'s Shape>,
    ) -> Result<Tree, PatchError> {
        if let Some(directive) = patch.get(PATCH) {
            return match directive.as_str() {
                Some("replace") => {
                    let mut new = patch.clone();
                    new.remove(PATCH);
                    Ok(cleaned(new))
                }
                Some("delete") => Ok(Tree::new()),
                // Merging is what happens anyway.
                Some("merge") => {
                    let mut rest = patch.clone();
                    rest.remove(PATCH);
                    self.maps(target, &rest, of)
                }
                _ => Err(bad_directive(directive)),
            };
        }
        retain_keys(&mut target, patch)?;
        let mut ordered: Vec<&str> = Vec::new();
        for (key, order) in patch {
            if let Some(list) = key.strip_prefix(SET_ORDER) {
                self.set_order(&mut target, patch, list, order, self.known(of, list))?;
                ordered.push(list);
            }
        }
        for (key, value) in patch {
            if let Some(list) = key.strip_prefix(DELETE_FROM_LIST) {
                let gone = value.as_array().ok_or_else(|| {
                    PatchError::Malformed(format!(
                        "invalid value of {key}: a list of scalars is wanted"
                    ))
                })?;
                if let Some(Value::Array(items)) = target.get_mut(list) {
                    without(items, gone);
                }
            } else if key != RETAIN_KEYS
                && !key.starts_with(SET_ORDER)
                && !ordered.contains(&key.as_str())
            {
                let merged = match target.remove(key) {
                    old if value.is_null() => {
                        drop(old);
                        continue;
                    }
                    None => without_directives(value),
                    Some(old) => Some(self.values(key, old, value, self.known(of, key))?),
                };
                if let Some(merged) = merged {
                    target.insert(key.clone(), merged);
                }
            }
        }
        Ok(target)
    }

    fn values(
        self,
        key: &str,
        old: Value,
        patch: &Value,
        known: Known<'s>,
    ) -> Result<Value, PatchError> {
        Ok(match (old, patch) {
            (Value::Object(old), Value::Object(patch)) if !known.replaces() => {
                Value::Object(self.maps(old, patch, known.shape)?)
            }
            (Value::Array(old), Value::Array(patch)) if known.merges() => {
                Value::Array(self.lists(key, old, patch, known)?)
            }
            (_, patch) => without_directives(patch).unwrap_or(Value::Null),
        })
    }

    fn lists(
        self,
        key: &str,
        old: Vec<Value>,
        patch: &[Value],
        known: Known<'s>,
    ) -> Result<Vec<Value>, PatchError> {
        if !old.iter().chain(patch).any(Value::is_object) {
            let mut merged = old.clone();
            let mut there: HashSet<String> = old.iter().map(Value::to_string).collect();
            for value in patch {
                if there.insert(value.to_string()) {
                    merged.push(value.clone());
                }
            }
            return Ok(in_order(merged, patch, &old, None));
        }
        let merge_key = known.merge_key().ok_or_else(|| {
            PatchError::DoesNotApply(format!("cannot merge lists without merge key for {key}"))
        })?;
        let (mut merged, plain) = special_items(key, &old, patch, merge_key)?;
        let places = merged.as_ref().map(|merged| places(merged, merge_key));
        let (Some(merged), Some(mut places)) = (merged.as_mut(), places) else {
            // `$patch: replace`: the rest of the patch is the list.
            return Ok(plain.into_iter().filter_map(without_directives).collect());
        };
        for item in &plain {
            let (map, name) = keyed(key, item, merge_key)?;
            match places.get(&name.to_string()) {
                Some(&at) => {
                    if let Value::Object(old) = merged[at].take() {
                        merged[at] = Value::Object(self.maps(old, map, known.item())?);
                    }
                }
                None => {
                    places.insert(name.to_string(), merged.len());
                    merged.extend(without_directives(item));
                }
            }
        }
        let plain: Vec<Value> = plain.into_iter().cloned().collect();
        Ok(in_order(std::mem::take(merged), &plain, &old, Some(merge_key)))
    }

    /// `$setElementOrder/<list>`: merges the list, then puts what the order names into that order.
    fn set_order(
        self,
        target: &mut Tree,
        patch: &Tree,
        list: &str,
        order: &Value,
        known: Known<'s>,
    ) -> Result<(), PatchError> {
        let order = order.as_array().ok_or_else(|| {
            PatchError::Malformed(format!("invalid value of {SET_ORDER}{list}: a list is wanted"))
        })?;
        let merge_key = known.merge_key();
        if let (Some(merge_key), true) = (merge_key, order.iter().any(Value::is_object)) {
            for item in order {
                keyed(list, item, merge_key)?;
            }
        }
        if let Some(Value::Array(items)) = patch.get(list) {
            check_order(items, order, merge_key)?;
        }
        let old = target.get(list).cloned();
        let mut merged = match (old.clone(), patch.get(list)) {
            (_, Some(Value::Null)) => {
                target.remove(list);
                return Ok(());
            }
            (None, None) => return Ok(()),
            (Some(Value::Array(old)), None) => old,
            (Some(old), Some(patch)) => match self.values(list, old, patch, known)? {
                Value::Array(merged) => merged,
                _ => return Err(not_a_list(list)),
            },
            (None, Some(patch)) => match without_directives(patch) {
                Some(Value::Array(new)) => new,
                _ => return Err(not_a_list(list)),
            },
            (Some(_), None) => return Err(not_a_list(list)),
        };
        if let Some(Value::Array(gone)) = patch.get(&format!("{DELETE_FROM_LIST}{list}")) {
            without(&mut merged, gone);
        }
        let old = match old {
            Some(Value::Array(old)) => old,
            _ => Vec::new(),
        };
        let key = merge_key.filter(|_| merged.iter().any(Value::is_object));
        target.insert(list.to_owned(), Value::Array(in_order(merged, order, &old, key)));
        Ok(())
    }
}

/// What a patch sets in a list must stand in the order that it gives the list: all of it, and one after another.
fn check_order(
    items: &[Value],
    order: &[Value],
    merge_key: Option<&str>,
) -> Result<(), PatchError> {
    fn name<'v>(item: &'v Value, merge_key: Option<&str>) -> Option<&'v Value> {
        merge_key.map_or(Some(item), |key| item.get(key))
    }
    let mut places = order.iter();
    let in_order =
        |item: &&Value| places.any(|place| name(place, merge_key) == name(item, merge_key));
    let set = items.iter().filter(|item| item.get(PATCH).is_none());
    if set.clone().take_while(in_order).count() == set.count() {
        return Ok(());
    }
    let (items, order) = (Value::from(items), Value::from(order));
    Err(PatchError::Unmergeable(format!(
        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
        go_print(&items),
        go_print(&order)
    )))
}

/// Removes from the target what `$retainKeys` does not name. What the patch sets must be named.
fn retain_keys(target: &mut Tree, patch: &Tree) -> Result<(), PatchError> {
    let Some(names) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let names = names.as_array().ok_or_else(|| {
        PatchError::Malformed("invalid value of $retainKeys: a list is wanted".to_owned())
    })?;
    let named = |key: &str| names.iter().any(|name| name.as_str() == Some(key));
    let unnamed =
        patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !named(key));
    if let Some((key, _)) = unnamed {
        return Err(PatchError::DoesNotApply(format!(
            "$retainKeys does not name {key:?}, which the patch sets"
        )));
    }
    target.retain(|key, _| named(key));
    Ok(())
}

/// Carries out the items of a patch that are directives. Returns the list that is left, `None` where it is replaced,
/// and the items that are none.
fn special_items<'p>(
    key: &str,
    old: &[Value],
    patch: &'p [Value],
    merge_key: &str,
) -> Result<(Option<Vec<Value>>, Vec<&'p Value>), PatchError> {
    let mut left = old.to_vec();
    let mut deleted = HashSet::new();
    let mut plain = Vec::with_capacity(patch.len());
    let mut replaced = false;
    for item in patch {
        match item.get(PATCH) {
            None => plain.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    let (_, gone) = keyed(key, item, merge_key)?;
                    deleted.insert(gone.to_string());
                }
                Some("replace") => replaced = true,
                _ => return Err(bad_directive(directive)),
            },
        }
    }
    if !deleted.is_empty() {
        left.retain(|item| {
            item.get(merge_key).is_none_or(|name| !deleted.contains(&name.to_string()))
        });
    }
    Ok(((!replaced).then_some(left), plain))
}

/// Takes out what is in another list. Looked up by text: both may have thousands.
fn without(items: &mut Vec<Value>, gone: &[Value]) {
    let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
    items.retain(|item| !gone.contains(&item.to_string()));
}

fn keyed<'v>(
    list: &str,
    item: &'v Value,
    merge_key: &str,
) -> Result<(&'v Tree, &'v Value), PatchError> {
    let Value::Object(map) = item else {
        return Err(PatchError::Malformed(format!(
            "an item of the list {list} is not a map: {item}"
        )));
    };
    let name = map.get(merge_key).filter(|name| !name.is_null()).ok_or_else(|| {
        let item = go_print(item);
        PatchError::Unmergeable(format!(
            "map: {item} does not contain declared merge key: {merge_key}"
        ))
    })?;
    Ok((map, name))
}

fn bad_directive(directive: &Value) -> PatchError {
    PatchError::Malformed(format!("unknown patch type found: {directive}"))
}

fn not_a_list(list: &str) -> PatchError {
    PatchError::Malformed(format!("{SET_ORDER}{list} is given for what is no list"))
}

/// What a list is sorted by: the value of the merge key, or the scalar itself.
fn identity(item: &Value, merge_key: Option<&str>) -> String {
    match merge_key {
        Some(key) => item.get(key).unwrap_or(&Value::Null).to_string(),
        None => item.to_string(),
    }
}

fn places(items: &[Value], merge_key: &str) -> HashMap<String, usize> {
    index(items, Some(merge_key))
}

/// The first place of each item.
fn index(items: &[Value], merge_key: Option<&str>) -> HashMap<String, usize> {
    let mut places = HashMap::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        places.entry(identity(item, merge_key)).or_insert(at);
    }
    places
}

/// Kubernetes' order of a merged list: what the patch names stands in the patch's order, the rest keeps the order that
/// the server has, and an item of the rest goes before a patched one only where the server has it before.
fn in_order(
    merged: Vec<Value>,
    patch: &[Value],
    server: &[Value],
    merge_key: Option<&str>,
) -> Vec<Value> {
    let wanted = index(patch, merge_key);
    let was = index(server, merge_key);
    let mut patched = Vec::new();
    let mut rest = Vec::new();
    for item in merged {
        let identity = identity(&item, merge_key);
        let old = was.get(&identity).copied();
        match wanted.get(&identity) {
            Some(&at) => patched.push((at, old, item)),
            None => rest.push((old, item)),
        }
    }
    patched.sort_by_key(|(at, ..)| *at);
    rest.sort_by_key(|(old, _)| old.unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(patched.len() + rest.len());
    let mut rest = rest.into_iter().peekable();
    for (_, patched_was, item) in patched {
        let comes_before =
            |(was, _): &(Option<usize>, Value)| was.zip(patched_was).is_some_and(|(a, b)| a < b);
        while let Some((_, before)) = rest.next_if(comes_before) {
            out.push(before);
        }
        out.push(item);
    }
    out.extend(rest.map(|(_, item)| item));
    out
}

/// The value without directives and nulls, as it goes where nothing was; `None` for one that only deletes.
fn without_directives(value: &Value) -> Option<Value> {
    match value {
        Value::Object(map) => match map.get(PATCH).and_then(Value::as_str) {
            Some("delete") => None,
            _ => Some(Value::Object(cleaned(map.clone()))),
        },
        Value::Array(items) => Some(Value::Array(
            items
                .iter()
                .filter(|item| !is_bare_replace(item))
                .filter_map(without_directives)
                .collect(),
        )),
        Value::Null => None,
        other => Some(other.clone()),
    }
}

/// The item that says that a list is replaced is no item of it.
fn is_bare_replace(item: &Value) -> bool {
    item.get(PATCH).and_then(Value::as_str) == Some("replace")
}

fn cleaned(map: Tree) -> Tree {
    map.into_iter()
        .filter(|(key, _)| {
            key != PATCH
                && key != RETAIN_KEYS
                && !key.starts_with(DELETE_FROM_LIST)
                && !key.starts_with(SET_ORDER)
        })
        .filter_map(|(key, value)| Some((key, without_directives(&value)?)))
        .collect()
}

#[cfg(test)]
mod tests;
