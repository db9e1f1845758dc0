//! Label selectors as in `?labelSelector=`, and field selectors of every kind.

use serde_json::{Map, Value};
use warren_api::{FieldSelector, LabelSelector, Registry};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    labels(text);
    for kind in Registry::builtin().iter() {
        if let Ok(selector) = FieldSelector::parse(text, kind) {
            let said = selector.to_string();
            let again = FieldSelector::parse(&said, kind).map(|again| again.to_string());
            assert_eq!(again.as_deref(), Ok(&*said), "{text:?}");
        }
    }
}

/// What is said of a selector selects the same.
fn labels(text: &str) {
    let Ok(selector) = LabelSelector::parse(text) else { return };
    let said = selector.to_string();
    let again = match LabelSelector::parse(&said) {
        Ok(again) => again,
        Err(error) => unreachable!("{text:?} is {said:?}, which cannot be read: {error}"),
    };
    assert_eq!(again.to_string(), said, "{text:?}");
    let mut labels = Map::new();
    for requirement in selector.requirements() {
        let value = requirement.values.first().map_or("x", String::as_str);
        labels.insert(requirement.key.clone(), Value::from(value));
        let (one, other) =
            (selector.matches_labels(Some(&labels)), again.matches_labels(Some(&labels)));
        assert_eq!(one, other, "{text:?} and {said:?} of {labels:?}");
    }
    assert_eq!(selector.matches_labels(None), again.matches_labels(None), "{text:?}");
}
