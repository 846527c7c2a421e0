//! The error of loading a JSON Schema.

use std::{io, path::PathBuf};

use crate::{error::build::kind_of, validate::validator::PayloadKind};

/// The failure to load a JSON Schema.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The file or folder cannot be read. The I/O error is the `source()` as well.
    #[error("cannot read {}: {}", .0.display(), kind_of(.1))]
    Read(PathBuf, #[source] io::Error),
    /// The file is not JSON.
    #[error("not JSON: {path}: {1}", path = .0.display())]
    NotJson(PathBuf, serde_json::Error),
    /// The file's name does not end in `.json`.
    #[error("not the name of a schema, which ends in .json: {}", .0.display())]
    FileName(PathBuf),
    /// The folder contains no schema.
    #[error("no schema in the folder: {}", .0.display())]
    EmptyFolder(PathBuf),
    /// The JSON is not a schema of its draft, or has a reference that leads nowhere.
    #[error("invalid schema of the {kind} of {action} ({protocol}): {reason}", kind = name_of(*kind))]
    Invalid {
        /// The subprotocol of the schema.
        protocol: String,
        /// The action of the schema.
        action: String,
        /// The payload of the schema.
        kind: PayloadKind,
        /// The fault of the schema.
        reason: String,
    },
}

impl SchemaError {
    pub(super) fn invalid(protocol: &str, action: &str, kind: PayloadKind, reason: String) -> Self {
        Self::Invalid { protocol: protocol.to_owned(), action: action.to_owned(), kind, reason }
    }
}

fn name_of(kind: PayloadKind) -> &'static str {
    match kind {
        PayloadKind::Request => "request",
        PayloadKind::Response => "response",
    }
}
