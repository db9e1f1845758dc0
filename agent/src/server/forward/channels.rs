//! Port-forward over a WebSocket as the Python and JavaScript clients do it: two channels for each port, its data and
//! its errors; the first message of both is the port. One connection for each port, and no half-closing.

use bytes::Bytes;
use futures::future::join_all;
use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

use super::{Downstream, Query, Read, Refusal, Target, Upstream, copy, spdy};
use crate::server::channels::Form;
use crate::server::upgrade::Io;

/// A channel's number is a byte, and a port has two.
const MAX_PORTS: usize = 64;
/// Messages that wait for a connection to the pod, or for the client.
const MESSAGES: usize = 16;

/// The ports that a request names: `ports` in the API, `port` at the kubelet; several with commas or one by one.
pub(super) fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let named = [query.all("ports"), query.all("port")].concat();
    let ports = named.iter().flat_map(|ports| ports.split(',')).map(|port| {
        let number = port.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| Refusal::bad(format!("ports: unable to parse {port:?} as a port")))
    });
    let ports: Vec<u16> = ports.collect::<Result<_, _>>()?;
    match ports.len() {
        1..=MAX_PORTS => Ok(ports),
        0 => Err(Refusal::bad("query parameter \"ports\" is required")),
        many => Err(Refusal::bad(format!("ports: at most {MAX_PORTS}, not {many}"))),
    }
}

struct Up(mpsc::Receiver<Bytes>);

impl Upstream for Up {
    async fn next(&mut self) -> Read {
        self.0.recv().await.map_or(Read::Gone, Read::Data)
    }
}

struct Down {
    form: Form,
    channel: u8,
    messages: mpsc::Sender<Message>,
}

impl Downstream for Down {
    const HALF_CLOSES: bool = false;

    async fn send(&self, data: Bytes) -> Result<(), spdy::Gone> {
        let message = self.form.write(self.channel, &data);
        self.messages.send(message).await.map_err(|_| spdy::Gone)
    }

    async fn finish(self) {}
}

/// Until all connections have ended, or the client has gone.
pub(super) async fn carry(socket: WebSocketStream<Io>, form: Form, ports: &[u16], target: &Target) {
    let (mut write, mut read) = socket.split();
    let (messages, mut queue) = mpsc::channel(MESSAGES);
    let (mut senders, mut connections) = (Vec::new(), Vec::new());
    for (port, channel) in ports.iter().zip((0..=u8::MAX).step_by(2)) {
        let (sender, pieces) = mpsc::channel(MESSAGES);
        senders.push(sender);
        let data = Down { form, channel, messages: messages.clone() };
        let error = Down { form, channel: channel + 1, messages: messages.clone() };
        connections.push(one(*port, Up(pieces), data, error, target));
    }
    // What is left of them are the connections' own: the queue ends with the last.
    drop(messages);
    let receive = async {
        while let Some(Ok(message)) = read.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
            let Some((channel, data)) = form.read(message) else { continue };
            // Nothing is said on the channels for errors, and nothing needs to be.
            if channel % 2 == 0
                && !data.is_empty()
                && let Some(sender) = senders.get(usize::from(channel / 2))
            {
                let _ = sender.send(data).await;
            }
        }
    };
    let send = async {
        while let Some(message) = queue.recv().await {
            if write.send(message).await.is_err() {
                return;
            }
        }
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let _ = write.send(Message::Close(Some(normal))).await;
    };
    let connected = async {
        join_all(connections).await;
        std::future::pending().await
    };
    tokio::select! {
        () = receive => {}
        () = send => {}
        () = connected => {}
    }
}

async fn one(port: u16, mut up: Up, data: Down, error: Down, target: &Target) {
    for channel in [&data, &error] {
        let _ = channel.send(Bytes::copy_from_slice(&port.to_le_bytes())).await;
    }
    match target.connect(port).await {
        Ok(connection) => {
            if let Err(why) = copy(connection, &mut up, data).await {
                let _ = error.send(target.failed(port, &why.to_string()).into()).await;
            }
        }
        Err(why) => drop(error.send(why.into()).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_in_several_ways() {
        let read = |query: &str| ports(&Query::parse(query)).map_err(|Refusal(_, why)| why);
        assert_eq!(read("ports=80&ports=8080"), Ok(vec![80, 8080]));
        assert_eq!(read("ports=80,81&port=82"), Ok(vec![80, 81, 82]));
        assert_eq!(read(""), Err("query parameter \"ports\" is required".to_owned()));
        for wrong in ["0", "65536", "-1", "http", ""] {
            let refused = read(&format!("ports={wrong}")).unwrap_err();
            assert_eq!(refused, format!("ports: unable to parse {wrong:?} as a port"));
        }
        assert!(read(&"ports=1&".repeat(65)).is_err());
    }
}
