//! The four kinds of patches. An input has three or four parts: the type's name, the target, the patch, and what a second
//! manager applies; or it is choices, of a kind and three objects.

use serde_json::{Value, json};
use warren_api::patch::{self, ApplyError, Manager};
use warren_api::schema::{self, FieldValidation};
use warren_api::{Object, Registry};

use crate::shape::Choices;

/// The server's own fields of metadata, which no manager has.
const SERVERS: [&str; 7] = [
    "namespace",
    "uid",
    "selfLink",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
];

pub(crate) fn run(data: &[u8]) {
    match Choices::of(data) {
        Some(choices) => chosen(choices),
        None => text(data),
    }
}

fn chosen(mut choices: Choices<'_>) {
    let schema = schema::builtin();
    let kinds: Vec<_> = Registry::builtin().iter().collect();
    let type_name = kinds[choices.below(kinds.len())].schema_type();
    let Some(of) = schema.named(type_name) else { unreachable!("{type_name} is a type") };
    let [target, change, second] = std::array::from_fn(|_| Value::from(choices.object(schema, of)));
    all(type_name, target, change, second);
}

fn text(data: &[u8]) {
    let mut parts = crate::parts(data);
    let (Some(type_name), Some(target), Some(change)) = (parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    let second = parts.next().unwrap_or("{}");
    let read = |text| serde_json::from_str::<Value>(text);
    let (Ok(target), Ok(change), Ok(second)) = (read(target), read(change), read(second)) else {
        return;
    };
    all(type_name, target, change, second);
}

fn all(type_name: &str, target: Value, change: Value, second: Value) {
    let _ = patch::json(target.clone(), &change);
    assert_eq!(patch::json(target.clone(), &json!([])).as_ref(), Ok(&target), "no operations");
    merge(&target, &change);
    strategic(type_name, &target, &change);
    apply(type_name, target, change, second);
}

fn merge(target: &Value, change: &Value) {
    if target.is_object() {
        let same = patch::merge(target.clone(), &json!({}));
        assert_eq!(same.as_ref(), Ok(target), "a merge with nothing");
    }
    if let Ok(merged) = patch::merge(target.clone(), change) {
        // A merge with what is there already changes nothing more.
        assert_eq!(patch::merge(merged.clone(), change).as_ref(), Ok(&merged));
    }
}

fn strategic(type_name: &str, target: &Value, change: &Value) {
    let schema = schema::builtin();
    if target.is_object() {
        let same = patch::strategic(schema, type_name, target.clone(), &json!({}));
        assert_eq!(same.as_ref(), Ok(target), "a strategic merge with nothing");
    }
    let _ = patch::strategic(schema, type_name, target.clone(), change);
}

/// A type, and everybody's way to apply to its objects.
struct Applying<'t> {
    type_name: &'t str,
}

impl Applying<'_> {
    fn by(
        &self,
        name: &str,
        live: &Object,
        applied: &Object,
        force: bool,
    ) -> Result<Object, ApplyError> {
        let manager = Manager {
            name: name.to_owned(),
            subresource: String::new(),
            api_version: "v1".to_owned(),
            time: jiff::Timestamp::UNIX_EPOCH,
        };
        patch::apply(schema::builtin(), self.type_name, Some(live), applied, &manager, force)
    }

    fn configuration(&self, value: Value) -> Option<Object> {
        let schema = schema::builtin();
        schema::decode_keeping_zeros(schema, self.type_name, value, FieldValidation::Ignore)
            .ok()
            .map(|(object, _)| identified(object))
    }
}

fn apply(type_name: &str, target: Value, change: Value, second: Value) {
    let applying = Applying { type_name };
    let Ok((live, _)) =
        schema::decode(schema::builtin(), type_name, target, FieldValidation::Ignore)
    else {
        return;
    };
    let live = identified(live);
    let (Some(one), Some(two)) = (applying.configuration(change), applying.configuration(second))
    else {
        return;
    };

    if let Ok(same) = applying.by("other", &live, &Object::default(), false) {
        assert_eq!(unmanaged(same), unmanaged(live.clone()), "{type_name}: nothing is applied");
    }
    if let Ok(once) = applying.by("one", &live, &one, true) {
        let again = applying.by("one", &once, &one, false);
        assert_eq!(again.as_ref(), Ok(&once), "{type_name}: the same is applied again");
        let _ = applying.by("two", &once, &two, false);
    }
    order(&applying, unmanaged(live), &one, &two);
}

/// Appliers that are not in each other's way: their order makes no difference but to the order of lists that they both
/// add to.
fn order(applying: &Applying<'_>, live: Object, one: &Object, two: &Object) {
    let both = |first: (&str, &Object), then: (&str, &Object)| {
        let between = applying.by(first.0, &live, first.1, false).ok()?;
        applying.by(then.0, &between, then.1, false).ok()
    };
    let (one, two) = (("one", one), ("two", two));
    if let (Some(here), Some(there)) = (both(one, two), both(two, one)) {
        assert_eq!(
            sorted(here.into()),
            sorted(there.into()),
            "{}: the order of appliers",
            applying.type_name
        );
    }
}

/// What is nobody's field: the server sees to it that it is the same in the configuration and in the object.
fn identified(mut object: Object) -> Object {
    for field in ["apiVersion", "kind"] {
        object.remove_at(&[field]);
    }
    for field in SERVERS {
        object.remove_at(&["metadata", field]);
    }
    object.set_at(&["metadata", "name"], "x");
    object
}

fn unmanaged(mut object: Object) -> Object {
    object.remove_at(&["metadata", "managedFields"]);
    object
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(sorted).collect();
            items.sort_by_cached_key(Value::to_string);
            items.into()
        }
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, sorted(value))).collect(),
        other => other,
    }
}
