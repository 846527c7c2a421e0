//! Accepts or refuses a handshake: checks, authenticator, negotiation, registration, response.

use std::{borrow::Cow, net::SocketAddr, panic::AssertUnwindSafe, pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};

use crate::{
    event::refused::RefusedRequest,
    header_case::{header_case, upgrade_header_case},
    message::tolerance::Deviation,
    server::{
        handshake::{
            auth::{Accept, Handshake, Reject},
            credentials,
            protocol::Selection,
            upgrade::{RpcUpgrade, UpgradeError},
        },
        http::info::HandshakeStarted,
        rpc_server::{RpcServer, ServerState},
        session::{
            registry::already_connected,
            task::{self, NewSession},
        },
    },
    websocket::extension,
};

impl RpcServer {
    /// Accepts a handshake that the application has authenticated, and returns the response.
    ///
    /// The response is 101, or a refusal with a reason. The server's authenticator does not run. All other checks are
    /// those of the service. The session is registered when the socket is upgraded, before anything is read from it.
    ///
    /// `B` is the body of the response: axum's `Body`, or another type that can be created from bytes.
    pub fn accept<B: From<Bytes>>(&self, upgrade: RpcUpgrade, accept: Accept) -> Response<B> {
        self.state.accept(upgrade, accept)
    }

    /// Returns the response to a request that is not a valid handshake, and emits an event.
    ///
    /// ```
    /// use axum::{extract::State, response::Response};
    /// use ocpp_rpc::{Accept, RpcServer, RpcUpgrade, server::UpgradeError};
    ///
    /// async fn connect(upgrade: Result<RpcUpgrade, UpgradeError>, State(server): State<RpcServer>) -> Response {
    ///     match upgrade {
    ///         Ok(upgrade) => server.accept(upgrade, Accept::new()),
    ///         Err(error) => server.refuse(error),
    ///     }
    /// }
    /// # let _: axum::Router<RpcServer> = axum::Router::new().route("/ocpp/{*identity}", axum::routing::any(connect));
    /// ```
    pub fn refuse<B: From<Bytes>>(&self, mut error: UpgradeError) -> Response<B> {
        if let Some(proxies) = &self.state.proxies {
            error.apply_proxies(proxies);
        }
        let request = || Some(error.request());
        self.state.emit_refused(None, error.remote_address(), Some(error.status()), error.reason(), request);
        error.into_response()
    }

    /// Returns the response of the service to a handshake.
    pub(crate) async fn handshake(&self, upgrade: Result<RpcUpgrade, UpgradeError>) -> Response<Full<Bytes>> {
        let upgrade = match upgrade {
            Ok(upgrade) => upgrade,
            Err(error) => return self.refuse(error),
        };
        let server = &self.state;
        let mut guard = AuthGuard { server, handshake: upgrade.handshake.clone(), is_pending: true };
        let response = server.authenticate(upgrade).await;
        guard.is_pending = false;
        response.unwrap_or_else(|reject| server.reject(&guard.handshake, reject))
    }
}

/// A guard that reports a client that disconnects during authentication.
struct AuthGuard<'a> {
    server: &'a ServerState,
    handshake: Handshake,
    is_pending: bool,
}

impl Drop for AuthGuard<'_> {
    fn drop(&mut self) {
        if self.is_pending {
            self.server.report_refused(&self.handshake, None, "the client disconnected during authentication");
        }
    }
}

impl ServerState {
    /// Accepts a handshake that the application has authenticated.
    pub(crate) fn accept<B: From<Bytes>>(self: &Arc<Self>, mut upgrade: RpcUpgrade, accept: Accept) -> Response<B> {
        let handshake = &mut upgrade.handshake;
        if let Some(proxies) = &self.proxies {
            let (known, tls) = (handshake.remote_address, handshake.tls.take());
            (handshake.remote_address, handshake.tls) = proxies.client(handshake.headers(), known, tls);
        }
        let known = upgrade.handshake.clone();
        let response = self.check_upgrade(&upgrade).and_then(|()| self.open_session(upgrade, accept));
        response.unwrap_or_else(|reject| self.reject(&known, reject))
    }

    /// Runs the authenticator, then opens the session.
    async fn authenticate<B: From<Bytes>>(self: &Arc<Self>, upgrade: RpcUpgrade) -> Result<Response<B>, Reject> {
        self.check_upgrade(&upgrade)?;
        let Ok(_permit) = self.handshake_permits.try_acquire() else {
            return Err(unavailable("too many pending handshakes"));
        };
        let address = self.limited_address(upgrade.handshake.remote_address());
        let Some(_address_permit) = self.handshakes_per_address.try_acquire(address) else {
            return Err(unavailable("too many pending handshakes from this address"));
        };
        let accept = match &self.authenticator {
            None => Accept::new(),
            Some(authenticator) => {
                let handshake = upgrade.handshake.clone();
                // TLS and the head of the request count toward the timeout.
                let started_at = handshake
                    .parts()
                    .extensions
                    .get()
                    .map_or_else(Instant::now, |&HandshakeStarted(started_at)| started_at);
                // The block is needed because a closure may panic before it returns a future.
                let accepted = AssertUnwindSafe(async { authenticator.authenticate(handshake).await }).catch_unwind();
                let accepted = pin!(timeout_at(started_at + self.http.handshake_timeout, accepted));
                match self.closing.run_until_cancelled(accepted).await {
                    None => return Err(unavailable("the server is closing")),
                    Some(Err(_)) => return Err(unavailable("authentication timed out")),
                    Some(Ok(Err(_))) => {
                        tracing::error!("the authenticator panicked");
                        return Err(Reject::new(StatusCode::INTERNAL_SERVER_ERROR).body("authentication failed"));
                    }
                    Some(Ok(Ok(accepted))) => accepted?,
                }
            }
        };
        let key = accept.key.clone().unwrap_or_else(|| upgrade.handshake.shared_identity());
        if let Some(asking) = self.registry.ask_elsewhere(&key)
            && self.closing.run_until_cancelled(asking).await == Some(true)
        {
            return Err(already_connected());
        }
        self.open_session(upgrade, accept)
    }

    fn check_upgrade(&self, upgrade: &RpcUpgrade) -> Result<(), Reject> {
        if upgrade.handshake.identity().len() > self.max_identity_length {
            return Err(Reject::not_found().body("the identity is too long"));
        }
        if upgrade.is_http2() && !self.http.has_websockets_over_http2() {
            return Err(Reject::new(StatusCode::NOT_IMPLEMENTED).body("WebSockets over HTTP/2 are disabled"));
        }
        Ok(())
    }

    /// Negotiates the protocol, reserves a session, and spawns the task that waits for the socket.
    fn open_session<B: From<Bytes>>(
        self: &Arc<Self>,
        upgrade: RpcUpgrade,
        accept: Accept,
    ) -> Result<Response<B>, Reject> {
        // A close that begins now waits for this token, and so for the new task.
        let _token = self.tasks.token();
        if self.closing.is_cancelled() {
            return Err(unavailable("the server is closing"));
        }
        let Accept { key, protocol, options, dispatch, extensions, headers: own_headers, on_open } = accept;
        let options = options.unwrap_or_else(|| self.options());
        if let Err(error) = options.check_for(&self.negotiation.protocols) {
            tracing::error!(%error, "the authenticator accepted a session with invalid options");
            return Err(Reject::new(StatusCode::INTERNAL_SERVER_ERROR).body("the session cannot be opened"));
        }
        if let Some(name) = own_headers.keys().find(|name| is_handshake_header(name)) {
            tracing::error!(%name, "the authenticator sets a header that belongs to the handshake");
            return Err(Reject::new(StatusCode::INTERNAL_SERVER_ERROR).body("the session cannot be opened"));
        }
        let handshake = &upgrade.handshake;
        let selection = self.negotiation.negotiate(handshake.protocols(), protocol)?;
        if selection.protocol().is_some_and(|protocol| !options.covers(protocol)) {
            tracing::error!("validation does not cover the session's protocol");
            return Err(Reject::new(StatusCode::INTERNAL_SERVER_ERROR).body("the session cannot be validated"));
        }
        let mut deviations = upgrade.deviations;
        if let Selection::Unnamed(Some(_)) = selection {
            deviations.add(Deviation::MissingProtocol);
        }
        if let Some(deviation) = deviations.first_rejected_by(options.tolerance) {
            return Err(Reject::new(StatusCode::BAD_REQUEST).body(format!("the handshake has {deviation}")));
        }
        let mut response = Response::new(B::from(Bytes::new()));
        *response.extensions_mut() = if own_headers.is_empty() { upgrade_header_case() } else { header_case() };
        *response.status_mut() = upgrade.status();
        let headers = response.headers_mut();
        *headers = own_headers;
        upgrade.write_headers(headers);
        if let Selection::Offered(protocol) = &selection {
            // Cannot fail: offered and configured protocols were checked to be tokens.
            let value = HeaderValue::from_str(protocol).map_err(|_| Reject::new(StatusCode::BAD_REQUEST))?;
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
        let deflate = options.compression.and_then(|settings| extension::accept(handshake.headers(), &settings));
        let deflate = deflate.map(|(params, value)| {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
            params
        });
        let key = key.unwrap_or_else(|| handshake.shared_identity());
        let reserved = (selection != Selection::NoCommon).then_some(key);
        let reservation = self.registry.reserve(
            reserved,
            handshake.remote_address(),
            upgrade.session_id,
            Instant::now().into_std(),
        )?;
        let dispatch = dispatch.unwrap_or_else(|| self.dispatch.clone());
        let session =
            NewSession { reservation, selection, options, dispatch, extensions, deviations, deflate, on_open };
        let session = task::run(self.clone(), upgrade, session);
        self.session_tasks.spawn(&self.tasks, session);
        Ok(response)
    }

    fn reject<B: From<Bytes>>(&self, handshake: &Handshake, reject: Reject) -> Response<B> {
        let reason = match reject.status() {
            StatusCode::UNAUTHORIZED if !reject.has_reason() => {
                let why = credentials::explain_unauthorized(handshake.headers(), handshake.identity());
                Cow::from(format!("{}: {why}", reject.reason_text()))
            }
            _ => Cow::from(reject.reason_text()),
        };
        self.report_refused(handshake, Some(reject.status()), &reason);
        reject.into_response()
    }

    pub(crate) fn report_refused(&self, handshake: &Handshake, status: Option<StatusCode>, reason: &str) {
        let (identity, address) = (handshake.shared_identity(), handshake.remote_address());
        let request = || Some(RefusedRequest::new(handshake.path(), handshake.headers(), handshake.tls()));
        self.emit_refused(Some(&identity), address, status, reason, request);
    }

    pub(crate) fn emit_refused(
        &self,
        identity: Option<&Arc<str>>,
        remote_address: Option<SocketAddr>,
        status: Option<StatusCode>,
        reason: &str,
        request: impl FnOnce() -> Option<RefusedRequest>,
    ) {
        let status = status.map(|status| status.as_u16());
        self.telemetry.handshake_refused(identity, remote_address, status, reason, request);
    }
}

/// Returns `true` if a header of the response belongs to the handshake or to the framing of the message.
fn is_handshake_header(name: &HeaderName) -> bool {
    [header::CONNECTION, header::UPGRADE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name)
        || name.as_str().starts_with("sec-websocket-")
}

fn unavailable(reason: &'static str) -> Reject {
    Reject::retry_later(StatusCode::SERVICE_UNAVAILABLE, reason)
}
