//! The bodies of responses.

use std::error::Error;

/// What can go wrong with the body of a response.
pub(crate) type BodyError = Box<dyn Error + Send + Sync>;
