//! The remote command protocols: `v5.channel.k8s.io` and `v4.channel.k8s.io` over WebSocket, where the first byte of a
//! binary message is its channel, and what they have in common with those over SPDY. Pure.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::runtime::{Channel, Input, TerminalSize};

/// In the order of preference. v5 adds the message that closes a channel.
pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

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

/// What a client's message means; `None` for what is to be ignored.
pub(super) fn decode(message: &Bytes) -> Result<Option<Input>, String> {
    let Some(channel) = message.first() else { return Ok(None) };
    let data = message.slice(1..);
    match *channel {
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

pub(super) fn output(channel: Channel, data: &[u8]) -> Bytes {
    let number = match channel {
        Channel::Stdout => STDOUT,
        Channel::Stderr => STDERR,
    };
    message(number, data)
}

/// The last message: how the command ended.
pub(super) fn ended(result: Result<i32, String>) -> Bytes {
    message(ERROR, status(result).to_string().as_bytes())
}

/// How the command ended, as a Status.
pub(super) fn status(result: Result<i32, String>) -> Value {
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

fn message(channel: u8, data: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    message.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(message: &[u8]) -> String {
        match decode(&Bytes::copy_from_slice(message)) {
            Ok(input) => format!("{input:?}"),
            Err(error) => format!("error: {error}"),
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
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes[1..]).into_owned();
        assert_eq!(text(ended(Ok(0))), r#"{"metadata":{},"status":"Success"}"#);
        assert!(text(ended(Ok(3))).contains(r#"{"causes":[{"message":"3","reason":"ExitCode"}]}"#));
        assert!(text(ended(Err("gone".to_owned()))).contains("InternalError"));
    }
}
