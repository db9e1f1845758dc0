//! From recorded changes to requests. Pure: an event in, what to ask of the server out.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// What the server chooses, or what only it may say.
const CHOSEN: [&str; 8] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "generation",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];
/// Labels that the server gives to a Job's pods, with the Job's uid.
const OF_JOBS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// Kind, namespace (empty where there is none) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.kind.to_ascii_lowercase();
        match self.namespace.as_str() {
            "" => write!(f, "{kind}/{}", self.name),
            namespace => write!(f, "{kind}/{} in {namespace}", self.name),
        }
    }
}

/// One request. They go out in their order; each may fail alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Of a log that began after the namespace was made.
    MakeNamespace(String),
    /// With the status that it had, where there is one.
    Create(Value),
    Update(Value),
    Bind(String),
    Status(Value),
    /// `None`: as the object says; else within so many seconds.
    Delete(Option<i64>),
    /// Nothing of the namespace is left.
    Finalize(Value),
}

/// What a line of the log asks for.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) actions: Vec<Action>,
}

/// What was recorded so far.
#[derive(Debug, Default)]
pub(super) struct Player {
    /// The object as it was recorded last, without what the server chooses.
    objects: HashMap<Key, Known>,
    namespaces: HashSet<String>,
    /// Recorded uid → uid at this server.
    uids: HashMap<String, String>,
}

#[derive(Debug)]
struct Known {
    uid: String,
    object: Value,
    ending: bool,
}

impl Player {
    /// With the namespaces that the server has.
    pub(super) fn new(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self { namespaces: namespaces.into_iter().collect(), ..Self::default() }
    }

    /// What to do for one recorded event; nothing for what changes nothing that a client may write.
    pub(super) fn event(&mut self, event: &Value) -> Result<Change> {
        let object = &event["object"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let key = Key {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
        };
        for (field, value) in
            [("apiVersion", &key.api_version), ("kind", &key.kind), ("metadata.name", &key.name)]
        {
            if value.is_empty() {
                bail!("object.{field}: Required value");
            }
        }
        let uid = text(&metadata["uid"]);
        let actions = match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => self.written(&key, &uid, object),
            Some("DELETED") => self.deleted(&key, object),
            other => bail!("type: Unsupported value: {:?}", other.unwrap_or_default()),
        };
        Ok(Change { key, uid, actions })
    }

    /// The server has the object under this uid.
    pub(super) fn has(&mut self, recorded: &str, uid: &str) {
        if !recorded.is_empty() && !uid.is_empty() {
            self.uids.insert(recorded.to_owned(), uid.to_owned());
        }
    }

    fn written(&mut self, key: &Key, uid: &str, object: &Value) -> Vec<Action> {
        let mut actions = Vec::new();
        if !key.namespace.is_empty() && self.namespaces.insert(key.namespace.clone()) {
            actions.push(Action::MakeNamespace(key.namespace.clone()));
        }
        if key.kind == "Namespace" {
            self.namespaces.insert(key.name.clone());
        }
        let ending = object["metadata"]["deletionTimestamp"].is_string();
        let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
        let mut new = object.clone();
        self.translate(&mut new);
        strip(&mut new);
        let before = self.objects.remove(key);
        match &before {
            Some(known) if known.uid == uid => {
                self.changed(&known.object, &new, &mut actions);
                if ending && !known.ending {
                    actions.push(Action::Delete(grace));
                }
            }
            other => {
                if other.is_some() {
                    // The log does not say that the one before went.
                    actions.push(Action::Delete(Some(0)));
                }
                actions.push(Action::Create(created(&new)));
                if has_status(&new) {
                    actions.push(Action::Status(new.clone()));
                }
                if ending {
                    actions.push(Action::Delete(grace));
                }
            }
        }
        self.objects.insert(key.clone(), Known { uid: uid.to_owned(), object: new, ending });
        actions
    }

    fn changed(&self, before: &Value, new: &Value, actions: &mut Vec<Action>) {
        let node = |object: &Value| object["spec"]["nodeName"].as_str().map(str::to_owned);
        let is_pod = new["kind"] == "Pod" && new["apiVersion"] == "v1";
        let mut compared = before.clone();
        if is_pod && let (None, Some(node)) = (node(before), node(new)) {
            compared["spec"]["nodeName"] = node.clone().into();
            actions.push(Action::Bind(node));
        }
        if without_status(&compared) != without_status(new) {
            actions.push(Action::Update(new.clone()));
        }
        if has_status(new) && before.get("status") != new.get("status") {
            actions.push(Action::Status(new.clone()));
        }
    }

    fn deleted(&mut self, key: &Key, object: &Value) -> Vec<Action> {
        self.objects.remove(key);
        let mut actions = vec![Action::Delete(Some(0))];
        if key.kind == "Namespace" && key.api_version == "v1" {
            self.namespaces.remove(&key.name);
            let mut last = object.clone();
            strip(&mut last);
            last["spec"] = serde_json::json!({ "finalizers": [] });
            actions.push(Action::Finalize(last));
        }
        actions
    }

    /// Recorded uids become those of this server, wherever they stand: owner references, labels, selectors.
    fn translate(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(uid) = self.uids.get(text) {
                    uid.clone_into(text);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.translate(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.translate(field)),
            _ => {}
        }
    }
}

fn strip(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|field, _| !CHOSEN.contains(&field.as_str()));
    }
}

fn has_status(object: &Value) -> bool {
    object["status"].as_object().is_some_and(|status| !status.is_empty())
}

fn without_status(object: &Value) -> Map<String, Value> {
    let mut fields = object.as_object().cloned().unwrap_or_default();
    fields.remove("status");
    fields
}

/// The server makes the selector of a Job, with the Job's uid.
fn created(object: &Value) -> Value {
    let mut object = object.clone();
    if object["kind"] == "Job" && object["spec"]["manualSelector"] != true {
        for path in ["/metadata/labels", "/spec/template/metadata/labels"] {
            if let Some(labels) = object.pointer_mut(path).and_then(Value::as_object_mut) {
                labels.retain(|label, _| !OF_JOBS.contains(&label.as_str()));
            }
        }
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.remove("selector");
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(kind: &str, fields: &Value) -> Value {
        let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop",
            "uid": "old", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"a": 1}});
        for (path, value) in fields.as_object().unwrap() {
            let (parent, field) = path.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[field] = value.clone();
        }
        json!({"type": kind, "object": object})
    }

    fn names(player: &mut Player, event: &Value) -> Vec<&'static str> {
        let name = |action: &Action| match action {
            Action::MakeNamespace(_) => "namespace",
            Action::Create(_) => "create",
            Action::Update(_) => "update",
            Action::Bind(_) => "bind",
            Action::Status(_) => "status",
            Action::Delete(None) => "delete",
            Action::Delete(Some(0)) => "delete now",
            Action::Delete(Some(_)) => "delete later",
            Action::Finalize(_) => "finalize",
        };
        player.event(event).unwrap().actions.iter().map(name).collect()
    }

    #[test]
    fn the_life_of_a_pod() {
        let mut player = Player::new(["default".to_owned()]);
        let bound = json!({"/spec/nodeName": "n", "/metadata/resourceVersion": "8"});
        let runs = json!({"/spec/nodeName": "n", "/status": {"phase": "Running"}});
        let moved = json!({"/spec/nodeName": "n", "/status": {"phase": "Running"}, "/metadata/labels": {"a": "b"}});
        let ends = json!({"/spec/nodeName": "n", "/status": {"phase": "Running"}, "/metadata/labels": {"a": "b"},
            "/metadata/deletionTimestamp": "2026-01-01T00:00:00Z", "/metadata/deletionGracePeriodSeconds": 30});
        for (kind, fields, wanted) in [
            ("ADDED", json!({}), &["namespace", "create"][..]),
            ("MODIFIED", json!({"/metadata/resourceVersion": "8"}), &[]),
            ("MODIFIED", bound, &["bind"]),
            ("MODIFIED", runs, &["status"]),
            ("MODIFIED", moved, &["update"]),
            ("MODIFIED", ends.clone(), &["delete later"]),
            ("DELETED", ends, &["delete now"]),
            (
                "ADDED",
                json!({"/metadata/uid": "other", "/status": {"phase": "Failed"}}),
                &["create", "status"],
            ),
            ("MODIFIED", json!({"/metadata/uid": "third"}), &["delete now", "create"]),
        ] {
            assert_eq!(names(&mut player, &pod(kind, &fields)), wanted, "{kind} {fields}");
        }
    }

    #[test]
    fn what_the_server_chooses_is_left_to_it() {
        let mut player = Player::new(["shop".to_owned()]);
        player.has("owner", "new-owner");
        let owned = json!({"/metadata/ownerReferences": [{"kind": "ReplicaSet", "name": "r", "uid": "owner"}]});
        let change = player.event(&pod("ADDED", &owned)).unwrap();
        let metadata = json!({"name": "web", "namespace": "shop",
            "ownerReferences": [{"kind": "ReplicaSet", "name": "r", "uid": "new-owner"}]});
        let wanted =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"a": 1}});
        assert_eq!(change.actions, [Action::Create(wanted)]);
        let labels = json!({"controller-uid": "j", "mine": "x"});
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "labels": labels},
            "spec": {"selector": {"matchLabels": {"controller-uid": "j"}}, "template": {"metadata": {"labels": labels}}}});
        let mine = json!({"mine": "x"});
        let wanted = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "labels": mine},
            "spec": {"template": {"metadata": {"labels": mine}}}});
        assert_eq!(created(&job), wanted);
    }

    #[test]
    fn a_namespace_goes_whole_and_what_is_no_event_is_named() {
        let mut player = Player::default();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"},
            "spec": {"finalizers": ["kubernetes"]}});
        assert_eq!(names(&mut player, &json!({"type": "ADDED", "object": object})), ["create"]);
        assert_eq!(
            names(&mut player, &pod("ADDED", &json!({}))),
            ["create"],
            "its namespace is there"
        );
        let gone = json!({"type": "DELETED", "object": object});
        assert_eq!(names(&mut player, &gone), ["delete now", "finalize"]);
        for (event, why) in [
            (json!({"type": "ADDED", "object": {}}), "object.apiVersion: Required value"),
            (
                pod("DELETED", &json!({"/metadata/name": ""})),
                "object.metadata.name: Required value",
            ),
            (pod("ERROR", &json!({})), "type: Unsupported value: \"ERROR\""),
            (json!(7), "object.apiVersion: Required value"),
        ] {
            assert_eq!(player.event(&event).unwrap_err().to_string(), why);
        }
    }
}
