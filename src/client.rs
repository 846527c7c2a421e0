//! The client of a charging station, which connects to a server and stays connected.
//!
//! [`RpcClient::builder`](crate::RpcClient::builder) is the place to start. [`Reconnect`] is the policy for lost
//! connections, and a [`Connector`] replaces TCP.

mod builder;
mod connect;
mod connector;
mod error;
mod failover;
mod handshake;
mod life;
#[cfg(not(feature = "tls"))]
mod no_tls;
#[cfg(feature = "tls")]
pub(crate) mod pin;
mod reconnect;
mod redirect;
mod retry_after;
pub(crate) mod rpc_client;
mod settings;
mod supervisor;
#[cfg(feature = "tls")]
pub(crate) mod tls;

pub use crate::backoff::Backoff;

pub use self::{
    builder::RpcClientBuilder,
    connector::{Connector, Target},
    error::ConnectError,
    life::ClientState,
    reconnect::Reconnect,
};
