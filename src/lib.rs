#![doc = include_str!("docs/crate.md")]
#![cfg_attr(feature = "server", doc = include_str!("docs/scale.md"))]
// On docs.rs, each item names the feature that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(all(feature = "client", feature = "listen")),
    allow(dead_code, reason = "each end uses its part of the engine that both share")
)]

mod action;
#[cfg(feature = "client")]
mod backoff;
#[cfg(feature = "tls")]
mod certificate;
#[cfg(feature = "client")]
mod client;
mod close;
mod connection;
mod dialect;
mod error;
mod event;
#[cfg(any(feature = "client", feature = "server"))]
mod handshake;
#[cfg_attr(not(feature = "metrics"), path = "meter/none.rs")]
mod meter;
mod options;
mod payload;
mod peer;
mod rpc;
#[cfg(feature = "server")]
mod server;
mod tolerance;
#[cfg(feature = "unstable")]
#[doc(hidden)]
pub mod unstable;
mod validate;
mod wire;

pub use action::{Action, SendAction};
#[cfg(feature = "client")]
pub use backoff::Backoff;
#[cfg(feature = "client")]
pub use client::{ClientState, ConnectError, Connector, Reconnect, RpcClient, RpcClientBuilder, Target};
pub use close::{Cause, Close, Closed};
pub use connection::Reply;
pub use dialect::Dialect;
pub use error::{CallError, Error, ErrorCode};
pub use event::{Direction, Event, EventKind, Events, Text};
/// The payloads of OCPP 1.6, 2.0.1 and 2.1 as types: every request is an [`Action`], or a [`SendAction`].
#[cfg(feature = "ocpp-kit")]
pub use ocpp_kit;
pub use options::{BuildError, Options};
pub use payload::{MessageId, NotAnObject, Payload};
pub use peer::{Call, Peer};
pub use rpc::{
    ArgumentsOf, Handler, IncomingCall, IntoReply, NoReply, Outcome, OutcomeOf, Route, RouteFuture, RpcRouter,
};
#[cfg(feature = "listen")]
pub use server::Listener;
#[cfg(feature = "server")]
pub use server::{
    Accept, Authenticate, CloseReport, ConnectionFacts, Handshake, HandshakeFuture, Identity, NoCommonProtocol, Reject,
    RemoteAddress, RpcServer, RpcServerBuilder, RpcUpgrade, SameIdentity, Session, TlsFacts, TlsVersion,
    TrustedProxies, UpgradeError,
};
pub use tolerance::{Deviation, Tolerance};
#[cfg(feature = "strict")]
pub use validate::Strict;
pub use validate::{PayloadKind, Subject, Valid, Validation, Validator, Violation};
#[cfg(feature = "json-schema")]
pub use validate::{SchemaError, Schemas};
pub use wire::Fault;

/// What handlers can ask for.
pub mod extract {
    pub use crate::payload::{MessageId, Payload};
    pub use crate::peer::Peer;
    pub use crate::rpc::extract::{
        Action, Answer, CancellationToken, Extension, FromCall, FromRef, Params, State, Written,
    };
    #[cfg(feature = "server")]
    pub use crate::server::Session;
}

#[cfg_attr(all(feature = "client", feature = "listen"), doc = include_str!("docs/tls.md"))]
#[cfg_attr(not(all(feature = "client", feature = "listen")), doc = "TLS by rustls, of one end.")]
#[cfg(feature = "tls")]
pub mod tls {
    pub use tokio_rustls::rustls;

    pub use crate::certificate::{Authorities, Certificate};
    #[cfg(feature = "client")]
    pub use crate::client::{ClientTls, ClientTlsBuilder};
    #[cfg(feature = "listen")]
    pub use crate::server::{ServerTls, ServerTlsBuilder};
}

/// The README's examples are tests.
#[cfg(all(doctest, feature = "client", feature = "axum", feature = "listen"))]
#[doc = include_str!("../README.md")]
mod readme {}
