//! What a client and its supervisor share.

use std::sync::Arc;

use tokio::sync::{SetOnce, watch};

use crate::{client::error::ConnectError, connection::link::Link, telemetry::Telemetry};

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientState {
    /// There is no connection, and there will be none: before the first connect, and after a close or when
    /// reconnecting was given up.
    Closed,
    /// There is no connection yet, or no longer, but there is going to be one.
    Connecting,
    /// There is a connection.
    Open,
    /// The connection is being closed.
    Closing,
}

impl ClientState {
    /// The connection is lost; says whether that changes anything.
    pub(super) fn lose(&mut self) -> bool {
        let was_open = *self == Self::Open;
        if was_open {
            *self = Self::Connecting;
        }
        was_open
    }

    /// Somebody wishes to close; says whether that changes anything.
    pub(super) fn close(&mut self) -> bool {
        let was_alive = matches!(self, Self::Connecting | Self::Open);
        if was_alive {
            *self = Self::Closing;
        }
        was_alive
    }
}

/// What handles and supervisor share.
pub(super) struct Shared {
    pub(super) state: watch::Sender<ClientState>,
    pub(super) telemetry: Arc<Telemetry>,
}

/// From a connect to a close, over any number of connections.
pub(super) struct Life {
    pub(super) link: Arc<Link>,
    /// What came of the first connect.
    pub(super) first: SetOnce<Result<(), ConnectError>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.telemetry.end();
    }
}
