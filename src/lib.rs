#![doc = include_str!("docs/crate.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod close;
mod connection;
mod dialect;
mod error;
mod event;
mod options;
mod peer;
mod rpc;
mod wire;

pub use close::{Cause, Close, Closed};
pub use connection::Reply;
pub use dialect::Dialect;
pub use error::{CallError, Error, ErrorCode};
pub use event::{Event, EventKind, Events, Text};
pub use options::Options;
pub use peer::{Call, Peer};
pub use rpc::{Handler, IncomingCall, IntoReply, NoReply, Route, RpcRouter};
pub use wire::{Fault, MessageId, NotAnObject, Payload};

/// What handlers can ask for.
pub mod extract {
    pub use crate::rpc::extract::{Action, CancellationToken, Extension, FromCall, FromRef, Params, State};
}
