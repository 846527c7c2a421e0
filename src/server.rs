//! The server's end: a tower service and an axum extractor that upgrade requests, sessions by identity, and a
//! listener for those who have none.

mod builder;
mod rpc_server;

mod handshake {
    //! From a request to a session.

    pub(crate) mod accept;
    pub(crate) mod auth;
    #[cfg(feature = "axum")]
    mod axum;
    pub(crate) mod protocol;
    pub(crate) mod service;
    pub(crate) mod upgrade;
}

mod http {
    //! HTTP connections, and the listener that accepts them.

    pub(crate) mod body;
    pub(crate) mod connection;
    mod http1;
    #[cfg(feature = "http2")]
    mod http2;
    pub(crate) mod info;
    #[cfg(feature = "listen")]
    pub(crate) mod listen;
    #[cfg(feature = "http2")]
    mod preface;
    pub(crate) mod proxies;
    pub(crate) mod settings;
    #[cfg(all(feature = "listen", feature = "tls"))]
    pub(crate) mod tls;
}

mod session {
    //! Sessions, their tasks, and where they are found.

    pub(crate) mod registry;
    pub(crate) mod task;
    pub(crate) mod tasks;
}

#[cfg(feature = "listen")]
pub use self::http::listen::Listener;
#[cfg(all(feature = "listen", feature = "tls"))]
pub use self::http::tls::{ServerTls, ServerTlsBuilder};
pub use self::{
    builder::RpcServerBuilder,
    handshake::{
        auth::{Accept, Authenticate, Handshake, Reject},
        protocol::NoCommonProtocol,
        service::HandshakeFuture,
        upgrade::{RpcUpgrade, UpgradeError},
    },
    http::{
        info::{Identity, RemoteAddress},
        proxies::TrustedProxies,
    },
    rpc_server::{CloseReport, RpcServer},
    session::registry::DuplicateIdentity,
};
