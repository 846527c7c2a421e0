//! A call of the peer, as extractors and layers see it.

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use bytestring::ByteString;
use http::Extensions;

use crate::{
    connection::request::IncomingRequest,
    message::payload::{MessageId, Payload},
    session::Session,
    validate::validator::Valid,
};

/// A call of the peer, the request of [extractors](crate::extract) and tower layers.
///
/// ```
/// use ocpp_rpc::{RpcRouter, handler::{IncomingCall, Response}, middleware::{self, Next}};
///
/// async fn log(call: IncomingCall, next: Next) -> Response {
///     println!("{} of {}: {}", call.action(), call.session().identity(), call.params().as_str());
///     next.run(call).await
/// }
///
/// let router: RpcRouter = RpcRouter::new().layer(middleware::from_fn(log));
/// ```
pub struct IncomingCall {
    pub(super) request: IncomingRequest,
    pub(super) session: Session,
    extensions: Extensions,
    /// Set once an early response is given. Created only for handlers that take a `Responder`.
    pub(super) given: OnceLock<Arc<AtomicBool>>,
}

impl IncomingCall {
    /// Returns the action.
    pub fn action(&self) -> &str {
        &self.request.head.action
    }

    /// Returns the message id.
    pub fn id(&self) -> &MessageId {
        &self.request.head.id
    }

    /// Returns the parameters as JSON text. They are always a JSON object: other calls were rejected with
    /// [`ErrorCode::FORMAT_VIOLATION`](crate::ErrorCode::FORMAT_VIOLATION).
    pub fn params(&self) -> &Payload {
        &self.request.payload
    }

    /// Replaces the parameters. The handler gets these; the application must make sure that they are valid.
    pub fn set_params(&mut self, params: Payload) {
        self.request.payload = params;
        // The value that validation has decoded is that of the earlier parameters.
        self.request.valid = Valid::default();
    }

    /// Returns the values that layers have attached to this call.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Returns the values that layers have attached to this call, to attach more. The handler takes them by
    /// [`Extension`](crate::extract::Extension).
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// Returns the session that the call came in on.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns whether the peer waits for a response. A CALL expects one, a SEND (OCPP 2.1) does not.
    pub fn expects_response(&self) -> bool {
        self.request.head.expects_response
    }

    pub(super) fn new(request: IncomingRequest, session: Session) -> Self {
        Self { request, session, extensions: Extensions::new(), given: OnceLock::new() }
    }

    /// Takes the parameters if validation has decoded them as this type and no other argument took them.
    pub(super) fn validated<T: 'static>(&self) -> Option<T> {
        self.request.valid.take()
    }

    pub(super) fn action_text(&self) -> ByteString {
        self.request.head.action.clone()
    }
}

/// Omits the parameters, which may be secret.
impl fmt::Debug for IncomingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, action, id) = (self.session.key(), self.action(), self.id());
        f.debug_struct("IncomingCall")
            .field("key", &key)
            .field("action", &action)
            .field("id", id)
            .finish_non_exhaustive()
    }
}
