//! What can be wrong with a schema.

use std::{error::Error as StdError, fmt, io, path::PathBuf};

use crate::validate::validator::PayloadKind;

/// Why something is not a schema that can be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum SchemaError {
    /// The file or folder cannot be read.
    Read(PathBuf, io::Error),
    /// The file is not JSON.
    NotJson(PathBuf, serde_json::Error),
    /// The file's name does not end in `.json`.
    Name(PathBuf),
    /// There is no schema in the folder.
    Empty(PathBuf),
    /// It is JSON, but not a schema of its draft, or leads nowhere.
    Unfit {
        /// The subprotocol that it was given for.
        protocol: String,
        /// The action that it was given for.
        action: String,
        /// The payload that it was given for.
        kind: PayloadKind,
        /// What is wrong with it.
        reason: String,
    },
}

impl SchemaError {
    pub(super) fn unfit(protocol: &str, action: &str, kind: PayloadKind, reason: String) -> Self {
        Self::Unfit { protocol: protocol.to_owned(), action: action.to_owned(), kind, reason }
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "{} cannot be read: {error}", path.display()),
            Self::NotJson(path, error) => write!(f, "{} is not JSON: {error}", path.display()),
            Self::Name(path) => write!(f, "{} is not named like a schema", path.display()),
            Self::Empty(path) => write!(f, "there is no schema in {}", path.display()),
            Self::Unfit { protocol, action, kind, reason } => {
                let kind = match kind {
                    PayloadKind::Request => "request",
                    PayloadKind::Response => "response",
                };
                write!(f, "the schema of the {kind} of {action} ({protocol}) is none: {reason}")
            }
        }
    }
}

/// What it holds is a part of the message already.
impl StdError for SchemaError {}
