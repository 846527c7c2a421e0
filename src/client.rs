//! The client's end: a charging station that stays connected.

mod builder;
mod connect;
mod connector;
mod error;
mod life;
#[cfg(not(feature = "tls"))]
mod no_tls;
mod reconnect;
mod redirect;
mod rpc_client;
mod settings;
mod supervisor;
#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "tls")]
pub use self::tls::{ClientTls, ClientTlsBuilder};
pub use self::{
    builder::RpcClientBuilder,
    connector::{Connector, Target},
    error::ConnectError,
    life::ClientState,
    reconnect::Reconnect,
    rpc_client::RpcClient,
};
