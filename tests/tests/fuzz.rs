//! Every target of `fuzz/`, half a minute each (`FUZZ_SECONDS` names another time), led by coverage, from the corpus there.
//! `FUZZ_FOUND` names a folder in which the inputs stay that found something new.
//!
//! libFuzzer and the coverage it needs work with the stable compiler; what is left out is the address sanitizer, for
//! which this project's code, without `unsafe`, has little use.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What libFuzzer looks at: which edges were taken, and what was compared with what.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Of memory, for one input and all that is remembered.
const MEGABYTES: u32 = 1024;
/// For one input; the machine may be busy.
const SECONDS_FOR_ONE: u32 = 20;
const MAX_INPUT: u32 = 64 << 10;
/// What a word of a dictionary may have.
const MAX_WORD: usize = 64;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn target_folder() -> PathBuf {
    // …/target/<profile>/deps/<test>
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("fuzz")
}

/// Built once, in a folder of its own: its flags are not those of the other tests.
fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // With a target named, the flags are not those of build scripts and macros.
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let build = Command::new(env!("CARGO"))
            .args(["build", "--profile", "fuzz", "--locked", "--package", "warren-fuzz"])
            .args(["--features", "libfuzzer", "--target", &triple, "--target-dir"])
            .arg(target_folder())
            .current_dir(root())
            .env("RUSTFLAGS", COVERAGE)
            .output()
            .unwrap();
        assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
        std::fs::write(dictionary(), words()).unwrap();
        target_folder().join(triple).join("fuzz/fuzz")
    })
}

fn dictionary() -> PathBuf {
    target_folder().join("dictionary")
}

/// The names of all fields, kinds and resources, which nobody guesses byte by byte.
fn words() -> String {
    let mut words: BTreeSet<&str> = BTreeSet::new();
    for of in warren_api::schema::builtin().types() {
        words.extend(of.fields().iter().map(|field| &*field.name));
    }
    for kind in warren_api::Registry::builtin().iter() {
        words.extend([kind.kind(), kind.plural(), kind.group(), kind.schema_type()]);
    }
    let lines = words.iter().filter(|word| (2..=MAX_WORD).contains(&word.len()));
    lines.map(|word| format!("{word:?}\n")).collect()
}

fn run(name: &str) {
    let program = program();
    let seconds = std::env::var("FUZZ_SECONDS").unwrap_or("30".to_owned());
    let passing = tempfile::tempdir().unwrap();
    let found = match std::env::var_os("FUZZ_FOUND") {
        Some(folder) => Path::new(&folder).join(name),
        None => passing.path().join(name),
    };
    std::fs::create_dir_all(&found).unwrap();
    let out = Command::new(program)
        .env("TARGET", name)
        .arg(&found)
        .arg(root().join("fuzz/corpus").join(name))
        .arg(format!("-dict={}", dictionary().display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEGABYTES}"))
        .arg(format!("-timeout={SECONDS_FOR_ONE}"))
        .arg(format!("-max_len={MAX_INPUT}"))
        .arg(format!("-artifact_prefix={}/{name}-", target_folder().display()))
        .args(["-print_final_stats=1", "-verbosity=0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    let last: Vec<_> = said.lines().rev().take(60).collect();
    let told = last.into_iter().rev().collect::<Vec<_>>().join("\n");
    assert!(out.status.success(), "{name}: {}\n{told}", out.status);
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let runs: u64 = runs.unwrap_or_else(|| panic!("{name}: {told}")).trim().parse().unwrap();
    let inputs = std::fs::read_dir(&found).unwrap().count();
    println!("{name}: {runs} runs, {inputs} inputs found");
    assert!(runs > 100, "{name}: {told}");
}

/// The suite has every target that there is.
#[test]
fn all_are_here() {
    let folders = std::fs::read_dir(root().join("fuzz/corpus")).unwrap();
    let names: BTreeSet<_> =
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().map(String::as_str).eq(TARGETS.iter().copied()), "{names:?}");
}

macro_rules! targets {
    ($($name:ident)*) => {
        const TARGETS: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*
    };
}

targets! { events patches protobuf quantities request selectors spdy yaml }
