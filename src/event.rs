//! Events: what happens on connections, for logs, dashboards and audits.
//!
//! Events cost nothing while no reader exists: they are not even created. A slow reader loses the oldest ones, learns
//! how many, and never slows a connection.
//!
//! Each event of a session has the session's id, key and identity, and [`Event::session`] returns its handle. Each call
//! that ended is an event, [`EventKind::CallEnded`], with its outcome and its time.
//!
//! An [`Event`] serializes to JSON, and [`Events`] is a `Stream`: together they make server-sent events, or lines of a
//! log.

pub(crate) mod activity;
pub(crate) mod bus;
pub(crate) mod kind;
pub(crate) mod refused;

pub use self::{
    activity::{Activity, CallTimes},
    bus::Events,
    kind::{CallOutcome, Direction, Event, EventKind, Text},
    refused::RefusedRequest,
};
