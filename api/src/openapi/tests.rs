use std::path::Path;

use serde_json::json;

use super::*;

/// Every `$ref` below a value.
fn references(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                out.insert(reference.clone());
            }
            map.values().for_each(|value| references(value, out));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

#[test]
fn every_reference_is_there() {
    let registry = Registry::builtin();
    let mut documents: Vec<Value> = group_versions(&registry)
        .into_iter()
        .map(|(group, version)| v3(&registry, group, version).unwrap())
        .collect();
    documents.push(v2(&registry));
    for document in documents {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
    assert!(v3(&registry, "none.example", "v1").is_none());
}

#[test]
fn what_kubectl_looks_for() {
    let registry = Registry::builtin();
    let index = v3_index(&registry);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="));
    for kind in registry.iter() {
        let document = v3(&registry, kind.group(), kind.version()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let of_kind = |method: &str, parameter: &str| {
            paths.values().any(|item| {
                let operation = &item[method];
                operation["x-kubernetes-group-version-kind"] == kind_gvk(kind)
                    && operation["parameters"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .any(|p| p["name"] == parameter && p["in"] == "query")
            })
        };
        assert!(of_kind("patch", "fieldValidation"), "{}", kind.kind());
        assert!(of_kind("get", "watch"), "{}", kind.kind());
        let schema = &document["components"]["schemas"][schemas::public_name(kind.schema_type())];
        assert_eq!(schema["x-kubernetes-group-version-kind"], json!([kind_gvk(kind)]));
    }
    let core = v3(&registry, "", "v1").unwrap();
    let schemas = &core["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"],
        json!({"type": "array", "items": {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ContainerPort"}]},
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "containerPort"})
    );
    assert_eq!(schemas["io.k8s.api.core.v1.Container"]["required"], json!(["name"]));
    assert_eq!(
        schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"],
        json!({"type": "string", "default": "TCP", "enum": ["SCTP", "TCP", "UDP"]})
    );
    assert!(
        core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/status"]["patch"].is_object()
    );
    assert!(core["paths"]["/api/v1/nodes/{name}"]["get"].is_object());
}

/// Walks a message's fields; `None` where the encoding is broken.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut value = 0;
        for shift in 0..10 {
            let (first, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= u64::from(first & 0x7f) << (7 * shift);
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => {
                varint(&mut bytes)?;
                &[][..]
            }
            2 => {
                let length = varint(&mut bytes)? as usize;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                value
            }
            _ => return None,
        };
        found.push((tag >> 3, value));
    }
    Some(found)
}

#[test]
fn the_protobuf_form_has_every_definition() {
    let document = v2(&Registry::builtin());
    let bytes = v2_protobuf(&document);
    let top = fields(&bytes).unwrap();
    assert_eq!(top[0], (1, &b"2.0"[..]));
    let definitions = top.iter().find(|(number, _)| *number == 9).unwrap().1;
    let names: Vec<&[u8]> = fields(definitions)
        .unwrap()
        .into_iter()
        .map(|(_, pair)| fields(pair).unwrap()[0].1)
        .collect();
    let expected: Vec<&[u8]> =
        document["definitions"].as_object().unwrap().keys().map(|name| name.as_bytes()).collect();
    assert_eq!(names, expected);
}

/// Writes the documents for other tools to look at: `OPENAPI_OUT=folder cargo test`.
#[test]
fn documents_for_other_tools() {
    let Some(folder) = std::env::var_os("OPENAPI_OUT") else { return };
    let folder = Path::new(&folder);
    let registry = Registry::builtin();
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.join(name), bytes).unwrap();
    write("index.json", v3_index(&registry).to_string().into());
    write("v2.json", v2(&registry).to_string().into());
    write("v2.pb", v2_protobuf(&v2(&registry)));
    for (group, version) in group_versions(&registry) {
        let name = prefix(group, version).replace('/', "_");
        write(&format!("{name}.json"), v3(&registry, group, version).unwrap().to_string().into());
    }
}
