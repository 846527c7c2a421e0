//! The engine of a connection, the same at both ends: pure rules ([`exchange`], [`keepalive`]), the WebSocket
//! ([`socket`]), the state that handles share with it ([`shared`]), and the one task that joins them ([`driver`]).

pub(crate) mod call_ids;
pub(crate) mod call_result;
mod calls_in;
pub(crate) mod calls_out;
pub(crate) mod driver;
pub(crate) mod exchange;
pub(crate) mod handler_set;
mod keepalive;
pub(crate) mod mailbox;
pub(crate) mod negotiated;
mod ordered;
mod outbound;
pub(crate) mod outliving;
mod rare_list;
pub(crate) mod request;
mod responses;
pub(crate) mod shared;
pub(crate) mod socket;
