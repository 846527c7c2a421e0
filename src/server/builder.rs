//! How a server is put together.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Authenticate, Inner, RpcServer, auth::AnyAuth, registry::Registry};
use crate::{
    connection::Dispatch,
    dialect::Dialect,
    event::Hub,
    handshake,
    options::{self, BuildError, Options},
};

/// Puts an [`RpcServer`] together.
///
/// | Setting | Default |
/// |---|---|
/// | [`protocols`](Self::protocols) | none: any client is taken, and none is named |
/// | [`auth`](Self::auth) | lets everybody in |
/// | [`options`](Self::options) | [`Options::server`] |
/// | [`handshake_deadline`](Self::handshake_deadline) | 10 s |
/// | [`max_pending_handshakes`](Self::max_pending_handshakes) | 1024 |
/// | [`max_identity`](Self::max_identity) | 255 bytes |
#[must_use]
pub struct RpcServerBuilder {
    dispatch: Arc<dyn Dispatch>,
    protocols: Vec<Arc<str>>,
    dialects: Vec<(Arc<str>, Dialect)>,
    auth: Option<Box<dyn AnyAuth>>,
    options: Options,
    handshake_deadline: Duration,
    max_pending_handshakes: usize,
    max_identity: usize,
}

impl RpcServerBuilder {
    pub(super) fn new(dispatch: Arc<dyn Dispatch>) -> Self {
        Self {
            dispatch,
            protocols: Vec::new(),
            dialects: Vec::new(),
            auth: None,
            options: Options::server(),
            handshake_deadline: Duration::from_secs(10),
            max_pending_handshakes: 1024,
            max_identity: 255,
        }
    }

    /// The subprotocols that the server speaks. Among them the client's order decides (OCPP 2.1 part 4 §3.1.2).
    pub fn protocols<P: AsRef<str>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.protocols = protocols.into_iter().map(|protocol| protocol.as_ref().into()).collect();
        self
    }

    /// The rules of a protocol that has rules of its own.
    pub fn dialect(mut self, protocol: &str, dialect: Dialect) -> Self {
        self.dialects.push((protocol.into(), dialect));
        self
    }

    /// Judges every handshake: a closure or a type, see [`Authenticate`].
    pub fn auth(mut self, hook: impl Authenticate) -> Self {
        self.auth = Some(Box::new(hook));
        self
    }

    /// Times, limits and habits of the sessions.
    pub fn options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// How long the authentication hook may take. The built-in listener gives the head of the request as long.
    pub fn handshake_deadline(self, deadline: Duration) -> Self {
        Self { handshake_deadline: deadline, ..self }
    }

    /// How many handshakes may wait for the authentication hook at once; more are answered with 503.
    pub fn max_pending_handshakes(self, handshakes: usize) -> Self {
        Self { max_pending_handshakes: handshakes, ..self }
    }

    /// The longest identity, in bytes after decoding; a longer one is answered with 404. OCPP 2.x allows 48
    /// characters, 1.6 states no limit.
    pub fn max_identity(self, bytes: usize) -> Self {
        Self { max_identity: bytes, ..self }
    }

    /// The server.
    ///
    /// # Errors
    /// When settings contradict each other or could never work.
    pub fn build(self) -> Result<RpcServer, BuildError> {
        let Self { dispatch, protocols, dialects, auth, options, .. } = self;
        handshake::check_protocols(&protocols, &dialects)?;
        options.check_for(&protocols)?;
        let Some(handshake_deadline) = options::some(self.handshake_deadline) else {
            return Err(BuildError("handshake_deadline is zero or without end".into()));
        };
        if self.max_pending_handshakes == 0 {
            return Err(BuildError("max_pending_handshakes is zero: nobody could ever come in".into()));
        }
        if self.max_identity == 0 {
            return Err(BuildError("max_identity is zero: nobody could ever come in".into()));
        }
        let inner = Inner {
            dispatch,
            protocols,
            dialects,
            auth,
            options,
            handshake_deadline,
            max_identity: self.max_identity,
            pending: Semaphore::new(self.max_pending_handshakes.min(Semaphore::MAX_PERMITS)),
            registry: Registry::default(),
            hub: Arc::new(Hub::default()),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            kill: CancellationToken::new(),
            active: AtomicUsize::new(0),
            clean: AtomicUsize::new(0),
            forced: AtomicUsize::new(0),
        };
        Ok(RpcServer { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for RpcServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcServerBuilder")
            .field("protocols", &self.protocols)
            .field("auth", &self.auth.is_some())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
