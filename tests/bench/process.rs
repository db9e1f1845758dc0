//! What a process takes, as /proc tells.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// Linux' unit of processor time for programs, on every architecture that Warren runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// (RSS, PSS) in MB.
pub fn memory(pid: u32) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let megabytes = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    };
    megabytes("Rss:").zip(megabytes("Pss:")).context("no Rss and Pss in smaps_rollup")
}

/// Seconds of CPU that it has used.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').context("stat")?.1;
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// The share of a core that a process takes from now on.
pub struct Share {
    pid: u32,
    cpu: f64,
    since: Instant,
}

impl Share {
    pub fn of(pid: u32) -> Result<Self> {
        Ok(Self { pid, cpu: cpu_seconds(pid)?, since: Instant::now() })
    }

    /// In percent of one core.
    pub fn percent(&self) -> Result<f64> {
        let used = cpu_seconds(self.pid)? - self.cpu;
        Ok(100.0 * used / self.since.elapsed().as_secs_f64())
    }
}

/// Looks at a process' PSS again and again, in a thread of its own.
pub struct Sampler {
    /// Gone, it ends the thread.
    goes_on: Sender<()>,
    thread: JoinHandle<Result<Vec<f64>>>,
}

impl Sampler {
    pub fn start(pid: u32, every: Duration) -> Self {
        let (goes_on, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut samples = vec![memory(pid)?.1];
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                samples.push(memory(pid)?.1);
            }
            Ok(samples)
        });
        Self { goes_on, thread }
    }

    /// All samples, in MB; never none.
    pub fn end(self) -> Result<Vec<f64>> {
        drop(self.goes_on);
        self.thread.join().map_err(|_| anyhow!("the sampler's thread panicked"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_process() {
        let pid = std::process::id();
        let sampler = Sampler::start(pid, Duration::from_millis(1));
        let (rss, pss) = memory(pid).unwrap();
        assert!(pss > 0.1 && pss <= rss, "{pss} of {rss}");
        assert!(sampler.end().unwrap().iter().all(|sample| *sample > 0.1));
        assert!(Share::of(pid).unwrap().percent().unwrap() >= 0.0);
    }
}
