//! Objects from files, folders and standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// More than any sensible manifest; the server's own limit for one object is lower.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// An object and where it came from.
pub(super) struct Manifest {
    pub(super) source: String,
    pub(super) object: Value,
}

/// Reads what `-f` names: files, folders (their .yaml, .yml and .json files, by name), `-` for standard input. Lists
/// are taken apart.
pub(super) fn read(names: &[String]) -> Result<Vec<Manifest>> {
    let mut found = Vec::new();
    for name in names {
        if name == "-" {
            let mut text = String::new();
            std::io::stdin().take(MAX_BYTES).read_to_string(&mut text).context("standard input")?;
            parse("standard input", &text, &mut found)?;
            continue;
        }
        for path in expand(Path::new(name))? {
            let name = path.display().to_string();
            let size = std::fs::metadata(&path).with_context(|| name.clone())?.len();
            if size > MAX_BYTES {
                bail!("{name}: is larger than {MAX_BYTES} bytes");
            }
            let text = std::fs::read_to_string(&path).with_context(|| name.clone())?;
            parse(&name, &text, &mut found)?;
        }
    }
    if found.is_empty() {
        bail!("no objects in {}", names.join(", "));
    }
    Ok(found)
}

fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let path = entry?.path();
        let wanted = path.extension().and_then(|e| e.to_str());
        if path.is_file() && matches!(wanted, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn parse(source: &str, text: &str, found: &mut Vec<Manifest>) -> Result<()> {
    let documents = warren_api::yaml::documents(text).with_context(|| source.to_owned())?;
    for document in documents {
        let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        let objects = match document {
            Value::Object(mut map) if is_list && map.get("items").is_some_and(Value::is_array) => {
                match map.remove("items") {
                    Some(Value::Array(items)) => items,
                    _ => vec![],
                }
            }
            Value::Object(_) => vec![document],
            _ => bail!("{source}: is not an object but a single value"),
        };
        found.extend(
            objects.into_iter().map(|object| Manifest { source: source.to_owned(), object }),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_by_name_and_lists_taken_apart() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name, text| std::fs::write(dir.path().join(name), text).unwrap();
        write("b.yaml", "kind: A\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n");
        write("a.json", r#"{"kind": "Z"}"#);
        write("notes.txt", "not: read");
        let read = read(&[dir.path().to_str().unwrap().to_owned()]).unwrap();
        let kinds: Vec<_> = read.iter().map(|m| m.object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Z", "A", "B", "C"]);
    }

    #[test]
    fn broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        for (text, part) in [("a: [", "x.yaml"), ("3", "single value"), ("", "no objects")] {
            std::fs::write(&path, text).unwrap();
            let error = read(&[path.to_str().unwrap().to_owned()]).err().unwrap();
            assert!(format!("{error:#}").contains(part), "{error:#}");
        }
    }
}
