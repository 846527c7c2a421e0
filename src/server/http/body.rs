//! The error of response bodies.

use std::error::Error;

/// The error of a response body.
pub(crate) type BodyError = Box<dyn Error + Send + Sync>;
