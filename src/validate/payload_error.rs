//! The error of a deserializer that keeps the kind of the error and the path to it.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use crate::error::{ErrorCode, Violation};

/// An error in a payload.
#[derive(Debug)]
pub(super) struct PayloadError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    reason: String,
    /// The path to the error, innermost step first.
    path: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The text is not JSON, or a number exceeds every type.
    NotJson,
    /// A required member is missing.
    Missing,
    /// A member is not allowed.
    Unknown,
    /// A member appears twice.
    Repeated,
    /// An array has too few or too many items.
    Length,
    /// A value has the wrong JSON type.
    Type,
    /// A value has the right type, but is not allowed.
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

    /// Adds the step that leads to the path so far.
    pub(super) fn within(mut self, step: Step) -> Self {
        self.0.path.push(step);
        self
    }

    /// Returns the path as a JSON pointer (RFC 6901).
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

impl de::Error for PayloadError {
    // The types use this for dates and numbers.
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::new(Kind::Value, reason.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        // Leaves the value out, because a value in the wrong place may be a secret.
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
        Self::new(Kind::Repeated, "appears twice").within(Step::Member(name.to_owned()))
    }
}

impl PayloadError {
    pub(super) fn unknown_member() -> Self {
        Self::new(Kind::Unknown, "is not a known member")
    }
}

impl From<PayloadError> for Violation {
    fn from(error: PayloadError) -> Self {
        let pointer = error.pointer();
        let code = match error.0.kind {
            // The payload itself is not an object.
            Kind::Type if pointer.is_empty() => ErrorCode::FORMAT_VIOLATION,
            Kind::NotJson | Kind::Unknown | Kind::Repeated => ErrorCode::FORMAT_VIOLATION,
            Kind::Missing | Kind::Length => ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION,
            Kind::Type => ErrorCode::TYPE_CONSTRAINT_VIOLATION,
            Kind::Value => ErrorCode::PROPERTY_CONSTRAINT_VIOLATION,
        };
        Self::new(code, pointer, error.0.reason)
    }
}
