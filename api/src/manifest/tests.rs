use proptest::prelude::*;
use serde_json::json;

use super::*;

fn objects(text: &str) -> Value {
    read(&Registry::builtin(), text).unwrap().into_iter().map(|m| Value::from(m.object)).collect()
}

fn refused(text: &str) -> String {
    read(&Registry::builtin(), text).unwrap_err().to_string()
}

const V0: &str = "version: v0
kind: Pod
spec:
  name: Dummy pod
  namespace: podnamespace
  hostNetwork: true
  ip: 0.0.0.0
  containers:
  - name: container1
    image: longrunningcontainer
";

#[test]
fn documents_lists_and_the_first_form() {
    let found = read(&Registry::builtin(), V0).unwrap();
    assert_eq!(found[0].ip, Some([0, 0, 0, 0].into()));
    assert_eq!(
        Value::from(found[0].object.clone()),
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "dummy-pod", "namespace": "podnamespace", "annotations": {ORIGINAL_NAME: "Dummy pod"}},
            "spec": {"hostNetwork": true, "containers": [{"name": "container1", "image": "longrunningcontainer"}]}})
    );
    let text = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: a, labels: {tier: null}}
data: {x: '1'}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
---
apiVersion: v1
kind: ConfigMapList
items: [{metadata: {name: c}}]
---
";
    let map =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let mut first = map("a");
    first["data"] = json!({"x": "1"});
    first["metadata"]["labels"] = json!({"tier": ""});
    assert_eq!(objects(text), json!([first, map("b"), map("c")]));
    let lines: Vec<usize> =
        read(&Registry::builtin(), text).unwrap().iter().map(|m| m.line).collect();
    assert_eq!(lines, [1, 6, 11]);
    assert_eq!(objects("# nothing\n"), json!([]));
}

#[test]
fn file_modes_are_octal() {
    let text = "apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  volumes:
  - name: v
    configMap: {name: c, defaultMode: 0644, items: [{key: k, path: p, mode: 0o400}]}
";
    let volume = &objects(text)[0]["spec"]["volumes"][0]["configMap"];
    assert_eq!(volume["defaultMode"], 0o644);
    assert_eq!(volume["items"][0]["mode"], 0o400);
}

#[test]
fn unknown_fields_are_warnings() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {contaners: []}\n";
    let found = read(&Registry::builtin(), text).unwrap();
    assert_eq!(found[0].warnings, ["unknown field \"spec.contaners\""]);
}

#[test]
fn errors_name_line_and_reason() {
    for (text, message) in [
        ("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: [\n", "line 6: "),
        (
            "# c\n---\napiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n    ports:\n    - containerPort: http\n",
            "line 9: json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {}\nspec:\n  containers:\n    name: a\n",
            "line 6: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        ("kind: Pod\n", "line 1: apiVersion: Required value"),
        ("apiVersion: v1\n", "line 1: kind: Required value"),
        ("apiVersion: 1\nkind: Pod\n", "line 1: apiVersion: a text is wanted, not a number"),
        ("apiVersion: v1\nkind: Hare\n", "line 1: no matches for kind \"Hare\" in version \"v1\""),
        ("- a\n", "line 1: an object is wanted, not a list"),
        ("just words\n", "line 1: an object is wanted, not a text"),
        (
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, spec: 1}]\n",
            "line 1: items[0]: json: cannot unmarshal number into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            &V0.replace("v0", "v7"),
            "line 1: version: Unsupported value: \"v7\": supported values: \"v0\" (Kubernetes' form has apiVersion instead)",
        ),
        (
            &V0.replace("Pod\n", "Job\n"),
            "line 1: kind: Unsupported value: \"Job\": supported values: \"Pod\"",
        ),
        (
            &V0.replace("0.0.0.0", "0.0.0.x"),
            "line 1: spec.ip: Invalid value: \"0.0.0.x\": must be a valid IP address",
        ),
        (
            &V0.replace("Dummy pod", "Dummy_pod"),
            "line 1: spec.name: Invalid value: \"Dummy_pod\": a lowercase RFC 1123 subdomain must consist",
        ),
        (&V0.replace("  name: Dummy pod\n", ""), "line 1: spec.name: Required value"),
        (
            &V0.replace("podnamespace", "Pod.Namespace"),
            "line 1: spec.namespace: Invalid value: \"Pod.Namespace\": ",
        ),
        (&format!("{V0}extra: 1\n"), "line 1: unknown field \"extra\""),
    ] {
        let error = refused(text);
        assert!(error.starts_with(message), "{text}\n{error}");
    }
}

fn command(body: &str) -> Result<Vec<Command>, String> {
    commands(&Registry::builtin(), body.as_bytes()).map_err(|error| error.to_string())
}

fn delete(namespace: Option<&str>, name: &str, uid: Option<&str>) -> Command {
    Command::Delete {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
        uid: uid.map(str::to_owned),
    }
}

#[test]
fn each_form_of_a_message() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "n"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let bare = json!({"name": "x", "namespace": "n", "containers": [{"name": "c", "image": "i"}]});
    let v0 = json!({"version": "v0", "kind": "Pod", "spec": bare});
    let short = json!({"metadata": pod["metadata"], "spec": pod["spec"]});
    let yaml = yaml::to_string(&pod).unwrap();
    for body in [
        json!({"type": "ADDED", "object": pod}),
        json!({"type": "MODIFIED", "object": pod}),
        json!({"type": "ADDED", "object": v0}),
        json!({"action": "add", "podspec": pod}),
        json!({"action": "Update", "podspec": short}),
        json!({"action": "add", "podspec": bare}),
        json!({"action": "add", "podspec": v0}),
        json!({"action": "add", "podspec": yaml}),
        pod.clone(),
        v0.clone(),
        json!({"apiVersion": "v1", "kind": "List", "items": [pod]}),
    ] {
        let text = body.to_string();
        for text in [text.clone(), yaml::to_string(&body).unwrap()] {
            let found = command(&text).unwrap();
            let [Command::Apply(found)] = found.as_slice() else { panic!("{text}: {found:?}") };
            assert_eq!(Value::from(found.object.clone()), pod, "{text}");
        }
    }
    for (body, expected) in [
        (
            json!({"type": "DELETED", "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "uid": "u"}}}),
            delete(None, "x", Some("u")),
        ),
        (json!({"action": "delete", "podspec": bare}), delete(Some("n"), "x", None)),
        (
            json!({"action": "delete", "podname": "x", "namespace": "n"}),
            delete(Some("n"), "x", None),
        ),
        (json!({"action": "add", "podname": "x"}), Command::StartManifest { name: "x".to_owned() }),
        (
            json!({"action": "add", "podname": "Dummy pod"}),
            Command::StartManifest { name: "dummy-pod".to_owned() },
        ),
    ] {
        assert_eq!(command(&body.to_string()), Ok(vec![expected]));
    }
}

#[test]
fn messages_that_nobody_can_use() {
    for (body, message) in [
        ("", "the message is empty"),
        ("{\"a\":", "line 2: did not find expected node content"),
        ("hello", "line 1: an object is wanted, not a text"),
        (
            r#"{"type":"BOOKMARK","object":{}}"#,
            "line 1: type: Unsupported value: \"BOOKMARK\": supported values: \"ADDED\", \"MODIFIED\", \"DELETED\"",
        ),
        (r#"{"type":"ADDED"}"#, "line 1: object: Required value"),
        (
            r#"{"type":"ADDED","object":{"kind":"Pod"}}"#,
            "line 1: object: apiVersion: Required value",
        ),
        (
            r#"{"type":"DELETED","object":{"apiVersion":"v1","kind":"Pod"}}"#,
            "line 1: object.metadata.name: Required value",
        ),
        (
            r#"{"action":"dance","podname":"x"}"#,
            "line 1: action: Unsupported value: \"dance\": supported values: \"add\", \"update\", \"delete\"",
        ),
        (r#"{"action":"add"}"#, "line 1: podspec: Required value (or podname)"),
        (r#"{"action":"add","podname":7}"#, "line 1: podname: a text is wanted"),
        (
            r#"{"action":"add","podspec":{"containers":[]}}"#,
            "line 1: podspec: spec.name: Required value",
        ),
        (r#"{"action":"add","podspec":7}"#, "line 1: podspec: a map is wanted, not a number"),
        (
            r#"{"action":"add","podname":"x","podspec":{}}"#,
            "line 1: podspec and podname exclude each other",
        ),
    ] {
        let error = command(body).unwrap_err();
        assert!(error.starts_with(message), "{body}\n{error}");
    }
    assert!(commands(&Registry::builtin(), b"\xff\xfe").unwrap_err().reason.contains("no text"));
}

proptest! {
    #[test]
    fn nothing_panics(text in "(\\PC|[\n \\-:{}\\[\\]\"&*!|>#']){0,80}") {
        let _ = commands(&Registry::builtin(), text.as_bytes());
    }
}
