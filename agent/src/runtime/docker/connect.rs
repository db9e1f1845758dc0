//! TCP to a pod's own loopback: a socket belongs to the network namespace that it was made in, wherever it is used.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use super::{Connection, Result, RuntimeError};
use crate::runtime::dial;

/// IPv4 and, where the kernel has it, IPv6.
struct Sockets(OwnedFd, Option<OwnedFd>);

impl Sockets {
    fn here() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = |family| socket_with(family, SocketType::STREAM, flags, None);
        Ok(Self(socket(AddressFamily::INET)?, socket(AddressFamily::INET6).ok()))
    }

    /// A thread goes there and ends: one that came back and failed to would answer for the pod ever after.
    async fn within(namespace: String) -> io::Result<Self> {
        let (done, made) = oneshot::channel();
        std::thread::Builder::new().name("netns".into()).spawn(move || {
            let sockets = File::open(&namespace).and_then(|file| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Self::here()
            });
            let _ = done.send(sockets);
        })?;
        made.await.unwrap_or_else(|_| Err(io::Error::other("the thread was lost")))
    }
}

/// Connects to a port on the loopback of a namespace, of the host's where `namespace` is `None`.
///
/// Where the namespace cannot be entered (without privileges, or the daemon is another machine's), the pod is asked by
/// its address: what listens on its loopback only is not found then.
pub(super) async fn connect(
    namespace: Option<String>,
    address: Option<IpAddr>,
    port: u16,
) -> Result<Connection> {
    let failed = |reason: String| RuntimeError::Failed { operation: "connect to the pod", reason };
    let sockets = match namespace {
        None => Sockets::here(),
        Some(namespace) => Sockets::within(namespace).await,
    };
    let Sockets(v4, v6) = match (sockets, address) {
        (Ok(sockets), _) => sockets,
        (Err(error), Some(address)) => {
            tracing::debug!(%error, "a pod's network namespace cannot be entered");
            let connected = tokio::net::TcpStream::connect((address, port)).await;
            return match connected {
                Ok(stream) => Ok(Box::new(quick(stream))),
                Err(error) => Err(failed(dial::failed(SocketAddr::new(address, port), &error))),
            };
        }
        (Err(error), None) => return Err(failed(error.to_string())),
    };
    let first = match to(v4, Ipv4Addr::LOCALHOST.into(), port).await {
        Ok(stream) => return Ok(Box::new(quick(stream))),
        Err(error) => dial::failed(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &error),
    };
    let Some(v6) = v6 else { return Err(failed(first)) };
    match to(v6, Ipv6Addr::LOCALHOST.into(), port).await {
        Ok(stream) => Ok(Box::new(quick(stream))),
        // Pods have no IPv6 loopback, unless somebody gave them one.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Err(failed(first)),
        Err(error) => {
            let second = dial::failed(SocketAddr::from((Ipv6Addr::LOCALHOST, port)), &error);
            Err(failed(format!("IPv4: {first}, IPv6: {second}")))
        }
    }
}

async fn to(socket: OwnedFd, ip: IpAddr, port: u16) -> io::Result<tokio::net::TcpStream> {
    TcpSocket::from_std_stream(TcpStream::from(socket)).connect(SocketAddr::new(ip, port)).await
}

fn quick(stream: tokio::net::TcpStream) -> tokio::net::TcpStream {
    let _ = stream.set_nodelay(true);
    stream
}
