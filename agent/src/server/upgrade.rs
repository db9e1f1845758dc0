//! From a request to two-way bytes: a WebSocket, or SPDY/3.1, with the protocol that both sides speak.

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::route::{Body, Refusal, Service};

/// What one message of a client may have, as at the kubelet. kubectl sends 32 KiB; the Python client packs what a program
/// wrote at once, up to 1 MiB and the byte of the channel for a forwarded port, without a bound for an exec.
const MAX_MESSAGE_BYTES: usize = 32 << 20;

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

pub(super) type Io = TokioIo<Upgraded>;

/// What a path can be upgraded to.
pub(super) struct Offers {
    /// In the order of preference; an empty one is spoken with a client that names none.
    pub(super) websocket: &'static [&'static str],
    pub(super) spdy: &'static [&'static str],
}

/// A request that asked for what is offered.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) protocol: &'static str,
    /// The answer to the WebSocket's key; `None` for SPDY.
    accept: Option<String>,
    connection: OnUpgrade,
}

pub(super) enum Transport {
    WebSocket(Box<WebSocketStream<Io>>),
    Spdy(Io),
}

impl Upgrade {
    pub(super) fn of(request: &mut Request<Incoming>, offers: &Offers) -> Result<Self, Refusal> {
        let (protocol, accept) = choose(request.headers(), offers)?;
        Ok(Self { protocol, accept, connection: hyper::upgrade::on(request) })
    }

    /// Answers the request; a task of that name carries what follows, until it ends or the process does.
    pub(super) fn serve<F>(
        self,
        service: &Service,
        task: &'static str,
        carry: impl FnOnce(Transport) -> F + Send + 'static,
    ) -> Response<Body>
    where
        F: Future<Output = ()> + Send,
    {
        let Self { protocol, accept, connection } = self;
        let shutdown = service.tasks.shutdown().clone();
        let is_websocket = accept.is_some();
        service.tasks.spawn(task, async move {
            let connection = match connection.await {
                Ok(connection) => TokioIo::new(connection),
                Err(error) => return tracing::debug!(%error, "an upgrade failed"),
            };
            let transport = match is_websocket {
                true => Transport::WebSocket(Box::new(websocket(connection).await)),
                false => Transport::Spdy(connection),
            };
            tokio::select! {
                () = carry(transport) => {}
                () = shutdown.draining() => {}
            }
        });
        let mut response = Response::new(Empty::<Bytes>::new().boxed_unsync());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let value = HeaderValue::from_static(protocol);
        match accept.map(HeaderValue::try_from) {
            None => {
                headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
                headers.insert(STREAM_PROTOCOL, value);
            }
            Some(accept) => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                if let Ok(accept) = accept {
                    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                }
                if !protocol.is_empty() {
                    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
                }
            }
        }
        response
    }
}

async fn websocket(connection: Io) -> WebSocketStream<Io> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// The protocol, and for a WebSocket the answer to its key.
fn choose(headers: &HeaderMap, offers: &Offers) -> Result<(&'static str, Option<String>), Refusal> {
    let words = |name: HeaderName| -> Vec<&str> {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|w| !w.is_empty()).collect()
    };
    let upgrade = words(header::UPGRADE);
    let asks = |wanted: &str| upgrade.iter().any(|word| word.eq_ignore_ascii_case(wanted));
    if asks(SPDY) {
        let wanted = words(STREAM_PROTOCOL);
        if wanted.is_empty() {
            return Err(Refusal::bad("unable to upgrade: X-Stream-Protocol-Version is required"));
        }
        // The client's order counts, as with the kubelet.
        let ours = |word: &&str| offers.spdy.iter().find(|ours| *ours == word).copied();
        let protocol = wanted.iter().find_map(ours).ok_or_else(|| {
            let why = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {wanted:?}, server accepts {:?}",
                offers.spdy
            );
            Refusal(StatusCode::FORBIDDEN, why)
        })?;
        return Ok((protocol, None));
    }
    if !asks("websocket") {
        return Err(Refusal::bad(format!("Upgrade: websocket or {SPDY} is required")));
    }
    let wanted = words(header::SEC_WEBSOCKET_PROTOCOL);
    let spoken = |ours: &&&str| wanted.contains(ours) || ours.is_empty() && wanted.is_empty();
    let protocol = offers.websocket.iter().find(spoken).ok_or_else(|| {
        Refusal::bad(format!(
            "Sec-WebSocket-Protocol: none of {:?} is served; {:?} are",
            wanted.join(", "),
            offers.websocket
        ))
    })?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    if key.is_empty() {
        return Err(Refusal::bad("Sec-WebSocket-Key: is required"));
    }
    Ok((protocol, Some(derive_accept_key(key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERS: Offers = Offers { websocket: &["v5", "v4", ""], spdy: &["v4", "v3"] };

    fn asked(headers: &[(&'static str, &str)]) -> Result<(&'static str, bool), String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let chosen = choose(&map, &OFFERS).map(|(protocol, accept)| (protocol, accept.is_some()));
        chosen.map_err(|Refusal(code, why)| format!("{code} {why}"))
    }

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let key = ("sec-websocket-key", "a2V5");
        let socket = |wanted| asked(&[("upgrade", "WebSocket"), key, wanted]);
        assert_eq!(socket(("sec-websocket-protocol", "v4, v5")), Ok(("v5", true)));
        assert_eq!(socket(("sec-websocket-protocol", "v4,v3")), Ok(("v4", true)));
        assert_eq!(socket(("accept", "any")), Ok(("", true)));
        let refused = socket(("sec-websocket-protocol", "v1")).unwrap_err();
        assert!(refused.starts_with("400 Bad Request Sec-WebSocket-Protocol: none of \"v1\""));
        let refused = asked(&[("upgrade", "websocket")]).unwrap_err();
        assert_eq!(refused, "400 Bad Request Sec-WebSocket-Key: is required");

        let version = "x-stream-protocol-version";
        let spdy =
            |first, second| asked(&[("upgrade", "spdy/3.1"), (version, first), (version, second)]);
        assert_eq!(spdy("v3", "v4"), Ok(("v3", false)), "as the client prefers");
        assert_eq!(spdy("v5", "v4"), Ok(("v4", false)));
        let refused = spdy("v6", "v5").unwrap_err();
        assert!(refused.starts_with("403 Forbidden unable to upgrade: unable to negotiate"));
        let refused = asked(&[("upgrade", "SPDY/3.1")]).unwrap_err();
        assert!(refused.ends_with("X-Stream-Protocol-Version is required"), "{refused}");
        let refused = asked(&[("upgrade", "h2c")]).unwrap_err();
        assert_eq!(refused, "400 Bad Request Upgrade: websocket or SPDY/3.1 is required");
    }
}
