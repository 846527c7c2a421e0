//! How far a peer may stray from the standards, and in which ways peers do.

use std::fmt;

use serde::Serialize;

/// How much is put up with from a peer that strays from the standards.
///
/// Whatever is put up with is told by an [event](crate::event::EventKind::Deviation). See [`Deviation`] for what each of
/// these takes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tolerance {
    /// Nothing: a message that deviates is a bad message, and a handshake that deviates is refused. For
    /// certification.
    Strict,
    /// What does no harm. The default.
    #[default]
    Lenient,
    /// What can be made sense of at all. For charging stations that would not work otherwise.
    Permissive,
}

macro_rules! deviations {
    ($($name:ident $from:ident $display:literal $doc:literal)*) => {
        /// A way in which peers stray from the standards.
        ///
        /// | Deviation | Put up with from | What is done |
        /// |---|---|---|
        $(#[doc = concat!("| [`", stringify!($name), "`](Self::", stringify!($name), ") | [`", stringify!($from),
            "`](Tolerance::", stringify!($from), ") | ", $doc, " |")])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Deviation {
            $(#[doc = concat!("It has ", $display, ".")] $name,)*
        }

        impl Deviation {
            const ALL: &[Self] = &[$(Self::$name),*];

            /// Who puts up with it.
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
    EmptyMessage Lenient "no text at all" "ignored"
    ByteOrderMark Lenient "a byte order mark" "stripped"
    MissingPayload Lenient "no payload, or null for one" "read as `{}`"
    LongMessageId Lenient "a message id of more than 36 characters" "used as it is"
    ExtraElements Lenient "more elements than an answer has" "left aside"
    IncompleteError Lenient "an error without code, description or details" "read as `GenericError`, as empty"
    DetailsNotAnObject Lenient "error details that are no object" "kept as they are"
    NumericMessageId Permissive "a number for a message id" "echoed as a number"
    ControlCharacters Permissive "control characters that JSON does not allow" "read as if they were escaped, or left out between strings"
    UnreadableResponse Permissive "an id that can be read, of an answer that cannot" "the call fails at once"
    BinaryMessage Permissive "a binary frame" "read as text"
    EmptyProtocolElement Lenient "an empty element among the subprotocols it offers" "skipped"
    MissingProtocol Lenient "no subprotocols to offer" "the server's default one is spoken, where it has one"
    ExtraSlashes Lenient "doubled or trailing slashes in its path" "the last segment that is not empty is the identity"
}

/// Some deviations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Deviations(u16);

impl Deviations {
    pub(crate) fn add(&mut self, deviation: Deviation) {
        self.0 |= 1 << deviation as u16;
    }

    pub(crate) fn iter(mut self) -> impl Iterator<Item = Deviation> {
        // Most messages have none: no time is spent on those that are not there.
        std::iter::from_fn(move || {
            let deviation = *Deviation::ALL.get(self.0.trailing_zeros() as usize)?;
            self.0 &= self.0 - 1;
            Some(deviation)
        })
    }

    /// One that goes too far, if there is one.
    pub(crate) fn beyond(self, tolerance: Tolerance) -> Option<Deviation> {
        self.iter().find(|deviation| !deviation.is_allowed_by(tolerance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_are_in_order() {
        let mut deviations = Deviations::default();
        assert_eq!(deviations.beyond(Tolerance::Strict), None);
        deviations.add(Deviation::MissingPayload);
        deviations.add(Deviation::BinaryMessage);
        assert_eq!(deviations.beyond(Tolerance::Strict), Some(Deviation::MissingPayload));
        assert_eq!(deviations.beyond(Tolerance::Lenient), Some(Deviation::BinaryMessage));
        assert_eq!(deviations.beyond(Tolerance::Permissive), None);
    }
}
