//! Sets of fields in the form in which `managedFields` keep them (`fieldsV1`), so that nothing is converted.
//!
//! A set is a map from path elements to nodes: `f:name` a field, `k:{"name":"x"}` a list item by its keys, `v:"x"` a list
//! item by its value. A node is a map of the elements below it. It is itself in the set when it is empty or has the
//! element `.`; a node that is not in the set and has nothing below it does not occur. The root is never in the set.

use serde_json::{Map, Value};

pub(super) type Set = Map<String, Value>;

const SELF: &str = ".";

/// Whether the node itself is in the set.
pub(super) fn is_member(node: &Set) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

/// The nodes below; what is no node is skipped.
pub(super) fn below(node: &Set) -> impl Iterator<Item = (&String, &Set)> {
    node.iter()
        .filter(|(element, _)| *element != SELF)
        .filter_map(|(element, below)| Some((element, below.as_object()?)))
}

pub(super) fn get<'s>(node: &'s Set, element: &str) -> Option<&'s Set> {
    node.get(element)?.as_object()
}

/// A node of what is below it; `None` where that is nothing and the node is not in the set.
pub(super) fn node(mut below: Set, is_member: bool) -> Option<Set> {
    if below.is_empty() {
        return is_member.then_some(below);
    }
    if is_member {
        below.insert(SELF.to_owned(), Value::Object(Set::new()));
    }
    Some(below)
}

/// The set of one path.
pub(super) fn path(elements: &[&str]) -> Set {
    let mut set = Set::new();
    if let Some((first, rest)) = elements.split_first() {
        set.insert((*first).to_owned(), Value::Object(path(rest)));
    }
    set
}

/// Adds all of `from`, both being what is below a node.
pub(super) fn add(into: &mut Set, from: &Set) {
    for (element, more) in below(from) {
        match into.get_mut(element) {
            Some(Value::Object(there)) => {
                let was_member = is_member(there) || is_member(more);
                add(there, more);
                mark(there, was_member);
            }
            _ => _ = into.insert(element.clone(), Value::Object(more.clone())),
        }
    }
}

/// Takes away all of `gone`; what else is below a taken element stays.
pub(super) fn subtract(from: &mut Set, gone: &Set) {
    if gone.is_empty() {
        return;
    }
    from.retain(|element, there| {
        let (Value::Object(there), Some(gone)) = (there, get(gone, element)) else { return true };
        if element == SELF {
            return true;
        }
        let stays = is_member(there) && !is_member(gone);
        subtract(there, gone);
        mark(there, stays);
        stays || !there.is_empty()
    });
}

/// What both have.
pub(super) fn intersection(a: &Set, b: &Set) -> Set {
    let mut both = Set::new();
    for (element, in_a) in below(a) {
        if let Some(in_b) = get(b, element) {
            let is_shared = is_member(in_a) && is_member(in_b);
            if let Some(node) = node(intersection(in_a, in_b), is_shared) {
                both.insert(element.clone(), Value::Object(node));
            }
        }
    }
    both
}

fn mark(node: &mut Set, is_member: bool) {
    node.remove(SELF);
    if is_member && !node.is_empty() {
        node.insert(SELF.to_owned(), Value::Object(Set::new()));
    }
}

/// The paths of all members, as Kubernetes shows them: `.spec.containers[name="x"].image`.
pub(super) fn paths(set: &Set) -> Vec<String> {
    fn collect(set: &Set, at: &str, out: &mut Vec<String>) {
        for (element, node) in below(set) {
            let path = format!("{at}{}", shown(element));
            if is_member(node) {
                out.push(path.clone());
            }
            collect(node, &path, out);
        }
    }
    let mut out = Vec::new();
    collect(set, "", &mut out);
    out
}

/// One element as it stands in a path.
pub(super) fn shown(element: &str) -> String {
    let parsed = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => match parsed(keys) {
            Value::Object(keys) => {
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("[{}]", keys.join(","))
            }
            _ => format!("[{keys}]"),
        },
        Some(("v", value)) => format!("[={value}]"),
        Some(("i", index)) => format!("[{index}]"),
        _ => format!(".{element}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_set() -> impl Strategy<Value = Set> {
        let steps = prop::collection::vec("[a-c]", 1..4);
        prop::collection::vec(steps, 0..8).prop_map(|paths| {
            let mut set = Set::new();
            for elements in paths {
                let elements: Vec<String> = elements.iter().map(|e| format!("f:{e}")).collect();
                let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
                add(&mut set, &path(&elements));
            }
            set
        })
    }

    fn members(set: &Set) -> std::collections::BTreeSet<String> {
        paths(set).into_iter().collect()
    }

    #[test]
    fn paths_are_shown_as_kubernetes_does() {
        let set = json!({"f:spec": {".": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}}, "f:l": {"v:\"x\"": {}, "i:3": {}}}});
        assert_eq!(
            paths(set.as_object().unwrap()),
            [
                ".spec",
                ".spec.l[3]",
                ".spec.l[=\"x\"]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"]"
            ]
        );
    }

    proptest! {
        #[test]
        fn sets_are_sets(a in any_set(), b in any_set()) {
            let (in_a, in_b) = (members(&a), members(&b));
            let mut both = a.clone();
            add(&mut both, &b);
            prop_assert_eq!(members(&both), &in_a | &in_b);
            let mut left = a.clone();
            subtract(&mut left, &b);
            prop_assert_eq!(members(&left), &in_a - &in_b);
            prop_assert_eq!(members(&intersection(&a, &b)), &in_a & &in_b);
            // The form is unique.
            add(&mut left, &intersection(&a, &b));
            prop_assert_eq!(left, a);
        }
    }
}
