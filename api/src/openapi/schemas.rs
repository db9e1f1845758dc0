//! The schemas of types.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::{Dialect, gvk, kind_gvk, reference};
use crate::Kind;
use crate::schema::{self, Field, ListType, Shape, Type};

/// What every group-version sends and takes besides its kinds.
const COMMON: [&str; 2] = ["meta/v1.DeleteOptions", "meta/v1.Status"];

/// The named strings whose values are a closed set, to be shown to people.
const ENUMS: [&str; 24] = [
    "apps/v1.DeploymentStrategyType",
    "batch/v1.CompletionMode",
    "batch/v1.ConcurrencyPolicy",
    "batch/v1.PodReplacementPolicy",
    "core/v1.DNSPolicy",
    "core/v1.MountPropagationMode",
    "core/v1.NamespacePhase",
    "core/v1.NodeInclusionPolicy",
    "core/v1.NodeSelectorOperator",
    "core/v1.PersistentVolumeReclaimPolicy",
    "core/v1.PodFSGroupChangePolicy",
    "core/v1.PodPhase",
    "core/v1.PodQOSClass",
    "core/v1.Protocol",
    "core/v1.PullPolicy",
    "core/v1.RestartPolicy",
    "core/v1.SeccompProfileType",
    "core/v1.ServiceAffinity",
    "core/v1.ServiceType",
    "core/v1.TaintEffect",
    "core/v1.TerminationMessagePolicy",
    "core/v1.TolerationOperator",
    "core/v1.URIScheme",
    "core/v1.UnsatisfiableConstraintAction",
];

const QUANTITY: &str = "resource.Quantity";
const INT_OR_STRING: &str = "intstr.IntOrString";
const TIME: &str = "meta/v1.Time";
const MICRO_TIME: &str = "meta/v1.MicroTime";
const FIELDS: &str = "meta/v1.FieldsV1";
const RAW: &str = "runtime.RawExtension";
const PATCH: &str = "meta/v1.Patch";

/// The types that are in no table: what they are is in their shape.
#[cfg(test)]
pub(super) fn specials() -> [&'static str; 7] {
    [QUANTITY, INT_OR_STRING, TIME, MICRO_TIME, FIELDS, RAW, PATCH]
}

/// The name that clients know a type by: `io.k8s.api.core.v1.Pod`.
pub(super) fn public_name(type_name: &str) -> String {
    let Some((group, rest)) = type_name.split_once('/') else {
        return match type_name {
            QUANTITY => "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
            INT_OR_STRING => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
            _ => format!("io.k8s.apimachinery.pkg.{type_name}"),
        };
    };
    match group {
        "meta" => format!("io.k8s.apimachinery.pkg.apis.meta.{rest}"),
        "apiextensions" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{rest}"),
        "apiregistration" => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{rest}"),
        _ => format!("io.k8s.api.{group}.{rest}"),
    }
}

/// The schemas of the kinds, of their lists and of all that they refer to.
pub(super) fn of_kinds(kinds: &[&'static dyn Kind], dialect: Dialect) -> Value {
    let schema = schema::builtin();
    let descriptions = Descriptions::read();
    let mut found = Map::new();
    let mut todo: Vec<String> = COMMON.map(str::to_owned).into();
    todo.push(PATCH.to_owned());
    todo.extend(super::paths::types(kinds));
    for kind in kinds {
        todo.push(kind.schema_type().to_owned());
        todo.push(format!("{}List", kind.schema_type()));
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let made = match schema.named(&name) {
            Some(of) => Writer { dialect, descriptions: &descriptions, todo: &mut todo }.object(of),
            None => special(dialect, &name),
        };
        let Value::Object(mut made) = made else { continue };
        if let Some(text) = descriptions.of_type(&name) {
            made.insert("description".to_owned(), text.into());
        }
        let gvks = kind_names(kinds, &name);
        if !gvks.is_empty() {
            made.insert("x-kubernetes-group-version-kind".to_owned(), gvks.into());
        }
        found.insert(public_name(&name), Value::Object(made));
    }
    Value::Object(found)
}

/// As which kinds a type is sent.
fn kind_names(kinds: &[&'static dyn Kind], type_name: &str) -> Vec<Value> {
    let versions: BTreeSet<_> = kinds.iter().map(|k| (k.group(), k.version())).collect();
    if type_name == "meta/v1.DeleteOptions" {
        return versions
            .into_iter()
            .map(|(group, version)| gvk(group, version, "DeleteOptions"))
            .collect();
    }
    if type_name == "meta/v1.Status" {
        return vec![gvk("", "v1", "Status")];
    }
    let mut found = Vec::new();
    for kind in kinds {
        if kind.schema_type() == type_name {
            found.push(kind_gvk(*kind));
        } else if type_name.strip_suffix("List") == Some(kind.schema_type()) {
            found.push(gvk(kind.group(), kind.version(), &format!("{}List", kind.kind())));
        }
    }
    if found.is_empty() && type_name == "autoscaling/v1.Scale" {
        found.push(gvk("autoscaling", "v1", "Scale"));
    }
    found
}

/// Only the newer dialect can say that a value is one of two types.
fn special(dialect: Dialect, name: &str) -> Value {
    let either = |one: &str, other: &str| json!([{"type": one}, {"type": other}]);
    match (name, dialect) {
        (TIME | MICRO_TIME, _) => json!({"type": "string", "format": "date-time"}),
        (INT_OR_STRING, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        (INT_OR_STRING, Dialect::V3) => {
            json!({"format": "int-or-string", "oneOf": either("integer", "string")})
        }
        (QUANTITY, Dialect::V2) => json!({"type": "string"}),
        (QUANTITY, Dialect::V3) => json!({"oneOf": either("string", "number")}),
        _ => json!({"type": "object"}),
    }
}

struct Writer<'t> {
    dialect: Dialect,
    descriptions: &'t Descriptions,
    todo: &'t mut Vec<String>,
}

impl Writer<'_> {
    fn object(&mut self, of: &Type) -> Value {
        let mut made = json!({"type": "object"});
        let required: Vec<&str> =
            of.fields().iter().filter(|f| f.is_required()).map(|f| &*f.name).collect();
        if !required.is_empty() {
            made["required"] = required.into();
        }
        let properties: Map<String, Value> =
            of.fields().iter().map(|f| (f.name.to_string(), self.field(of, f))).collect();
        if !properties.is_empty() {
            made["properties"] = Value::Object(properties);
        }
        if of.atomic {
            made["x-kubernetes-map-type"] = "atomic".into();
        }
        made
    }

    fn field(&mut self, of: &Type, field: &Field) -> Value {
        let mut made = match field.pointer {
            true => self.wrapped(&field.shape),
            false => self.item(&field.shape),
        };
        let mut put = |key: &str, value: Value| made[key] = value;
        if let Some(text) = self.descriptions.of_field(of, &field.name) {
            put("description", text.into());
        }
        if let Some(default) = &field.default {
            put("default", default.clone());
        }
        if let Shape::List(_) = field.shape {
            match &field.list_type {
                ListType::Atomic => put("x-kubernetes-list-type", "atomic".into()),
                ListType::Set => put("x-kubernetes-list-type", "set".into()),
                ListType::Map(keys) => {
                    put("x-kubernetes-list-type", "map".into());
                    put("x-kubernetes-list-map-keys", keys.iter().map(|key| &**key).collect());
                }
            }
        }
        if let Some(atomic) = field.atomic {
            put("x-kubernetes-map-type", if atomic { "atomic" } else { "granular" }.into());
        }
        let strategies = [
            (field.patch.merge, "merge"),
            (field.patch.replace, "replace"),
            (field.patch.retain_keys, "retainKeys"),
        ];
        let strategy: Vec<&str> =
            strategies.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
        if !strategy.is_empty() {
            put("x-kubernetes-patch-strategy", strategy.join(",").into());
        }
        if let Some(key) = &field.patch.merge_key {
            put("x-kubernetes-patch-merge-key", (&**key).into());
        }
        made
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        let schema = schema::builtin();
        match shape {
            Shape::String | Shape::Duration => json!({"type": "string"}),
            Shape::Enum(id) => {
                let named = schema.values(*id);
                let mut made = json!({"type": "string"});
                if ENUMS.contains(&&*named.name) {
                    let mut values: Vec<&str> = named.values.iter().map(|value| &**value).collect();
                    values.sort_unstable();
                    made["enum"] = values.into();
                }
                made
            }
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Float => json!({"type": "number", "format": "double"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Quantity => self.named(QUANTITY),
            Shape::IntOrString => self.named(INT_OR_STRING),
            Shape::Time => self.named(TIME),
            Shape::MicroTime => self.named(MICRO_TIME),
            Shape::Fields => self.named(FIELDS),
            Shape::Any => self.named(RAW),
            Shape::Object(id) => self.named(&schema.get(*id).name),
            Shape::List(item) => json!({"type": "array", "items": self.item(item)}),
            Shape::Map(item) => json!({"type": "object", "additionalProperties": self.item(item)}),
        }
    }

    /// A value that is always there: an object that nobody gives is an empty one.
    fn item(&mut self, shape: &Shape) -> Value {
        let mut made = self.wrapped(shape);
        if let (Dialect::V3, Shape::Object(_)) = (self.dialect, shape) {
            made["default"] = json!({});
        }
        made
    }

    /// Beside a reference nothing else counts in the newer dialect, so it is wrapped.
    fn wrapped(&mut self, shape: &Shape) -> Value {
        let made = self.shape(shape);
        match (self.dialect, made.get("$ref")) {
            (Dialect::V3, Some(reference)) => json!({"allOf": [{"$ref": reference}]}),
            _ => made,
        }
    }

    fn named(&mut self, name: &str) -> Value {
        self.todo.push(name.to_owned());
        reference(self.dialect, name)
    }
}
