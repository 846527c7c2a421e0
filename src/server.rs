//! The server: a tower service, an axum extractor and a listener that turn requests into sessions.

mod builder;
pub(crate) mod history;
pub(crate) mod rpc_server;

pub(crate) mod handshake {
    //! Turns HTTP requests into sessions.

    pub(crate) mod accept;
    pub(crate) mod auth;
    #[cfg(feature = "axum")]
    mod axum;
    pub(crate) mod credentials;
    pub(crate) mod protocol;
    pub(crate) mod request;
    pub(crate) mod service;
    pub(crate) mod upgrade;
}

pub(crate) mod http {
    //! Accepts and serves HTTP connections.

    pub(crate) mod activity;
    pub(crate) mod address;
    pub(crate) mod app;
    pub(crate) mod body;
    #[cfg(feature = "tls")]
    mod client_hello;
    pub(crate) mod connection;
    pub(crate) mod first_bytes;
    mod http1;
    #[cfg(feature = "http2")]
    mod http2;
    pub(crate) mod info;
    pub(crate) mod listen;
    pub(crate) mod listener;
    pub(crate) mod networks;
    mod places;
    #[cfg(feature = "http2")]
    mod preface;
    pub(crate) mod proxies;
    pub(crate) mod proxy_protocol;
    pub(crate) mod settings;
    #[cfg(feature = "tls")]
    pub(crate) mod tls;
    mod tracked;
}

mod session {
    //! Keeps sessions by identity, and runs their tasks.

    pub(crate) mod registry;
    pub(crate) mod replacements;
    pub(crate) mod task;
    pub(crate) mod tasks;
}

pub use crate::info::ConnectionInfo;

pub use self::{
    builder::RpcServerBuilder,
    handshake::{
        credentials::Credentials, protocol::NoCommonProtocol, service::HandshakeFuture, upgrade::UpgradeError,
    },
    http::{
        app::{HttpApp, StationsOnly},
        body::RequestBody,
        info::{Identity, RemoteAddress},
        listen::ListenerBuilder,
        listener::Listener,
        proxies::TrustedProxies,
    },
    rpc_server::CloseReport,
    session::registry::DuplicateIdentity,
};
