//! Deviations of peers from the standards, and how many of them a connection tolerates.

use std::fmt;

use serde::Serialize;

/// The deviations from the standards that a connection tolerates. Default [`Lenient`](Self::Lenient).
///
/// Each tolerated deviation creates an [event](crate::event::EventKind::Deviation). [`Deviation`] lists the deviations
/// that each of these levels tolerates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tolerance {
    /// Tolerates nothing, for certification. A message that deviates is a bad message, and a handshake that deviates is
    /// refused.
    Strict,
    /// Tolerates harmless deviations. The default.
    #[default]
    Lenient,
    /// Tolerates every deviation that still makes sense, for charging stations that would not work otherwise.
    Permissive,
}

macro_rules! deviations {
    ($($name:ident $from:ident $display:literal $doc:literal)*) => {
        /// A deviation of a peer from the standards.
        ///
        /// | Deviation | Tolerated from | Handling |
        /// |---|---|---|
        $(#[doc = concat!("| [`", stringify!($name), "`](Self::", stringify!($name), ") | [`", stringify!($from),
            "`](Tolerance::", stringify!($from), ") | ", $doc, " |")])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Deviation {
            $(#[doc = concat!("The message or the handshake has ", $display, ".")] $name,)*
        }

        impl Deviation {
            const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the name of the deviation as it serializes, in snake case.
            #[cfg(feature = "metrics")]
            pub(crate) fn name(self) -> String {
                struct Name(Deviation);

                impl fmt::Display for Name {
                    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        self.0.serialize(f)
                    }
                }

                Name(self).to_string()
            }

            /// Returns `true` if `tolerance` allows the deviation.
            pub(crate) fn is_allowed_by(self, tolerance: Tolerance) -> bool {
                tolerance >= match self {
                    $(Self::$name => Tolerance::$from,)*
                }
            }
        }

        impl fmt::Display for Deviation {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $display,)*
                })
            }
        }
    };
}

deviations! {
    RepeatedCall Strict "the id and the content of a call that is still being handled" "ignored: the call's response serves both"
    EmptyMessage Lenient "no text at all" "ignored"
    ByteOrderMark Lenient "a byte order mark" "stripped"
    MissingPayload Lenient "no payload, or null as its payload" "read as `{}`"
    LongMessageId Lenient "a message id of more than 36 characters" "used unchanged"
    ExtraElements Lenient "more elements than a response has" "ignored"
    IncompleteError Lenient "an error without code, description or details" "read as `GenericError` or as empty"
    DetailsNotAnObject Lenient "error details that are not an object" "kept unchanged"
    NumericMessageId Permissive "a number as its message id" "echoed as a number"
    ControlCharacters Permissive "control characters that JSON does not allow" "read as if escaped in strings, ignored between them"
    StrayComma Permissive "a comma without an element" "ignored"
    NotANumber Permissive "`NaN` or an infinity" "read as `null`"
    MalformedNumber Permissive "a number such as `007`, `+5`, `.5` or `5.`" "read as `7`, `5`, `0.5` or `5`"
    TrailingData Permissive "more text after its end" "ignored, even a second message: it may be left over from an older one"
    UnreadableResponse Permissive "a readable id in an unreadable response" "the call fails at once"
    BinaryMessage Permissive "a binary frame" "read as text"
    InvalidUtf8 Permissive "bytes that are not UTF-8" "replaced by U+FFFD"
    UnmaskedFrame Permissive "a frame without the mask of a client" "read"
    MissingConnectionUpgrade Permissive "no `Upgrade` in its Connection header" "served"
    KeyLength Lenient "a Sec-WebSocket-Key that is not 16 bytes long" "used unchanged"
    EmptyProtocolElement Lenient "an empty element in its list of subprotocols" "skipped"
    MissingProtocol Lenient "no subprotocols" "the server's default protocol applies, if it has one"
    ExtraSlashes Lenient "doubled or trailing slashes in its path" "the last segment that is not empty is the identity"
}

/// A set of deviations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Deviations(u32);

impl Deviations {
    pub(crate) fn add(&mut self, deviation: Deviation) {
        self.0 |= Self::from(deviation).0;
    }

    pub(crate) fn extend(&mut self, others: Self) {
        self.0 |= others.0;
    }

    pub(crate) fn iter(mut self) -> impl Iterator<Item = Deviation> {
        // Most messages have no deviation, so this must not test each of them.
        std::iter::from_fn(move || {
            let deviation = *Deviation::ALL.get(self.0.trailing_zeros() as usize)?;
            self.0 &= self.0 - 1;
            Some(deviation)
        })
    }

    /// Returns the first deviation that `tolerance` does not allow.
    pub(crate) fn first_rejected_by(self, tolerance: Tolerance) -> Option<Deviation> {
        self.iter().find(|deviation| !deviation.is_allowed_by(tolerance))
    }
}

impl From<Deviation> for Deviations {
    fn from(deviation: Deviation) -> Self {
        Self(1 << deviation as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_permissive_allows_more_than_lenient() {
        let mut deviations = Deviations::default();
        assert_eq!(deviations.first_rejected_by(Tolerance::Strict), None);
        deviations.add(Deviation::MissingPayload);
        deviations.add(Deviation::BinaryMessage);
        assert_eq!(deviations.first_rejected_by(Tolerance::Strict), Some(Deviation::MissingPayload));
        assert_eq!(deviations.first_rejected_by(Tolerance::Lenient), Some(Deviation::BinaryMessage));
        assert_eq!(deviations.first_rejected_by(Tolerance::Permissive), None);
    }
}
