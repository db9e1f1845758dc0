//! Channels within the messages of a WebSocket, and the remote command protocols that are spoken there and over SPDY.
//! Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::runtime::{Channel, Input, TerminalSize};

pub(super) const V5: &str = "v5.channel.k8s.io";
pub(super) const V4: &str = "v4.channel.k8s.io";
pub(super) const V4_BASE64: &str = "v4.base64.channel.k8s.io";
pub(super) const V1: &str = "channel.k8s.io";
const V1_BASE64: &str = "base64.channel.k8s.io";
/// A client that names no protocol.
pub(super) const UNNAMED: &str = "";

/// Over a WebSocket, in the order of preference. v5 adds the message that closes a channel; those before v4 end with words
/// and not with a Status.
pub(super) const PROTOCOLS: [&str; 6] = [V5, V4, V4_BASE64, V1, V1_BASE64, UNNAMED];

/// How a message of a WebSocket names its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The first byte is the channel.
    Binary,
    /// Text: the channel as a character, from `0` on, and base64.
    Base64,
}

impl Form {
    pub(super) fn of(protocol: &str) -> Self {
        match protocol {
            V4_BASE64 | V1_BASE64 => Form::Base64,
            _ => Form::Binary,
        }
    }

    pub(super) fn write(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Form::Binary => {
                let mut message = BytesMut::with_capacity(data.len() + 1);
                message.put_u8(channel);
                message.put_slice(data);
                Message::Binary(message.freeze())
            }
            Form::Base64 => {
                let mut text = String::from(char::from(b'0' + channel));
                STANDARD.encode_string(data, &mut text);
                Message::Text(text.into())
            }
        }
    }

    /// The channel and what is said there; `None` for what is none of this form. Whether a client calls its message binary
    /// or text does not count, as in Kubernetes.
    pub(super) fn read(self, message: Message) -> Option<(u8, Bytes)> {
        let (Message::Binary(_) | Message::Text(_)) = message else { return None };
        let message = message.into_data();
        let (channel, data) = (*message.first()?, message.slice(1..));
        match self {
            Form::Binary => Some((channel, data)),
            Form::Base64 => Some((channel.checked_sub(b'0')?, STANDARD.decode(data).ok()?.into())),
        }
    }
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Bytes of a terminal's size: `{"Width":80,"Height":24}`.
const MAX_RESIZE: usize = 1024;

#[derive(Deserialize)]
struct Resize {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

impl From<Resize> for Input {
    fn from(size: Resize) -> Self {
        Input::Resize(TerminalSize { width: size.width, height: size.height })
    }
}

/// The size that a terminal gets from the objects of a resize stream, of which a part has arrived: the last one that is
/// whole counts, and what follows it stays.
pub(super) fn last_size(arrived: &mut Vec<u8>) -> Result<Option<Input>, String> {
    let mut sizes = serde_json::Deserializer::from_slice(arrived).into_iter::<Resize>();
    let (mut last, mut read) = (None, 0);
    loop {
        match sizes.next() {
            Some(Ok(size)) => last = Some(size),
            Some(Err(error)) if error.is_eof() => break,
            Some(Err(error)) => return Err(format!("resize: {error}")),
            None => {
                read = arrived.len();
                break;
            }
        }
        read = sizes.byte_offset();
    }
    arrived.drain(..read);
    match arrived.len() > MAX_RESIZE {
        true => Err("resize: too long".to_owned()),
        false => Ok(last.map(Input::from)),
    }
}

/// What a client says on a channel; `None` for what is to be ignored.
pub(super) fn decode(channel: u8, data: Bytes) -> Result<Option<Input>, String> {
    match channel {
        // Clients open each channel with an empty message.
        STDIN if data.is_empty() => Ok(None),
        STDIN => Ok(Some(Input::Data(data))),
        RESIZE if data.is_empty() => Ok(None),
        RESIZE => {
            let size: Resize =
                serde_json::from_slice(&data).map_err(|error| format!("resize: {error}"))?;
            Ok(Some(size.into()))
        }
        CLOSE if data.as_ref() == [STDIN] => Ok(Some(Input::Close)),
        CLOSE => Ok(None),
        STDOUT | STDERR | ERROR => Ok(None),
        other => Err(format!("unknown channel {other}")),
    }
}

pub(super) fn output(form: Form, channel: Channel, data: &[u8]) -> Message {
    let number = match channel {
        Channel::Stdout => STDOUT,
        Channel::Stderr => STDERR,
    };
    form.write(number, data)
}

/// The last message: how the command ended. The old protocols have none where it ended well.
pub(super) fn ended(protocol: &str, result: Result<i32, String>) -> Option<Message> {
    let told = told(protocol, result);
    (!told.is_empty()).then(|| Form::of(protocol).write(ERROR, told.as_bytes()))
}

/// What is said at the end, over whichever transport.
pub(super) fn told(protocol: &str, result: Result<i32, String>) -> String {
    let status = status(result);
    match protocol {
        V5 | V4 | V4_BASE64 => status.to_string(),
        _ => status["message"].as_str().unwrap_or_default().to_owned(),
    }
}

/// How the command ended, as a Status.
fn status(result: Result<i32, String>) -> Value {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => failure(
            "NonZeroExitCode",
            &format!("command terminated with non-zero exit code: exit status {code}"),
            Some(json!({"causes": [{"reason": "ExitCode", "message": code.to_string()}]})),
        ),
        Err(reason) => failure("InternalError", &reason, None),
    }
}

fn failure(reason: &str, text: &str, details: Option<Value>) -> Value {
    let mut status =
        json!({"metadata": {}, "status": "Failure", "reason": reason, "message": text});
    if let Some(details) = details {
        status["details"] = details;
    } else {
        status["code"] = 500.into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(message: &[u8]) -> String {
        let said = Form::Binary.read(Message::Binary(Bytes::copy_from_slice(message)));
        match said.map_or(Ok(None), |(channel, data)| decode(channel, data)) {
            Ok(input) => format!("{input:?}"),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn messages_have_a_channel() {
        let check = |form: Form, message: Message| {
            assert_eq!(form.write(2, b"hi"), message);
            assert_eq!(form.read(message), Some((2, Bytes::from_static(b"hi"))));
        };
        check(Form::Binary, Message::Binary(Bytes::from_static(b"\x02hi")));
        check(Form::Base64, Message::Text("2aGk=".into()));
        let either = Bytes::from_static(b"hi");
        assert_eq!(Form::Binary.read(Message::Text("\u{2}hi".into())), Some((2, either.clone())));
        let bytes = Bytes::from_static(b"2aGk=");
        assert_eq!(Form::Base64.read(Message::Binary(bytes)), Some((2, either)));
        for form in [Form::Binary, Form::Base64] {
            assert_eq!(form.read(Message::Binary(Bytes::new())), None);
            assert_eq!(form.read(Message::Ping(Bytes::from_static(b"0"))), None);
        }
        for wrong in ["", "!aGk=", "0*"] {
            assert_eq!(Form::Base64.read(Message::Text(wrong.into())), None, "{wrong}");
        }
    }

    #[test]
    fn messages_of_clients() {
        assert_eq!(shown(b""), "None");
        assert_eq!(shown(b"\x00"), "None");
        assert_eq!(shown(b"\x00ls\n"), "Some(Data(b\"ls\\n\"))");
        assert_eq!(
            shown(b"\x04{\"Width\":80,\"Height\":24}"),
            "Some(Resize(TerminalSize { width: 80, height: 24 }))"
        );
        assert_eq!(shown(b"\xff\x00"), "Some(Close)");
        assert!(shown(b"\x04{\"Width\":-1}").starts_with("error: resize: "));
        assert_eq!(shown(b"\x09x"), "error: unknown channel 9");
    }

    #[test]
    fn sizes_of_a_stream() {
        let mut arrived = Vec::new();
        let mut next = |bytes: &[u8]| {
            arrived.extend_from_slice(bytes);
            (format!("{:?}", last_size(&mut arrived)), String::from_utf8(arrived.clone()).unwrap())
        };
        let size = |width, height| {
            format!("Ok(Some(Resize(TerminalSize {{ width: {width}, height: {height} }})))")
        };
        let nothing = "Ok(None)".to_owned();
        assert_eq!(next(b""), (nothing.clone(), String::new()));
        let two = b"{\"Width\":80,\"Height\":24}\n{\"Width\":81,\"Height\":25}\n{\"Wi";
        assert_eq!(next(two), (size(81, 25), "\n{\"Wi".to_owned()));
        assert_eq!(
            next(b"dth\":1,\"Height\":2"),
            (nothing, "\n{\"Width\":1,\"Height\":2".to_owned())
        );
        assert_eq!(next(b"}"), (size(1, 2), String::new()));
        assert!(next(b"{\"Width\":-1}").0.starts_with("Err(\"resize: "));
        assert!(last_size(&mut vec![b' '; 2000]).is_ok_and(|size| size.is_none()));
        let mut long = b"{\"".to_vec();
        long.resize(2000, b'x');
        assert!(last_size(&mut long).is_err());
    }

    #[test]
    fn how_a_command_ended() {
        let told = |protocol: &str, result| match ended(protocol, result) {
            Some(message) => {
                let (channel, data) = Form::of(protocol).read(message).unwrap();
                assert_eq!(channel, ERROR);
                String::from_utf8(data.to_vec()).unwrap()
            }
            None => "nothing".to_owned(),
        };
        for protocol in [V5, V4, V4_BASE64] {
            assert_eq!(told(protocol, Ok(0)), r#"{"metadata":{},"status":"Success"}"#);
            let failed = told(protocol, Ok(3));
            assert!(failed.contains(r#"{"causes":[{"message":"3","reason":"ExitCode"}]}"#));
            assert!(told(protocol, Err("gone".to_owned())).contains("InternalError"));
        }
        for protocol in [V1, V1_BASE64, UNNAMED] {
            assert_eq!(told(protocol, Ok(0)), "nothing");
            let failed = told(protocol, Ok(3));
            assert_eq!(failed, "command terminated with non-zero exit code: exit status 3");
            assert_eq!(told(protocol, Err("gone".to_owned())), "gone");
        }
    }
}
