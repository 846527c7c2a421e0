#![doc = include_str!("docs/crate.md")]
// On docs.rs, each item names the feature that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(dead_code, reason = "each end uses only a part of the shared code")
)]

mod action;
#[cfg(feature = "client")]
mod backoff;
mod call;
#[cfg(feature = "tls")]
mod certificate;
#[cfg(feature = "client")]
pub mod client;
pub mod close;
#[cfg(feature = "server")]
pub mod cluster;
mod connection;
#[cfg(feature = "console")]
pub mod console;
#[cfg(feature = "ocpp-kit")]
pub mod date;
mod der;
mod error;
pub mod event;
// The guide has documentation only, which other builds do not need.
#[cfg(all(any(doc, doctest), feature = "client", feature = "axum"))]
pub mod guide;
pub mod handler;
#[cfg(any(feature = "client", feature = "server"))]
mod handshake;
#[cfg(any(feature = "client", feature = "server"))]
mod header_case;
mod info;
mod io;
mod mask;
pub mod message;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod middleware;
#[cfg(feature = "server")]
mod openings;
mod options;
pub mod outgoing;
mod random;
mod response;
mod route;
#[cfg(feature = "server")]
pub mod server;
mod session;
#[cfg(feature = "server")]
mod station;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
#[cfg(feature = "tls")]
mod tls_error;
mod unix_time;
#[cfg(feature = "unstable")]
#[doc(hidden)]
pub mod unstable;
pub mod validate;
mod websocket;

/// The compression of messages: settings, and information on its effect.
pub mod compression {
    pub use crate::websocket::compression::{CompressedMessages, Compression, CompressionInfo};
}

/// Extractors, the arguments of handlers.
pub mod extract {
    pub use crate::{
        handler::extract::{
            Action, CancellationToken, Extension, FromCall, FromRef, OptionalFromCall, Params, RawMessage, Responder,
            State, Written,
        },
        message::payload::{MessageId, Payload},
        session::Session,
    };
}

/// TLS settings by rustls, and information on the TLS of a connection (OCPP security profiles 2 and 3).
#[cfg_attr(
    all(feature = "tls", feature = "client", feature = "axum"),
    doc = "\n\nThe guide's page [TLS](crate::guide::tls) shows how to use them."
)]
pub mod tls {
    #[cfg(feature = "tls")]
    pub use tokio_rustls::rustls;

    #[cfg(feature = "tls")]
    pub use crate::certificate::{Certificate, RootCerts};
    #[cfg(all(feature = "client", feature = "tls"))]
    pub use crate::client::{
        pin::CertificatePin,
        tls::{ClientTls, ClientTlsBuilder},
    };
    pub use crate::info::{TlsInfo, TlsVersion};
    #[cfg(all(feature = "server", feature = "tls"))]
    pub use crate::server::http::tls::{ServerTls, ServerTlsBuilder};
}

pub use action::{Action, SendAction};
pub use call::Call;
#[cfg(feature = "client")]
pub use client::rpc_client::RpcClient;
pub use close::intent::Close;
pub use error::{BuildError, CallError, Error, ErrorCode};
pub use handler::router::RpcRouter;
pub use info::StationInfo;
pub use mask::Mask;
pub use message::{
    payload::{MessageId, Payload},
    tolerance::Tolerance,
};
/// The payloads of OCPP 1.6, 2.0.1 and 2.1 as types. Each request type implements [`Action`] or [`SendAction`].
#[cfg(feature = "ocpp-kit")]
pub use ocpp_kit;
pub use options::Options;
#[cfg(feature = "server")]
pub use server::{
    handshake::{
        auth::{Accept, Authenticate, Handshake, Reject},
        upgrade::RpcUpgrade,
    },
    rpc_server::RpcServer,
};
pub use session::{Session, SessionInfo};
#[cfg(feature = "server")]
pub use station::Station;

/// Tests the examples of the README.
#[cfg(all(doctest, feature = "client", feature = "axum", feature = "server"))]
#[doc = include_str!("../README.md")]
mod readme {}
