//! The remote command protocols `v5.channel.k8s.io` and `v4.channel.k8s.io` over WebSocket: the first byte of a binary
//! message is its channel. Pure.

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

/// The protocol to speak with a client that offers these (`Sec-WebSocket-Protocol`).
pub(super) fn choose(offered: &str) -> Option<&'static str> {
    let offers: Vec<&str> = offered.split(',').map(str::trim).collect();
    PROTOCOLS.into_iter().find(|ours| offers.contains(ours))
}

#[derive(Deserialize)]
struct Resize {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
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
            Ok(Some(Input::Resize(TerminalSize { width: size.width, height: size.height })))
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
    let status = match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => failure(
            "NonZeroExitCode",
            &format!("command terminated with non-zero exit code: exit status {code}"),
            Some(json!({"causes": [{"reason": "ExitCode", "message": code.to_string()}]})),
        ),
        Err(reason) => failure("InternalError", &reason, None),
    };
    message(ERROR, status.to_string().as_bytes())
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
    fn the_best_common_protocol_is_chosen() {
        assert_eq!(choose("v4.channel.k8s.io, v5.channel.k8s.io"), Some("v5.channel.k8s.io"));
        assert_eq!(choose("v4.channel.k8s.io"), Some("v4.channel.k8s.io"));
        assert_eq!(choose("channel.k8s.io"), None);
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
    fn how_a_command_ended() {
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes[1..]).into_owned();
        assert_eq!(text(ended(Ok(0))), r#"{"metadata":{},"status":"Success"}"#);
        assert!(text(ended(Ok(3))).contains(r#"{"causes":[{"message":"3","reason":"ExitCode"}]}"#));
        assert!(text(ended(Err("gone".to_owned()))).contains("InternalError"));
    }
}
