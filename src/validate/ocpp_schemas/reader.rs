//! Reads a payload as strictly as a schema.
//!
//! serde is lenient where schemas are not: it skips members that a type does not have, and accepts an array for a
//! struct and `null` for an absent member. Here each of them is an error.

use std::borrow::Cow;

use serde::Deserialize;

use crate::validate::{
    adapter::{self, Hint, Mode},
    ocpp_schemas::formats,
    payload_error::{Kind, PayloadError},
};

/// Reads the whole JSON text of a payload.
///
/// # Errors
///
/// Returns the first error, with its kind and its path.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, PayloadError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = adapter::read::<Strict, T>(&mut json)?;
    json.end().map_err(|error| PayloadError::new(Kind::NotJson, error.to_string()))?;
    Ok(value)
}

/// Accepts what a schema accepts.
struct Strict;

impl Mode for Strict {
    const IS_STRICT: bool = true;

    /// Checks dates. The version types use [`Hint::Str`] for dates and enumerations, and own all other strings.
    #[inline]
    fn text(hint: Hint, text: &str) -> Option<Cow<'_, str>> {
        // Each name in an enumeration begins with a letter, and no date does.
        if hint == Hint::Str && !text.starts_with(|first: char| first.is_ascii_alphabetic()) {
            formats::date_time(text)
        } else {
            Some(Cow::Borrowed(text))
        }
    }
}
