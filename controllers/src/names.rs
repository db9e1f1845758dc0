//! Deterministic names of children.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

/// The longest base that leaves room for `-` and a suffix of five in a pod's hostname.
const BASE: usize = 63 - 6;

fn encode(seed: &[u8], letters: usize) -> String {
    warren_api::letters(&Sha256::digest(seed)[..letters])
}

/// `pod-template-hash`: of a template as JSON (whose maps are sorted), and of how often this hash met another template.
pub fn template_hash(template: &serde_json::Value, collisions: i32) -> String {
    encode(format!("{collisions}\n{template}").as_bytes(), 10)
}

/// `base` cut so that `-<suffix>` of five letters fits into a label.
pub fn base(owner: &str) -> &str {
    let mut end = owner.len().min(BASE);
    while !owner.is_char_boundary(end) {
        end -= 1;
    }
    owner[..end].trim_end_matches(['-', '.'])
}

/// Names for new pods of an owner.
///
/// An owner has an endless row of *slots*, and a slot's name is a function of the owner's uid and the slot's number:
/// `<owner>-<5 letters>`. A new pod takes the first slot whose name no pod has. So whoever repeats a create (after a
/// crash, with a stale view, as a second leader) chooses the same name and is told AlreadyExists, and there is no second
/// pod. A name comes again only when the pod that had it is gone for good. Slots whose name another owner's pod has, or
/// that fall on an earlier slot's name, are passed over.
pub fn slots<'a>(
    owner: &'a str,
    uid: &'a str,
    taken: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = String> + 'a {
    let mut used = BTreeSet::new();
    (0_u32..).filter_map(move |slot| {
        let suffix = encode(format!("{uid}/{slot}").as_bytes(), 5);
        let name = format!("{}-{suffix}", base(owner));
        (!taken(&name) && used.insert(name.clone())).then_some(name)
    })
}

/// A short name for a thing that is told from others of its owner by some text.
pub fn suffix(text: &str) -> String {
    encode(text.as_bytes(), 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_slots_are_taken_and_always_the_same() {
        let all: Vec<_> = slots("web", "uid", |_| false).take(3).collect();
        let one_taken: Vec<_> = slots("web", "uid", |name| name == all[1]).take(2).collect();
        assert_eq!(one_taken, [all[0].clone(), all[2].clone()]);
        assert_ne!(all, slots("web", "other", |_| false).take(3).collect::<Vec<_>>());
        assert!(all.iter().all(|name| name.len() == "web-".len() + 5), "{all:?}");
    }

    #[test]
    fn names_are_unique_and_fit_a_hostname() {
        let owner = "x".repeat(250);
        let names: BTreeSet<_> = slots(&owner, "uid", |_| false).take(5000).collect();
        assert_eq!(names.len(), 5000);
        assert!(names.iter().all(|name| name.len() <= 63));
    }
}
