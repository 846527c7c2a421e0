//! The server's end: a tower service and an axum extractor that upgrade requests, sessions by identity, and a
//! listener for those who have none.

mod builder;
pub(crate) mod rpc_server;

pub(crate) mod handshake {
    //! From a request to a session.

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
    //! HTTP connections, and the listener that accepts them.

    pub(crate) mod app;
    pub(crate) mod body;
    pub(crate) mod connection;
    mod http1;
    #[cfg(feature = "http2")]
    mod http2;
    pub(crate) mod info;
    pub(crate) mod listen;
    pub(crate) mod listener;
    #[cfg(feature = "http2")]
    mod preface;
    pub(crate) mod proxies;
    pub(crate) mod settings;
    #[cfg(feature = "tls")]
    pub(crate) mod tls;
}

mod session {
    //! Sessions, their tasks, and where they are found.

    pub(crate) mod registry;
    pub(crate) mod task;
    pub(crate) mod tasks;
}

pub use crate::info::ConnectionInfo;

pub use self::{
    builder::RpcServerBuilder,
    handshake::{protocol::NoCommonProtocol, service::HandshakeFuture, upgrade::UpgradeError},
    http::{
        app::{HttpApp, StationsOnly},
        info::{Identity, RemoteAddress},
        listen::ListenerBuilder,
        listener::Listener,
        proxies::TrustedProxies,
    },
    rpc_server::CloseReport,
    session::registry::DuplicateIdentity,
};
