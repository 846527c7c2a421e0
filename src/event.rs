//! Events: what happens on connections, for logs, dashboards and audits.
//!
//! Events cost nothing while no reader exists: they are not even created. A slow reader loses the oldest ones, learns
//! how many, and never slows a connection.
//!
//! Each event of a session has the session's id, key and identity, and [`Event::session`] returns its handle. Each call
//! that ended is an event, [`EventKind::CallEnded`], with its outcome and its time.
//!
//! # Order
//!
//! The events of one message follow each other:
//!
//! | Message | Events |
//! |---|---|
//! | received | [`Received`](EventKind::Received); its content, or [`BadMessage`](EventKind::BadMessage); [`Deviation`](EventKind::Deviation), [`ValidationFailed`](EventKind::ValidationFailed); [`LateResponse`](EventKind::LateResponse), [`UnmatchedResponse`](EventKind::UnmatchedResponse), [`UnhandledSend`](EventKind::UnhandledSend) |
//! | sent | [`ValidationFailed`](EventKind::ValidationFailed), [`Sent`](EventKind::Sent), its content |
//!
//! Deviations of the frames of a message come between its text and its content. [`CallEnded`](EventKind::CallEnded)
//! follows the events of the response. If a handler responds early, its call ends with the handler.
//! [`ResponseWritten`](EventKind::ResponseWritten) comes when the transport has taken the response.
//!
//! # Use
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
