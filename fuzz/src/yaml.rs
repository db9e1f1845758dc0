//! Manifests: YAML and JSON, Kubernetes' form and `version: v0`; commands from a queue.

use warren_api::{Registry, manifest, yaml};

pub(crate) fn run(data: &[u8]) {
    let registry = Registry::builtin();
    let _ = manifest::commands(&registry, data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = manifest::read(&registry, text);
    for document in yaml::documents(text).unwrap_or_default() {
        let Ok(written) = yaml::to_string(&document) else { continue };
        let again = yaml::documents(&written);
        assert!(again.is_ok_and(|again| again == [document]), "what is written reads as the same");
    }
}
