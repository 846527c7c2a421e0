//! The state that a client and its supervisor share.

use std::sync::Arc;

use tokio::sync::{SetOnce, watch};

use crate::{
    client::error::ConnectError,
    connection::{
        outliving::Outliving,
        shared::{Run, Shared},
    },
    telemetry::Telemetry,
};

/// The state of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientState {
    /// There is no connection and none will follow: before the first connect, after a close, or after the client gave
    /// up to reconnect.
    Closed,
    /// There is no connection yet or no longer, but the client tries to get one.
    Connecting,
    /// There is a connection.
    Open,
    /// The connection is being closed.
    Closing,
}

impl ClientState {
    /// Marks the connection as open. Returns whether the state has changed.
    pub(super) fn open(&mut self) -> bool {
        self.change(Self::Connecting, Self::Open)
    }

    /// Marks the connection as lost. Returns whether the state has changed.
    pub(super) fn disconnect(&mut self) -> bool {
        self.change(Self::Open, Self::Connecting)
    }

    /// Marks the connection as being closed. Returns whether the state has changed.
    pub(super) fn close(&mut self) -> bool {
        self.change(Self::Open, Self::Closing) || self.change(Self::Connecting, Self::Closing)
    }

    fn change(&mut self, from: Self, to: Self) -> bool {
        let is_from = *self == from;
        if is_from {
            *self = to;
        }
        is_from
    }
}

/// The state that the handles of a client and its supervisor share.
pub(super) struct ClientShared {
    pub(super) state: watch::Sender<ClientState>,
    pub(super) session: Arc<Shared>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) outliving: Arc<Outliving>,
}

/// The time from a connect to the close, over any number of connections.
pub(super) struct ClientRun {
    pub(super) run: Arc<Run>,
    /// The outcome of the first connect.
    pub(super) first: SetOnce<Result<(), ConnectError>>,
}

impl Drop for ClientShared {
    fn drop(&mut self) {
        self.telemetry.end();
    }
}
