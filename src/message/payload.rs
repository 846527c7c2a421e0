//! Ids and payloads of messages, as slices of the received text.

use std::fmt;

use bytestring::ByteString;
use serde::{Deserialize, Serialize, Serializer, de, ser::Error as _};
use serde_json::value::RawValue;

use crate::text::impl_text;

/// The id that pairs a call with its response: a string of at most 36 characters by the standard.
///
/// Cheap to clone: a received id is a slice of its message. It serializes as a string, even if the peer sent a number.
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::{MessageId, RpcRouter};
///
/// async fn heartbeat(id: MessageId) -> Result<(), Infallible> {
///     println!("heartbeat {id}");
///     Ok(())
/// }
///
/// let router = RpcRouter::new().on("Heartbeat", heartbeat);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct MessageId {
    text: ByteString,
    is_number: bool,
}

impl MessageId {
    pub(crate) fn new(text: impl Into<ByteString>) -> Self {
        Self { text: text.into(), is_number: false }
    }

    /// The id of a CALLERROR for a message without readable id (OCPP 2.0.1 part 4 §4.2.3).
    pub(crate) const UNKNOWN: Self = Self::from_static("-1");

    pub(crate) const fn from_static(text: &'static str) -> Self {
        Self { text: ByteString::from_static(text), is_number: false }
    }

    /// Creates an id from a JSON number, a deviation that is written back unchanged.
    pub(crate) fn number(json: impl Into<ByteString>) -> Self {
        Self { text: json.into(), is_number: true }
    }

    /// Returns a copy that does not keep the message of this id in memory.
    pub(crate) fn detached(&self) -> Self {
        Self { text: self.as_str().into(), is_number: self.is_number }
    }

    /// Returns the id's text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns true if the id is a number, a deviation that only [`Permissive`](crate::Tolerance::Permissive)
    /// tolerates.
    pub fn is_number(&self) -> bool {
        self.is_number
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl_text!(MessageId);

/// Unread JSON: the parameters of a call, a result, or the details of an error.
///
/// A payload is a counted slice of the message that carried it: it is cheap to clone, and keeps that message in memory.
///
/// ```
/// use ocpp_rpc::Payload;
///
/// #[derive(serde::Deserialize)]
/// struct Reset<'a> {
///     r#type: &'a str,
/// }
///
/// let payload = Payload::encode(&serde_json::json!({"type": "Soft"}))?;
/// assert_eq!(payload.as_str(), r#"{"type":"Soft"}"#);
/// assert_eq!(payload.decode::<Reset>()?.r#type, "Soft");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub(crate) ByteString);

impl Payload {
    /// Serializes `value`, which must become a JSON object. `null`, the JSON of `()` and `None`, becomes `{}`.
    ///
    /// # Errors
    ///
    /// Fails if `value` does not serialize, or becomes an array, a string, a number or a boolean.
    pub fn encode(value: &(impl Serialize + ?Sized)) -> Result<Self, EncodeError> {
        let text = serde_json::to_string(value).map_err(EncodeError::Serialize)?;
        match text.as_bytes() {
            [b'{', ..] => Ok(Self(text.into())),
            b"null" => Ok(Self::default()),
            _ => Err(EncodeError::NotAnObject),
        }
    }

    /// Returns the JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Deserializes the payload as a `T`, which may borrow from it.
    ///
    /// # Errors
    ///
    /// Fails if the payload does not deserialize as a `T`.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// Returns true if the payload is a JSON object. Serde alone would read an array into a struct.
    pub(crate) fn is_object(&self) -> bool {
        self.0.starts_with('{')
    }
}

impl AsRef<str> for Payload {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// Returns the empty object.
impl Default for Payload {
    fn default() -> Self {
        Self(ByteString::from_static("{}"))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Writes the JSON unchanged. Only `serde_json` supports this.
impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0).map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// Keeps any JSON unread. Only `serde_json` supports this.
impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(ByteString::from(String::from(Box::<str>::from(raw)))))
    }
}

/// An error of [`Payload::encode`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The value does not serialize.
    #[error("cannot serialize the value: {0}")]
    Serialize(serde_json::Error),
    /// The value serializes to JSON that is not an object.
    #[error("not a JSON object")]
    NotAnObject,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_are_payloads() {
        assert_eq!(Payload::encode(&()).expect("nothing").as_str(), "{}");
        assert_eq!(Payload::encode(&None::<u8>).expect("nothing").as_str(), "{}");
        assert!(Payload::encode(&[1]).is_err());
        assert!(Payload::encode("text").is_err());
        assert!(Payload::encode(&std::collections::HashMap::from([((1, 2), 3)])).is_err());
    }
}
