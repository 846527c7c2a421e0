//! Internals of the crate for its own benchmarks, fuzzers and tests, without any stability promise.

pub mod websocket;

#[cfg(feature = "server")]
use std::net::SocketAddr;

use bytestring::ByteString;

pub use crate::random::seed::seed;
#[cfg(feature = "server")]
use crate::server::http::proxy_protocol::{self, Header};
use crate::{
    error::CallError,
    message::{
        kinds::{Message, UnreadableMessage},
        payload::{MessageId, Payload},
        read,
        tolerance::{Deviations, Tolerance},
        write,
    },
};

/// The result of reading a message, opaque but for `Debug`.
#[derive(Debug)]
#[expect(dead_code, reason = "the deviations are only printed")]
pub struct ReadMessage(Result<Message, UnreadableMessage>, Deviations);

/// Reads a message with the default tolerance.
pub fn read(text: &ByteString) -> ReadMessage {
    read_with(text, Tolerance::default())
}

/// Reads a message.
pub fn read_with(text: &ByteString, tolerance: Tolerance) -> ReadMessage {
    let (message, deviations) = read::read(text, tolerance);
    ReadMessage(message, deviations)
}

impl ReadMessage {
    /// Returns the text of the message as this crate writes it. `None` if it was not readable.
    pub fn write(&self) -> Option<String> {
        let details = |error: &CallError| error.details().cloned();
        Some(match self.0.as_ref().ok()? {
            Message::Call { id, action, payload } => write::call(id, action, payload),
            Message::CallResult { id, payload } => write::call_result(id, payload),
            Message::CallError { id, error } => {
                write::call_error(Some(id), error.code().as_str(), error.description(), details(error).as_ref())
            }
            Message::CallResultError { id, error } => {
                write::call_result_error(id, error.code().as_str(), error.description(), details(error).as_ref())
            }
            Message::Send { id, action, payload } => write::send(id, action, payload),
        })
    }
}

/// Reads the header that a proxy sends in front of a client's bytes, as far as it has arrived.
///
/// Returns the number of bytes that are missing at least, or the client's address.
///
/// # Errors
///
/// Returns the fault if the bytes do not begin a header.
#[cfg(feature = "server")]
pub fn read_proxy_header(bytes: &[u8]) -> Result<Result<Option<SocketAddr>, usize>, &'static str> {
    Ok(match proxy_protocol::parse(bytes)? {
        Header::Partial { missing } => Err(missing),
        Header::Complete(client) => Ok(client),
    })
}

/// Returns the text of a CALL.
pub fn write_call(id: &str, action: &str, params: &Payload) -> String {
    write::call(&MessageId::new(id), action, params)
}

/// Returns the text of a CALLRESULT.
pub fn write_call_result(id: &str, payload: &Payload) -> String {
    write::call_result(&MessageId::new(id), payload)
}
