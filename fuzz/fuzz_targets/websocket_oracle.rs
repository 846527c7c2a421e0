//! Reads the same bytes by the codec and by tungstenite. Both must return the same messages and end for the same reason.
#![no_main]

use arbitrary::Unstructured;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use ocpp_rpc::{
    Tolerance,
    unstable::websocket::{Codec, Message},
};
use ocpp_rpc_fuzz::{Frame, Input};
use tungstenite::{
    error::ProtocolError,
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

const LIMIT: usize = 300;

/// The first byte: the bytes are frames' descriptions, not frames.
const STRUCTURED: u8 = 1;
/// The bytes are those of a server.
const CLIENT: u8 = 2;
/// The other bits: the length of the parts in which the codec gets the bytes. Zero stands for all of them at once.
const PART_SHIFT: u8 = 2;

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else { return };
    let role = if first & CLIENT == 0 { Role::Server } else { Role::Client };
    let mut bytes = if first & STRUCTURED == 0 { rest.to_vec() } else { frames(rest, role) };
    // The oracle checks a frame when all of it arrived, and the codec as early as possible. These bytes complete any
    // frame up to the limit. They end with an invalid one for either role, so every input ends both.
    bytes.resize(bytes.len() + LIMIT + 16, 0);
    bytes.resize(bytes.len() + 2 * 0x33, 0x33);

    let part_len = Some(usize::from(first >> PART_SHIFT)).filter(|len| *len > 0);
    let own = own(role, bytes.chunks(part_len.unwrap_or(bytes.len())));
    compare(own, oracle(role, &bytes));
});

fn frames(input: &[u8], role: Role) -> Vec<u8> {
    let mut input = Unstructured::new(input);
    let mut bytes = Vec::new();
    while !input.is_empty() {
        let Ok(frame) = Frame::arbitrary(&mut input, role == Role::Server, LIMIT) else { break };
        frame.write(&mut bytes);
    }
    bytes
}

/// The end of the input.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// A close frame.
    Closed { reply: Option<u16>, reason: String },
    /// The close code for an error, and the codec's description.
    Error(u16, String),
}

impl End {
    /// Returns an error of the oracle, which needs no description.
    fn error(code: u16) -> Self {
        Self::Error(code, String::new())
    }
}

type Reading = (Vec<Message>, End);

fn own<'a>(role: Role, parts: impl Iterator<Item = &'a [u8]>) -> Reading {
    let nothing = HeaderMap::new();
    let mut codec = match role {
        Role::Server => Codec::server(&nothing, None, Tolerance::Lenient, LIMIT).0,
        Role::Client => Codec::client(&nothing, None, Tolerance::Lenient, LIMIT).expect("no extension"),
    };
    let mut messages = Vec::new();
    for part in parts {
        codec.put(part);
        loop {
            match codec.take() {
                Ok(Some(Message::Close { reason, reply, .. })) => return (messages, End::Closed { reply, reason }),
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err((code, reason)) => return (messages, End::Error(code, reason)),
            }
        }
    }
    panic!("the last bytes are no frame, but the codec waits for more, after {messages:?}");
}

fn oracle(role: Role, bytes: &[u8]) -> Reading {
    let config =
        WebSocketConfig::default().read_buffer_size(128).max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    let mut context = WebSocketContext::new(role, Some(config));
    let mut input = Input(bytes);
    let mut messages = Vec::new();
    let end = loop {
        messages.push(match context.read(&mut input) {
            Ok(tungstenite::Message::Text(text)) => Message::Text(text.as_str().into()),
            Ok(tungstenite::Message::Binary(bytes)) => Message::Binary(bytes),
            Ok(tungstenite::Message::Ping(bytes)) => Message::Ping(bytes),
            Ok(tungstenite::Message::Pong(bytes)) => Message::Pong(bytes),
            Ok(tungstenite::Message::Frame(_)) => unreachable!("only written"),
            Ok(tungstenite::Message::Close(frame)) => {
                let (reply, reason) = frame.map(|frame| (frame.code.into(), frame.reason.to_string())).unzip();
                break End::Closed { reply, reason: reason.unwrap_or_default() };
            }
            // It refuses a close frame of one byte, which the codec reports.
            Err(tungstenite::Error::Protocol(ProtocolError::InvalidCloseSequence)) => {
                break End::Closed { reply: Some(1002), reason: String::new() };
            }
            Err(tungstenite::Error::Protocol(_)) => break End::error(1002),
            Err(tungstenite::Error::Utf8(_)) => break End::error(1007),
            Err(tungstenite::Error::Capacity(_)) => break End::error(1009),
            Err(error) => panic!("{error:?}, after {messages:?}"),
        });
    };
    (messages, end)
}

/// Compares the results, apart from the known differences.
fn compare((own, own_end): Reading, (oracle, oracle_end): Reading) {
    let has_same_end = match (&own_end, &oracle_end) {
        // The oracle finds text that is not UTF-8 in a fragment, and the codec in the whole message. Control frames and
        // an end may come in between, but no message. The reason of a close frame is an error for the oracle as well,
        // and the codec reports it.
        (_, End::Error(1007, _)) if own.starts_with(&oracle) => {
            let next = &own[oracle.len()..];
            let is_control = |message| matches!(message, &Message::Ping(_) | &Message::Pong(_));
            assert!(next.iter().all(is_control), "{next:?} instead of text that is not UTF-8");
            return;
        }
        // The oracle reads a control frame whose length takes more than one byte, but not more than 125 bytes of it.
        (End::Error(1002, reason), _) if reason == "control frame of more than 125 bytes" => {
            let next = oracle.strip_prefix(&*own).expect("the same messages before");
            let is_control = match next {
                [Message::Ping(payload) | Message::Pong(payload), ..] => payload.len() <= 125,
                [] => true,
                _ => false,
            };
            assert!(is_control, "{next:?} instead of a control frame");
            return;
        }
        // A frame may have two errors: the oracle looks at its length first, the codec at its first byte.
        (End::Error(1002, _), End::Error(1009, _)) => true,
        (End::Error(own, _), End::Error(oracle, _)) => own == oracle,
        // The oracle does not know 1014, which is registered. It replaces the reason if the code is invalid.
        (End::Closed { reply: Some(1014 | 1002), .. }, End::Closed { reply: Some(1002), .. }) => true,
        (own, oracle) => own == oracle,
    };
    assert!(has_same_end, "{own_end:?} instead of {oracle_end:?}, after {own:?}");
    assert_eq!(own, oracle);
}
