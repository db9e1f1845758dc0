//! Processes of containers that their daemon does not know to run: it was killed between their start and its note of it.
//! They hold the ports of their pod, so that whatever is started in their place fails.

use rustix::process::{Pid, Signal, kill_process};

/// What the daemon says when it finds such a one in its way: containerd has the task or the id already.
pub(super) fn is_in_the_way(message: &str) -> bool {
    message.contains("already exists") || message.contains("id already in use")
}

/// Kills all processes of a container, by their cgroup, which has the container's id in its name. Blocking.
pub(super) fn end(id: &str) {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let cgroups = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw).filter(|_| is_of(&cgroups, id)) {
            tracing::warn!(id, %pid, "ending a process that the daemon lost");
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// `<number>:<controllers>:/docker/<id>`, or `0::/system.slice/docker-<id>.scope`.
fn is_of(cgroups: &str, id: &str) -> bool {
    // An id is 64 hex digits; less would be another's beginning.
    id.len() == 64 && cgroups.lines().any(|line| line.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_found_by_their_cgroup() {
        let id = "5f951660828b18670bb1d0be767a4c1b2c5af922d6191d71b4a1208701b2e209";
        for (cgroups, found) in [
            (format!("9:name=systemd:/docker/{id}\n8:pids:/docker/{id}\n"), true),
            (format!("0::/system.slice/docker-{id}.scope\n"), true),
            ("0::/user.slice\n".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_of(&cgroups, id), found, "{cgroups}");
        }
        assert!(!is_of("0::/\n", ""), "everything contains nothing");
    }
}
