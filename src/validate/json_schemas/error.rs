//! The error of a schema.

use std::{error::Error as StdError, fmt, io, path::PathBuf};

use crate::validate::validator::PayloadKind;

/// An error of a schema, or of the file that should contain it.
#[derive(Debug)]
#[non_exhaustive]
pub enum SchemaError {
    /// Reading the file or folder failed.
    Read(PathBuf, io::Error),
    /// The file is not JSON.
    NotJson(PathBuf, serde_json::Error),
    /// The file's name does not end in `.json`.
    FileName(PathBuf),
    /// The folder contains no schema.
    EmptyFolder(PathBuf),
    /// The schema violates its draft, or contains a `$ref` or a pattern that does not compile.
    Invalid {
        /// The subprotocol of the schema.
        protocol: String,
        /// The action of the schema.
        action: String,
        /// The payload of the schema.
        kind: PayloadKind,
        /// The reason of the error.
        reason: String,
    },
}

impl SchemaError {
    pub(super) fn invalid(protocol: &str, action: &str, kind: PayloadKind, reason: String) -> Self {
        Self::Invalid { protocol: protocol.to_owned(), action: action.to_owned(), kind, reason }
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::NotJson(path, error) => write!(f, "{} is not JSON: {error}", path.display()),
            Self::FileName(path) => write!(f, "the name of the schema file {} does not end in .json", path.display()),
            Self::EmptyFolder(path) => write!(f, "the folder {} contains no schema", path.display()),
            Self::Invalid { protocol, action, kind, reason } => {
                let kind = match kind {
                    PayloadKind::Request => "request",
                    PayloadKind::Response => "response",
                };
                write!(f, "invalid schema of the {kind} of {action} ({protocol}): {reason}")
            }
        }
    }
}

impl StdError for SchemaError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Read(_, error) => Some(error),
            Self::NotJson(_, error) => Some(error),
            Self::FileName(_) | Self::EmptyFolder(_) | Self::Invalid { .. } => None,
        }
    }
}
