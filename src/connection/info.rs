//! What is known of a connection.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use http::Extensions;

use crate::message::dialect::Dialect;

/// What is known of a connection from its beginning.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) identity: Arc<str>,
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) opened_at: SystemTime,
    /// What the application knows of it.
    pub(crate) extensions: Extensions,
}

/// What both ends agreed to speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) dialect: Dialect,
}
