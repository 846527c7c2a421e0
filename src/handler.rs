//! Handlers: async functions that respond to the calls of the peer, in an [`RpcRouter`](crate::RpcRouter).
//!
//! The arguments of a handler are [extractors](crate::extract). It returns a `Result`: any value that serializes to a
//! JSON object, or [`NoResponse`], and any error that converts into a [`CallError`](crate::CallError).

pub(crate) mod extract;
pub(crate) mod function;
pub(crate) mod incoming;
pub(crate) mod router;
pub(crate) mod typed;

pub use crate::response::Response;

pub use self::{
    function::{Handler, HandlerOutput, IntoResponse, NoResponse},
    incoming::IncomingCall,
    router::{Route, RouteFuture},
    typed::{ArgumentsFor, OutputFor},
};
