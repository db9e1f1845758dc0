use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Registry;

fn labelled(labels: Value) -> Object {
    Object::try_from(json!({"metadata": {"name": "a", "namespace": "n", "labels": labels}}))
        .unwrap()
}

#[test]
fn label_selectors_match() {
    let object = labelled(json!({"app": "web", "tier": "front", "empty": "", "n": "5"}));
    for (text, canonical, expected) in [
        ("", "", true),
        (" ", "", true),
        ("app=web", "app=web", true),
        ("app==web", "app=web", true),
        ("app = web , tier", "app=web,tier", true),
        ("app!=web", "app!=web", false),
        ("none!=web", "none!=web", true),
        ("app in (db, web)", "app in (db,web)", true),
        ("app in(web)", "app in (web)", true),
        ("app notin (web)", "app notin (web)", false),
        ("none notin (web)", "none notin (web)", true),
        ("app", "app", true),
        ("!app", "!app", false),
        ("! none", "!none", true),
        ("empty=", "empty=", true),
        ("none=", "none=", false),
        ("app=", "app=", false),
        ("empty in ()", "empty in ()", true),
        ("empty in (,a)", "empty in (,a)", true),
        ("n>4", "n>4", true),
        ("n < 5", "n<5", false),
        ("app>4", "app>4", false),
        ("tier=front,app=db", "app=db,tier=front", false),
        ("in in (a)", "in in (a)", false),
    ] {
        let selector = LabelSelector::parse(text).unwrap();
        assert_eq!(selector.to_string(), canonical, "{text}");
        assert_eq!(selector.matches(&object), expected, "{text}");
    }
}

#[test]
fn what_is_no_label_selector() {
    for (text, error) in [
        ("app=web,", "found '', expected: identifier after ','"),
        (",app", "found ',', expected: !, identifier, or 'end of string'"),
        (
            "app web",
            "unable to parse requirement: found 'web', expected: in, notin, =, ==, !=, gt, lt",
        ),
        ("app in web", "unable to parse requirement: found 'web' expected: '('"),
        ("app in (web", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("app=(web)", "unable to parse requirement: found '(', expected: identifier"),
        ("n>x", "values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be"),
        ("a/b/c=1", "a qualified name"),
        ("a=b/c", "values[0][a]: Invalid value: \"b/c\": a valid label must be"),
        ("-a=b", "<nil>: Invalid value: \"-a\": name part must consist"),
    ] {
        let message = LabelSelector::parse(text).unwrap_err().to_string();
        assert!(message.contains(error), "{text}: {message}");
    }
}

#[test]
fn selectors_in_objects() {
    let object = labelled(json!({"app": "web"}));
    for (selector, text, expected) in [
        (Value::Null, "", false),
        (json!({}), "", true),
        (json!({"matchLabels": {"app": "web"}}), "app=web", true),
        (
            json!({"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "x", "operator": "DoesNotExist"},
                {"key": "app", "operator": "In", "values": ["web", "db"]},
                {"key": "app", "operator": "Exists"},
                {"key": "app", "operator": "NotIn", "values": ["db"]},
            ]}),
            "app=web,app in (db,web),app,app notin (db),!x",
            true,
        ),
    ] {
        let selector = LabelSelector::from_object(Some(&selector)).unwrap();
        assert_eq!(selector.to_string(), text);
        assert_eq!(selector.matches(&object), expected, "{text}");
    }
    for bad in [
        json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
        json!({"matchLabels": {"/": "x"}}),
    ] {
        assert!(LabelSelector::from_object(Some(&bad)).is_err(), "{bad}");
    }
}

#[test]
fn field_selectors_match() {
    let kind = Registry::builtin().by_kind("v1", "Pod").unwrap();
    let pod = Object::try_from(json!({
        "metadata": {"name": "a", "namespace": "n"},
        "spec": {"nodeName": "rabbit"}, "status": {"phase": "Running"},
    }))
    .unwrap();
    for (text, expected) in [
        ("", true),
        ("metadata.name=a", true),
        ("metadata.namespace==n,spec.nodeName=rabbit", true),
        ("spec.nodeName!=rabbit", false),
        ("spec.nodeName=", false),
        ("status.podIP=", true),
        ("spec.hostNetwork=false", true),
        ("status.phase!=Succeeded,status.phase!=Failed", true),
        (r"metadata.name=a\,b", false),
    ] {
        let selector = FieldSelector::parse(text, kind).unwrap();
        assert_eq!(selector.matches(kind, &pod), expected, "{text}");
        assert_eq!(FieldSelector::parse(&selector.to_string(), kind).unwrap(), selector);
    }
    for (text, error) in [
        ("spec.foo=a", "field label not supported: spec.foo"),
        ("spec.nodeName", "invalid selector: 'spec.nodeName'; can't understand 'spec.nodeName'"),
        (
            "spec.nodeName=a=b",
            "invalid selector: 'spec.nodeName=a=b'; can't understand 'spec.nodeName=a=b'",
        ),
    ] {
        assert_eq!(FieldSelector::parse(text, kind).unwrap_err().to_string(), error);
    }
    let kind = Registry::builtin().by_kind("v1", "ConfigMap").unwrap();
    assert_eq!(
        FieldSelector::parse("data=a", kind).unwrap_err().to_string(),
        "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
}

proptest! {
    #[test]
    fn printed_selectors_read_back(text in "[a-c=!,() <>in\\\\]{0,24}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }
        let kind = Registry::builtin().by_kind("v1", "Pod").unwrap();
        let _ = FieldSelector::parse(&text, kind);
    }
}
