#![doc = include_str!("docs/crate.md")]
#![cfg_attr(feature = "server", doc = include_str!("docs/scale.md"))]
#![cfg_attr(
    not(all(feature = "client", feature = "listen")),
    allow(dead_code, reason = "each end uses its part of the engine that both share")
)]

mod action;
#[cfg(feature = "client")]
mod backoff;
mod call;
#[cfg(feature = "tls")]
mod certificate;
#[cfg(feature = "client")]
mod client;
mod close;
mod connection;
mod error;
mod event;
mod handler;
#[cfg(any(feature = "client", feature = "server"))]
mod handshake;
mod info;
mod io;
mod message;
mod options;
mod response;
#[cfg(feature = "server")]
mod server;
mod session;
mod telemetry;
#[cfg(feature = "unstable")]
#[doc(hidden)]
pub mod unstable;
mod validate;

pub use action::{Action, SendAction};
#[cfg(feature = "client")]
pub use backoff::Backoff;
pub use call::Call;
#[cfg(feature = "client")]
pub use client::{ClientState, ConnectError, Connector, Reconnect, RpcClient, RpcClientBuilder, Target};
pub use close::{Close, CloseCause, CloseInfo};
pub use error::{BuildError, CallError, Error, ErrorCode, Violation};
pub use event::{Direction, Event, EventKind, Events, Text};
pub use handler::{
    ArgumentsFor, Handler, HandlerOutput, IncomingCall, IntoResponse, NoResponse, OutputFor, Route, RouteFuture,
    RpcRouter,
};
pub use info::{ConnectionInfo, TlsInfo, TlsVersion};
pub use message::{
    dialect::Dialect,
    frame::MessageError,
    payload::{EncodeError, MessageId, Payload},
    tolerance::{Deviation, Tolerance},
};
/// The payloads of OCPP 1.6, 2.0.1 and 2.1 as types: every request is an [`Action`], or a [`SendAction`].
#[cfg(feature = "ocpp-kit")]
pub use ocpp_kit;
pub use options::Options;
pub use response::Response;
#[cfg(feature = "listen")]
pub use server::Listener;
#[cfg(feature = "server")]
pub use server::{
    Accept, Authenticate, CloseReport, DuplicateIdentity, Handshake, HandshakeFuture, Identity, NoCommonProtocol,
    Reject, RemoteAddress, RpcServer, RpcServerBuilder, RpcUpgrade, TrustedProxies, UpgradeError,
};
pub use session::Session;
#[cfg(feature = "strict")]
pub use validate::OcppSchemas;
#[cfg(feature = "json-schema")]
pub use validate::{JsonSchemas, SchemaError};
pub use validate::{PayloadContext, PayloadKind, Valid, Validation, Validator};

/// What handlers can ask for.
pub mod extract {
    pub use crate::handler::extract::{
        Action, CancellationToken, Extension, FromCall, FromRef, Params, Responder, State, Written,
    };
    pub use crate::message::payload::{MessageId, Payload};
    pub use crate::session::Session;
}

#[cfg_attr(all(feature = "client", feature = "listen"), doc = include_str!("docs/tls.md"))]
#[cfg_attr(not(all(feature = "client", feature = "listen")), doc = "TLS by rustls, of one end.")]
#[cfg(feature = "tls")]
pub mod tls {
    pub use tokio_rustls::rustls;

    pub use crate::certificate::{Certificate, RootCerts};
    #[cfg(feature = "client")]
    pub use crate::client::{ClientTls, ClientTlsBuilder};
    #[cfg(feature = "listen")]
    pub use crate::server::{ServerTls, ServerTlsBuilder};
}

/// The README's examples are tests.
#[cfg(all(doctest, feature = "client", feature = "axum", feature = "listen"))]
#[doc = include_str!("../README.md")]
mod readme {}
