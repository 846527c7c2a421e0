//! The inside of this crate, for its own benches: no part of what it promises.

use bytestring::ByteString;

use crate::message::{
    frame::{self, Frame, Unreadable},
    payload::{MessageId, Payload},
    read,
    tolerance::{Deviations, Tolerance},
};

/// A message that was read, which nobody can look into but by `Debug`.
#[derive(Debug)]
#[expect(dead_code, reason = "dropped by whoever measures the reading of it")]
pub struct Message(Result<Frame, Unreadable>, Deviations);

/// Reads a message, by the default tolerance.
pub fn read(text: &ByteString) -> Message {
    let (frame, deviations) = read::read(text, Tolerance::default());
    Message(frame, deviations)
}

/// The text of a CALL.
pub fn write_call(id: &str, action: &str, params: &Payload) -> String {
    frame::call(&MessageId::new(id), action, params)
}

/// The text of a CALLRESULT.
pub fn write_call_result(id: &str, payload: &Payload) -> String {
    frame::call_result(&MessageId::new(id), payload)
}
