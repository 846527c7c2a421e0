//! What messages carry: ids and payloads, as slices of the text that they came in.

use std::{error::Error as StdError, fmt};

use bytestring::ByteString;
use serde::{Deserialize, Serialize, Serializer, de, ser::Error as _};
use serde_json::value::RawValue;

/// The id that pairs a call with its answer: a string of at most 36 characters by the standard.
///
/// Cheap to clone; an id that was received is a slice of its message.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct MessageId {
    text: ByteString,
    is_number: bool,
}

impl MessageId {
    pub(crate) fn new(text: impl Into<ByteString>) -> Self {
        Self { text: text.into(), is_number: false }
    }

    pub(crate) const fn from_static(text: &'static str) -> Self {
        Self { text: ByteString::from_static(text), is_number: false }
    }

    /// An id of the wrong type, which is written as it came.
    pub(crate) fn number(json: impl Into<ByteString>) -> Self {
        Self { text: json.into(), is_number: true }
    }

    /// A new id, as random as a version 4 UUID.
    pub(crate) fn random() -> Self {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        Self::new(&*uuid::Uuid::new_v4().as_hyphenated().encode_lower(&mut text))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is a number, which is an id only where the peer's deviations are
    /// [salvaged](crate::Tolerance::Permissive).
    pub fn is_number(&self) -> bool {
        self.is_number
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// JSON that nobody has read yet: the parameters of a call, a result, the details of an error.
///
/// It is a counted slice of the message that carried it: cheap to clone, and it keeps that message in memory.
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
    /// Serializes `value`, which must become a JSON object; `null` (as of `()` or `None`) becomes `{}`.
    ///
    /// # Errors
    /// When serializing fails, or when an array, a text, a number or a truth value comes of it.
    pub fn encode(value: &(impl Serialize + ?Sized)) -> Result<Self, EncodeError> {
        let text = serde_json::to_string(value).map_err(EncodeError::Serialize)?;
        match text.as_bytes() {
            [b'{', ..] => Ok(Self(text.into())),
            b"null" => Ok(Self::default()),
            _ => Err(EncodeError::NotAnObject),
        }
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the payload as `T`, which may borrow from it.
    ///
    /// # Errors
    /// When the payload is not a `T`.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// The payload of a call, where anything but an object is refused before a type sees it: serde would read an
    /// array into a struct.
    pub(crate) fn is_object(&self) -> bool {
        self.0.starts_with('{')
    }
}

/// The empty object.
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

/// Passes the JSON through as it is. Only `serde_json` can do that.
impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0).map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// Reads any JSON as it is. Only `serde_json` can do that.
impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(ByteString::from(String::from(Box::<str>::from(raw)))))
    }
}

/// Why a value cannot be a payload.
#[derive(Debug)]
#[non_exhaustive]
pub enum EncodeError {
    /// Serializing it failed.
    Serialize(serde_json::Error),
    /// It is JSON, but not an object.
    NotAnObject,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serialize(error) => error.fmt(f),
            Self::NotAnObject => f.write_str("not a JSON object"),
        }
    }
}

impl StdError for EncodeError {}

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

    #[test]
    fn ids_are_random_uuids() {
        let (a, b) = (MessageId::random(), MessageId::random());
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), 36);
    }
}
