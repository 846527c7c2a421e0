//! The state that a client and its supervisor share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{SetOnce, oneshot, watch};

use crate::{
    client::{error::ConnectError, settings::Prepared},
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
    /// The settings of the next connection.
    prepared: Mutex<Arc<Prepared>>,
    /// The handles that ask for another connection and wait for it. `None` after the end of the run.
    reconnects: Mutex<Option<Reconnects>>,
}

type Reconnects = Vec<oneshot::Sender<()>>;

impl ClientRun {
    pub(super) fn new(run: Arc<Run>, prepared: Prepared) -> Arc<Self> {
        let (prepared, reconnects) = (Mutex::new(Arc::new(prepared)), Mutex::new(Some(Vec::new())));
        Arc::new(Self { run, first: SetOnce::new(), prepared, reconnects })
    }

    /// Returns the settings of the next connection.
    pub(super) fn prepared(&self) -> Arc<Prepared> {
        lock(&self.prepared).clone()
    }

    /// Replaces the settings of the next connection.
    pub(super) fn prepare(&self, prepared: Prepared) {
        *lock(&self.prepared) = Arc::new(prepared);
    }

    /// Asks for another connection. The receiver resolves when it is open, or with an error if none will follow.
    pub(super) fn reconnect(&self, session: &Shared) -> oneshot::Receiver<()> {
        let (sender, opened) = oneshot::channel();
        if let Some(reconnects) = &mut *lock(&self.reconnects) {
            reconnects.push(sender);
            session.set_reconnect(true);
        }
        opened
    }

    /// Takes the handles that have asked for another connection.
    pub(super) fn take_reconnects(&self, session: &Shared) -> Reconnects {
        let mut reconnects = lock(&self.reconnects);
        // Under the lock, so that a later request is not withdrawn.
        session.set_reconnect(false);
        reconnects.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Sets the outcome of a run that ends. It counts if there has been no connection.
    pub(super) fn finish(&self, error: ConnectError) {
        let _ = self.first.set(Err(error));
        // A handler may wait for a reconnect, and the end of the run for the handler.
        *lock(&self.reconnects) = None;
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under the locks can panic half way.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for ClientShared {
    fn drop(&mut self) {
        self.telemetry.end();
    }
}
