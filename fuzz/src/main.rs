//! One program for all targets, for libFuzzer: `TARGET=yaml fuzz corpus/yaml`.
#![no_main]
#![expect(clippy::panic, reason = "libFuzzer's way to say that it cannot begin")]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use warren_fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => *target,
        None => panic!("TARGET={name:?}: the targets are {:?}", TARGETS.map(|(name, _)| name)),
    }
}

fuzz_target!(|data: &[u8]| CHOSEN.get_or_init(chosen)(data));
