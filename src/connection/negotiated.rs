//! The outcome of a handshake.

use std::sync::Arc;

use crate::message::dialect::Dialect;

/// The subprotocol of a connection and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) dialect: Dialect,
}
