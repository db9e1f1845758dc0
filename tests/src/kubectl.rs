//! The stock `kubectl`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// What a program answered.
#[derive(Debug, Clone)]
pub struct Output {
    pub command: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn succeeded(&self) -> bool {
        self.code == 0
    }

    /// The standard output of a command that must succeed.
    ///
    /// # Panics
    /// Where it did not, with everything that it said.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert!(self.succeeded(), "{}", self.told());
        &self.stdout
    }

    /// The standard error of a command that must fail.
    #[track_caller]
    pub fn err(&self) -> &str {
        assert!(!self.succeeded(), "must fail: {}", self.told());
        &self.stderr
    }

    /// The standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.told()))
    }

    pub fn told(&self) -> String {
        format!(
            "{} ended with {}\n--- stdout\n{}--- stderr\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

/// Which kubectl: $KUBECTL, else that of the PATH.
pub fn program() -> String {
    std::env::var("KUBECTL").ok().filter(|path| !path.is_empty()).unwrap_or("kubectl".into())
}

/// Every kubectl that is found in the folders of `KUBECTL_PATH` and `PATH` (`kubectl` and `kubectl.1.NN`), by its version;
/// two of the same are one.
pub fn programs() -> BTreeMap<String, PathBuf> {
    let path = ["KUBECTL_PATH", "PATH"].into_iter().filter_map(std::env::var_os);
    let folders: Vec<PathBuf> =
        path.flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).collect();
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let named = files.flatten().map(|file| file.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == "kubectl" || name.starts_with("kubectl.1.")
    });
    named
        .chain([PathBuf::from(program())])
        .filter_map(|path| {
            let mut command = Command::new(&path);
            command.args(["version", "--client", "-o", "json"]);
            let value: Value = serde_json::from_str(&run(command, None).stdout).ok()?;
            let version = value["clientVersion"]["gitVersion"].as_str()?;
            let minor = version.trim_start_matches('v').split('.').take(2);
            Some((minor.collect::<Vec<_>>().join("."), path))
        })
        .collect()
}

pub(crate) fn command(kubeconfig: &Path) -> Command {
    let mut command = Command::new(program());
    command.env("KUBECONFIG", kubeconfig);
    // What kubectl caches must not outlive a cluster whose port another may get.
    if let Some(dir) = kubeconfig.parent() {
        command.env("KUBECACHEDIR", dir.join("cache"));
    }
    command
}

/// Runs to the end.
///
/// # Panics
/// Where the program cannot be started.
pub fn run(mut command: Command, input: Option<&str>) -> Output {
    let line: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    let line = line.join(" ");
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child =
        command.spawn().unwrap_or_else(|error| panic!("{line}: cannot be started: {error}"));
    let stdin = child.stdin.take();
    // Both ways at once: a program may answer before it has read everything.
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            let (Some(input), Some(mut stdin)) = (input, stdin) else { return };
            let _ = stdin.write_all(input.as_bytes());
        });
        child.wait_with_output().expect("the output can be read")
    });
    Output {
        command: line,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
