//! `kubectl port-forward`, and connections through it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cluster::{Cluster, SOON};
use crate::running::Running;
use crate::wait::until_some;

/// A connection on which nothing comes for so long is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Forwards ports of a pod until dropped.
pub struct Forwarded {
    running: Running,
    /// The port that was asked for, and where it is here.
    ports: Vec<(u16, SocketAddr)>,
}

impl Forwarded {
    /// `command` is a `kubectl port-forward NAME` without ports: each gets a free one here.
    ///
    /// # Panics
    /// Where kubectl does not say in time that it forwards.
    #[track_caller]
    pub fn start(cluster: &Cluster, mut command: Command, ports: &[u16]) -> Self {
        command.arg("--address=127.0.0.1").args(ports.iter().map(|port| format!(":{port}")));
        command.stdin(Stdio::null());
        let mut running = cluster.going_on(command);
        let ports = until_some("ports are forwarded", SOON, || {
            let output = running.output();
            assert!(!running.has_ended(), "{output}");
            let lines = output.lines().filter_map(|line| line.strip_prefix("Forwarding from "));
            // In the order of the ports; behind a Service, the port that is told is the pod's.
            let here = lines.filter_map(|line| line.split_once(" -> ")?.0.parse().ok());
            let said: Vec<_> = ports.iter().copied().zip(here).collect();
            (said.len() == ports.len()).then_some(said)
        });
        Self { running, ports }
    }

    /// Where a port is here.
    pub fn local(&self, port: u16) -> SocketAddr {
        let found = self.ports.iter().find(|(known, _)| *known == port);
        found.expect("it is forwarded").1
    }

    pub fn connect(&self, port: u16) -> TcpStream {
        let stream = TcpStream::connect(self.local(port)).expect("kubectl listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    /// [`exchange`] on a connection of its own.
    pub fn ask(&self, port: u16, sent: &[u8]) -> Vec<u8> {
        exchange(self.connect(port), sent)
    }

    pub fn output(&self) -> String {
        self.running.output()
    }
}

/// Sends all of it, then says that nothing more comes; answers what came until the other side's end.
pub fn exchange(mut stream: TcpStream, sent: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("a socket");
    let mut answer = Vec::with_capacity(sent.len());
    // Both ways at once: nothing holds all of it.
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = writer.write_all(sent);
            let _ = writer.shutdown(Shutdown::Write);
        });
        // What arrived before a break counts.
        let _ = stream.read_to_end(&mut answer);
    });
    answer
}

/// So many bytes of which each place has its own.
pub fn noise(length: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_be_bytes());
    words.take(length).collect()
}
