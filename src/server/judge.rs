//! From a handshake to a session: what is asked, in which order, and how the client is answered.

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};

use super::{
    Accept, Handshake, Inner, Reject, RpcServer, RpcUpgrade, UpgradeError,
    facts::Began,
    negotiation::Agreement,
    session::{self, Plan},
};
use crate::{
    event::{Event, EventKind},
    meter,
    tolerance::Deviation,
};

impl RpcServer {
    /// Answers a handshake, with everything that the service does.
    pub(super) async fn handshake(&self, upgrade: Result<RpcUpgrade, UpgradeError>) -> Response<Full<Bytes>> {
        let upgrade = match upgrade {
            Ok(upgrade) => upgrade,
            Err(error) => return self.refuse(error),
        };
        let inner = &self.inner;
        let mut judgement = Judgement { inner, handshake: upgrade.handshake.clone(), is_open: true };
        let judged = inner.judge(upgrade).await;
        judgement.is_open = false;
        judged.unwrap_or_else(|reject| inner.reject(&judgement.handshake, reject))
    }
}

/// A handshake that is being judged; one that is dropped by then was broken off by its client.
struct Judgement<'a> {
    inner: &'a Inner,
    handshake: Handshake,
    is_open: bool,
}

impl Drop for Judgement<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.inner.refused(&self.handshake, None, "the client left before it was judged");
        }
    }
}

impl Inner {
    /// Lets a client in that somebody else has judged.
    pub(super) fn accept<B: From<Bytes>>(self: &Arc<Self>, mut upgrade: RpcUpgrade, accept: Accept) -> Response<B> {
        let handshake = &mut upgrade.handshake;
        if let Some(proxies) = &self.proxies {
            let (known, tls) = (handshake.remote_address, handshake.tls.take());
            (handshake.remote_address, handshake.tls) = proxies.client(handshake.headers(), known, tls);
        }
        let known = upgrade.handshake.clone();
        let opened = self.check(&upgrade).and_then(|()| self.open(upgrade, accept));
        opened.unwrap_or_else(|reject| self.reject(&known, reject))
    }

    /// Asks the hook, then opens the session.
    async fn judge<B: From<Bytes>>(self: &Arc<Self>, upgrade: RpcUpgrade) -> Result<Response<B>, Reject> {
        self.check(&upgrade)?;
        let Ok(_place) = self.pending.try_acquire() else { return Err(unavailable("too many handshakes")) };
        let accept = match &self.auth {
            None => Accept::new(),
            Some(auth) => {
                let handshake = upgrade.handshake.clone();
                // What TLS and the head took is over.
                let began = handshake.parts().extensions.get().map_or_else(Instant::now, |&Began(began)| began);
                // A closure may panic before there is a future.
                let hook = AssertUnwindSafe(async { auth.authenticate(handshake).await }).catch_unwind();
                let hook = timeout_at(began + self.handshake_deadline, hook);
                match self.closing.run_until_cancelled(hook).await {
                    None => return Err(unavailable("the server is closing")),
                    Some(Err(_)) => return Err(unavailable("authentication took too long")),
                    Some(Ok(Err(_))) => {
                        tracing::error!("the authentication hook panicked");
                        return Err(Reject::new(StatusCode::INTERNAL_SERVER_ERROR).body("authentication failed"));
                    }
                    Some(Ok(Ok(judgement))) => judgement?,
                }
            }
        };
        self.open(upgrade, accept)
    }

    fn check(&self, upgrade: &RpcUpgrade) -> Result<(), Reject> {
        if upgrade.handshake.identity().len() > self.max_identity {
            return Err(Reject::not_found().body("the identity is too long"));
        }
        match upgrade.is_connect() && !self.habits.take_connect() {
            true => Err(Reject::new(StatusCode::NOT_IMPLEMENTED).body("there are no WebSockets over HTTP/2 here")),
            false => Ok(()),
        }
    }

    /// Negotiates the protocol, takes a place, and lets a task wait for the socket.
    fn open<B: From<Bytes>>(self: &Arc<Self>, upgrade: RpcUpgrade, accept: Accept) -> Result<Response<B>, Reject> {
        // A close that begins now waits for this token, and so for the task.
        let _token = self.tasks.token();
        if self.closing.is_cancelled() {
            return Err(unavailable("the server is closing"));
        }
        let Accept { protocol, options, extensions } = accept;
        let options = options.unwrap_or_else(|| self.options());
        if let Err(error) = options.check_for(&self.negotiation.protocols) {
            tracing::error!(%error, "the options of a session");
            return Err(Reject::new(StatusCode::INTERNAL_SERVER_ERROR).body("the session cannot be opened"));
        }
        let handshake = &upgrade.handshake;
        let agreement = self.negotiation.negotiate(handshake.protocols(), protocol)?;
        if agreement.spoken().is_some_and(|protocol| !options.covers(protocol)) {
            tracing::error!("the session's protocol cannot be validated");
            return Err(Reject::new(StatusCode::INTERNAL_SERVER_ERROR).body("the session cannot be validated"));
        }
        let mut deviations = upgrade.deviations;
        if let Agreement::Silent(Some(_)) = agreement {
            deviations.add(Deviation::NoProtocol);
        }
        if let Some(deviation) = deviations.beyond(options.tolerance) {
            return Err(Reject::new(StatusCode::BAD_REQUEST).body(format!("the handshake has {deviation}")));
        }
        let mut response = Response::new(B::from(Bytes::new()));
        *response.status_mut() = upgrade.status();
        let headers = response.headers_mut();
        upgrade.answer(headers);
        if let Agreement::Named(protocol) = &agreement {
            // Tokens were checked when they were offered or configured.
            let value = HeaderValue::from_str(protocol).map_err(|_| Reject::new(StatusCode::BAD_REQUEST))?;
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
        let identity = (agreement != Agreement::None).then(|| handshake.shared_identity());
        let place = self.registry.reserve(identity, handshake.remote_address())?;
        let session = session::run(self.clone(), upgrade, Plan { place, agreement, options, extensions, deviations });
        self.running.spawn(&self.tasks, session);
        Ok(response)
    }

    fn reject<B: From<Bytes>>(&self, handshake: &Handshake, reject: Reject) -> Response<B> {
        self.refused(handshake, Some(reject.status()), reject.reason());
        reject.into_response()
    }

    pub(super) fn refused(&self, handshake: &Handshake, status: Option<StatusCode>, reason: &str) {
        self.emit_refused(Some(handshake.identity()), handshake.remote_address(), status, reason);
    }

    pub(super) fn emit_refused(
        &self,
        identity: Option<&str>,
        remote_address: Option<SocketAddr>,
        status: Option<StatusCode>,
        reason: &str,
    ) {
        tracing::debug!(identity, ?remote_address, ?status, reason, "handshake refused");
        let status = status.map(|status| status.as_u16());
        meter::refused(status);
        self.hub.emit(|| Event {
            at: SystemTime::now(),
            identity: identity.map(Into::into),
            remote_address,
            kind: EventKind::Refused { status, reason: reason.to_owned() },
        });
    }
}

fn unavailable(reason: &'static str) -> Reject {
    Reject::new(StatusCode::SERVICE_UNAVAILABLE).header(header::RETRY_AFTER, HeaderValue::from_static("5")).body(reason)
}
