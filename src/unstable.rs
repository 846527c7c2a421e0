//! Internals of the crate for its own benchmarks, fuzzers and tests, without any stability promise.

pub mod websocket;

use bytestring::ByteString;

use crate::message::{
    kinds::{Message, UnreadableMessage},
    payload::{MessageId, Payload},
    read,
    tolerance::{Deviations, Tolerance},
    write,
};
pub use crate::random::seed::seed;

/// The result of reading a message, opaque but for `Debug`.
#[derive(Debug)]
#[expect(dead_code, reason = "benchmarks only drop it")]
pub struct ReadMessage(Result<Message, UnreadableMessage>, Deviations);

/// Reads a message with the default tolerance.
pub fn read(text: &ByteString) -> ReadMessage {
    let (message, deviations) = read::read(text, Tolerance::default());
    ReadMessage(message, deviations)
}

/// Returns the text of a CALL.
pub fn write_call(id: &str, action: &str, params: &Payload) -> String {
    write::call(&MessageId::new(id), action, params)
}

/// Returns the text of a CALLRESULT.
pub fn write_call_result(id: &str, payload: &Payload) -> String {
    write::call_result(&MessageId::new(id), payload)
}
