//! What a deserializer finds wrong with a payload, by kind and place: the error type of those that keep both.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use crate::error::{ErrorCode, Violation};

/// Why a payload is not what it should be, and where.
#[derive(Debug)]
pub(super) struct PayloadError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    reason: String,
    /// The way there, from the inside out.
    path: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is no JSON, or its numbers are too large for anything.
    NotJson,
    /// A member that must be there is not.
    Missing,
    /// A member that may not be there is.
    Unknown,
    /// A member is there twice.
    Repeated,
    /// There are too few or too many items.
    Length,
    /// It is of another JSON type.
    Type,
    /// It is of the right type, but not a value that is allowed.
    Value,
}

#[derive(Debug)]
pub(super) enum Step {
    Member(String),
    Item(usize),
}

impl PayloadError {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, reason: reason.into(), path: Vec::new() }))
    }

    pub(super) fn within(mut self, step: Step) -> Self {
        self.0.path.push(step);
        self
    }

    /// Where it happened, as a JSON pointer (RFC 6901).
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in self.0.path.iter().rev() {
            pointer.push('/');
            match step {
                Step::Member(name) => pointer.push_str(&name.replace('~', "~0").replace('/', "~1")),
                Step::Item(index) => pointer.push_str(&index.to_string()),
            }
        }
        pointer
    }
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.reason)
    }
}

impl std::error::Error for PayloadError {}

/// What serde says of a value, kept apart.
impl de::Error for PayloadError {
    /// What the types say of dates and numbers.
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::new(Kind::Value, reason.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        // Without the value: what stands in the wrong place may be a secret.
        let found = match found {
            Unexpected::Bool(_) => "a boolean",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a number",
            Unexpected::Float(_) => "a number with a fraction",
            Unexpected::Str(_) => "a string",
            Unexpected::Unit => "null",
            Unexpected::Seq => "an array",
            Unexpected::Map => "an object",
            _ => "something else",
        };
        Self::new(Kind::Type, format!("is {found}, not {expected}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Value, format!("is {found}, not {expected}"))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::new(Kind::Length, format!("has {length} items, not {expected}"))
    }

    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        Self::new(Kind::Value, "is not in the enumeration")
    }

    fn unknown_field(name: &str, _: &'static [&'static str]) -> Self {
        Self::unknown_member().within(Step::Member(name.to_owned()))
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(Kind::Missing, "is missing").within(Step::Member(name.to_owned()))
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self::new(Kind::Repeated, "is there twice").within(Step::Member(name.to_owned()))
    }
}

impl PayloadError {
    pub(super) fn unknown_member() -> Self {
        Self::new(Kind::Unknown, "is not a member that is known here")
    }
}

impl From<PayloadError> for Violation {
    fn from(fault: PayloadError) -> Self {
        let pointer = fault.pointer();
        let code = match fault.0.kind {
            // The payload itself is no object.
            Kind::Type if pointer.is_empty() => ErrorCode::FORMAT_VIOLATION,
            Kind::NotJson | Kind::Unknown | Kind::Repeated => ErrorCode::FORMAT_VIOLATION,
            Kind::Missing | Kind::Length => ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION,
            Kind::Type => ErrorCode::TYPE_CONSTRAINT_VIOLATION,
            Kind::Value => ErrorCode::PROPERTY_CONSTRAINT_VIOLATION,
        };
        Self::new(code, pointer, fault.0.reason)
    }
}
