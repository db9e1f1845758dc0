//! Cuts: a TCP proxy between two parts, which a test closes and opens.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BUFFER: usize = 16 << 10;
/// For a connection on the loopback.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Open,
    /// Connections end, new ones too: as where the other side's machine says no.
    Refuses,
    /// Connections stay and say nothing: as where packets are dropped. What was on its way comes later.
    Silent,
}

/// Gone when dropped, with all that goes through it.
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    accepts: JoinHandle<()>,
}

impl Proxy {
    /// To a port of the loopback.
    ///
    /// # Panics
    /// Where no port is free.
    #[expect(clippy::disallowed_methods, reason = "it ends with the proxy")]
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let (mode, told) = watch::channel(Mode::Open);
        let accepts = tokio::spawn(async move {
            let target = SocketAddr::from(([127, 0, 0, 1], port));
            loop {
                if let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(carry(socket, target, told.clone()));
                }
            }
        });
        Self { port: own, mode, accepts }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn carry(socket: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let mut refuses = mode.clone();
    let carried = async {
        let _ = mode.wait_for(|mode| *mode == Mode::Open).await;
        let there = tokio::time::timeout(CONNECTS_WITHIN, TcpStream::connect(target)).await;
        let Ok(Ok(there)) = there else { return };
        let _ = (socket.set_nodelay(true), there.set_nodelay(true));
        let (from, to) = (socket.into_split(), there.into_split());
        tokio::join!(pump(from.0, to.1, mode.clone()), pump(to.0, from.1, mode.clone()));
    };
    tokio::select! {
        () = carried => {}
        // Or the proxy is gone.
        _ = refuses.wait_for(|mode| *mode == Mode::Refuses) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        if mode.wait_for(|mode| *mode == Mode::Open).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            changed = mode.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer) => match read {
                Ok(read @ 1..) if to.write_all(&buffer[..read]).await.is_ok() => {}
                _ => {
                    let _ = to.shutdown().await;
                    return;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    async fn it_carries_keeps_and_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap().port()).await;
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (mut read, mut write) = socket.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
            }
        });
        let connect = async || TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        let mut socket = connect().await;
        let mut echo = [0; 4];
        socket.write_all(b"ping").await.unwrap();
        socket.read_exact(&mut echo).await.unwrap();
        proxy.set(Mode::Silent);
        socket.write_all(b"late").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), socket.read_exact(&mut echo));
        assert!(early.await.is_err(), "it is silent");
        proxy.set(Mode::Open);
        let mut echo = [0; 4];
        let late = tokio::time::timeout(SOON, socket.read_exact(&mut echo)).await;
        assert!(late.is_ok_and(|read| read.is_ok()) && echo == *b"late");
        proxy.set(Mode::Refuses);
        let ended = tokio::time::timeout(SOON, socket.read(&mut echo)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        let ended = tokio::time::timeout(SOON, connect().await.read(&mut echo)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}
