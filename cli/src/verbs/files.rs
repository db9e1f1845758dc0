//! Objects from files, folders and standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use warren_api::{Registry, manifest};

/// More than any sensible manifest; the server's own limit for one object is lower.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// An object and where it came from.
pub(super) struct Manifest {
    pub(super) source: String,
    pub(super) object: Value,
    /// It was written as `version: v0`, whose namespace is made where it is missing.
    pub(super) is_v0: bool,
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

/// With the reader of the manifests folder; what kinds and fields there are, the server knows.
fn parse(source: &str, text: &str, found: &mut Vec<Manifest>) -> Result<()> {
    let read = manifest::read_raw(&Registry::builtin(), text);
    for manifest::Raw { object, ip, is_v0, line } in read.with_context(|| source.to_owned())? {
        // Whether it is an address of the host, only a node can say, of its own folder.
        if let Some(ip) = ip.filter(|ip| !ip.is_unspecified()) {
            bail!(
                "{source}: line {line}: spec.ip: Invalid value: \"{ip}\": which host it is of is not known here; use \
                 0.0.0.0, or the manifests folder of the node"
            );
        }
        let object = Value::Object(object);
        found.push(Manifest { source: source.to_owned(), object, is_v0 });
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
    fn the_first_form_of_manifests_is_read_as_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        let write = |ip: &str| {
            let text = format!(
                "version: v0\nkind: Pod\nspec:\n  name: dummy pod\n  namespace: podnamespace\n  ip: {ip}\n  \
                 containers: [{{name: c, image: i}}]\n"
            );
            std::fs::write(&path, text).unwrap();
            read(&[path.to_str().unwrap().to_owned()])
        };
        let found = write("0.0.0.0").unwrap();
        let metadata = &found[0].object["metadata"];
        assert_eq!(
            (&metadata["name"], &metadata["namespace"]),
            (&"dummy-pod".into(), &"podnamespace".into())
        );
        assert_eq!((&found[0].object["apiVersion"], found[0].is_v0), (&"v1".into(), true));
        assert_eq!(found[0].object["spec"].as_object().unwrap().len(), 1, "{}", found[0].object);
        let error = write("192.0.2.1").err().unwrap().to_string();
        assert!(error.contains("spec.ip") && error.contains("192.0.2.1"), "{error}");
    }

    #[test]
    fn broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        for (text, part) in
            [("a: [", "x.yaml"), ("3", "x.yaml: line 1: an object is wanted"), ("", "no objects")]
        {
            std::fs::write(&path, text).unwrap();
            let error = read(&[path.to_str().unwrap().to_owned()]).err().unwrap();
            assert!(format!("{error:#}").contains(part), "{error:#}");
        }
    }
}
