//! What the machine is and how it is doing.

use std::path::Path;

use crate::config::Capacity;

/// Below this much of the memory, the disk or the process ids that are left, there is pressure. The kubelet's figures.
const LEAST_MEMORY: u64 = 100 << 20;
const LEAST_DISK_TENTHS: u64 = 1;
const LEAST_PIDS_PERCENT: u64 = 10;

#[derive(Clone, Debug)]
pub struct Machine {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
    pub kernel: String,
    pub os_image: String,
    pub boot_id: String,
    pub machine_id: String,
    pub system_uuid: String,
    simulated: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

impl Machine {
    /// Measured; what the capacity names wins. `dir` is where pods write.
    pub fn measure(capacity: &Capacity, dir: Option<&Path>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let memory = meminfo("MemTotal:").unwrap_or(0);
        let disk = dir.and_then(disk).map_or(0, |(total, _)| total);
        let text = |path: &str| {
            std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
        };
        let machine_id = text("/etc/machine-id");
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Self {
            cpu_millis: capacity.cpu_millis.unwrap_or(whole(cpus as u64) * 1000),
            memory_bytes: capacity.memory_bytes.unwrap_or(whole(memory)),
            ephemeral_storage_bytes: capacity.ephemeral_storage_bytes.unwrap_or(whole(disk)),
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_image(),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            system_uuid: machine_id.clone(),
            machine_id,
            simulated: false,
        }
    }

    /// A machine that is not there.
    pub fn simulated(capacity: &Capacity) -> Self {
        Self {
            cpu_millis: capacity.cpu_millis.unwrap_or(32_000),
            memory_bytes: capacity.memory_bytes.unwrap_or(256 << 30),
            ephemeral_storage_bytes: capacity.ephemeral_storage_bytes.unwrap_or(1 << 40),
            kernel: "simulated".to_owned(),
            os_image: "Warren simulated node".to_owned(),
            boot_id: String::new(),
            machine_id: String::new(),
            system_uuid: String::new(),
            simulated: true,
        }
    }

    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// As Kubernetes (that is, Go) names it.
    pub fn arch(&self) -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }

    pub fn pressure(&self, dir: Option<&Path>) -> Pressure {
        if self.simulated {
            return Pressure::default();
        }
        let number =
            |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
        // `0.20 0.18 0.12 1/80 11206`: runnable/all
        let threads = std::fs::read_to_string("/proc/loadavg").ok().and_then(|text| {
            text.split_whitespace().nth(3)?.split_once('/')?.1.parse::<u64>().ok()
        });
        let most = number("/proc/sys/kernel/pid_max");
        Pressure {
            memory: meminfo("MemAvailable:").is_some_and(|free| free < LEAST_MEMORY),
            disk: dir
                .and_then(disk)
                .is_some_and(|(total, free)| free < total / 10 * LEAST_DISK_TENTHS),
            pids: threads.zip(most).is_some_and(|(threads, most)| {
                most.saturating_sub(threads) < most / 100 * LEAST_PIDS_PERCENT
            }),
        }
    }
}

/// Bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Bytes in all, and bytes left, of the file system that a path is on.
fn disk(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}
