//! Fuzz targets: what reads bytes that somebody else wrote. A target must return for every input, soon and with bounded
//! memory; what it also claims stands beside it. tests/tests/fuzz.rs runs them; a file that ended one belongs into
//! `corpus/<target>`, where the test below runs it for ever.
//!
//! What a long run found (`FUZZ_SECONDS=600 FUZZ_FOUND=found tests/run fuzz`) is made small again with
//! `TARGET=yaml target/fuzz/<triple>/fuzz/fuzz -merge=1 -use_counters=0 fuzz/corpus/yaml found/yaml`.

mod events;
mod patches;
mod protobuf;
mod quantities;
mod request;
mod selectors;
mod shape;
mod spdy;
mod yaml;

/// One run with one input.
pub type Target = fn(&[u8]);

pub const TARGETS: [(&str, Target); 8] = [
    ("events", events::run),
    ("patches", patches::run),
    ("protobuf", protobuf::run),
    ("quantities", quantities::run),
    ("request", request::run),
    ("selectors", selectors::run),
    ("spdy", spdy::run),
    ("yaml", yaml::run),
];

/// What stands between the parts of an input that has several.
const SEPARATOR: &str = "\n----\n";

fn parts(data: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(data).unwrap_or_default().split(SEPARATOR)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_corpus_passes() {
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
            let mut inputs = 0;
            for entry in std::fs::read_dir(&folder).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                inputs += 1;
            }
            assert!(inputs >= 3, "{}", folder.display());
        }
    }
}
