//! Telemetry: one call per fact feeds events, metrics and the log.
//!
//! No metric label comes from the input of a peer, so the number of label values is bounded.

#[cfg(feature = "metrics")]
mod descriptions;
#[cfg(feature = "metrics")]
mod metrics;

use std::{any::Any, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    close::info::CloseInfo,
    error::Error,
    event::{
        bus::{EventBus, Events},
        kind::{Direction, Event, EventKind, Origin},
        refused::RefusedRequest,
    },
    mask::Mask,
    response::Response,
};

/// The telemetry of one server, or of one client.
#[derive(Debug)]
pub(crate) struct Telemetry {
    events: Arc<EventBus>,
    mask: Mask,
    /// The layers around calls to the peer, of a type that the handles know. They are here because every session and
    /// station has its telemetry at hand.
    call_layers: Option<Box<dyn Any + Send + Sync>>,
    #[cfg(feature = "metrics")]
    metrics: metrics::Metrics,
}

impl Telemetry {
    /// Creates the telemetry of a server or client. Metrics go to the recorder that is installed by now.
    pub(crate) fn new(mask: Mask) -> Arc<Self> {
        Self::with_call_layers::<()>(mask, None)
    }

    /// Does the same for a server or client that may have layers around its calls.
    pub(crate) fn with_call_layers<L: Any + Send + Sync>(mask: Mask, layers: Option<L>) -> Arc<Self> {
        Arc::new(Self {
            events: Arc::default(),
            mask,
            call_layers: layers.map(|layers| Box::new(layers) as _),
            #[cfg(feature = "metrics")]
            metrics: metrics::Metrics::new(),
        })
    }

    /// Returns the mask of tokens and secrets.
    pub(crate) fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Returns the layers around calls to the peer.
    pub(crate) fn call_layers<L: Any>(&self) -> Option<&L> {
        self.call_layers.as_ref()?.downcast_ref()
    }

    /// Returns a reader of all events from now on.
    pub(crate) fn subscribe(&self) -> Events {
        self.events.subscribe()
    }

    /// Returns whether an application reads events.
    pub(crate) fn is_observed(&self) -> bool {
        self.events.is_read()
    }

    /// Ends the events: readers come to the end.
    pub(crate) fn end(&self) {
        self.events.end();
    }

    /// Counts a message. `_compressed_len` is the length of its payload, if that is compressed.
    pub(crate) fn message(&self, _direction: Direction, _text_len: usize, _compressed_len: Option<usize>) {
        #[cfg(feature = "metrics")]
        self.metrics.message(_direction, _text_len, _compressed_len);
    }

    /// Reports a fact about a connection. Calls `origin` only if an application reads events.
    pub(crate) fn report(&self, kind: EventKind, origin: impl FnOnce() -> Origin) {
        #[cfg(feature = "metrics")]
        metrics::event(&kind);
        self.events.emit(|| Event::new(origin(), kind, self.mask.clone()));
    }

    /// Reports a handshake that the server refused, or that the client abandoned. Calls `request` only if an application
    /// reads events.
    pub(crate) fn handshake_refused(
        &self,
        identity: Option<&Arc<str>>,
        remote_address: Option<SocketAddr>,
        status: Option<u16>,
        reason: &str,
        request: impl FnOnce() -> Option<RefusedRequest>,
    ) {
        let reason = cut(reason);
        let identity = identity.map(|identity| match cut(identity) {
            short if short.len() < identity.len() => Arc::from(short),
            _ => identity.clone(),
        });
        tracing::warn!(
            identity = identity.as_deref(),
            remote_address = remote_address.map(tracing::field::display),
            status,
            reason,
            "handshake refused"
        );
        let request = if self.is_observed() { request().map(Box::new) } else { None };
        self.report(EventKind::HandshakeRefused { status, reason: reason.to_owned(), request }, || Origin {
            identity,
            remote_address,
            ..Origin::default()
        });
    }

    /// Counts a call of the peer that is rejected without a handler.
    pub(crate) fn unhandled(&self) {
        #[cfg(feature = "metrics")]
        self.metrics.unhandled();
    }

    /// Starts to measure a call.
    pub(crate) fn call(self: &Arc<Self>) -> CallTimer {
        CallTimer {
            start: (cfg!(feature = "metrics") || self.is_observed()).then(Instant::now),
            #[cfg(feature = "metrics")]
            telemetry: self.clone(),
        }
    }
}

/// The bytes of a peer's text that a log line or the reason of a refusal may have.
const MAX_TEXT: usize = 512;

/// Cuts a text that may come from a peer to [`MAX_TEXT`] bytes.
pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// A timer of one call.
#[derive(Debug, Clone)]
pub(crate) struct CallTimer {
    /// `None` if neither metrics nor a reader of events needs it.
    start: Option<Instant>,
    #[cfg(feature = "metrics")]
    telemetry: Arc<Telemetry>,
}

impl CallTimer {
    /// Counts a call of the peer when its handler has ended. Returns the time that the handler took, if it was measured.
    pub(crate) fn handled(&self, _response: &Response) -> Option<Duration> {
        let time = self.start?.elapsed();
        #[cfg(feature = "metrics")]
        self.telemetry.metrics.handled(_response, time);
        Some(time)
    }

    /// Returns the time of a call whose handler is dropped, if it was measured.
    pub(crate) fn dropped(&self) -> Option<Duration> {
        Some(self.start?.elapsed())
    }

    /// Stops measuring: the call is not counted.
    pub(crate) fn disarm(&mut self) {
        self.start = None;
    }

    /// Counts a call to the peer that has ended.
    pub(crate) fn ended<T>(&self, _outcome: &Result<T, Error>) {
        #[cfg(feature = "metrics")]
        if let Some(start) = self.start {
            self.telemetry.metrics.called(_outcome.as_ref().err(), start.elapsed());
        }
    }
}

/// A guard that counts a connection as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(());

impl OpenConnection {
    /// Counts a connection as open.
    pub(crate) fn new() -> Self {
        #[cfg(feature = "metrics")]
        metrics::connection_opened();
        Self(())
    }

    /// Counts the connection as closed, by its cause.
    pub(crate) fn closed(self, _closed: &CloseInfo) {
        #[cfg(feature = "metrics")]
        metrics::connection_closed(_closed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        #[cfg(feature = "metrics")]
        metrics::connection_dropped();
    }
}
