//! How users write handlers: functions whose arguments are [extractors](extract), in a [router](RpcRouter).

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
